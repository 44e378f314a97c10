"""Pings and what they tell: whether both lanes live, how long a round trip takes, what the peer's clock shows.

(docs/protocol.md, 8.) Makes the frames and reads them; the peer sends them.
"""

from __future__ import annotations

from tunnel.limits import CLOCK_WINDOW_S
from tunnel.link import wire
from tunnel.link.lane import Clock, Pulse
from tunnel.link.wire import Lane, Parts, Segment


class Heartbeat:
    """One peer's: the pulses are a connection's, the clock is a session's."""

    def __init__(self) -> None:
        self.clock = Clock(CLOCK_WINDOW_S)
        self.pulses = [Pulse(0.0) for _ in Lane]
        self.rtt_s: float | None = None

    def new_session(self) -> None:
        """Another process at the peer has another clock."""
        self.clock = Clock(CLOCK_WINDOW_S)

    def begin(self, now: float) -> None:
        """A fresh connection."""
        self.pulses = [Pulse(now, steady=lane is Lane.CONTROL) for lane in Lane]

    def ping(self, lane: Lane, now: float) -> Parts:
        """The PING to be sent on this lane."""
        self.pulses[lane].pinged(now)
        return wire.encode_ping(int(now * 1e6))

    def deadline(self) -> float:
        """When to look again."""
        control, data = self.pulses
        return min(control.deadline(), data.deadline())

    def dead(self, now: float) -> str | None:
        """A sentence when a lane is dead."""
        for lane, pulse in zip(Lane, self.pulses, strict=True):
            if pulse.dead(now):
                return f"the {lane.name.lower()} lane was silent for {now - pulse.heard_at:.0f} s"
        return None

    def due(self, now: float) -> list[Lane]:
        """The lanes that must be pinged."""
        return [lane for lane in Lane if self.pulses[lane].ping_due(now)]

    def answered_since(self, then: float) -> list[Lane]:
        """The lanes on which a ping was answered, or that were opened, since then."""
        return [lane for lane in Lane if self.pulses[lane].answered_at >= then]

    def on_ping(self, lane: Lane, part: Segment, now: float) -> Parts | None:
        """The PONG, unless the peer asks too often."""
        clock_us = wire.decode_ping(part)
        self.clock.sample(clock_us / 1e6, now)
        return wire.encode_pong(clock_us, int(now * 1e6)) if self.pulses[lane].may_pong(now) else None

    def on_pong(self, lane: Lane, part: Segment, now: float) -> None:
        echo_us, clock_us = wire.decode_pong(part)
        self.clock.sample(clock_us / 1e6, now)
        trip_s = now - echo_us / 1e6
        if 0 <= trip_s < 60:
            self.pulses[lane].answered(now)
            if lane is Lane.CONTROL:
                self.rtt_s = trip_s
