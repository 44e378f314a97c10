"""Disks that are full or broken while a spool is open: nothing dropped, reading stops, and it goes on by itself.

Real here: a full tmpfs, a file-size limit, a read-only file system, other owners, garbage in the file. Injected, by a
connection of ours: every error code of SQLite at every statement (`Faulty`).
"""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.spools import Owner
from tunnel.errors import SpoolError
from tunnel.limits import KIB, MIB, SPOOL_SET_ASIDE
from tunnel.spool import file

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", at], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no file system can be mounted here, though this is root")
    yield at
    subprocess.run(["umount", "-l", at], check=True)


def fill(owner: Owner, size: int = 100 * KIB) -> int:
    """Puts until there is no room; the number of the last row."""
    last = 0
    while owner.spool.has_room:
        last = owner.put(b"%d:" % owner.spool.next + bytes(size))
        owner.turn(0.001)
    return last


def assert_all_there(owner: Owner, first: int, last: int) -> None:
    rows = owner.read_all()
    assert [row.number for row in rows] == list(range(first, last + 1))
    assert all(row.body.startswith(b"%d:" % row.number) for row in rows)


@ROOT_ONLY
def test_a_full_disk_stops_reading_and_goes_on_when_rows_are_delivered(small_disk: Path) -> None:
    """The spool itself fills the disk: it must get out of that by itself."""
    with closing(Owner(small_disk / "spool")) as owner:
        last = fill(owner)
        owner.until(lambda: owner.spool.status()["state"] == "full")
        assert "disk is full" in owner.spool.status()["reason"]
        assert owner.spool.durable < last
        for turn in range(10):  # as a slow consumer: some rows out, some rows in
            there = owner.read(owner.spool.first - 1, 3 * MIB)
            assert [row.number for row in there] == list(range(there[0].number, there[0].number + len(there)))
            owner.spool.done(there[-1].number)
            owner.until(lambda rooms=turn: owner.rooms > rooms)
            last = fill(owner)
            owner.until(lambda: owner.spool.status()["state"] == "full")
        while owner.spool.first <= last:
            there = owner.read(owner.spool.first - 1, 3 * MIB)
            if there:
                owner.spool.done(there[-1].number)
        owner.until(lambda: owner.spool.status()["rows"] == 0 and owner.spool.has_room)
        assert owner.spool.durable == last


def fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as full, contextlib.suppress(OSError):
        while full.write(bytes(4096)):
            pass
    assert os.statvfs(ballast.parent).f_bavail == 0


@ROOT_ONLY
def test_a_disk_filled_by_others_to_the_last_byte(small_disk: Path) -> None:
    with closing(Owner(small_disk / "spool")) as owner:
        owner.put(b"1:")
        owner.until_durable(1)
        ballast = small_disk / "ballast"
        fill_up(ballast)
        last = fill(owner)
        owner.until(lambda: owner.spool.status()["state"] == "full")
        assert (owner.spool.has_room, owner.spool.durable) == (False, 1)
        assert owner.read()[0].body == b"1:"  # reading goes on
        ballast.unlink()
        owner.until(lambda: owner.spool.has_room)
        owner.until_durable(last)
        assert owner.rooms >= 1
        assert_all_there(owner, 1, last)


