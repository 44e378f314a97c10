"""What every pattern is made of: ports, an intake and an outlet (one file a pattern beside this one).

A route's local socket meets one channel per peer. A *port* is a peer with that channel. The *intake* reads the local
socket, a batch at a time, into ports that have room; the *outlet* feeds what arrived into the local socket until that
is full. Neither touches a message: the pump does. They know the link's peers and the local end, not carriers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import zmq

from tunnel import pump
from tunnel.errors import RemoteProtocolError
from tunnel.limits import FEED_PATIENCE_US
from tunnel.link.channel import Channel
from tunnel.link.inbound import Run
from tunnel.link.peer import Peer
from tunnel.patterns.marks import Marks
from tunnel.reactor import POLLIN, POLLOUT

if TYPE_CHECKING:
    from tunnel.backlog import Backlog
    from tunnel.config.plan import RoutePlan
    from tunnel.local import LocalEnd
    from tunnel.patterns.desk import Desk
    from tunnel.pump import Drained, Fed
    from tunnel.tap import Tap

RUNS_A_TURN = 8
"""Runs that one outlet feeds before other sockets get their turn."""


class Hub(Protocol):
    """What a pattern asks of the device."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def touch(self, peer: Peer) -> None:
        """This peer has something to send; it goes at the end of the present callback."""
        ...

    def express(self, peer: Peer, channel: Channel, piece: pump.Piece, now: float) -> bool:
        """Send this at once if nothing else waits. False: put it, and it takes its turn."""
        ...

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None:
        """This peer broke the protocol, found out while feeding: break its connection off."""
        ...

    def settle(self) -> None:
        """The callback ends: send what was touched, feed what arrived."""
        ...

    def call_later(self, delay_s: float, fn: Callable[[], object]) -> Any:
        """A timer with cancel()."""
        ...


@dataclass(slots=True, eq=False)
class Port:
    """One peer's end of a route."""

    peer: Peer
    channel: Channel
    shortcut: pump.Shortcut | None = None
    """Takes small batches past all of this (tunnel/ahead.py)."""
    backlog: Backlog | None = None
    """A spooled route: what is read goes to disk first."""

    @property
    def met(self) -> bool:
        """The two tables agree on this route, as far as we know."""
        return self.channel.refused is None

    @property
    def linked(self) -> bool:
        return self.peer.is_open and self.met

    def has_room(self) -> bool:
        """May a batch be read for this port? A route the peer refuses takes nothing in; one not met yet waits."""
        outbound = self.channel.outbound if self.backlog is None else self.backlog
        return outbound is not None and outbound.has_room and (self.met or not self.peer.peer_session)

    def put(self, pieces: Sequence[pump.Piece], now: float) -> None:
        outbound = self.channel.outbound
        if self.backlog is not None:
            self.backlog.put(pieces, now)
        elif outbound is not None and pieces:
            outbound.put(pieces, now)
            self.peer.wake(self.channel)

    @property
    def entered_through(self) -> int:
        """A mark behind everything that was put: a place, or a row of the spool."""
        if self.backlog is not None:
            return self.backlog.store.next - 1
        return self.channel.outbound.placed if self.channel.outbound else 0

    @property
    def safe_through(self) -> int:
        """What was put before this mark outlives this process, or is at its end (delivered, or dropped by a rule)."""
        if self.backlog is not None:
            return self.backlog.store.durable
        outbound = self.channel.outbound
        if outbound is None or not outbound.terms.confirmed:
            return self.entered_through
        return outbound.settled

    @property
    def unacked_bytes(self) -> int:
        return self.channel.outbound.load_bytes if self.channel.outbound else 0


@dataclass(slots=True)
class Tally:
    """What a route counts at this half. Bytes are those of batches: frames and their 4-byte headers."""

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0
    ahead: int = 0
    """Batches that took the shortcut, in or out."""


