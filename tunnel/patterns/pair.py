"""pair: one PAIR application at each end, both ways."""

from __future__ import annotations

from tunnel import pump
from tunnel.patterns.base import Pattern


class Pair(Pattern):
    """PAIR, at either end."""

    def read(self) -> bool | None:
        port = self.ports[0]
        drained = pump.drain(self.socket, self.max_message_bytes(), False, port.shortcut)
        if drained is None:
            return None
        self.take_in(port, drained, self.hub.now())
        return drained.emptied
