"""The spool as its users see it, on real files: numbers, order, room, removal, dead letters, expiry, restarts."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.spools import Owner
from tests.waiting import elapse
from tunnel.errors import SpoolError
from tunnel.limits import KIB, MIB, SPOOL_META_BYTES, SPOOL_WAITING_BYTES, SPOOL_WAL_BYTES
from tunnel.spool import Entry, Row


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path / "state" / "orders.spool")
    yield owner
    owner.close()


def bodies(rows: list[Row]) -> list[bytes]:
    return [row.body for row in rows]


def test_rows_are_read_as_they_were_put(owner: Owner) -> None:
    born = 1_700_000_000.25
    assert owner.spool.put([b"a", memoryview(b"b"), b""], 3, born, b"{}") == 1
    assert owner.put(b"c") == 2
    owner.until_durable(2)
    first, second = owner.read()
    assert first == Row(1, b"ab", 3, born, b"{}")
    assert (second.number, second.body) == (2, b"c")


def test_durable_is_told_in_order_and_once(owner: Owner) -> None:
    for n in range(100):
        owner.put(b"%d" % n)
    owner.until_durable(100)
    assert owner.durable_told == sorted(set(owner.durable_told))
    assert owner.spool.status()["durable_lag"] == 0


def test_order_and_numbers_over_reopen(owner: Owner) -> None:
    for n in range(10):
        owner.put(b"%d" % n)
    owner.until_durable(10)
    owner.spool.done(4)
    identity = owner.spool.id
    owner.reopen()
    assert owner.spool.id == identity
    assert (owner.spool.first, owner.spool.durable, owner.spool.next) == (5, 10, 11)
    assert bodies(owner.read()) == [b"4", b"5", b"6", b"7", b"8", b"9"]


def test_numbers_go_on_after_everything_was_removed(owner: Owner) -> None:
    for n in range(10):
        owner.put(b"%d" % n)
    owner.spool.done(10)
    owner.flush()
    assert owner.spool.status()["rows"] == 0
    owner.reopen()
    assert (owner.spool.first, owner.spool.next) == (11, 11)
    assert owner.put(b"x") == 11


def test_close_commits_what_waits_and_tells(owner: Owner) -> None:
    owner.put(b"a")
    owner.spool.close()
    assert owner.durable_told == [1]
    with pytest.raises(SpoolError, match="closed"):
        owner.put(b"b")
    owner.reopen()
    assert bodies(owner.read()) == [b"a"]


def test_read_gives_at_least_one_and_then_what_the_bytes_allow(owner: Owner) -> None:
    for _ in range(10):
        owner.put(bytes(1000))
    owner.until_durable(10)
    assert len(owner.read(most_bytes=1)) == 1
    assert len(owner.read(most_bytes=4 * 1256)) == 4
    assert [row.number for row in owner.read(after=7)] == [8, 9, 10]
    assert owner.read(after=10) == []


def test_a_row_of_64_mib(owner: Owner) -> None:
    body = os.urandom(MIB) * 64
    owner.put(body)
    owner.put(b"small")
    owner.until_durable(2, within_s=30)
    assert owner.read(most_bytes=MIB)[0].body == body
    assert owner.read(after=1)[0].body == b"small"
    owner.spool.done(1)
    owner.flush()
    assert owner.spool.status()["wal_bytes"] == 0


# --- what is not wanted any more ---


def test_done_moves_first_at_once_and_rows_go_soon(owner: Owner) -> None:
    for n in range(10):
        owner.put(b"%d" % n)
    owner.until_durable(10)
    owner.spool.done(3)
    assert owner.spool.first == 4
    assert [row.number for row in owner.read()] == [4, 5, 6, 7, 8, 9, 10]
    owner.until(lambda: owner.spool.status()["rows"] == 7)
    owner.spool.done(2)
    assert owner.spool.first == 4
    owner.spool.done(1_000_000)  # more than there is: everything up to now, and nothing that comes
    assert owner.put(b"next") == 11
    owner.until_durable(11)
    assert [row.number for row in owner.read()] == [11]


def test_rows_done_before_they_are_on_disk_are_removed_too(owner: Owner) -> None:
    for _ in range(3):
        owner.put(b"x")
    owner.spool.done(2)
    owner.spool.finish(3)
    owner.until_durable(3)
    owner.until(lambda: owner.spool.status()["rows"] == 0)
    assert owner.spool.first == 4


def test_rows_finish_in_any_order(owner: Owner) -> None:
    for _ in range(6):
        owner.put(b"x")
    owner.until_durable(6)
    owner.spool.finish(4)
    owner.spool.finish(2)
    assert [row.number for row in owner.read()] == [1, 3, 5, 6]
    owner.spool.finish(1)
    owner.until(lambda: owner.spool.status()["rows"] == 3)
    assert owner.spool.first == 3
    assert owner.read(after=3, most_bytes=1)[0].number == 5
    owner.spool.finish(4)
    owner.reopen()
    assert [row.number for row in owner.read()] == [3, 5, 6]


def test_read_looks_beyond_finished_rows(owner: Owner) -> None:
    for _ in range(6):
        owner.put(b"x")
    owner.until_durable(6)
    for number in (1, 2, 3):
        owner.spool.finish(number)
    assert [row.number for row in owner.read(most_bytes=300)] == [4]


def test_dead_letters(owner: Owner) -> None:
    for _ in range(3):
        owner.put(b"x", meta=b'{"to": "a"}')
    owner.until_durable(3)
    owner.spool.bury(2, "no such mailbox")
    assert [row.number for row in owner.read()] == [1, 3]
    owner.until(lambda: owner.spool.status()["dead"] == 1)
    owner.reopen()
    dead: list[Entry] = owner.answer(lambda then: owner.spool.list(0, 10, then, dead=True))
    assert [(entry.number, entry.reason, entry.meta) for entry in dead] == [(2, "no such mailbox", b'{"to": "a"}')]
    shown: Entry = owner.answer(lambda then: owner.spool.show(2, then))
    assert (shown.body, shown.reason) == (b"x", "no such mailbox")
    assert owner.answer(lambda then: owner.spool.show(1, then)).reason is None
    assert owner.answer(lambda then: owner.spool.show(9, then)) is None


def test_the_oldest_dead_letters_go_and_are_counted(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.spool.file.SPOOL_DEAD_ROWS", 3)
    monkeypatch.setattr("tunnel.spool.file.SPOOL_DEAD_BYTES", 2000)
    for number in range(1, 6):
        owner.put(b"x", messages=2)
        owner.spool.bury(number, "why")
    owner.until(lambda: owner.spool.status()["dead_lost"] == 4)
    entries: list[Entry] = owner.answer(lambda then: owner.spool.list(0, 10, then, dead=True))
    assert [entry.number for entry in entries] == [3, 4, 5]
    owner.put(bytes(5000))
    owner.spool.bury(6, "why")
    owner.until(lambda: owner.spool.status()["dead_lost"] == 10)
    assert owner.spool.status()["dead"] == 1  # the newest stays, however long


def test_drop(owner: Owner) -> None:
    now = time.time()
    for age in (100, 50, 0, 0):
        owner.put(b"x", messages=3, born=now - age)
    owner.until_durable(4)
    assert owner.answer(lambda then: owner.spool.drop(then, older_than_s=70)) == 3
    assert owner.answer(lambda then: owner.spool.drop(then, numbers=[3, 77])) == 3
    assert [row.number for row in owner.read()] == [2, 4]
    owner.spool.bury(2, "why")
    owner.flush()
    assert owner.answer(lambda then: owner.spool.drop(then, dead=True)) == 3
    assert owner.answer(lambda then: owner.spool.drop(then)) == 3
    status = owner.spool.status()
    assert (status["rows"], status["dead"], status["dropped"], status["bytes"], status["messages"]) == (0, 0, 12, 0, 0)
    assert owner.spool.first == 5


def test_list_is_bounded_and_goes_on_from_a_number(owner: Owner) -> None:
    for _ in range(5):
        owner.put(b"body")
    owner.until_durable(5)
    entries: list[Entry] = owner.answer(lambda then: owner.spool.list(2, 2, then))
    assert [entry.number for entry in entries] == [3, 4]
    assert all(entry.body is None and entry.size == 4 + 256 for entry in entries)


def test_rows_expire_and_are_counted(tmp_path: Path) -> None:
    with closing(Owner(tmp_path / "spool", expire_s=60)) as owner:
        now = time.time()
        for age in (61, 1000, 59.5, 0):
            owner.put(b"x", messages=5, born=now - age)
        owner.spool.done(1)  # done, and therefore not expired
        owner.until(lambda: owner.spool.status()["expired"] == 10, "the last one in half a second")
        assert [row.number for row in owner.read()] == [4]
        assert owner.spool.status()["oldest_s"] < 60
        owner.reopen()
        assert owner.spool.status()["expired"] == 10


# --- bounds ---


def test_no_room_at_max_bytes_and_again_when_some_is_free(tmp_path: Path) -> None:
    with closing(Owner(tmp_path / "spool", max_bytes=1 * MIB)) as owner:
        while owner.spool.has_room:
            owner.put(bytes(10_000))
            owner.turn(0)
        last = owner.spool.next - 1
        assert MIB <= last * 10_256 < MIB + 10_256
        owner.until_durable(last)
        assert owner.spool.status()["state"] == "full"
        assert owner.rooms == 0
        owner.spool.done(1)  # one row is not yet room
        owner.until(lambda: owner.spool.status()["rows"] == last - 1)
        assert not owner.spool.has_room
        owner.spool.done(last // 2)
        owner.until(lambda: owner.rooms == 1)
        assert (owner.spool.has_room, owner.spool.status()["state"]) == (True, "ok")


def test_a_spool_that_was_full_is_full_after_a_restart(tmp_path: Path) -> None:
    with closing(Owner(tmp_path / "spool", max_bytes=1000)) as owner:
        owner.put(bytes(1000))
        owner.reopen()
        assert not owner.spool.has_room
        owner.spool.done(1)
        owner.until(lambda: owner.rooms == 1)


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        body = bytes(MIB)
        while owner.spool.has_room:  # callbacks do not run: nothing is known to be on disk
            owner.put(body)
        assert owner.spool.next - 1 == SPOOL_WAITING_BYTES // MIB
        owner.until_durable(owner.spool.next - 1)
        owner.until(lambda: owner.rooms == 1)


def test_rows_and_meta_that_are_too_long_are_refused(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel.spool.spool.SPOOL_ROW_BYTES", 1000)
    with pytest.raises(SpoolError, match="too long"):
        owner.put(bytes(1000))
    with pytest.raises(SpoolError, match="too long"):
        owner.put(b"", meta=bytes(SPOOL_META_BYTES + 1))
    assert owner.put(b"fits") == 1


def test_the_wal_and_the_file_give_their_space_back(owner: Owner) -> None:
    body = os.urandom(64 * KIB)
    for _ in range(20):
        for _ in range(50):
            owner.put(body)
        owner.until_durable(owner.spool.next - 1)
        owner.spool.done(owner.spool.durable - 10)
        assert owner.spool.status()["wal_bytes"] < 3 * SPOOL_WAL_BYTES
    assert owner.spool.status()["file_bytes"] < 20 * MIB  # of 64 that went through
    owner.until(lambda: owner.spool.status()["wal_bytes"] == 0, "calm")
    for _ in range(500):
        owner.put(body)
    owner.until_durable(owner.spool.next - 1)
    assert owner.flush() is None
    assert owner.spool.status()["file_bytes"] > 30 * MIB
    owner.spool.done(owner.spool.durable)
    owner.until(lambda: owner.spool.status()["file_bytes"] < MIB, "the empty file is short again")


@pytest.mark.parametrize("called", ["orders.spool", "orders.spool.lock", "orders.spool-wal"])
def test_no_link_is_followed(tmp_path: Path, called: str) -> None:
    other = tmp_path / "other"
    other.write_text("not ours")
    other.chmod(0o644)
    (tmp_path / called).symlink_to(other)
    with pytest.raises(SpoolError, match=rf"{called} is a symbolic link, and a spool follows none: remove it\."):
        Owner(tmp_path / "orders.spool")
    assert (other.read_text(), stat.S_IMODE(other.stat().st_mode)) == ("not ours", 0o644)


def test_a_pipe_is_no_spool(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "orders.spool")
    with pytest.raises(SpoolError, match=r"orders\.spool is no plain file"):
        Owner(tmp_path / "orders.spool")


def test_modes_of_files_and_folder(owner: Owner) -> None:
    owner.put(b"x")
    owner.until_durable(1)
    assert stat.S_IMODE(owner.path.parent.stat().st_mode) == 0o700
    files = sorted(owner.path.parent.iterdir())
    assert [path.name for path in files] == ["orders.spool", "orders.spool-wal", "orders.spool.lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_file_readable_by_others_is_closed_to_them(tmp_path: Path) -> None:
    Owner(tmp_path / "spool").close()
    (tmp_path / "spool").chmod(0o644)
    with closing(Owner(tmp_path / "spool")):
        assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o600


# --- quiet and quick ---


def thread_counts(owner: Owner) -> tuple[str, ...]:
    """System calls that write and switches of context of the spool's thread, by the kernel's count."""
    task = Path(f"/proc/self/task/{owner.spool._thread.native_id}")
    switches = [line for line in (task / "status").read_text().splitlines() if "ctxt_switches" in line]
    return (*(task / "io").read_text().splitlines(), *switches)


def unchanged(owner: Owner, within_s: float) -> bool:
    before = thread_counts(owner)
    owner.turn(within_s)
    return thread_counts(owner) == before


def test_at_rest_the_thread_does_nothing_at_all(owner: Owner) -> None:
    for _ in range(10):
        owner.put(b"x")
    owner.until_durable(10)
    owner.spool.done(5)
    owner.until(lambda: owner.spool.status()["rows"] == 5 and owner.spool.status()["wal_bytes"] == 0, "calm")
    owner.until(lambda: unchanged(owner, 0.05), "asleep")
    before, commits = thread_counts(owner), owner.spool.status()["commits"]
    elapse(1.2)
    assert thread_counts(owner) == before
    assert owner.calls.empty()
    assert owner.spool.status()["commits"] == commits
    owner.put(b"x")
    owner.until_durable(11)
    assert thread_counts(owner) != before  # the count counts


def test_everything_that_waits_shares_a_commit(owner: Owner) -> None:
    for _ in range(1000):
        owner.put(b"x")
    owner.until_durable(1000)
    assert owner.spool.status()["commits"] < 200


def test_many_rows_stay_quick(owner: Owner) -> None:
    """Nothing here is quadratic: it would take a quarter of an hour."""
    rows = 250_000
    for _ in range(rows):
        while not owner.spool.has_room:
            owner.turn()
        owner.put(b"x")
    owner.until_durable(rows, within_s=60)
    assert owner.read(after=rows - 2)[0].number == rows - 1
    owner.spool.done(rows // 2)
    owner.until(lambda: owner.spool.status()["rows"] == rows // 2, within_s=60)
    assert owner.read(most_bytes=1)[0].number == rows // 2 + 1
    for number in range(rows // 2 + 1, rows // 2 + 20_001):
        owner.spool.finish(number)
    owner.until(lambda: owner.spool.status()["rows"] == rows // 2 - 20_000, within_s=60)
    owner.reopen()
    assert owner.spool.first == rows // 2 + 20_001
    assert owner.answer(lambda then: owner.spool.drop(then), within_s=60) == rows // 2 - 20_000
