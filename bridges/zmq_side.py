"""A bridge's own 0MQ socket: made from the plan, read in batches while somebody wants to, fed through an Outlet.

A ROUTER always says that it can be written, whichever of its peers is full, and gives no sign when that one is not any
more: so what waits there is offered again every BRIDGE_RETRY_S, and `lane` gives each peer an outlet of its own, that
one who does not read stops nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import zmq

from bridges.messages import messages_of
from bridges.outlet import Outlet
from tunnel import pump
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.limits import BRIDGE_LINGER_S, BRIDGE_RETRY_S, HANDSHAKE_S, KIB, RECONNECT_MAX_S, RECONNECT_MIN_S
from tunnel.local.endpoint import Pause
from tunnel.local.words import why_bind_failed
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.pump import Piece, Segment
from tunnel.reactor import LOCAL_AFFINITY, Reactor

POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
CONNECTIONS: Final = zmq.Event.CONNECTED | zmq.Event.ACCEPTED | zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
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
        *,
        immediate: bool = False,
        on_event: Callable[[MonitorEvent], None] | None = None,
    ) -> None:
        """`immediate`: nothing is taken before somebody is connected, and what was taken is gone when he is.

        `on_event`: is told of connections (CONNECTIONS).
        """
        self._plan = plan
        self._max_message = max_frame + _ROOM
        self._on_messages = on_messages
        self._on_change = on_change
        self.type_name = type_name
        self._reading = type_name not in _WRITES_ONLY
        self._parts: list[Segment] = []
        """Of a message that is larger than a batch."""
        self.socket = reactor.context.socket(getattr(zmq, type_name))
        self.socket.setsockopt(zmq.IMMEDIATE, int(immediate))
        self._set_up(type_name)
        self._monitor = Monitor(reactor, self.socket, on_event, CONNECTIONS) if on_event is not None else None
        self.outlet = Outlet(self.socket, self._changed)
        self.reason = ""
        """Why it is not bound."""
        self.too_large = 0
        """Messages that were longer than a frame may be."""
        self._reactor = reactor
        self._lanes: dict[bytes, Outlet] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pause = Pause()
        self._unbound = [endpoint.address for endpoint in plan.endpoints if endpoint.method == "bind"]
        self._binding: asyncio.TimerHandle | None = None
        self._bind()
        for endpoint in plan.endpoints:
            if endpoint.method != "bind":
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

    @property
    def blocked(self) -> bool:
        """Something waits, for whomever."""
        return self.outlet.blocked or any(lane.blocked for lane in self._lanes.values())

    def lane(self, peer: bytes, on_change: Callable[[], None], on_gone: Callable[[], None]) -> Outlet:
        """Of a ROUTER: an outlet for one peer's messages alone. `on_gone`: that one is not connected any more."""

        def changed() -> None:
            self._changed()
            on_change()

        self._lanes[peer] = lane = Outlet(self.socket, changed, on_gone)
        return lane

    def forget(self, peer: bytes) -> None:
        """Its lane, and what waits there."""
        lane = self._lanes.pop(peer, None)
        if lane is not None:
            self.outlet.messages += lane.messages
            self.outlet.unreachable += lane.unreachable
            lane.drop()

    @property
    def messages(self) -> int:
        """Handed over so far."""
        return self.outlet.messages + sum(lane.messages for lane in self._lanes.values())

    @property
    def unreachable(self) -> int:
        """Messages of a ROUTER to peers that were gone."""
        return self.outlet.unreachable + sum(lane.unreachable for lane in self._lanes.values())

    def close(self) -> None:
        for timer in (self._timer, self._binding):
            if timer is not None:
                timer.cancel()
        self._watch.close()
        if self._monitor is not None:
            self._monitor.close()
        self.socket.close(linger=int(BRIDGE_LINGER_S * 1000))

    def status(self) -> dict[str, Any]:
        return self._plan.told() | {"blocked": self.blocked}

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
        if type_name == "PUB":
            numbers[zmq.XPUB_NODROP] = 1  # at its mark it says EAGAIN, instead of dropping without a word
        if type_name == "SUB":
            numbers[zmq.SNDHWM] = 0  # subscriptions are messages, lost for good beyond the mark (libzmq #4063)
        for option, value in numbers.items():
            self.socket.setsockopt(option, value)
        for topic in self._plan.subscribe if type_name == "SUB" else ():
            self.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def _bind(self) -> None:
        """What is not bound yet; again after a pause where somebody else has the address."""
        self._binding, self.reason = None, ""
        for address in tuple(self._unbound):
            try:
                self.socket.bind(address)
            except zmq.ZMQError as error:
                self.reason = why_bind_failed(address, error.errno or 0)
            else:
                self._unbound.remove(address)
        if self._unbound:
            self._binding = self._reactor.call_later(self._pause.take(), self._bind)

    def _wanted(self) -> int:
        wants_room = self.type_name != "ROUTER" and self.outlet.blocked
        return (POLLIN if self._reading else 0) | (POLLOUT if wants_room else 0)

    def _changed(self) -> None:
        self._watch.want(self._wanted())
        if self.type_name == "ROUTER" and self._timer is None and self.blocked:
            self._timer = self._reactor.call_later(BRIDGE_RETRY_S, self._again)
        self._on_change()

    def _again(self) -> None:
        """Offer it to a ROUTER again."""
        self._timer = None
        for outlet in (self.outlet, *self._lanes.values()):
            outlet.on_writable()
        self._watch.poke()
        if self.blocked:
            self._timer = self._reactor.call_later(BRIDGE_RETRY_S, self._again)

    def _on_ready(self, events: int) -> bool:
        if events & POLLOUT:
            self.outlet.on_writable()
        if not events & POLLIN or not self._reading:
            return False
        drained = pump.drain(self.socket, self._max_message)
        self.too_large += drained.too_large
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
