"""stream: TCP (or unix socket) clients at `from`, one connection each to a service at `to`; bytes, both ways.

The channel carries records (docs/protocol.md, "Streams"). `from` lets clients in, gives each a number and a side; `to`
connects. What a connection does is in stream_connection.py, what those of one peer share in stream_half.py.
"""

from __future__ import annotations

import select
import socket as sockets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tunnel.config.plan import RoutePlan, StreamPlan
from tunnel.errors import RemoteProtocolError
from tunnel.limits import STREAM_SWEEP_S
from tunnel.link.channel import NOT_MET
from tunnel.local.stream import StreamEnd
from tunnel.patterns.base import Hub, Pattern, Port
from tunnel.patterns.stream_connection import Connection, abort_socket
from tunnel.patterns.stream_half import Half
from tunnel.patterns.stream_proxy import proxy_header
from tunnel.patterns.stream_records import Code, Origin, encode_open, encode_reset
from tunnel.pump import Fed, Piece

if TYPE_CHECKING:
    from pathlib import Path

    from tunnel.reactor import Reactor

_STREAMS = 1 << 32


class Stream(Pattern):
    """What both ends have in common."""

    def __init__(self, plan: RoutePlan, hub: Hub) -> None:
        super().__init__(plan, hub)
        self.streams = plan.stream or StreamPlan()
        self.halves: dict[Port, Half] = {}
        self.opened = 0
        """Connections so far."""
        self.refused: Counter[str] = Counter()
        """Connections that were not served, by reason."""
        self.reason = ""
        """Why the last one was not, where the other half knows."""
        self._stream_end: StreamEnd | None = None
        self._sweeping: Any = None

    def make_end(self, reactor: Reactor, private_dir: Path) -> StreamEnd:
        """The local end, in the place of a 0MQ socket."""
        self._stream_end = StreamEnd(reactor, self.plan, self.on_accept, self.count, private_dir)
        self._stream_end.on_close = self._on_close
        return self._stream_end

    def attach_ports(self, ports: Sequence[Port]) -> None:
        """The peers are there."""
        self.ports = list(ports)
        loop = self.stream_end.reactor.loop
        self.halves = {port: Half(self, port, self.hub, loop, self.tally) for port in ports}
        if self.streams.idle_s is not None:
            self._sweep_later()

    @property
    def stream_end(self) -> StreamEnd:
        if self._stream_end is None:
            raise RuntimeError("the pattern is not attached")
        return self._stream_end

    def count(self) -> int:
        return sum(len(half.connections) for half in self.halves.values())

    def on_accept(self, socket: sockets.socket, address: str) -> None:
        """A client has come."""
        abort_socket(socket)

    def on_open(self, half: Half, stream: int, origin: Origin) -> None:
        """The peer has a client for our target."""
        raise RemoteProtocolError("channel", f"{self.plan.name}: the peer opens a stream where clients are let in")

    def on_refused(self, code: Code, text: str) -> None:
        """The other half did not serve a connection."""
        self.refused[code.name] += 1
        self.reason = text

    # --- called by the device ----------------------------------------------------------------------------------------

    def arrived(self, port: Port) -> None:
        self.halves[port].arrived()

    def freed(self, port: Port) -> None:
        half = self.halves[port]
        half.sync()
        half.go_on()

    def want(self) -> None:
        """Once a second, too: a peer that has taken the route away knows our connections no more."""
        for half in self.halves.values():
            half.sync()
            if half.connections and half.port.channel.refused not in (None, NOT_MET):
                half.drop("route_gone")
            half.go_on()

    def stop_reading(self) -> None:
        self.stopping = True
        self.stream_end.pause()
        for half in self.halves.values():
            half.let_go()

    def idle(self) -> bool:
        return all(half.idle for half in self.halves.values())

    def local(self, port: Port) -> tuple[int, int, int]:
        return self.halves[port].doorway()

    def may_leave_ahead(self, port: Port) -> bool:
        return not self.stopping and self.halves[port].in_step

    def may_enter_ahead(self, port: Port) -> bool:
        return self.halves[port].may_enter()

    def left(self, port: Port, piece: Piece) -> None:
        """Counted when it was read."""
        self.tally.ahead += 1

    def entered(self, port: Port, fed: Fed, at: float) -> bool:
        inbound = port.channel.inbound
        if inbound is None:
            return False
        self.tally.ahead += 1
        run = inbound.runs[0]
        self.halves[port].entered(run, fed.position)
        inbound.done(run)
        port.peer.delivered(port.channel, run.size, at)
        return True

    def wants_to_read(self) -> bool:
        return not self.stopping

    def told(self) -> dict[str, Any]:
        """For status: connections, opened, refused and ended by reason."""
        refused = Counter(self.refused)
        if self.stream_end.refused:
            refused["address"] += self.stream_end.refused
        ended: Counter[str] = Counter()
        for half in self.halves.values():
            ended.update(half.ended)
        return {
            "connections": self.count(),
            "opened": self.opened,
            "refused": dict(sorted(refused.items())),
            "ended": dict(sorted(ended.items())),
            "refused_reason": self.reason,
        }

    def _on_close(self) -> None:
        for half in self.halves.values():
            half.close()
        if self._sweeping is not None:
            self._sweeping.cancel()

    # --- idle connections --------------------------------------------------------------------------------------------

    def _sweep_later(self) -> None:
        self._sweeping = self.hub.call_later(self._sweep_s, self._sweep)

    @property
    def _sweep_s(self) -> float:
        return min(STREAM_SWEEP_S, (self.streams.idle_s or STREAM_SWEEP_S) / 4)

    def _sweep(self) -> None:
        now, idle_s = self.hub.now(), self.streams.idle_s or float("inf")
        for half in self.halves.values():
            idle: list[Connection] = []
            for one in half.connections.values():
                if one.active:
                    one.active, one.moved_at = False, now
                elif now - one.moved_at > idle_s:
                    idle.append(one)
            half.reset(idle, Code.idle, f"nothing moved for {idle_s:g} s")
        self._sweep_later()


