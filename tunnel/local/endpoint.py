"""One address of a local end, from the first try to the last: bound or connected, tried again for ever with a pause.

A bind that fails leaves the route waiting and is told in words. A connect is libzmq's to retry as long as it does; when
it gave up (tunnel.local.watch) we disconnect and connect anew, with the name looked up anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket as sockets
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import zmq

from tunnel.config.plan import Endpoint, RoutePlan
from tunnel.errors import LocalError
from tunnel.limits import DRAIN_S, GAVE_UP_S, REMAKE_CALM_S, REMAKE_MAX_S, REMAKE_MIN_S
from tunnel.local import options
from tunnel.local.ipc import IpcFile
from tunnel.local.watch import BindWatch, Change, ConnectWatch, Switchboard
from tunnel.local.words import expectation, ipc_path, why_bind_failed
from tunnel.reactor import Reactor
from tunnel.resolve import is_numeric, resolve

DRAIN_POLL_S = 0.05


class Owner(Protocol):
    """What an endpoint needs of the end it belongs to."""

    reactor: Reactor
    route: RoutePlan
    switchboard: Switchboard

    @property
    def socket(self) -> zmq.Socket[bytes]: ...

    @property
    def has_unread(self) -> bool: ...

    @property
    def last_refusal(self) -> str: ...

    def on_bound(self) -> None: ...


class Pause:
    """Pauses between tries: doubling from REMAKE_MIN_S to REMAKE_MAX_S, a little random so that ends do not march."""

    def __init__(self) -> None:
        self._next_s = REMAKE_MIN_S

    def take(self) -> float:
        """Seconds to wait now; the next pause is longer."""
        pause, self._next_s = self._next_s, min(self._next_s * 2, REMAKE_MAX_S)
        return pause * random.uniform(0.8, 1.0)

    def reset(self) -> None:
        self._next_s = REMAKE_MIN_S


class _Tries:
    """The timer and the name lookup of one endpoint: at most one of each, gone after stop()."""

    def __init__(self, owner: Owner, plan: Endpoint) -> None:
        self.owner = owner
        self.plan = plan
        self.pause = Pause()
        self.started = False
        """Bound, or handed to libzmq for connecting, at least once."""
        self._timer: asyncio.TimerHandle | None = None
        self._lookup: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """No further try."""
        if self._timer is not None:
            self._timer.cancel()
        if self._lookup is not None:
            self._lookup.cancel()
        self._timer = self._lookup = None

    def _later(self, delay_s: float, what: Callable[[], object]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.owner.reactor.call_later(delay_s, what)

    def _look_up(self, work: Coroutine[Any, Any, None]) -> None:
        if self._lookup is not None:
            self._lookup.cancel()
        self._lookup = self.owner.reactor.loop.create_task(work)


class BindEndpoint(_Tries):
    """A `bind` address."""

    def __init__(self, owner: Owner, plan: Endpoint, *, private: bool) -> None:
        super().__init__(owner, plan)
        end = owner.route.end
        self.watch = BindWatch(plan.address, expectation(end.socket, options.mechanism(end)))
        self._bound_at: str | None = None
        path = ipc_path(plan.address)
        self._file = None if path is None else IpcFile(path, mode=end.mode, group=end.group, private=private)

    def start(self) -> None:
        """Bind now, or as soon as the name is known."""
        if _needs_lookup(self.plan.address, bind=True):
            self._look_up(self._bind_by_name())
        else:
            self._bind(self.plan.address)

    def forget(self) -> None:
        """The socket is being replaced: what was bound and connected is gone with it."""
        self.stop()
        self.remove_file()
        self.owner.switchboard.drop(self.watch)
        self.watch = BindWatch(self.plan.address, self.watch.expected)

    def remove_file(self) -> None:
        if self._file is not None:
            self._file.remove()

    def on_event(self, kind: zmq.Event, value: int, now: float) -> Change:
        return self.watch.on_event(kind, value, now, self.owner.last_refusal)

    def status(self, now: float) -> dict[str, Any]:
        watch = self.watch
        return {
            "address": self.plan.address,
            "method": "bind",
            "state": watch.state,
            "peers": watch.peers(now),
            "reason": watch.reason_at(now),
            "turned_away": watch.refusals,
        }

    async def _bind_by_name(self) -> None:
        try:
            address, *_ = await resolve(self.plan.address)
        except LocalError as error:
            self._failed(str(error))
        else:
            self._bind(address)

    def _bind(self, address: str) -> None:
        owner = self.owner
        self._bound_at = None
        try:
            options.before_bind(owner.socket, owner.route, address)
            if self._file is None:
                self._bind_socket(address)
            else:
                self._file.bind(lambda: self._bind_socket(address))
        except LocalError as error:
            self._undo()
            self._failed(str(error))
        except zmq.ZMQError as error:
            self._failed(why_bind_failed(self.plan.address, error.errno or 0))
        else:
            self.started = True
            self.pause.reset()
            self.watch.bound()

    def _bind_socket(self, address: str) -> None:
        socket = self.owner.socket
        socket.bind(address)
        self._bound_at = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.owner.on_bound()
        self.owner.switchboard.put(self._bound_at, self.watch)

    def _undo(self) -> None:
        """Bound, but its file could not be given its mode or group: rather closed than open to the wrong people."""
        if self._bound_at is not None:
            with contextlib.suppress(zmq.ZMQError):
                self.owner.socket.unbind(self._bound_at)
            self.remove_file()

    def _failed(self, reason: str) -> None:
        self.watch.failed(reason, self.owner.reactor.now())
        self._later(self.pause.take(), self.start)


class ConnectEndpoint(_Tries):
    """A `connect` address."""

    def __init__(self, owner: Owner, plan: Endpoint) -> None:
        super().__init__(owner, plan)
        end = owner.route.end
        self.watch = ConnectWatch(plan.address, expectation(end.socket, options.mechanism(end)))
        self._named = _needs_lookup(plan.address, bind=False)
        self._addresses: tuple[str, ...] = (plan.address,)
        self._turn = 0
        self._current: str | None = None
        self._was_ever_up = False
        self._name_timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        super().stop()
        if self._name_timer is not None:
            self._name_timer.cancel()
            self._name_timer = None

    def start(self) -> None:
        """Connect now, or as soon as the name is known."""
        if self._named:
            self._look_up(self._connect_by_name())
        else:
            self._connect()

    def forget(self) -> None:
        """The socket is being replaced."""
        self.stop()
        self.owner.switchboard.drop(self.watch)
        self._current = None
        self.watch = ConnectWatch(self.plan.address, self.watch.expected)

    def remove_file(self) -> None:
        """A connect has none."""

    def on_event(self, kind: zmq.Event, value: int, now: float) -> Change:
        watch = self.watch
        up_since, was_up = watch.up_since, watch.up
        change = watch.on_event(kind, value, now)
        if watch.up:
            self._was_ever_up = True
        elif was_up and now - up_since >= REMAKE_CALM_S:
            self.pause.reset()
        if watch.stuck:
            self._later(GAVE_UP_S, self._look_if_stuck)
        if self._named and self._name_timer is None and not watch.up:
            self._name_timer = self.owner.reactor.call_later(self.pause.take(), self._look_for_another)
        return change

    def status(self, now: float) -> dict[str, Any]:
        watch = self.watch
        return {
            "address": self.plan.address,
            "method": "connect",
            "state": watch.state,
            "peers": watch.peers(now),
            "reason": watch.reason,
            "turned_away": 0,
        }

    async def _connect_by_name(self) -> None:
        if await self._find_addresses():
            self._connect()

    async def _find_addresses(self) -> bool:
        try:
            found = await resolve(self.plan.address)
        except LocalError as error:
            self.watch.failed(str(error))
            self._later(self.pause.take(), self.start)
            return False
        # as libzmq does where IPv6 is off: a service on localhost is mostly found at 127.0.0.1
        self._addresses = tuple(sorted(found, key=lambda address: "[" in address))
        return True

    def _connect(self) -> None:
        owner = self.owner
        address = self._addresses[self._turn % len(self._addresses)]
        owner.switchboard.put(address, self.watch)
        try:
            options.before_connect(owner.socket, owner.route, address)
            owner.socket.connect(address)
        except zmq.ZMQError as error:
            self.watch.failed(f"{self.plan.address} could not be connected: {error.strerror}.")
            self._later(self.pause.take(), self.start)
        else:
            self._current = address
            self.started = True

    def _look_if_stuck(self) -> None:
        if self.watch.stuck:
            self.watch.gave_up()
            self._drop(self.owner.reactor.now() + DRAIN_S)

    def _look_for_another(self) -> None:
        """libzmq keeps to the number that it was given; the name may have moved, or have another that answers."""
        self._name_timer = None
        if not self.watch.up and self._current is not None:
            self._look_up(self._try_another())

    async def _try_another(self) -> None:
        if not await self._find_addresses() or self.watch.up:
            return
        if self._current in self._addresses and (self._was_ever_up or len(self._addresses) == 1):
            return  # the same place: what is queued for it stays queued
        self._drop(self.owner.reactor.now() + DRAIN_S)

    def _drop(self, deadline: float) -> None:
        """Disconnect (which throws away what is unread, so wait for that a while), then connect after a pause."""
        owner = self.owner
        if owner.has_unread and owner.reactor.now() < deadline:
            self._later(DRAIN_POLL_S, lambda: self._drop(deadline))
            return
        owner.switchboard.drop(self.watch)
        if self._current is not None:
            with contextlib.suppress(zmq.ZMQError):
                owner.socket.disconnect(self._current)
        self._current = None
        self._turn += 1
        self.watch.stuck = False
        self._later(self.pause.take(), self.start)


AnyEndpoint = BindEndpoint | ConnectEndpoint


def _needs_lookup(address: str, *, bind: bool) -> bool:
    """A host name; at a bind an interface's name is libzmq's to understand."""
    if not address.startswith("tcp://"):
        return False
    host = address.removeprefix("tcp://").rpartition(";")[2].rpartition(":")[0]
    if not host or is_numeric(host):
        return False
    return not (bind and host in {name for _, name in sockets.if_nameindex()})
