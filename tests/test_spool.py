"""The spool as its users see it, on real files: numbers, order, room, removal, dead letters, expiry, restarts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spools import Owner
from tunnel.errors import SpoolError
from tunnel.limits import MIB
from tunnel.spool import Row


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
