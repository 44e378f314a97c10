"""One channel at its receiver: from the lane to the local socket (docs/protocol.md, "Channels").

It accepts exactly the next number, puts fragments together, and holds runs until the owner has handed them on. It
knows nothing of windows but their size, which it holds the peer to.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_COST_BYTES, FRAGMENT_BYTES, MESSAGE_FRAMES

if TYPE_CHECKING:
    from tunnel.link.wire import Data, Segment


@dataclass(slots=True)
class Run:
    """Whole messages, ready for the local socket. `position` and `fed` are the owner's progress through it."""

    segments: list[Segment]
    size: int
    messages: int
    """As the peer counted them; used for statistics only."""
    born: float
    """When its first message was read by the peer, in local seconds."""
    last_seq: int
    epoch: int
    position: int = 0
    fed: int = 0
    cost: int = 0
    """What it counts for in the window."""
    unit: int = 0
    """A spooled channel: the newest unit that is here when this one is handed on."""


@dataclass(slots=True)
class _Partial:
    """Fragments of the message under way."""

    segments: list[Segment] = field(default_factory=list)
    size: int = 0
    cost: int = 0
    batches: int = 0
    born: float = 0.0


class Inbound:
    """One direction of one route from one peer. Sizes in bytes."""

    def __init__(self, channel: int, name: str, window_bytes: int, max_message_bytes: int) -> None:
        self.channel = channel
        """The number that the *peer* uses for it."""
        self.name = name
        self.received = 0
        self.delivered = 0
        self.runs: deque[Run] = deque()
        self.held_bytes = 0
        self.repeats = 0
        """Batches that came again after a cut and were dropped."""
        self.dropped: Counter[str] = Counter()
        self.window_bytes = window_bytes
        self.owed_bytes = 0
        """Delivered since the last acknowledgement."""
        self._old_bytes = 0
        """Held for an ended session of the peer."""
        self._message_bytes = max_message_bytes + 4 * MESSAGE_FRAMES
        self._held_limit = window_bytes + self._message_bytes + FRAGMENT_BYTES
        self._partial = _Partial()
        self._epoch = 0

    def __repr__(self) -> str:
        return f"<Inbound {self.name} received={self.received} delivered={self.delivered} held={self.held_bytes}>"

    @property
    def is_clear(self) -> bool:
        """All that came was handed on."""
        return not self.held_bytes and not self.runs and self.delivered == self.received

    def accept(self, header: Data, segments: Sequence[Segment], size: int, born: float) -> bool:
        """Take a batch. False: it is old news. RemoteProtocolError when numbers or sizes are not as agreed."""
        if header.seq <= self.received:
            self.repeats += 1
            return False
        if header.seq != self.received + 1:
            raise RemoteProtocolError(
                "sequence", f"{self.name}: batch {header.seq} came where {self.received + 1} was due"
            )
        cost = size if size > BATCH_COST_BYTES else BATCH_COST_BYTES
        if self.held_bytes + cost > self._held_limit:
            raise RemoteProtocolError("window", f"{self.name}: the peer sends more than its window")
        if size < len(segments):
            raise RemoteProtocolError("frame", f"{self.name}: a batch has empty parts")
        self.received = header.seq
        self.held_bytes += cost
        partial = self._partial
        if not partial.batches:
            partial.born = born
        partial.segments.extend(segments)
        partial.size += size
        partial.cost += cost
        partial.batches += 1
        if header.more:
            if partial.size > self._message_bytes:
                raise RemoteProtocolError("window", f"{self.name}: a message is larger than this route takes")
            return True
        run = Run(
            partial.segments, partial.size, header.messages, partial.born, header.seq, self._epoch, cost=partial.cost
        )
        self._partial = _Partial()
        self.runs.append(run)
        return True

    def done(self, run: Run) -> None:
        """The first run is handed to the local socket (or dropped and counted): it may be acknowledged."""
        if not self.runs or self.runs[0] is not run:
            return  # a restart dropped it in the meantime
        self.runs.popleft()
        if run.epoch == self._epoch:
            self.held_bytes -= run.cost
            self.delivered = run.last_seq
        else:
            self._old_bytes -= run.cost

    def abandon(self) -> None:
        """The connection is gone and the route is `live`: the rest of a message under way will not come.

        Its fragments do not count as received, so the sender counts all of the message as lost.
        """
        self.received -= self._partial.batches
        self.held_bytes -= self._partial.cost
        self._partial = _Partial()

    def restart(self, *, keep: bool) -> None:
        """The peer's process is a new one and counts from 1 again. `keep`: what the old one sent is still handed on.

        Of ended sessions together no more is kept than one may hold, or a peer that keeps crashing could fill us.
        """
        self._old_bytes += self.held_bytes - self._partial.cost
        self.held_bytes = 0
        self._partial = _Partial()
        self._epoch += 1
        self.received = self.delivered = 0
        while self.runs and (not keep or (self._old_bytes > self._held_limit and len(self.runs) > 1)):
            run = self.runs.pop()
            self._give_up(run)
            self._old_bytes -= run.cost

    def _give_up(self, run: Run) -> None:
        self.dropped["peer_restart"] += run.messages - run.fed
