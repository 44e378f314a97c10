"""The `connect` addresses of a stream route: one TCP (or unix) connection each time a client has come at the other end.

Names are looked up off the loop and remembered for a while. Addresses are tried in turn, beginning with the one that
answered last. Knows nothing of streams over the link.
"""

from __future__ import annotations

import errno
import os
import socket as sockets
from collections.abc import Callable, Sequence
from typing import Any

from tunnel.config.plan import Endpoint
from tunnel.errors import LocalError
from tunnel.limits import STREAM_NAME_S
from tunnel.local.words import ipc_path
from tunnel.reactor import Reactor
from tunnel.resolve import is_numeric, resolve

_AGAIN_S = 0.02

OnEnd = Callable[[sockets.socket | None, str], None]
"""The connection, which does not block; or None, and a sentence why there is none."""


class StreamTarget:
    """One address of the table."""

    def __init__(self, reactor: Reactor, plan: Endpoint) -> None:
        self.plan = plan
        self.reason = ""
        """Why the last attempt failed; "" when it did not, or there was none."""
        self._reactor = reactor
        self._path = ipc_path(plan.address)
        host = plan.address.removeprefix("tcp://").rpartition(":")[0]
        self._named = self._path is None and not is_numeric(host)
        self._names: tuple[str, ...] = () if self._named else (plan.address,)
        self._named_at = float("-inf")
        self._looking: Any = None
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<StreamTarget {self.plan.address} {self.reason or 'ready'}>"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Numeric; none when the name is not known."""
        return self._names

    def find(self, then: Callable[[], None]) -> None:
        """Call `then` when `addresses` are as fresh as they can be."""
        if not self._named or self._reactor.now() - self._named_at < STREAM_NAME_S:
            then()
            return
        self._waiting.append(then)
        if self._looking is None:
            self._looking = self._reactor.loop.create_task(self._look_up())

    def status(self, peers: int) -> dict[str, Any]:
        return {
            "address": self.plan.address,
            "method": "connect",
            "state": "down" if self.reason else "ready",
            "peers": peers,
            "reason": self.reason,
            "turned_away": 0,
        }

    def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._waiting.clear()

    async def _look_up(self) -> None:
        try:
            self._names = await resolve(self.plan.address)
            self._named_at = self._reactor.now()
        except LocalError as error:
            self.reason = str(error)
        self._looking = None
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Attempt:
    """One connection to the first of `targets` that answers within `connect_s`."""

    def __init__(self, reactor: Reactor, targets: Sequence[StreamTarget], connect_s: float, on_end: OnEnd) -> None:
        self._reactor = reactor
        self._left = [(target, -1) for target in targets]
        self._on_end = on_end
        self._target: StreamTarget | None = None
        self._socket: sockets.socket | None = None
        self._reason = ""
        self._ended = False
        self._again: Any = None
        self._connect_s = connect_s
        self._timer = reactor.call_later(connect_s, self._too_late)

    def start(self) -> None:
        self._next()

    def cancel(self) -> None:
        """No connection, and no call of `on_end`."""
        self._ended = True
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        self._drop()

    def _next(self) -> None:
        """The next address of the next target."""
        if self._ended:
            return
        if not self._left:
            self._end(None)
            return
        target, at = self._left[0]
        self._target = target
        if at < 0:
            self._left[0] = (target, 0)
            target.find(self._next)
            return
        if at >= len(target.addresses):
            self._reason = self._reason or target.reason
            self._left.pop(0)
            self._next()
            return
        self._left[0] = (target, at + 1)
        self._try(target.addresses[at])

    def _try(self, address: str) -> None:
        try:
            self._socket, name = _socket_for(address)
            code = self._socket.connect_ex(name)
        except OSError as error:
            self._failed(error.errno or 0)
            return
        if code == 0:
            self._end(self._socket)
        elif code == errno.EAGAIN:  # a unix socket whose queue is full; TCP would ask again, too
            self._drop()
            self._again = self._reactor.call_later(_AGAIN_S, lambda: self._try(address))
        elif code == errno.EINPROGRESS:
            self._reactor.loop.add_writer(self._socket.fileno(), self._on_writable)
        else:
            self._failed(code)

    def _on_writable(self) -> None:
        if self._socket is None:
            return
        self._reactor.loop.remove_writer(self._socket.fileno())
        code = self._socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
        if code:
            self._failed(code)
        else:
            self._end(self._socket)

    def _failed(self, code: int) -> None:
        self._drop()
        if self._target is not None:
            self._reason = _why(self._target.plan.address, code)
            self._target.reason = self._reason
        self._next()

    def _too_late(self) -> None:
        self._drop()
        if self._again is not None:
            self._again.cancel()
        if self._target is not None:
            self._reason = f"{self._target.plan.address} did not answer within {self._connect_s:g} s."
            self._target.reason = self._reason
        self._end(None)

    def _drop(self) -> None:
        if self._socket is not None:
            self._reactor.loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _end(self, connection: sockets.socket | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        self._socket = None
        if connection is not None and self._target is not None:
            self._target.reason = ""
        self._on_end(connection, self._reason)


def _socket_for(address: str) -> tuple[sockets.socket, Any]:
    """A fresh socket, and what to connect it to."""
    path = ipc_path(address)
    if path is not None:
        connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
        return connection, "\0" + path[1:] if path.startswith("@") else path
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    numeric = host.removeprefix("[").removesuffix("]")
    family = sockets.AF_INET6 if ":" in numeric else sockets.AF_INET
    connection = sockets.socket(family, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
    if family == sockets.AF_INET6 and "%" in numeric:
        return connection, sockets.getaddrinfo(numeric, int(port), family, 0, 0, sockets.AI_NUMERICHOST)[0][4]
    return connection, (numeric, int(port))


def _why(address: str, code: int) -> str:
    if code == errno.ECONNREFUSED:
        return f"Nobody listens at {address}: is the service running?"
    if code == errno.ENOENT:
        return f"There is no {ipc_path(address)}: the service that binds it is not running."
    if code in (errno.EMFILE, errno.ENFILE):
        return f"No connection to {address} can be opened: this process has no descriptors left."
    return f"No connection to {address}: {os.strerror(code)}."
