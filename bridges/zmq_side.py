"""A bridge's own 0MQ socket: made from the plan, read in batches while somebody wants to, fed through an Outlet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import zmq

from bridges.messages import messages_of
from bridges.outlet import Outlet
from tunnel import pump
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.limits import BRIDGE_LINGER_S, HANDSHAKE_S, KIB, RECONNECT_MAX_S, RECONNECT_MIN_S
from tunnel.pump import Piece, Segment
from tunnel.reactor import LOCAL_AFFINITY, Reactor

POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
_ROOM: Final = 64 * KIB
"""What may stand around a frame in a message: envelopes, meta, topic."""
_WRITES_ONLY: Final = ("PUSH", "PUB")

OnMessages = Callable[[list[list[bytes]]], None]


class ZmqSide:
    """One socket, from open to close. `type_name` may be another than the table's: a REP of many is a ROUTER."""

    def __init__(
        self,
        reactor: Reactor,
        plan: ZmqPlan,
        type_name: str,
        max_frame: int,
        on_messages: OnMessages,
        on_change: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._max_message = max_frame + _ROOM
        self._on_messages = on_messages
        self._on_change = on_change
        self.type_name = type_name
        self._reading = type_name not in _WRITES_ONLY
        self._parts: list[Segment] = []
        """Of a message that is larger than a batch."""
        self.socket = reactor.context.socket(getattr(zmq, type_name))
        self._set_up(type_name)
        self.outlet = Outlet(self.socket, self._changed)
        for endpoint in plan.endpoints:
            if endpoint.method == "bind":
                self.socket.bind(endpoint.address)
            else:
                self.socket.connect(endpoint.address)
        self._watch = reactor.watch(self.socket, self._on_ready, self._wanted())

    def __repr__(self) -> str:
        return f"<ZmqSide {self._plan.socket} {self.outlet}>"

    def read(self, wanted: bool) -> None:
        """Take messages, or leave them where they are: their sender then meets its high-water mark."""
        self._reading = wanted
        self._watch.want(self._wanted())

    def poke(self) -> None:
        """Something was sent."""
        self._watch.want(self._wanted())
        self._watch.poke()

    def close(self) -> None:
        self._watch.close()
        self.socket.close(linger=int(BRIDGE_LINGER_S * 1000))

    def status(self) -> dict[str, Any]:
        return {
            "socket": self._plan.socket,
            "endpoints": [f"{endpoint.method} {endpoint.address}" for endpoint in self._plan.endpoints],
            "route": self._plan.route,
            "blocked": self.outlet.blocked,
        }

    def _set_up(self, type_name: str) -> None:
        numbers = {
            zmq.AFFINITY: LOCAL_AFFINITY,
            zmq.SNDHWM: self._plan.hwm,
            zmq.RCVHWM: self._plan.hwm,
            zmq.LINGER: 0,
            zmq.MAXMSGSIZE: 2 * self._max_message,
            zmq.HANDSHAKE_IVL: int(HANDSHAKE_S * 1000),
            zmq.RECONNECT_IVL: int(RECONNECT_MIN_S * 1000),
            zmq.RECONNECT_IVL_MAX: int(RECONNECT_MAX_S * 1000),
        }
        if type_name == "ROUTER":
            numbers[zmq.ROUTER_MANDATORY] = 1
        if type_name == "SUB":
            numbers[zmq.SNDHWM] = 0  # subscriptions are messages, lost for good beyond the mark (libzmq #4063)
        for option, value in numbers.items():
            self.socket.setsockopt(option, value)
        for topic in self._plan.subscribe if type_name == "SUB" else ():
            self.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def _wanted(self) -> int:
        return (POLLIN if self._reading else 0) | (POLLOUT if self.outlet.blocked else 0)

    def _changed(self) -> None:
        self._watch.want(self._wanted())
        self._on_change()

    def _on_ready(self, events: int) -> bool:
        if events & POLLOUT:
            self.outlet.on_writable()
        if not events & POLLIN or not self._reading:
            return False
        drained = pump.drain(self.socket, self._max_message)
        messages: list[list[bytes]] = []
        for piece in drained.pieces:
            self._take(piece, messages)
        if messages:
            self._on_messages(messages)
        return drained.emptied

    def _take(self, piece: Piece, messages: list[list[bytes]]) -> None:
        self._parts += piece.segments
        if not piece.more:
            messages.extend(messages_of(self._parts))
            self._parts = []
