"""The local 0MQ socket of one route at this side: opened, watched, and for a PAIR replaced when it must be.

Everything runs on the reactor's loop. The owner (a pattern) sends and receives on `socket` through the pump and waits
by `watch`; it never closes either. Both are other objects after `on_reopened`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zmq

from tunnel.config.plan import Allow, RoutePlan
from tunnel.limits import LISTENER_CLOSE_S
from tunnel.local import options
from tunnel.local.endpoint import DRAIN_POLL_S, AnyEndpoint, BindEndpoint, ConnectEndpoint
from tunnel.local.pair import PairPeers, Verdict
from tunnel.local.watch import Down, Switchboard, Up
from tunnel.local.words import ipc_path
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.reactor import POLLOUT, Reactor, Watch
from tunnel.zap import Gate, Zap

_WAITING_SENDERS: Final = frozenset({"PUSH", "DEALER", "PAIR"})
"""Sockets that take messages for a peer that has never been there, and lose them when it turns out a wrong one."""

SECOND_PAIR = "A second application is connected: a PAIR serves one at a time, the other waits until that one goes."


class LocalEnd:
    """One route's socket. `on_ready(EVENTS & want)` as of Watch; `on_reopened()` when `socket` has been replaced and a
    message under way must be sent again from its start. ipc files below `private_dir` get folders of mode 0700.
    """

    def __init__(
        self,
        reactor: Reactor,
        zap: Zap,
        route: RoutePlan,
        on_ready: Callable[[int], object],
        on_reopened: Callable[[], None],
        private_dir: Path | None = None,
    ) -> None:
        self.reactor = reactor
        self.route = route
        self.switchboard = Switchboard()
        self._zap = zap
        self._on_reopened = on_reopened
        self._gate: Gate | None = None
        self._private_dir = private_dir
        self.watch = EndWatch(self, on_ready)
        self._endpoints: list[AnyEndpoint] = [self._endpoint(number) for number in range(len(route.end.endpoints))]
        binds = any(isinstance(endpoint, BindEndpoint) for endpoint in self._endpoints)
        self._binds = binds
        self._pair = PairPeers() if route.end.socket == "PAIR" and binds else None
        self._pair_timer: asyncio.TimerHandle | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._generation: _Generation | None = None
        self._closed = False
        self.on_doubt: Callable[[], None] = lambda: None
        """Called when whether the end may send has perhaps changed."""
        self._may_send: bool | None = None
        """Known until the next event, for it is asked before every feed."""
        self.reopened = 0

    def __repr__(self) -> str:
        return f"<LocalEnd {self.route.name} {self.route.end.socket} peers={self.peers}>"

    async def open(self) -> None:
        """Make the socket, bind and connect. Returns at once; what failed is tried again for ever (see status)."""
        if self._binds:
            self._gate = _gate(self.route)
            self._zap.add(options.zap_domain(self.route.name), self._gate)
        if options.is_mixed(self.route.end):
            self._zap.add(options.outward_domain(self.route.name), Gate(Allow(anyone=True)))
        self._generation = _Generation(self, self._on_event)
        self.watch.attach(self._generation.socket)
        for endpoint in self._endpoints:
            endpoint.start()

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket of now. Raises RuntimeError before open()."""
        if self._generation is None:
            raise RuntimeError(f"The local end of {self.route.name} is not open yet.")
        return self._generation.socket

    @property
    def has_socket(self) -> bool:
        """From open() to close()."""
        return self._generation is not None and not self._closed

    @property
    def opened(self) -> bool:
        """All binds bound, all connects begun."""
        now_bound = all(e.watch.state == "bound" for e in self._endpoints if isinstance(e, BindEndpoint))
        return now_bound and all(endpoint.started for endpoint in self._endpoints)

    @property
    def peers(self) -> int:
        """Applications that are connected now."""
        now = self.reactor.now()
        return sum(endpoint.watch.peers(now) for endpoint in self._endpoints)

    @property
    def may_send(self) -> bool:
        """False while what is handed to the socket would wait for somebody who may turn out to be nobody, or a wrong
        one, and would then be lost. Keep it, and want POLLOUT: that comes when this has turned True.
        """
        if self._may_send is None:
            self._may_send = self._judge_sending()
        return self._may_send

    def _judge_sending(self) -> bool:
        if self._pair is not None:
            return self._pair.attached is not None
        if self._binds or self.route.end.socket not in _WAITING_SENDERS:
            return True
        now = self.reactor.now()
        return any(endpoint.watch.peers(now) for endpoint in self._endpoints)

    @property
    def has_unread(self) -> bool:
        """Is there a message to receive? Reads EVENTS, and has the watch look again."""
        return bool(self._events() & zmq.POLLIN)

    @property
    def last_refusal(self) -> str:
        """Whom the gate refused last, in words."""
        return self._gate.last_refusal if self._gate is not None else ""

    def status(self) -> list[dict[str, Any]]:
        """One {address, method, state, peers, reason, turned_away} an endpoint; reason is the last failure in words."""
        now = self.reactor.now()
        told = [endpoint.status(now) for endpoint in self._endpoints]
        if self._pair is not None and self._pair.attached is not None and self._pair.orphans:
            for one in told:
                one["reason"] = one["reason"] or SECOND_PAIR
        return told

    async def close(self, linger_s: float = 0.0) -> None:
        """Close the socket; what it still holds gets `linger_s`. Returns when its addresses can be bound again."""
        if self._closed:
            return
        self._closed = True
        if self._reopening is not None:
            self._reopening.cancel()
        if self._pair_timer is not None:
            self._pair_timer.cancel()
        for endpoint in self._endpoints:
            endpoint.stop()
        self.watch.detach()
        if self._generation is not None:
            await self._generation.close(linger_s)
        for endpoint in self._endpoints:
            endpoint.remove_file()
        if self._gate is not None:
            self._zap.remove(options.zap_domain(self.route.name))
            self._zap.remove(options.outward_domain(self.route.name))

    def forget_sending(self) -> None:
        """Something happened: find out anew whether the end may send."""
        self._may_send = None
        self.on_doubt()

    def on_bound(self) -> None:
        """An endpoint has bound the socket of now (and will be waited for at its close)."""
        if self._generation is not None:
            self._generation.listeners += 1

    def _endpoint(self, number: int) -> AnyEndpoint:
        plan = self.route.end.endpoints[number]
        if plan.method == "connect":
            return ConnectEndpoint(self, plan)
        path, private = ipc_path(plan.address), self._private_dir
        return BindEndpoint(self, plan, private=bool(path and private and Path(path).is_relative_to(private)))

    def _events(self) -> int:
        events = int(self.socket.getsockopt(zmq.EVENTS))
        self.watch.poke()  # reading EVENTS takes the descriptor's edge away
        return events

    def _on_event(self, generation: _Generation, event: MonitorEvent) -> None:
        if generation is not self._generation or self._closed:
            return
        watch = self.switchboard.find(event.kind, event.value, event.address)
        endpoint = next((e for e in self._endpoints if e.watch is watch), None)
        if endpoint is None:
            return
        change = endpoint.on_event(event.kind, event.value, self.reactor.now())
        if change is None:
            return
        if self._pair is not None and isinstance(endpoint, BindEndpoint):
            self._on_pair(change)
        self.watch.look_again()

    def _on_pair(self, change: Up | Down) -> None:
        if self._pair is None:
            return
        if isinstance(change, Up):
            self._pair.up(change.conn)
            self._judge_pair()
        else:
            self._pair.down(change.conn)
            self._judge_pair_in(DRAIN_POLL_S)

    def _judge_pair_in(self, delay_s: float) -> None:
        if self._pair_timer is not None:
            self._pair_timer.cancel()
        self._pair_timer = self.reactor.call_later(delay_s, self._judge_pair)

    def _judge_pair(self) -> None:
        """Is the peer that connected served, or an orphan for whose sake the socket must be replaced?"""
        if self._pair is None or self._closed:
            return
        events = self._events()
        verdict = self._pair.judge(readable=bool(events & zmq.POLLIN), writable=bool(events & zmq.POLLOUT))
        self.watch.look_again()
        if verdict is Verdict.LATER:
            self._judge_pair_in(DRAIN_POLL_S)
        elif verdict is Verdict.REOPEN:
            self._reopen()

    def _reopen(self) -> None:
        """Replace the socket. The new one binds when the old one's listeners are gone."""
        old = self._generation
        self.reopened += 1
        self._pair = PairPeers()
        self._may_send = None
        for endpoint in self._endpoints:
            endpoint.forget()
        self._generation = _Generation(self, self._on_event)
        self.watch.attach(self._generation.socket)
        self._reopening = self.reactor.loop.create_task(self._start_after(old))
        self._on_reopened()

    async def _start_after(self, old: _Generation | None) -> None:
        if old is not None:
            await old.close(0.0)
        for endpoint in self._endpoints:
            endpoint.start()


