"""Whose turn it is on the data lane: deficit round robin over the channels that have data, urgent ones first.

Each round every waiting channel may send its quantum, weighted by its priority; within a round `high` goes before
`normal` before `bulk`. So an urgent batch waits behind what is in the lane, and bulk still moves under a flood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tunnel.limits import BATCH_BYTES, FRAGMENT_BYTES
from tunnel.link.outbound import Outbound

QUANTUM_BYTES = {"high": 4 * BATCH_BYTES, "normal": BATCH_BYTES, "bulk": BATCH_BYTES // 4}


class Schedule:
    """The channels of one lane, in turns."""

    def __init__(self) -> None:
        self._rings: dict[str, deque[Outbound]] = {priority: deque() for priority in QUANTUM_BYTES}
        self._deficit: dict[int, int] = {}
        self.relieved: list[Outbound] = []
        """Channels that have dropped what was too old, so may have room again; the owner takes and clears."""

    @property
    def idle(self) -> bool:
        """No channel waits for its turn."""
        return not self._deficit

    def wake(self, channel: Outbound) -> None:
        """This channel has data."""
        if channel.channel not in self._deficit:
            self._deficit[channel.channel] = QUANTUM_BYTES[channel.terms.priority]
            self._rings[channel.terms.priority].append(channel)

    def replace(self, channels: Iterable[Outbound]) -> None:
        """Start over with these channels, all taken to have data."""
        for ring in self._rings.values():
            ring.clear()
        self._deficit.clear()
        self.relieved.clear()
        for channel in channels:
            self.wake(channel)

    def pick(self, now: float, batch_bytes: int = FRAGMENT_BYTES) -> Outbound | None:
        """The channel that sends next, already charged for its batch; None when no channel has anything to send.

        `batch_bytes`: what the line takes at once; a longer batch is cut.
        """
        while self._deficit:
            for ring in self._rings.values():
                chosen = self._pick_in(ring, now, batch_bytes) if ring else None
                if chosen is not None:
                    return chosen
            for ring in self._rings.values():
                for channel in ring:
                    self._deficit[channel.channel] += QUANTUM_BYTES[channel.terms.priority]
        return None

    def _pick_in(self, ring: deque[Outbound], now: float, batch_bytes: int) -> Outbound | None:
        for _ in range(len(ring)):
            channel = ring[0]
            size = channel.next_size(now, batch_bytes)
            if channel.relieved:
                channel.relieved = False
                self.relieved.append(channel)
            if size is None:
                ring.popleft()
                del self._deficit[channel.channel]
                continue
            if self._deficit[channel.channel] >= size:
                self._deficit[channel.channel] -= size
                return channel
            ring.rotate(-1)
        return None
