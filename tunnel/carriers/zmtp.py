"""The link's 0MQ sockets, for every carrier whose bytes libzmq carries: DEALERs that dial, a ROUTER that listens.

CURVE always. Each attempt has fresh sockets under fresh random routing ids and is never reconnected by libzmq. What a
carrier adds is the endpoint, and the listening descriptor that libzmq is given.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket as sockets
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from tunnel.carriers.base import DialEvents, Lane, ListenEvents, Who, why_not_open
from tunnel.carriers.guard import Guard
from tunnel.config.plan import KeyPair, ListenPlan
from tunnel.errors import LocalError
from tunnel.limits import (
    HANDSHAKE_S,
    HEARTBEAT_S,
    HEARTBEAT_TIMEOUT_S,
    HUNG_UP_S,
    LINK_FRAME_BYTES,
    LINK_RCVHWM,
    LISTEN_RETRY_S,
    LISTEN_UNACKED_S,
)
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.pump import SENT, Segment, Shortcut, recv, send
from tunnel.reactor import LINK_AFFINITY, Reactor
from tunnel.zap import Gate, Zap

_FRAMES_A_TURN: Final = 32
"""Frames read before other callbacks get their turn: at most 8 MiB."""

_NEVER_MS: Final = 2**31 - 1
"""RECONNECT_IVL: 24 days, long after we closed the socket. With -1 libzmq takes the pipe down together with the
connection, and frames that came before the hanging up are lost when our loop is busy (measured)."""

_KEEPALIVE: Final = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
}

_PROTOCOL_REASONS: Final[dict[int, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "the listener's key is not the one that the table names for it",
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "what listens there does not speak CURVE, so it is no ztunnel listener",
}


class ZmtpDialled:
    """One attempt: a DEALER for each lane."""

    def __init__(self, reactor: Reactor, endpoint: str, own: KeyPair, server: str, events: DialEvents) -> None:
        self._lanes = {lane: _DialledLane(reactor, lane, endpoint, own, server, events) for lane in Lane}

    def __repr__(self) -> str:
        return f"<ZmtpDialled {' '.join(map(repr, self._lanes.values()))}>"

    def send(self, lane: Lane, parts: Sequence[Segment]) -> bool:
        return self._lanes[lane].send(parts)

    def way(self, shortcut: Shortcut) -> zmq.Socket[bytes] | None:
        return self._lanes[Lane.DATA].way(shortcut)

    def look(self) -> None:
        self._lanes[Lane.DATA].look()

    def close(self, linger_s: float = 0.0) -> None:
        for lane in self._lanes.values():
            lane.close(linger_s)


class _DialledLane:
    """One DEALER, from its connect to its loss."""

    def __init__(
        self, reactor: Reactor, lane: Lane, endpoint: str, own: KeyPair, server: str, events: DialEvents
    ) -> None:
        self._reactor = reactor
        self._lane = lane
        self._events = events
        self._state = "connecting"
        self._closed = False
        self._reason = ""
        self._shortcut: Shortcut | None = None
        self._socket = reactor.context.socket(zmq.DEALER)
        _set_link_options(self._socket)
        self._socket.setsockopt(zmq.ROUTING_ID, _fresh_routing_id())
        self._socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, int(HANDSHAKE_S * 1000))
        self._socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
        self._socket.setsockopt(zmq.CURVE_PUBLICKEY, own.public.encode())
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret.reveal().encode())
        self._monitor = Monitor(reactor, self._socket, self._on_event)
        self._watch = reactor.watch(self._socket, self._on_ready)
        self._deadline = reactor.call_later(HANDSHAKE_S, self._on_deadline)
        self._socket.connect(endpoint)

    def __repr__(self) -> str:
        return f"<{self._lane.name} {self._state}>"

    def send(self, parts: Sequence[Segment]) -> bool:
        if self._closed or self._state == "hung up":
            return False
        sent = send(self._socket, parts) == SENT
        self._watch.poke()
        return sent

    def way(self, shortcut: Shortcut) -> zmq.Socket[bytes] | None:
        if self._closed or self._state == "hung up":
            return None
        if self._shortcut is not None and self._shortcut is not shortcut:
            self._shortcut.disarm()
        self._shortcut = shortcut
        return self._socket

    def look(self) -> None:
        if not self._closed:
            self._watch.poke()

    def close(self, linger_s: float = 0.0) -> None:
        if self._closed:
            return
        self._closed = True
        self._deadline.cancel()
        self._watch.close()
        self._monitor.close()
        self._socket.close(linger=int(linger_s * 1000))

    def _on_ready(self, _ready: int) -> bool:
        return not all(self._take_frame() for _ in range(_FRAMES_A_TURN))

    def _take_frame(self) -> bool:
        """Receive one frame and pass it on. False: none is there, or the lane was closed over it."""
        message = recv(self._socket, False, self._shortcut)
        if message is None:
            return False
        if message.overlong:
            self._lose("the listener sent a frame of more parts than the protocol allows")
        else:
            self._events.frames(self._lane, message.parts)
        return not self._closed

    def _on_event(self, event: MonitorEvent) -> None:
        match event.kind:
            case zmq.Event.CONNECTED:
                self._state = "connected"
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._state = "up"
                self._deadline.cancel()
                self._events.up(self._lane)
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._reason = (
                    "refused by the listener: it does not know this side's key, or does not let this address in"
                )
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._reason = _PROTOCOL_REASONS.get(
                    event.value, f"the handshake failed (protocol error {event.value:#x})"
                )
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._reason = _no_detail(event.value)
            case zmq.Event.DISCONNECTED:
                self._on_disconnected()
            case zmq.Event.CONNECT_RETRIED:
                self._hung_up()
            case zmq.Event.CLOSED:
                self._lose(
                    "connection refused, or no way there: does the listener run, and does a firewall let us through?"
                )

    def _on_disconnected(self) -> None:
        if self._state != "up":
            self._lose(self._reason or "what listens there does not speak 0MQ, so it is no ztunnel listener")
            return
        # libzmq says so before it hands over the frames that it decoded last (measured). When it says CONNECT_RETRIED
        # it has done that and nothing more can come; where the peer broke the protocol it does not: hence the deadline
        self._state = "hung up"
        self._deadline = self._reactor.call_later(HUNG_UP_S, self._on_deadline)

    def _hung_up(self) -> None:
        """Nothing more can come. What came before the hanging up counts: the last frame may say why."""
        if self._state != "hung up":
            return
        while not self._closed and self._take_frame():
            pass
        self._lose("the connection was closed by the other end or on the way")

    def _on_deadline(self) -> None:
        if self._state == "hung up":
            self._hung_up()
        elif self._state == "connecting":
            self._lose(f"no connection within {HANDSHAKE_S:g} s: does a firewall drop it?")
        else:
            self._lose(f"the listener did not finish the handshake within {HANDSHAKE_S:g} s")

    def _lose(self, reason: str) -> None:
        """Close, then tell, so that whoever is told may dial again at once."""
        if self._closed:
            return
        self._state = "lost"
        self.close()
        self._events.lost(self._lane, reason)


def _no_detail(error: int) -> str:
    if error == errno.EAGAIN:
        return f"the listener did not answer the handshake within {HANDSHAKE_S:g} s"
    # libzmq's CURVE server hangs up without a word on a HELLO that it cannot decrypt (measured)
    return "the listener hung up during the handshake: it does not hold the key that the table names, or is going down"


class ZmtpListener:
    """One ROUTER on one port. `open_port` makes the listening socket, or raises LocalError or OSError with the reason;
    `release` is called once the port is closed for good."""

    def __init__(
        self,
        reactor: Reactor,
        zap: Zap,
        plan: ListenPlan,
        own: KeyPair,
        who: Who,
        events: ListenEvents,
        open_port: Callable[[], sockets.socket],
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._zap = zap
        self._plan = plan
        self._events = events
        self._open_port = open_port
        self._release = release
        self.address = plan.address
        """The port as it is open; `tcp://*:0` becomes its number."""
        self._state = "retrying"
        self._reason = ""
        self._dropped = 0
        self._shortcut: Shortcut | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._domain = f"link:{plan.address}"
        self._gate = Gate(plan.allow, who=who, on_admitted=self._on_admitted)
        zap.add(self._domain, self._gate)
        self._socket = reactor.context.socket(zmq.ROUTER)
        _set_link_options(self._socket)
        self._set_listener_options(own)
        self._guard: Guard | None = None
        self._monitor = Monitor(reactor, self._socket, self._on_event)
        self._watch = reactor.watch(self._socket, self._on_ready)
        self._open()

    def __repr__(self) -> str:
        return f"<ZmtpListener {self.address} {self._state}>"

    def send(self, conn: bytes, parts: Sequence[Segment]) -> bool:
        if self._state == "closed":
            return False
        sent = send(self._socket, (conn, *parts)) == SENT
        self._watch.poke()
        return sent

    def way(self, shortcut: Shortcut) -> zmq.Socket[bytes] | None:
        if self._state == "closed":
            return None
        if self._shortcut is not None and self._shortcut is not shortcut:
            self._shortcut.disarm()
        self._shortcut = shortcut
        return self._socket

    def look(self) -> None:
        if self._state != "closed":
            self._watch.poke()

    def close(self, linger_s: float = 0.0) -> None:
        if self._state == "closed":
            return
        was_open = self._state == "listening"
        self._state = "closed"
        if self._retry is not None:
            self._retry.cancel()
        self._watch.close()
        self._monitor.close()
        if self._guard is not None:
            self._guard.close()
        self._zap.remove(self._domain)
        self._socket.close(linger=int(linger_s * 1000))
        if was_open:
            self._release()

    def status(self) -> dict[str, Any]:
        guard = self._guard
        refused: dict[str, int] = dict(self._gate.refused.items())
        for reason, count in (guard.refused if guard else {}).items():
            refused[reason] = refused.get(reason, 0) + count
        refused["frames"] = self._dropped
        return {
            "address": self.address,
            "state": self._state,
            "reason": self._reason,
            "connections": guard.connections if guard else 0,
            "admitted": self._gate.admitted,
            "refused": refused,
            "last_refusal": self._gate.last_refusal,
            "guard": guard.status() if guard else {},
        }

    def _set_listener_options(self, own: KeyPair) -> None:
        for option, value in {
            zmq.ROUTER_MANDATORY: 1,
            zmq.ROUTER_HANDOVER: 0,
            zmq.HEARTBEAT_IVL: int(HEARTBEAT_S * 1000),
            zmq.HEARTBEAT_TIMEOUT: int(HEARTBEAT_TIMEOUT_S * 1000),
            zmq.TCP_MAXRT: int(LISTEN_UNACKED_S * 1000),
            zmq.CURVE_SERVER: 1,
            zmq.ZAP_ENFORCE_DOMAIN: 1,
        }.items():
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.CURVE_SECRETKEY, own.secret.reveal().encode())
        self._socket.setsockopt(zmq.ZAP_DOMAIN, self._domain.encode())

    def _open(self) -> None:
        """Open the port now, or say why not and try again."""
        self._retry = None
        port: sockets.socket | None = None
        try:
            port = self._open_port()
            self._bind(port)
        except (OSError, LocalError) as error:
            if port is not None:
                port.close()
            self._reason = (
                f"{self._plan.address} cannot be opened: {why_not_open(error)}. Tried again every {LISTEN_RETRY_S:g} s."
            )
            self._retry = self._reactor.call_later(LISTEN_RETRY_S, self._open)

    def _bind(self, port: sockets.socket) -> None:
        """Give libzmq a copy of the listening descriptor, and keep ours: the guard needs it (tunnel.carriers.guard)."""
        self.address = _endpoint_of(port)
        self._socket.setsockopt(zmq.USE_FD, os.dup(port.fileno()))
        self._socket.bind(self.address)
        self._guard = Guard(self._reactor, port)
        self._state = "listening"
        self._reason = ""

    def _on_ready(self, _ready: int) -> bool:
        for _ in range(_FRAMES_A_TURN):
            message = recv(self._socket, True, self._shortcut)
            if message is None:
                return True
            if message.overlong or not message.user_id:
                self._dropped += 1
                continue
            self._events.frames(message.routing_id, message.user_id, message.parts)
            if self._state == "closed":
                return True
        return False

    def _on_admitted(self, address: str) -> None:
        if self._guard is not None:
            self._guard.proved(address)

    def _on_event(self, event: MonitorEvent) -> None:
        if self._guard is not None:
            self._guard.on_event(event)


def _set_link_options(socket: zmq.Socket[bytes]) -> None:
    """What both ends have: see "Link sockets" in docs/protocol.md."""
    for option, value in {
        zmq.SNDHWM: 0,  # the lane's credit is the bound; a full pipe would drop or block
        zmq.RCVHWM: LINK_RCVHWM,
        zmq.MAXMSGSIZE: LINK_FRAME_BYTES,
        zmq.HANDSHAKE_IVL: int(HANDSHAKE_S * 1000),
        zmq.AFFINITY: LINK_AFFINITY,
        zmq.LINGER: 0,
        zmq.IPV6: 1,
        **_KEEPALIVE,
    }.items():
        socket.setsockopt(option, value)


def _fresh_routing_id() -> bytes:
    """16 random bytes; a first byte of 0 is libzmq's own."""
    while True:
        routing_id = os.urandom(16)
        if routing_id[0]:
            return routing_id


def _endpoint_of(port: sockets.socket) -> str:
    name = port.getsockname()
    if port.family == sockets.AF_UNIX:
        return f"ipc://@{name[1:].decode()}" if isinstance(name, bytes) else f"ipc://{name}"
    host = f"[{name[0]}]" if port.family == sockets.AF_INET6 else name[0]
    return f"tcp://{host}:{name[1]}"