class StreamFrom(Stream):
    """Clients come in here."""

    def __init__(self, plan: RoutePlan, hub: Hub) -> None:
        super().__init__(plan, hub)
        self._last = 0
        self._waiting: dict[sockets.socket, Any] = {}
        """Clients that came while there was no link, and the timers of their patience."""
        self._looking: Any = None

    def count(self) -> int:
        return super().count() + len(self._waiting)

    def on_accept(self, socket: sockets.socket, address: str) -> None:
        if self.stopping or self.count() >= self.streams.connections:
            self.refused[Code.closing.name if self.stopping else Code.limit.name] += 1
            abort_socket(socket)
            return
        half = self._next_half()
        if half is None:
            self._waiting[socket] = self.hub.call_later(self.streams.connect_s, lambda: self._waited(socket))
            if self._looking is None:
                self._looking = self.hub.call_later(STREAM_SWEEP_S, self._look)
        else:
            self._open(half, socket)

    def freed(self, port: Port) -> None:
        super().freed(port)
        while self._waiting and not self.stopping:
            half = self._next_half()
            if half is None:
                return
            socket, timer = next(iter(self._waiting.items()))
            del self._waiting[socket]
            timer.cancel()
            self._open(half, socket)

    def _next_half(self) -> Half | None:
        """Of the sides with a link the one with the fewest connections."""
        linked = [half for half in self.halves.values() if half.port.linked]
        return min(linked, key=lambda half: len(half.connections), default=None)

    def _open(self, half: Half, socket: sockets.socket) -> None:
        try:
            origin = _origin(socket)
        except OSError:  # it is gone already
            socket.close()
            return
        half.sync()
        self.opened += 1
        connection = half.open(self._number(half))
        connection.moved_at = self.hub.now()
        half.say(encode_open(connection.stream, origin))
        connection.attach(socket)

    def _number(self, half: Half) -> int:
        while True:
            self._last = (self._last + 1) % _STREAMS
            if self._last not in half.connections:
                return self._last

    def _waited(self, socket: sockets.socket) -> None:
        """No link came up in time."""
        if self._waiting.pop(socket, None) is not None:
            self.refused["link_down"] += 1
            abort_socket(socket)

    def _look(self) -> None:
        """Who hung up while it waited gives up its place."""
        for socket in _left(self._waiting):
            self._waiting.pop(socket).cancel()
            self.refused["hung_up"] += 1
            abort_socket(socket)
        self._looking = self.hub.call_later(STREAM_SWEEP_S, self._look) if self._waiting else None

    def _on_close(self) -> None:
        super()._on_close()
        if self._looking is not None:
            self._looking.cancel()
        for socket, timer in self._waiting.items():
            timer.cancel()
            abort_socket(socket)
        self._waiting.clear()


class StreamTo(Stream):
    """Services are reached from here."""

    def on_open(self, half: Half, stream: int, origin: Origin) -> None:
        if stream in half.connections:
            raise RemoteProtocolError("batch", f"{self.plan.name}: stream {stream} is open already")
        refusal = Code.closing if self.stopping else Code.limit if self.count() >= self.streams.connections else None
        if refusal is not None:
            self.refused[refusal.name] += 1
            self.reason = f"{self.plan.name} has {self.count()} connections at the service's end, and may have no more"
            half.say(encode_reset(stream, refusal, self.reason))
            return
        self.opened += 1
        connection = half.open(stream)
        connection.moved_at = self.hub.now()
        first = proxy_header(origin) if self.streams.proxy_protocol else b""

        def on_end(socket: sockets.socket | None, reason: str) -> None:
            self._on_target(half, connection, socket, reason, first)

        connection.attempt = self.stream_end.connect(on_end)
        connection.attempt.start()

    def _on_target(
        self, half: Half, connection: Connection, socket: sockets.socket | None, reason: str, first: bytes
    ) -> None:
        if socket is not None:
            try:
                self.stream_end.set_up(socket)
            except OSError as error:
                socket.close()
                socket, reason = None, str(error.strerror)
        if socket is None:
            self.refused[Code.target_down.name] += 1
            self.reason = reason
            connection.reset(Code.target_down, reason)
        else:
            connection.attach(socket, first)


def _origin(socket: sockets.socket) -> Origin:
    """Who is at the other end of a client's connection, and where it came in."""
    if socket.family == sockets.AF_UNIX:
        return Origin()
    return Origin(_name(socket.getpeername()), _name(socket.getsockname()))


def _left(waiting: Iterable[sockets.socket]) -> list[sockets.socket]:
    """Those whose client is gone: broken off, or ended before a word was said.

    A TCP client that spoke and then ended may have closed, or may wait for the answer: nothing tells which.
    """
    known = {socket.fileno(): socket for socket in waiting}
    poll = select.poll()
    for descriptor in known:
        poll.register(descriptor, select.POLLRDHUP)
    found = []
    for descriptor, events in poll.poll(0):
        if events & (select.POLLHUP | select.POLLERR) or _said_nothing(known[descriptor]):
            found.append(known[descriptor])
    return found


def _said_nothing(socket: sockets.socket) -> bool:
    try:
        return not socket.recv(1, sockets.MSG_PEEK)
    except OSError:
        return True


def _name(name: Any) -> tuple[str, int]:
    host = str(name[0]).partition("%")[0]
    return host.removeprefix("::ffff:") if "." in host else host, int(name[1])
