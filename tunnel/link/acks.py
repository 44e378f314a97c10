"""What we owe the peer: word of the bytes that its data lane carried and of what was handed on (docs/protocol.md, 6).

It rides on the next DATA, or goes by itself when it is due: after ACK_DELAY_S, after ACK_BYTES, or when a quarter of
a channel's window waits for it. Knows channels by the peer's numbers only.
"""

from __future__ import annotations

from itertools import islice

from tunnel.limits import ACK_BYTES, ACK_DELAY_S
from tunnel.link.inbound import Inbound
from tunnel.link.wire import ACK_ITEMS, Ack

FOREVER = float("inf")
"""The deadline of what is not due."""


class Owed:
    """The acknowledgements of one connection at a time."""

    def __init__(self) -> None:
        self.lane_bytes = 0
        """Received on the data lane since OPEN."""
        self.due_at = FOREVER
        """When an acknowledgement must go at the latest; FOREVER while none is owed."""
        self._bytes = 0
        self._channels: dict[int, Inbound] = {}

    def begin(self, channels: dict[int, Inbound], now: float) -> None:
        """A fresh connection: the lane counts from zero, and the peer hears soon how far each channel is."""
        self.lane_bytes = 0
        self.due_at = now + ACK_DELAY_S
        self._bytes = 0
        self._channels = channels

    def closed(self) -> None:
        """Nothing can be said for now."""
        self.due_at = FOREVER

    def received(self, header_bytes: int, payload_bytes: int, now: float) -> None:
        """A DATA of this size has come."""
        self.lane_bytes += header_bytes + payload_bytes
        self._bytes += payload_bytes
        if self.due_at is FOREVER:
            self.due_at = now + ACK_DELAY_S

    def delivered(self, number: int, inbound: Inbound, size: int, now: float) -> None:
        """A run of this size was handed on; the peer hears in time to keep its window open."""
        self._channels[number] = inbound
        inbound.owed_bytes += size
        if inbound.owed_bytes >= inbound.window_bytes // 4:
            self.due_at = now
        elif self.due_at is FOREVER:
            self.due_at = now + ACK_DELAY_S

    def is_due(self, now: float) -> bool:
        return self._bytes >= ACK_BYTES or now >= self.due_at

    @property
    def has_deliveries(self) -> bool:
        """Something was handed on that the peer has not heard of."""
        return bool(self._channels)

    def here_and_elsewhere(self, number: int) -> tuple[bool, bool]:
        """Are deliveries of this channel to be acknowledged, and are any of another?"""
        here = number in self._channels
        return here, len(self._channels) > int(here)

    def take(self) -> Ack:
        """The acknowledgement that goes now: of as many channels as one may name."""
        items = list(islice(self._channels.items(), ACK_ITEMS))
        delivered = [(number, inbound.delivered) for number, inbound in items if inbound.channel == number]
        for number, inbound in items:
            del self._channels[number]
            inbound.owed_bytes = 0
        self._bytes = 0
        if not self._channels:
            self.due_at = FOREVER
        return Ack(self.lane_bytes, delivered)
