"""pair: one PAIR application at each end, both ways."""

from __future__ import annotations

from tunnel import pump
from tunnel.patterns.base import Pattern


class Pair(Pattern):
    """PAIR, at either end."""

    def read(self) -> None:
        port = self.ports[0]
        self.take_in(port, pump.drain(self.socket, self.max_message_bytes()), self.hub.now())
