"""A channel whose messages are on disk at its sender: both of its ends (docs/protocol.md, 4, "Spooled").

What lasts is counted in *units*, which the disk numbers: one unit is what was read together, or one large message; its
fragments bear its number. Sequence numbers serve one session only, as on every channel. The sender keeps in memory what
the window takes and leaves the rest on disk; the receiver remembers the newest unit that it has completely. Neither
knows a file: the owner stores, reads and releases (tunnel/backlog.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_COST_BYTES, MESSAGE_FRAMES
from tunnel.link.inbound import Inbound, Run
from tunnel.link.outbound import Batch, Outbound, Piece, Terms

if TYPE_CHECKING:
    from tunnel.link.wire import Data, Segment

_UNITS = 2**63
"""More than there are."""
UNKNOWN = ("", 0)
"""What a receiver tells that has taken nothing from any spool."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is on disk when a channel is made."""

    id: str
    first: int
    """The oldest unit that is wanted still; `next` when there is none."""
    next: int
    """The number of the next unit."""


class SpooledOutbound(Outbound):
    """The sender. A unit may enter the lane once it is `durable`; it is `released` once the peer has delivered it.

    `tail` is the newest unit in the queue or beyond; what comes after it is read from the disk (`wants`), or is still
    in memory, *waiting* to be durable and for its turn. While *adrift*, from a restart to `start`, nobody knows where
    to go on, and nothing is held in memory.
    """

    def __init__(self, channel: int, name: str, terms: Terms, stored: Stored) -> None:
        super().__init__(channel, name, terms)
        self.spool = stored.id
        self.released = stored.first - 1
        """Through this unit all is delivered, or dropped and counted: the disk may forget it."""
        self.durable = stored.next - 1
        self.tail = 0
        self.adrift = True
        self.waiting_bytes = 0
        self._waiting: deque[Batch] = deque()
        """Units without a gap, all above `tail`, and above what is being read."""
        self._asked = self._asked_bytes = 0
        """What is being read goes through this unit, and takes so much room; 0: nothing is."""
        self._newest = stored.next - 1
        self._sent = stored.next - 1
        """The newest unit that a process of the peer may have: those on disk at the beginning our predecessor may have
        sent."""
        self._again_through = 0
        """What goes through this unit may have been delivered by an earlier process of the peer."""
        self._marker: Batch | None = None
        self._most_bytes: int | None = None

    def __repr__(self) -> str:
        place = "adrift" if self.adrift else f"tail={self.tail}"
        return f"<SpooledOutbound {self.name} {place} durable={self.durable} released={self.released} {super()!r}>"

    @property
    def has_room(self) -> bool:
        return True  # the disk decides (Backlog.has_room)

    @property
    def is_clear(self) -> bool:
        return False  # nothing goes before it is on disk

    @property
    def drained(self) -> bool:
        return True  # what is left is on disk

    @property
    def load_bytes(self) -> int:
        return self.unacked_bytes + self.backlog * BATCH_COST_BYTES

    @property
    def backlog(self) -> int:
        """Units that are stored and not released."""
        return self._newest - self.released

    # --- the disk ----------------------------------------------------------------------------------------------------

    def stored(self, unit: int, pieces: Sequence[Piece], born: float) -> None:
        """These pieces, together one unit, were given to the disk; kept in memory as well while the window has room."""
        self._newest = unit
        gap = bool(self._waiting) and self._waiting[-1].unit != unit - 1
        if self.adrift or gap or self._room <= 0:
            return
        for piece in pieces:
            batch = Batch(piece.segments, piece.size, piece.messages, piece.more, born, unit=unit)
            self._waiting.append(batch)
            self.waiting_bytes += batch.cost

    @property
    def _room(self) -> int:
        return self.window_bytes - self.unacked_bytes - self.waiting_bytes - self._asked_bytes

    def synced(self, through: int) -> bool:
        """The disk has all units through this one for good. True when some may enter the lane now."""
        self.durable = max(self.durable, through)
        return self._take_turns()

    def _take_turns(self) -> bool:
        """Of what waits and is durable goes into the queue what is next; what lacks its predecessors is left to the
        disk, unless they are being read. True when something went.
        """
        before = self.tail
        while self._waiting and self._waiting[0].unit <= self.durable:
            unit = self._waiting[0].unit
            if self.tail + 1 < unit <= self._asked + 1:
                break
            is_next = unit == self.tail + 1
            while self._waiting and self._waiting[0].unit == unit:
                batch = self._waiting.popleft()
                self.waiting_bytes -= batch.cost
                if is_next:
                    self._queue(batch)
            if is_next:
                self.tail = unit
        return self.tail != before

    def _queue(self, batch: Batch) -> None:
        self.queue.append(batch)
        self.queue_bytes += batch.cost

    def wants(self) -> tuple[int, int, int] | None:
        """Read from the disk what comes after the first of these units, through the second, about so many bytes.

        None: there is nothing to read, or no room. Not before a quarter of the window is free: reading in crumbs costs.
        `loaded` must follow, with this answer, before this is called again.
        """
        room = self._room
        if self.adrift or self.tail >= self.durable or room < self.window_bytes // 4:
            return None
        self._asked, self._asked_bytes = self.durable, room
        return self.tail, self.durable, room

    def loaded(self, after: int, through: int, rows: Iterable[Batch]) -> bool:
        """What was read: the units after `after`; all through `through` are there, or were given up by the disk.

        False: things have changed meanwhile, and it is of no use.
        """
        self._asked = self._asked_bytes = 0
        if self.adrift or self.tail != after:
            return False
        for batch in rows:
            if batch.unit > self.tail:
                self.tail = batch.unit
                if self._most_bytes is not None and batch.size > self._most_bytes:
                    self.dropped["too_large"] += batch.messages
                else:
                    self._queue(batch)
        self.tail = max(self.tail, through)
        self._take_turns()
        self._release()
        return True

    # --- the lane ----------------------------------------------------------------------------------------------------

    def _enter(self, batch: Batch) -> Batch:
        if batch is not self._marker:
            if batch.unit <= self._again_through:
                self.may_repeat += batch.messages
            self._sent = max(self._sent, batch.unit)
        return super()._enter(batch)

    def expire(self, now: float) -> None:
        if self.queue and self.queue[0] is not self._marker:
            super().expire(now)
            self._release()

    def acknowledge(self, delivered: int) -> bool:
        freed = super().acknowledge(delivered)
        if freed:
            self._release()
        return freed

    def agreed(self, window_bytes: int, max_message_bytes: int) -> None:
        self._most_bytes = max_message_bytes + 4 * MESSAGE_FRAMES
        super().agreed(window_bytes, max_message_bytes)
        self._release()

    def _release(self) -> None:
        """Whatever comes before the oldest unit in memory is delivered or was given up."""
        if self.adrift:
            return
        head = self.flight[0] if self.flight else self.queue[0] if self.queue else None
        if head is None:
            upto = self.tail
        elif head is self._marker:
            return
        else:
            upto = head.unit - 1
        self.released = max(self.released, upto)

    # --- sessions ----------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """A process is new. What is in memory is on disk too; where to go on is told by `start`."""
        self.queue.clear()
        self.flight.clear()
        self._waiting.clear()
        self.queue_bytes = self.flight_bytes = self.waiting_bytes = 0
        self._asked = self._asked_bytes = 0
        self._mid_message = False
        self._marker = None
        self.next_seq = self.cursor = 1
        self.delivered = 0
        self.adrift = True

    def start(self, spool: str, unit: int, now: float) -> None:
        """A channel that began anew is open: the peer has all units through this one of that spool.

        What it has may still wait there: an empty batch is sent ahead, and when that is delivered so is all before it.
        A peer that does not know this spool gets everything again that is wanted still. One that has more than there
        is (this disk was put back to an older state) is told to forget it.
        """
        known = spool == self.spool and unit <= self._newest
        if known:
            after = max(unit, self.released)
        else:
            after = self.released
            self._again_through = self._sent
        self.adrift = False
        self.tail = after
        if after > self.released or (spool == self.spool and not known):
            self._marker = Batch((), 0, 0, False, now, unit=after if known else 0)
            self._queue(self._marker)


