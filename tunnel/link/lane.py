"""How much may be under way on the data lane, and whether a lane still lives (docs/protocol.md, "Lanes").

libzmq hides what waits in a pipe, so we count: bytes sent less bytes that the peer says it received stay below the
credit. The credit is what an urgent batch may have to wait behind; it grows only while the line is long and its round
trip does not swell, or is so fast that it carries the credit in no time, and shrinks on a slow line. Bytes count all
parts of DATA messages since OPEN.
"""

from __future__ import annotations

from collections import deque

from tunnel.errors import RemoteProtocolError
from tunnel.limits import (
    BATCH_BYTES,
    FRAGMENT_BYTES,
    LANE_BATCH_S,
    LANE_CREDIT_BYTES,
    LANE_CREDIT_MAX_BYTES,
    LANE_CREDIT_MIN_BYTES,
    LANE_CREDIT_S,
    PING_IDLE_S,
    PONG_GAP_S,
    SILENCE_S,
)

LONG_S = 0.005
"""A line whose least round trip is above this is long: only there can a larger credit help."""
LEAST_BATCH_BYTES = 4096
"""Batches are not cut shorter than this, however slow the line is."""
SLOW_S = 0.5
"""A batch that takes longer than this to be received says that the credit is too large for the line."""


class Credit:
    """The sender's view of its data lane."""

    def __init__(self) -> None:
        self.credit_bytes = LANE_CREDIT_BYTES
        self.rate = 0.0
        """Bytes a second that the line carries, as far as is known; 0 until then."""
        self.batch_bytes = BATCH_BYTES
        """The longest batch that the lane carries in LANE_BATCH_S, as far as is known."""
        self.reset(0.0)

    def reset(self, now: float) -> None:
        """A fresh connection: the counters begin at zero; the credit learnt so far stays."""
        self.sent = 0
        self.received = 0
        self.progress_at = now
        self._marks: deque[tuple[int, float]] = deque()
        self._least_s = float("inf")
        self._was_full = False
        self._resized_at = now
        self._rate_mark = (0, now)
        self._full_since_mark = False

    @property
    def outstanding(self) -> int:
        return self.sent - self.received

    def stall_at(self) -> float:
        """When bytes under way that do not move mean a dead lane; never while nothing is under way."""
        return self.progress_at + SILENCE_S if self.outstanding else float("inf")

    def has_room(self) -> bool:
        """May another batch enter? One may always start on an empty lane."""
        room = self.outstanding < self.credit_bytes
        if not room:
            self._was_full = self._full_since_mark = True
        return room

    def stalled(self) -> None:
        """The lane died with bytes under way: perhaps of a batch that the line could not carry in time."""
        self._learn_rate(LEAST_BATCH_BYTES / LANE_BATCH_S)

    def add(self, size: int, now: float) -> None:
        if self.outstanding == 0:
            self.progress_at = now
            self._rate_mark = (self.received, now)
            self._full_since_mark = False
        self.sent += size
        self._marks.append((self.sent, now))

    def acknowledge(self, lane_bytes: int, now: float) -> bool:
        """The peer received `lane_bytes` in all on this lane. True when that is news."""
        if lane_bytes > self.sent:
            raise RemoteProtocolError("sequence", f"the peer received {lane_bytes} bytes where {self.sent} were sent")
        if lane_bytes <= self.received:
            return False
        before = self.received
        self.received = lane_bytes
        self.progress_at = now
        trip_s = None
        while self._marks and self._marks[0][0] <= lane_bytes:
            trip_s = now - self._marks.popleft()[1]
        if trip_s is not None:
            self._measure(trip_s, lane_bytes - before, now)
        return True

    def _measure(self, trip_s: float, size: int, now: float) -> None:
        self._least_s = min(self._least_s, trip_s)
        if self.batch_bytes < FRAGMENT_BYTES and trip_s * max(self.rate, self.batch_bytes / LANE_BATCH_S) < size:
            self._learn_rate(size / max(trip_s, 1e-4))  # it carried more than we thought it could
        since_bytes, since = self._rate_mark
        if now - since >= 0.1:
            if self._full_since_mark:  # else it is we who were slow
                rate = (self.received - since_bytes) / (now - since)
                self._learn_rate(rate if not self.rate else 0.7 * self.rate + 0.3 * rate)
                if self.credit_bytes < rate * LANE_CREDIT_S:
                    self._resize(min(int(rate * LANE_CREDIT_S), self.credit_bytes * 3 // 2), now)
            self._rate_mark = (self.received, now)
            self._full_since_mark = False
        if now - self._resized_at < self._least_s:
            return
        if trip_s > SLOW_S and trip_s > 2 * self._least_s:
            self._resize(self.credit_bytes * 7 // 10, now)
        elif self._was_full and self._least_s > LONG_S and trip_s < 1.5 * self._least_s + 0.01:
            self._resize(self.credit_bytes * 3 // 2, now)

    def _learn_rate(self, rate: float) -> None:
        self.rate = rate
        self.batch_bytes = int(min(FRAGMENT_BYTES, max(LEAST_BATCH_BYTES, rate * LANE_BATCH_S)))

    def _resize(self, credit_bytes: int, now: float) -> None:
        self.credit_bytes = min(LANE_CREDIT_MAX_BYTES, max(LANE_CREDIT_MIN_BYTES, credit_bytes))
        self._was_full = False
        self._resized_at = now


class Pulse:
    """When a lane was last heard of, and when it must be pinged or given up. One for each lane of a connection.

    A lane is pinged when it was silent for PING_IDLE_S; the control lane (`steady`) always, for it also tells the round
    trip and the clock. Anything heard is a sign of life; but on the steady lane an answer must come now and then too,
    or a peer that talks and never reads would let us queue acknowledgements for ever.
    """

    def __init__(self, now: float, *, steady: bool = False) -> None:
        self.heard_at = now
        self.answered_at = now
        self.pinged_at = now
        self.ponged_at = float("-inf")
        self._steady = steady
        self._waiting = False

    def heard(self, now: float) -> None:
        self.heard_at = now
        self._waiting = False

    def answered(self, now: float) -> None:
        self.answered_at = now

    def ping_due(self, now: float) -> bool:
        return now >= self._ping_at()

    def _ping_at(self) -> float:
        return (self.pinged_at if self._steady else max(self.heard_at, self.pinged_at)) + PING_IDLE_S

    def pinged(self, now: float) -> None:
        self.pinged_at = now
        self._waiting = True

    def may_pong(self, now: float) -> bool:
        """Answers are thinned: a peer that asks without reading must not fill our queue."""
        if now - self.ponged_at < PONG_GAP_S:
            return False
        self.ponged_at = now
        return True

    def dead(self, now: float) -> bool:
        """Silent for SILENCE_S although it was asked, or deaf for twice as long."""
        if self._steady and now - self.answered_at >= 2 * SILENCE_S:
            return True
        return self._waiting and now - self.heard_at >= SILENCE_S

    def deadline(self) -> float:
        """When to look again."""
        return min(self._ping_at(), self.heard_at + SILENCE_S) if self._waiting else self._ping_at()


class Clock:
    """The peer's monotonic clock in ours, less the shortest delay seen: (our time) - (its time), the least of a window.

    A batch that a stalled line delivers late is seen to be old, because the least offset was learnt when it was not.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._least = self._previous = float("inf")
        self._since = 0.0
        self.offset: float | None = None
        """What to add to the peer's time; None until it is known."""

    def sample(self, peer_s: float, now: float) -> None:
        offset = now - peer_s
        if now - self._since >= self._window_s:
            self._previous, self._least, self._since = self._least, offset, now
        elif offset < self._least:
            self._least = offset
        self.offset = min(self._least, self._previous)

    def local(self, peer_s: float, now: float) -> float:
        """A time of the peer's as ours; never in the future."""
        return now if self.offset is None else min(now, peer_s + self.offset)
