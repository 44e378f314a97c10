"""Sharing out among several sides: the intake of requests and tasks, which may go to any of them.

Whose turn it is is decided per batch by what each side has not acknowledged yet; within a batch they take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tunnel import pump
from tunnel.limits import SHARE_SLACK_BYTES
from tunnel.patterns.base import Pattern, Port

if TYPE_CHECKING:
    from tunnel.pump import Drained


class SharedOut(Pattern):
    """A `from` end whose messages each go to one of the sides."""

    skips_probes: ClassVar[bool] = False
    """The local socket is a ROUTER, where an application with PROBE_ROUTER sends a message that is none."""
    _turns = 0

    def wants_to_read(self) -> bool:
        return bool(takers(self.ports))

    def read(self) -> bool | None:
        able = takers(self.ports)
        if not able:
            return False
        now = self.hub.now()
        if len(able) == 1:
            drained = pump.drain(self.socket, self.max_message_bytes(), self.skips_probes, able[0].shortcut)
            if drained is None:
                return None
            self.take_in(able[0], drained, now)
            return drained.emptied
        self._turns += 1
        first = self._turns % len(able)
        shares = pump.drain_shares(self.socket, self.max_message_bytes(), len(able), self.skips_probes)
        for port, share in zip(able[first:] + able[:first], shares, strict=True):
            self.take_in(port, share, now)
        return False

    def admit(self, drained: Drained, now: float) -> Sequence[Port]:
        able = takers(self.ports)
        self._turns += 1
        port = able[self._turns % len(able)]
        self.take_in(port, drained, now)
        return [port]


def takers(ports: Sequence[Port]) -> list[Port]:
    """The ports that may get the next messages: linked, with room, and with the fewest unacknowledged bytes.

    With one side only that side waits for its link as long as its window allows; with several a dead one is skipped,
    and while all are dead nothing is read, for nobody can say yet who will take it; spooled, the fewest units decide.
    """
    if len(ports) == 1:
        return [ports[0]] if ports[0].has_room() else []
    able = [port for port in ports if port.linked and port.has_room()]
    if not able:  # a disk takes what is for a side that is away
        able = [port for port in ports if port.backlog is not None and port.has_room()]
    if not able:
        return []
    least = min(port.unacked_bytes for port in able)
    return sorted(
        (port for port in able if port.unacked_bytes <= least + SHARE_SLACK_BYTES), key=lambda port: port.unacked_bytes
    )