class Pattern:
    """One route at this half. Subclasses say what reading and feeding mean for their sockets."""

    only_enters: ClassVar[bool] = False
    """Nothing leaves by the local socket: at an orderly end it need not stay open until all has crossed."""

    def __init__(self, plan: RoutePlan, hub: Hub) -> None:
        self.plan = plan
        self.hub = hub
        self.tally = Tally()
        self.dropped: Counter[str] = Counter()
        self.ports: list[Port] = []
        self.stopping = False
        self.tap: Tap | None = None
        """Somebody looks at what crosses (`ztunnel tap`): asked once a batch."""
        self._end: LocalEnd | None = None
        self.desk: Desk | None = None
        """Where bridges get receipts, beside a private socket."""
        self.marks = Marks(plan.end.hwm)
        self.patience_us = FEED_PATIENCE_US
        """How long the next feed may wait for room; nothing once the consumer stood still."""
        self._blocked = False
        """The outlet waits for the local socket."""
        self._turn: deque[Port] = deque()

    def attach(self, end: LocalEnd, ports: Sequence[Port]) -> None:
        """The local end and the peers are there; nothing flows before `end.open()`."""
        self._end = end
        self.ports = list(ports)

    @property
    def end(self) -> LocalEnd:
        if self._end is None:
            raise RuntimeError("the pattern is not attached")
        return self._end

    @property
    def socket(self) -> zmq.Socket[bytes]:
        return self.end.socket

    # --- called by the device ----------------------------------------------------------------------------------------

    def on_ready(self, events: int) -> bool:
        """The local socket can be read or written. What was read leaves first, the bookkeeping comes after it."""
        emptied = False
        if events & POLLOUT and self._blocked:
            self._blocked = False
            self.push()
        if events & POLLIN:
            took = self.read()
            if took is None and events == POLLIN:
                return True
            emptied = took is not False
        self.hub.settle()
        self.want()
        return emptied

    def on_opened(self) -> None:
        """The local socket is there for the first time."""

    def disarm(self) -> None:
        """No shortcut for now: something about the local socket has changed, or waits for it."""
        for port in self.ports:
            if port.shortcut is not None:
                port.shortcut.disarm()

    def on_reopened(self) -> None:
        """The local socket is a new one."""
        self.marks.forget()
        self.disarm()
        self._blocked = False
        self.push()
        self.want()
        self.hub.settle()

    def arrived(self, port: Port) -> None:
        """Runs came in for this port."""
        if not self._turn or port not in self._turn:
            self._turn.append(port)
        if not self._blocked:
            self.push()
            if self._blocked:
                self.want()

    def freed(self, port: Port) -> None:
        """A window has opened, or a link has come or gone."""
        if port.backlog is not None:
            port.backlog.advance()
        self.want()

    def read_out(self) -> None:
        """An orderly end: take in what is there, as far as there is room for it."""
        while self.end.has_socket and self.end.has_unread and self.wants_to_read():
            self.read()
        self.hub.settle()

    def stop_reading(self) -> None:
        """An orderly end has begun: take nothing more in."""
        self.stopping = True
        self.want()

    def want(self) -> None:
        """Tell the watch what this route waits for, and its desk what may have become safe."""
        if self.desk is not None:
            self.desk.want()
        if not self.end.has_socket:
            return
        events = 0
        if not self.stopping and self.wants_to_read():
            events |= POLLIN
        if self._blocked:
            events |= POLLOUT
        self.end.watch.want(events)

    # --- intake ------------------------------------------------------------------------------------------------------

    def wants_to_read(self) -> bool:
        return bool(self.ports) and all(port.has_room() for port in self.ports)

    def read(self) -> bool | None:
        """One batch from the local socket. True: it has no more. None: likewise, and the batch took the shortcut."""
        raise NotImplementedError

    def admit(self, drained: Drained, now: float) -> Sequence[Port]:
        """Let one message that came by the desk in, as if the local socket had it; there is room. Where it went."""
        raise NotImplementedError

    def max_message_bytes(self) -> int:
        """The strictest limit of all who may get the message."""
        if len(self.ports) == 1:
            return self.ports[0].channel.max_message_bytes
        return min(port.channel.max_message_bytes for port in self.ports)

    def take_in(self, port: Port, drained: Drained, now: float) -> None:
        """Put what was drained on its way to this port, then count it."""
        pieces = drained.pieces
        if len(pieces) != 1 or not self.hub.express(port.peer, port.channel, pieces[0], now):
            port.put(pieces, now)
            self.hub.touch(port.peer)
        self.count_in(drained)
        if self.tap is not None:
            self.tap.entered(port.peer.side, drained)

    def count_in(self, drained: Drained) -> None:
        messages = size = 0
        for piece in drained.pieces:
            messages += piece.messages
            size += piece.size
        self.tally.messages_in += messages
        self.tally.bytes_in += size
        if self.marks.entry_open:
            self.marks.entered(self.socket, size, messages)
        if drained.too_large:
            self.dropped["too_large"] += drained.too_large
            self.say_too_large(drained.too_large)
        if drained.probes:
            self.dropped["probe"] += drained.probes

    def say_too_large(self, count: int) -> None:
        """Replaced by the device with a line in the log."""

    # --- outlet ------------------------------------------------------------------------------------------------------

    def push(self) -> None:
        """Feed what arrived, port by port, until the local socket is full or a turn is over."""
        if not self.end.has_socket:
            return
        for _ in range(RUNS_A_TURN):
            port = self._next_port()
            if port is None:
                return
            run = port.channel.inbound.runs[0]  # type: ignore[union-attr]
            if not self.end.may_send or not self._push_run(port, run):
                self._blocked = True
                self.disarm()
                return
            self._turn.rotate(-1)
        self.hub.call_later(0, self._push_on)

    def _push_on(self) -> None:
        if not self._blocked:
            self.push()
            self.want()
            self.hub.settle()

    def _next_port(self) -> Port | None:
        while self._turn:
            inbound = self._turn[0].channel.inbound
            if inbound is not None and inbound.runs:
                return self._turn[0]
            self._turn.popleft()
        return None

    def _push_run(self, port: Port, run: Run) -> bool:
        """Feed one run; False when the local socket takes no more."""
        now = self.hub.now()
        if self.plan.max_age_s is not None and now - run.born > self.plan.max_age_s:
            self.dropped["expired"] += max(0, run.messages - run.fed)
            self.finish(port, run, now)
            return True
        passed = run.fed
        if self.marks.exit_open:
            self.marks.leaving(self.socket, run.size, run.messages)
        fed = self.feed(port, run)
        self.patience_us = FEED_PATIENCE_US if fed.messages else 0
        self._count_out(port, run, fed, passed)
        self.end.watch.poke()
        if fed.status is pump.BAD:
            self.hub.breach(port.peer, RemoteProtocolError("batch", f"{self.plan.name}: a batch is malformed"))
            self.dropped["malformed"] += max(1, run.messages - run.fed)
            self.finish(port, run, now)
            return True
        if fed.status is pump.DONE:
            self.finish(port, run, now)
            return True
        return self.on_full(port, run, fed)

    def _count_out(self, port: Port, run: Run, fed: Fed, passed: int) -> None:
        """Of this run `passed` messages had been dealt with before, and now so many more."""
        start = run.position
        self.tally.messages_out += fed.messages
        self.tally.bytes_out += fed.position - run.position
        if fed.unreachable:
            self.dropped["unreachable"] += fed.unreachable
        run.fed += fed.messages + fed.unreachable
        run.position = fed.position
        if self.tap is not None:
            self.tap.left(port.peer.side, run.segments, start, fed.messages, run.fed - passed)

    def feed(self, port: Port, run: Run) -> Fed:
        """Hand messages of the run to the local socket."""
        return pump.feed(self.socket, run.segments, run.position, self.prefix(port), 0, self.patience_us)

    def prefix(self, port: Port) -> bytes | None:
        """The frame that goes before each message of this port."""
        return None

    # --- what took the shortcut --------------------------------------------------------------------------------------

    def local(self, port: Port) -> Any:
        """What the shortcut reads and feeds: see `pump.Shortcut.arm`."""
        return self.socket

    def may_leave_ahead(self, port: Port) -> bool:
        """May small batches go to the link as soon as they are read, as far as this half of the route is concerned?"""
        return self.end.has_socket and not self.marks.entry_open

    def may_enter_ahead(self, port: Port) -> bool:
        """May small batches be fed as soon as they come, as far as this half of the route is concerned?"""
        return self.end.has_socket and self.end.may_send and not self._blocked and not self.marks.exit_open

    def left(self, port: Port, piece: pump.Piece) -> None:
        """This was read, and sent to the link."""
        self.tally.ahead += 1
        self.tally.messages_in += piece.messages
        self.tally.bytes_in += piece.size
        if self.tap is not None:
            self.tap.entered(port.peer.side, pump.Drained([piece]))

    def entered(self, port: Port, fed: Fed, at: float) -> bool:
        """The only run of this port was fed so far. True: to its end, and it is gone."""
        inbound = port.channel.inbound
        if inbound is None:
            return False
        self.tally.ahead += 1
        run = inbound.runs[0]
        self._count_out(port, run, fed, run.fed)
        if fed.status is pump.DONE:
            inbound.done(run)
            port.peer.delivered(port.channel, run.size, at)
        return fed.status is pump.DONE

    def on_full(self, port: Port, run: Run, fed: Fed) -> bool:
        """The socket said EAGAIN (or a limit was met). True: go on with other work; False: wait for the socket."""
        return False

    def finish(self, port: Port, run: Run, now: float) -> None:
        """Nothing of the run, the port's first, is left to do: the far half may forget it."""
        channel = port.channel
        if channel.inbound is not None:
            channel.inbound.done(run)
            port.peer.delivered(channel, run.size, now)
            self.hub.touch(port.peer)

    # --- status ------------------------------------------------------------------------------------------------------

    def drops(self) -> dict[str, int]:
        """Every loss at this half, by reason."""
        total = Counter(self.dropped)
        for port in self.ports:
            for part in (port.channel.outbound, port.channel.inbound):
                if part is not None:
                    total.update(part.dropped)
        return {reason: count for reason, count in sorted(total.items()) if count}

    def told(self) -> dict[str, Any]:
        """What `status` shows of this pattern only."""
        return {} if self.desk is None else {"desk": self.desk.told()}

    def may_repeat(self) -> int:
        again = self.desk.may_repeat if self.desk is not None else 0
        return again + sum(port.channel.outbound.may_repeat for port in self.ports if port.channel.outbound)

    def settled(self) -> bool:
        """Is everything said that the far halves must know before the route is ready?"""
        return True

    def idle(self) -> bool:
        """Nothing that arrived waits for the local socket."""
        return self._next_port() is None