class EndWatch:
    """The reactor's Watch of the socket of now: what the owner wants outlives a replacement of the socket, and POLLOUT
    is held back while the end may not send.
    """

    def __init__(self, end: LocalEnd, on_ready: Callable[[int], object]) -> None:
        self._end = end
        self._on_ready = on_ready
        self._want = int(zmq.POLLIN)
        self._on_edge: Callable[[], None] | None = None
        self._watch: Watch | None = None

    def __repr__(self) -> str:
        return f"<EndWatch want={self._want}>"

    def want(self, events: int) -> None:
        """Wait for `events` from now on, as Watch.want."""
        if events != self._want:
            self._want = events
            self.refresh()

    def call_on_edges(self, on_edge: Callable[[], None]) -> None:
        """As Watch.on_edge, over replacements of the socket."""
        self._on_edge = on_edge
        if self._watch is not None:
            self._watch.on_edge = on_edge

    def poke(self) -> None:
        """The owner sent or received: reread EVENTS this loop turn."""
        if self._watch is not None:
            self._watch.poke()

    def look_again(self) -> None:
        """Whether the end may send has perhaps changed."""
        self._end.forget_sending()
        self.refresh()

    def refresh(self) -> None:
        """Tell the socket's watch what is wanted and allowed."""
        if self._watch is not None:
            held = 0 if not self._want & POLLOUT or self._end.may_send else POLLOUT
            self._watch.want(self._want & ~held)

    def attach(self, socket: zmq.Socket[bytes]) -> None:
        """Watch this socket instead of the one before."""
        self.detach()
        self._watch = self._end.reactor.watch(socket, self._on_ready, 0)
        self._watch.on_edge = self._on_edge
        self.refresh()

    def detach(self) -> None:
        """Watch nothing."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class _Generation:
    """One socket and its monitor, from birth to the end of its listeners."""

    def __init__(self, end: LocalEnd, on_event: Callable[[_Generation, MonitorEvent], None]) -> None:
        self.socket = end.reactor.context.socket(getattr(zmq, end.route.end.socket))
        options.set_up(self.socket, end.route)
        self.listeners = 0
        self._listening: set[int] = set()
        self._closed = 0
        self._all_closed = asyncio.Event()
        self._on_event = on_event
        self._monitor = Monitor(end.reactor, self.socket, self._take)

    async def close(self, linger_s: float) -> None:
        """Close the socket and wait until nothing listens any more: only then can its addresses be bound again."""
        self.socket.close(linger=int(linger_s * 1000))
        if self._closed < self.listeners:
            with contextlib.suppress(
                TimeoutError
            ):  # the next bind then says that the address is in use, and tries again
                await asyncio.wait_for(self._all_closed.wait(), LISTENER_CLOSE_S)
        self._monitor.close()

    def _take(self, event: MonitorEvent) -> None:
        if event.kind == zmq.Event.LISTENING:
            self._listening.add(event.value)
        elif event.kind == zmq.Event.CLOSED and event.value in self._listening:
            self._listening.discard(event.value)
            self._closed += 1
            if self.socket.closed and self._closed >= self.listeners:
                self._all_closed.set()
        self._on_event(self, event)


def _gate(route: RoutePlan) -> Gate:
    """Who may come in at this route's binds."""
    end = route.end
    if end.curve is not None:
        clients = end.curve.clients
        return Gate(end.allow, who=lambda key: key if not clients or key in clients else None)
    return Gate(end.allow, plain=end.plain.users if end.plain is not None else None)
