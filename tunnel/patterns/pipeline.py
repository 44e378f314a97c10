"""pipeline: PUSH applications at `from`, PULL applications at `to`; tasks are shared out among several `to` sides."""

from __future__ import annotations

from tunnel.patterns.base import Pattern, Port
from tunnel.patterns.desk_out import DeskOut
from tunnel.patterns.sharing import SharedOut


class PipelineFrom(SharedOut):
    """PULL: reads tasks."""

    only_enters = True


class PipelineTo(Pattern):
    """PUSH: hands tasks on, or its desk does."""

    def wants_to_read(self) -> bool:
        return False

    def push(self) -> None:
        desk = self.desk
        if isinstance(desk, DeskOut) and desk.in_charge:
            self._blocked = False
            desk.deal()
            return
        if isinstance(desk, DeskOut) and desk.hand_back():
            self._turn.extend(port for port in self.ports if port not in self._turn)
        super().push()

    def may_enter_ahead(self, port: Port) -> bool:
        at_desk = isinstance(self.desk, DeskOut) and self.desk.in_charge
        return not at_desk and super().may_enter_ahead(port)

    def idle(self) -> bool:
        return not any(port.channel.inbound is not None and port.channel.inbound.runs for port in self.ports)
