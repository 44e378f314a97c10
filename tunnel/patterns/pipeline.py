"""pipeline: PUSH applications at `from`, PULL applications at `to`; tasks are shared out among several `to` sides."""

from __future__ import annotations

from tunnel import pump
from tunnel.patterns.base import Pattern
from tunnel.patterns.sharing import takers


class PipelineFrom(Pattern):
    """PULL: reads tasks."""

    _next = 0

    def wants_to_read(self) -> bool:
        return bool(takers(self.ports))

    def read(self) -> bool | None:
        able = takers(self.ports)
        if not able:
            return False
        now = self.hub.now()
        if len(able) == 1:
            drained = pump.drain(self.socket, self.max_message_bytes(), False, able[0].shortcut)
            if drained is None:
                return None
            self.take_in(able[0], drained, now)
            return drained.emptied
        self._next += 1
        first = self._next % len(able)
        shares = pump.drain_shares(self.socket, self.max_message_bytes(), len(able))
        for port, share in zip(able[first:] + able[:first], shares, strict=True):
            self.take_in(port, share, now)
        return False


class PipelineTo(Pattern):
    """PUSH: hands tasks on."""

    def wants_to_read(self) -> bool:
        return False
