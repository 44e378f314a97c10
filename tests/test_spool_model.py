"""Any sequence of calls, restarts and disk errors against a dictionary: the same rows, in the same order, counted."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.spools import Owner
from tests.test_spool_faults import Fault, faulty
from tunnel.limits import BATCH_COST_BYTES
from tunnel.spool import file, worker

MAX_BYTES = 20_000


class SpoolMachine(RuleBasedStateMachine):
    """`rows` is what is wanted, `dead` what was buried. The disk may be broken for a while, at some statement."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.fault = Fault()
        self.patch.setattr(file, "connect", faulty(self.fault))
        for name, value in (("SPOOL_RETRY_MIN_S", 0.001), ("SPOOL_RETRY_MAX_S", 0.002), ("SPOOL_REMOVE_S", 0.001)):
            self.patch.setattr(worker, name, value)
        self.patch.setattr(file, "SPOOL_REMOVE_ROWS", 3)
        self.patch.setattr(worker, "SPOOL_REMOVE_ROWS", 3)
        self.folder = Path(tempfile.mkdtemp())
        self.owner = Owner(self.folder / "spool", max_bytes=MAX_BYTES)
        self.rows: dict[int, bytes] = {}
        self.dead: dict[int, bytes] = {}
        self.next = 1
        self.dropped = 0

    def teardown(self) -> None:
        self.owner.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    def settle(self) -> None:
        self.fault.code = None
        self.owner.until_durable(self.next - 1)
        assert self.owner.flush() is None

    # --- calls ---

    @rule(lengths=st.lists(st.sampled_from([0, 1, 300, 9000]), min_size=1, max_size=5))
    def put(self, lengths: list[int]) -> None:
        for length in lengths:
            body = b"%d:" % self.next + bytes(length)
            assert self.owner.put(body) == self.next
            self.rows[self.next] = body
            self.next += 1

    @rule(share=st.floats(0, 1))
    def done(self, share: float) -> None:
        upto = int(share * self.next)
        self.owner.spool.done(upto)
        self.rows = {number: body for number, body in self.rows.items() if number > upto}

    @rule(share=st.floats(0, 1))
    def finish(self, share: float) -> None:
        number = int(share * self.next)
        self.owner.spool.finish(number)
        self.rows.pop(number, None)

    @rule(share=st.floats(0, 1))
    def bury(self, share: float) -> None:
        number = int(share * self.next)
        self.owner.spool.bury(number, "why")
        if number in self.rows:
            self.dead[number] = self.rows.pop(number)

    @precondition(lambda self: self.fault.code is None)
    @rule(numbers=st.lists(st.integers(1, 60), max_size=5))
    def drop(self, numbers: list[int]) -> None:
        self.settle()
        gone = [number for number in set(numbers) if self.rows.pop(number, None) is not None]
        assert self.owner.answer(lambda then: self.owner.spool.drop(then, numbers=numbers)) == len(gone)
        self.dropped += len(gone)

    # --- what happens to it ---

    @rule(word=st.sampled_from(["BEGIN", "INSERT", "DELETE", "UPDATE", "COMMIT", "PRAGMA wal_c"]), after=st.booleans())
    def break_disk(self, word: str, after: bool) -> None:
        self.fault.word, self.fault.after, self.fault.code = word, after, "IOERR"

    @rule()
    def mend_disk(self) -> None:
        self.fault.code = None

    @rule()
    def turn(self) -> None:
        self.owner.turn()

    @rule()
    def restart(self) -> None:
        self.settle()
        self.owner.reopen()

    # --- what must hold ---

    @rule()
    def read(self) -> None:
        """Durable rows, whatever the disk does; all of them when it works."""
        if self.fault.code is None:
            self.settle()
        durable = self.owner.spool.durable
        found = {row.number: row.body for row in self.owner.read_all()}
        wanted = {number: body for number, body in self.rows.items() if number <= durable}
        assert list(found) == sorted(found)
        assert found.items() <= self.rows.items()
        assert wanted.items() <= found.items()

    @rule()
    def count(self) -> None:
        self.settle()
        status = self.owner.spool.status()
        assert (status["rows"], status["dead"]) == (len(self.rows), len(self.dead))
        assert status["bytes"] == sum(len(body) + BATCH_COST_BYTES for body in self.rows.values())
        assert (status["messages"], status["dropped"], status["expired"]) == (len(self.rows), self.dropped, 0)
        assert self.owner.spool.first == min(self.rows, default=self.next)
        if status["bytes"] < MAX_BYTES * 15 // 16:
            assert self.owner.spool.has_room
        if status["bytes"] >= MAX_BYTES:
            assert not self.owner.spool.has_room

    @invariant()
    def numbers(self) -> None:
        spool = self.owner.spool
        assert spool.next == self.next
        assert spool.durable < spool.next
        assert spool.first <= min(self.rows, default=self.next)
        assert self.owner.durable_told == sorted(set(self.owner.durable_told))


TestSpoolAgainstAModel = SpoolMachine.TestCase
TestSpoolAgainstAModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