class SpooledInbound(Inbound):
    """The receiver: takes each unit of a spool once, whatever becomes of the sender's process."""

    def __init__(self, channel: int, name: str, window_bytes: int, max_message_bytes: int) -> None:
        super().__init__(channel, name, window_bytes, max_message_bytes)
        self.spool = ""
        self.unit = 0
        """The newest unit of that spool that came completely."""
        self._delivered_unit = 0
        self._under_way = 0

    def __repr__(self) -> str:
        return f"<SpooledInbound {self.name} spool={self.spool[:8]} unit={self.unit} {super()!r}>"

    @property
    def is_clear(self) -> bool:
        return False  # nothing enters ahead: units are counted here

    @property
    def known(self) -> tuple[str, int]:
        """What the sender is told: the spool, and the newest unit that a restart of its process would leave here."""
        held, unit = 0, self._delivered_unit
        for at, run in enumerate(self.runs):
            held += run.cost
            if at and held > self._held_limit:
                break
            unit = run.unit
        return (self.spool, unit) if unit else UNKNOWN

    def meet(self, spool: str) -> None:
        """The sender's disk is this one; of another nothing is known."""
        if spool != self.spool:
            self.spool = spool
            self._forget()

    def _forget(self) -> None:
        self.unit = self._delivered_unit = 0
        for run in self.runs:
            run.unit = 0

    def accept(self, header: Data, segments: Sequence[Segment], size: int, born: float) -> bool:
        if header.seq != self.received + 1:
            return super().accept(header, segments, size, born)
        if self._partial.batches and header.unit != self._under_way:
            raise RemoteProtocolError(
                "sequence", f"{self.name}: unit {header.unit} came in the middle of unit {self._under_way}"
            )
        if not header.unit:
            if header.seq != 1 or size:
                raise RemoteProtocolError("sequence", f"{self.name}: a batch came that belongs to no unit")
            self._forget()
        if header.unit >= _UNITS:
            raise RemoteProtocolError("sequence", f"{self.name}: unit {header.unit} cannot be")
        self._under_way = header.unit
        if header.unit <= self.unit:  # had that already, or it is empty
            self.repeats += size > 0
            header, segments, size = header._replace(messages=0), (), 0
        super().accept(header, segments, size, born)
        if not header.more:
            self.unit = max(self.unit, header.unit)
            self.runs[-1].unit = self.unit
        return True

    def done(self, run: Run) -> None:
        if self.runs and self.runs[0] is run and run.unit:
            self._delivered_unit = run.unit
        super().done(run)

    def restart(self, *, keep: bool) -> None:
        super().restart(keep=keep)
        self.unit = self.runs[-1].unit if self.runs else self._delivered_unit

    def _give_up(self, run: Run) -> None:
        """It comes again: nothing is lost."""
