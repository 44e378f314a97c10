"""Spooled channels with one protection taken out each: what their simulation must find out, or it proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tunnel.backlog import Backlog
from tunnel.link.inbound import Inbound
from tunnel.link.outbound import Batch, Outbound
from tunnel.link.spooled import UNKNOWN, SpooledInbound, SpooledOutbound
from tunnel.link.wire import Data

Take = Callable[[pytest.MonkeyPatch], None]


def disk_first(patch: pytest.MonkeyPatch) -> None:
    """What was read goes on before it is on disk for good."""
    put = Backlog.put

    def at_once(self: Backlog, pieces: Any, now: float) -> None:
        put(self, pieces, now)
        durable = self.outbound.durable
        if self.outbound.synced(self.store.next - 1):
            self._stir()
        self.outbound.durable = durable

    patch.setattr(Backlog, "put", at_once)


def count_of_units(patch: pytest.MonkeyPatch) -> None:
    """The receiver tells one unit more than it has."""
    known = SpooledInbound.known.fget  # type: ignore[attr-defined]

    def one_more(self: SpooledInbound) -> tuple[str, int]:
        spool, unit = known(self)
        return spool, unit + 1 if self.runs else unit

    patch.setattr(SpooledInbound, "known", property(one_more))


def count_over_sessions(patch: pytest.MonkeyPatch) -> None:
    """The receiver remembers nothing of an ended session."""

    def forget(self: SpooledInbound, *, keep: bool) -> None:
        Inbound.restart(self, keep=keep)
        self.unit = self._delivered_unit = 0

    patch.setattr(SpooledInbound, "restart", forget)
    patch.setattr(SpooledInbound, "known", property(lambda self: UNKNOWN))


def once_only(patch: pytest.MonkeyPatch) -> None:
    """The receiver takes a unit whatever it has."""
    accept = SpooledInbound.accept

    def anything(self: SpooledInbound, header: Data, segments: Any, size: int, born: float) -> bool:
        unit, self.unit = self.unit, 0
        taken = accept(self, header, segments, size, born)
        self.unit = max(unit, self.unit)
        return taken

    patch.setattr(SpooledInbound, "accept", anything)


def incomplete_messages(patch: pytest.MonkeyPatch) -> None:
    """What came of a message that was cut in two by a restart is kept."""
    restart = SpooledInbound.restart

    def keep_it(self: SpooledInbound, *, keep: bool) -> None:
        partial = self._partial
        restart(self, keep=keep)
        self._partial = partial
        self.held_bytes += partial.cost

    patch.setattr(SpooledInbound, "restart", keep_it)


def disk_again(patch: pytest.MonkeyPatch) -> None:
    """To a new process goes what is in memory, not what is on disk."""

    def from_memory(self: SpooledOutbound) -> None:
        Outbound.restart(self)
        self.adrift = not self.tail

    patch.setattr(SpooledOutbound, "restart", from_memory)


def kept_until_delivered(patch: pytest.MonkeyPatch) -> None:
    """The disk forgets what was sent."""
    enter = SpooledOutbound._enter

    def release(self: SpooledOutbound, batch: Batch) -> Batch:
        self.released = max(self.released, batch.unit - batch.more)
        return enter(self, batch)

    patch.setattr(SpooledOutbound, "_enter", release)


def known_is_not_delivered(patch: pytest.MonkeyPatch) -> None:
    """What a receiver has is taken for delivered."""
    start = SpooledOutbound.start

    def no_marker(self: SpooledOutbound, spool: str, unit: int, now: float) -> None:
        start(self, spool, unit, now)
        if self._marker is not None:
            self.queue.clear()
            self.queue_bytes = 0
            self._marker = None
            self._release()

    patch.setattr(SpooledOutbound, "start", no_marker)


def word_of_delivery(patch: pytest.MonkeyPatch) -> None:
    """Nothing is sent ahead that tells when the receiver has delivered what it had; so the disk is never empty."""
    start = SpooledOutbound.start

    def no_marker(self: SpooledOutbound, spool: str, unit: int, now: float) -> None:
        released = self.released
        start(self, spool, unit, now)
        if self._marker is not None:
            self.queue.clear()
            self.queue_bytes = 0
            self._release = lambda: None  # type: ignore[method-assign]
        assert self.released == released

    patch.setattr(SpooledOutbound, "start", no_marker)


def counting_repeats(patch: pytest.MonkeyPatch) -> None:
    """What goes again to a process that knows nothing is not counted."""
    start = SpooledOutbound.start

    def silent(self: SpooledOutbound, spool: str, unit: int, now: float) -> None:
        start(self, spool, unit, now)
        self._again_through = 0

    patch.setattr(SpooledOutbound, "start", silent)


def repeats_of_predecessors(patch: pytest.MonkeyPatch) -> None:
    """What an earlier process has sent is not thought of."""
    init = SpooledOutbound.__init__

    def fresh(self: SpooledOutbound, *args: Any) -> None:
        init(self, *args)
        self._sent = 0

    patch.setattr(SpooledOutbound, "__init__", fresh)


def order_of_reading(patch: pytest.MonkeyPatch) -> None:
    """What was just read goes on although older units wait on disk."""
    stored = SpooledOutbound.stored

    def in_front(self: SpooledOutbound, unit: int, pieces: Any, born: float) -> None:
        if not self.adrift and self.unacked_bytes + self.waiting_bytes < self.window_bytes:
            self.tail = unit - 1
        stored(self, unit, pieces, born)

    patch.setattr(SpooledOutbound, "stored", in_front)


def late_answers(patch: pytest.MonkeyPatch) -> None:
    """What was read back is taken although the channel began anew meanwhile."""
    on_rows = Backlog._on_rows

    def take(self: Backlog, after: int, through: int, rows: Any) -> None:
        adrift, self.outbound.adrift = self.outbound.adrift, False
        self.outbound.tail = after
        on_rows(self, after, through, rows)
        self.outbound.adrift = adrift

    patch.setattr(Backlog, "_on_rows", take)


def memory(patch: pytest.MonkeyPatch) -> None:
    """What was read stays in memory, however much it is."""

    def keep_all(self: SpooledOutbound, unit: int, pieces: Any, born: float) -> None:
        window, self.window_bytes = self.window_bytes, 1 << 60
        stored(self, unit, pieces, born)
        self.window_bytes = window

    stored = SpooledOutbound.stored
    patch.setattr(SpooledOutbound, "stored", keep_all)


PROTECTIONS: Sequence[Take] = (
    disk_first,
    count_of_units,
    count_over_sessions,
    once_only,
    incomplete_messages,
    disk_again,
    kept_until_delivered,
    known_is_not_delivered,
    word_of_delivery,
    counting_repeats,
    repeats_of_predecessors,
    order_of_reading,
    late_answers,
    memory,
)