@contextlib.contextmanager
def file_size_limit(most: int) -> Iterator[None]:
    """EFBIG for this process's writes beyond so many bytes (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_size_limit(tmp_path: Path) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        with file_size_limit(1 * MIB):
            last = fill(owner)
            owner.until(lambda: owner.spool.status()["state"] == "failing")
            assert "disk fails" in owner.spool.status()["reason"]
            assert owner.spool.durable < last
        owner.until_durable(last)
        owner.until(lambda: owner.spool.has_room)
        assert_all_there(owner, 1, last)


# --- errors at every statement ---------------------------------------------------------------------------------------

CODES = ["FULL", "IOERR", "IOERR_FSYNC", "IOERR_WRITE", "READONLY", "BUSY", "CORRUPT", "NOMEM"]


class Fault:
    """While `code` is set, statements that begin with `word` fail; after they were carried out if `after`."""

    word = ""
    code: str | None = None
    after = False
    hits = 0


def faulty(fault: Fault) -> Callable[[Path], sqlite3.Connection]:
    class Faulty(sqlite3.Connection):
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:  # type: ignore[override]
            hit = fault.code is not None and statement.startswith(fault.word)
            if hit and not fault.after:
                raise failure()
            result = super().execute(statement, *values)  # type: ignore[arg-type]
            if hit:
                raise failure()
            return result

    def failure() -> sqlite3.OperationalError:
        fault.hits += 1
        error = sqlite3.OperationalError(f"injected {fault.code}")
        error.sqlite_errorname = f"SQLITE_{fault.code}"
        error.sqlite_errorcode = getattr(sqlite3, error.sqlite_errorname)
        return error

    return lambda path: sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, factory=Faulty)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault = Fault()
    monkeypatch.setattr(file, "connect", faulty(fault))
    return fault


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("word", "after"),
    [("BEGIN", False), ("INSERT", False), ("COMMIT", False), ("COMMIT", True), ("PRAGMA wal_checkpoint", False)],
)
def test_any_error_while_writing(tmp_path: Path, fault: Fault, code: str, word: str, after: bool) -> None:
    """None lost, none twice, none told durable that is not; it goes on by itself when the disk does."""
    with closing(Owner(tmp_path / "spool")) as owner:
        owner.put(b"1:")
        owner.until_durable(1)
        fault.word, fault.after, fault.code = word, after, code
        for number in (2, 3):
            owner.put(b"%d:" % number)
        owner.until(lambda: owner.spool.status()["state"] != "ok")
        assert owner.spool.status()["state"] == ("full" if code == "FULL" else "failing")
        assert not owner.spool.has_room
        owner.put(b"4:")  # who had read it already may still put it
        if not after:  # else it finds that all rows are on disk, and has nothing to try
            tries = fault.hits
            owner.until(lambda: fault.hits > tries + 1, "tried again")
        fault.code = None
        owner.until_durable(4)
        owner.until(lambda: owner.spool.has_room)
        assert owner.durable_told == sorted(set(owner.durable_told))
        assert_all_there(owner, 1, 4)
        assert owner.spool.first == 1
        assert owner.spool.status()["errors"] >= 1


def test_an_error_while_reading_is_tried_again(tmp_path: Path, fault: Fault) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        owner.put(b"1:")
        owner.until_durable(1)
        fault.word, fault.code = "SELECT number, body", "IOERR"
        answers: list[object] = []
        owner.spool.read(0, 1000, answers.append)
        owner.until(lambda: fault.hits >= 2)
        assert owner.spool.status()["state"] == "failing"
        assert not answers
        fault.code = None
        owner.until(lambda: answers)
        owner.until(lambda: owner.spool.status()["state"] == "ok")


def test_an_operator_is_told_at_once_that_the_disk_fails(tmp_path: Path, fault: Fault) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        owner.put(b"1:")
        owner.until_durable(1)
        fault.word, fault.code = "SELECT", "IOERR"
        answer = owner.answer(lambda then: owner.spool.list(0, 10, then))
        assert isinstance(answer, SpoolError)
        assert "disk fails" in str(answer)
        fault.code = None


def test_what_is_done_or_buried_on_a_failing_disk_is_done_later(tmp_path: Path, fault: Fault) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        for number in range(1, 7):
            owner.put(b"%d:" % number)
        owner.until_durable(6)
        fault.word, fault.after, fault.code = "COMMIT", True, "IOERR_FSYNC"
        owner.spool.done(2)
        owner.spool.finish(4)
        owner.spool.bury(5, "no such scale")
        owner.until(lambda: owner.spool.status()["state"] == "failing")
        assert [row.number for row in owner.read()] == [3, 6]
        fault.code = None
        owner.until(lambda: owner.spool.status()["state"] == "ok" and owner.spool.status()["rows"] == 2)
        assert owner.spool.status()["dead"] == 1


def test_close_on_a_failing_disk_ends(tmp_path: Path, fault: Fault) -> None:
    owner = Owner(tmp_path / "spool")
    fault.word, fault.code = "BEGIN", "IOERR"
    owner.put(b"1:")
    owner.close()
    assert owner.durable_told == []
    fault.code = None
    owner.spool = owner._open()
    assert (owner.spool.next, owner.read()) == (1, [])
    owner.close()


def test_a_file_that_vanishes_does_not_come_back_empty(tmp_path: Path, fault: Fault) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        owner.put(b"1:")
        owner.until_durable(1)
        fault.word, fault.code = "BEGIN", "IOERR"
        owner.put(b"2:")
        owner.until(lambda: owner.spool.status()["state"] == "failing")
        (tmp_path / "spool").rename(tmp_path / "hidden")
        fault.code = None
        owner.until(lambda: "vanished" in owner.spool.status()["reason"])
        (tmp_path / "hidden").rename(tmp_path / "spool")
        owner.until_durable(2)
        assert_all_there(owner, 1, 2)


# --- at the start ----------------------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_in_this_process_and_in_another(tmp_path: Path) -> None:
    with closing(Owner(tmp_path / "spool")) as owner:
        with pytest.raises(SpoolError, match=f"in use by process {os.getpid()}"):
            Owner(owner.path)
        ask = "import sys, pathlib; from tests.spools import Owner; Owner(pathlib.Path(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", ask, owner.path], capture_output=True, text=True)
        assert other.returncode
        assert "in use by process" in other.stderr
        with closing(sqlite3.connect(owner.path, timeout=0)) as shell, pytest.raises(sqlite3.Error, match="locked"):
            shell.execute("SELECT * FROM rows")
    with closing(Owner(tmp_path / "spool")):
        pass


def test_a_file_open_in_another_program_is_refused(tmp_path: Path) -> None:
    Owner(tmp_path / "spool").close()
    with closing(sqlite3.connect(tmp_path / "spool")) as shell:
        shell.execute("BEGIN IMMEDIATE")
        ask = "import sys, pathlib; from tests.spools import Owner; Owner(pathlib.Path(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", ask, tmp_path / "spool"], capture_output=True, text=True)
    assert "is open in another program" in other.stderr


def filled(path: Path) -> bytes:
    with closing(Owner(path)) as owner:
        for _ in range(20):
            owner.put(os.urandom(4000))
        owner.until_durable(20)
        return owner.spool.id


@pytest.mark.parametrize(("at", "garbage"), [(0, b"garbage"), (0, bytes(8192)), (100, b"\xff" * 4000)])
def test_a_corrupt_file_is_set_aside(tmp_path: Path, at: int, garbage: bytes) -> None:
    identity = filled(tmp_path / "spool")
    spoiled = bytearray((tmp_path / "spool").read_bytes())
    spoiled[at : at + len(garbage)] = garbage
    (tmp_path / "spool").write_bytes(spoiled)
    with closing(Owner(tmp_path / "spool")) as owner:
        assert owner.spool.set_aside == str(tmp_path / "spool.corrupt-1")
        assert owner.spool.status()["set_aside"] == owner.spool.set_aside
        assert (tmp_path / "spool.corrupt-1").read_bytes() == spoiled
        assert (owner.spool.id != identity, owner.spool.next) == (True, 1)


def test_too_many_corrupt_files_are_refused(tmp_path: Path) -> None:
    for _ in range(SPOOL_SET_ASIDE):
        (tmp_path / "spool").write_bytes(b"garbage" * 1000)
        Owner(tmp_path / "spool").close()
    (tmp_path / "spool").write_bytes(b"garbage" * 1000)
    with pytest.raises(SpoolError, match="look at the disk"):
        Owner(tmp_path / "spool")
    assert (tmp_path / "spool").read_bytes() == b"garbage" * 1000


def test_a_page_found_corrupt_while_running_is_looked_for_at_the_next_start(tmp_path: Path) -> None:
    """Real corruption of a page in the middle, which opening the file does not touch."""
    filled(tmp_path / "spool")
    size = (tmp_path / "spool").stat().st_size
    with (tmp_path / "spool").open("r+b") as spoil:
        spoil.seek(size // 2 // 8192 * 8192)
        spoil.write(b"\xff" * 8192)
    with closing(Owner(tmp_path / "spool")) as owner:
        assert not owner.spool.set_aside
        answers: list[object] = []
        owner.spool.read(0, MIB, answers.append)
        owner.until(lambda: "corrupt" in owner.spool.status()["reason"])
        assert not answers
    with closing(Owner(tmp_path / "spool")) as owner:
        assert owner.spool.set_aside


@pytest.mark.parametrize(("change", "sentence"), [(1, "a newer"), (-1, "an older")])
def test_another_version_is_refused(tmp_path: Path, change: int, sentence: str) -> None:
    filled(tmp_path / "spool")
    with closing(sqlite3.connect(tmp_path / "spool")) as shell:
        shell.execute(f"PRAGMA user_version={file.SCHEMA_VERSION + change}")
    with pytest.raises(SpoolError, match=sentence):
        Owner(tmp_path / "spool")


def test_another_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "spool")) as other:
        other.execute("CREATE TABLE theirs (x)")
    with pytest.raises(SpoolError, match="something else"):
        Owner(tmp_path / "spool")
    assert (tmp_path / "spool").exists()


def test_a_file_left_empty_by_a_crash_is_begun(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with closing(Owner(tmp_path / "spool")) as owner:
        assert owner.spool.next == 1


@ROOT_ONLY
def test_a_read_only_file_system_is_refused_with_a_sentence(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(SpoolError, match=r"could not be opened.*Read-only"):
        Owner(small_disk / "folder" / "spool")


def test_an_abandoned_database_lets_go_of_its_file(tmp_path: Path) -> None:
    """Else SQLite's lock would refuse ourselves after an error."""
    spool = file.SpoolFile(tmp_path / "spool")
    spool.read(0, 1000)
    spool.abandon()
    held = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(os.readlink(fd))
    assert str(tmp_path / "spool") not in held
    assert str(tmp_path / "spool.lock") in held
    spool.reopen()
    spool.close()
