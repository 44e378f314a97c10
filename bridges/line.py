"""One place in the pool of a tcp-client: a connection to the legacy server, dialled again and again for ever."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import Any, Protocol

from bridges.connection import Connection, Owner
from tunnel.errors import LocalError
from tunnel.limits import BRIDGE_CALM_S, BRIDGE_CONNECT_S, BRIDGE_REDIAL_MAX_S, BRIDGE_REDIAL_MIN_S, HANDSHAKE_S
from tunnel.resolve import resolve


class Keeper(Owner, Protocol):
    """Who has the pool."""

    def ready(self, line: Line) -> None:
        """Its connection is there."""

    def lost(self, line: Line, reason: str) -> None:
        """Its connection is gone, or could not be made; `reason` in words. It is dialled again, unless that is lazy."""

    def wanted(self, line: Line) -> bool:
        """Should it be dialled (again) now?"""


class Line:
    """`connection` is there while it is up."""

    def __init__(self, keeper: Keeper, number: int, tls: ssl.SSLContext | None, server_name: str | None) -> None:
        self.number = number
        self.connection: Connection | None = None
        self.state = "idle"
        """idle | connecting | up | pausing"""
        self.mode: Any = None
        """What the bridge's mode keeps of this line."""
        self._keeper = keeper
        self._tls = tls
        self._server_name = server_name
        self._turn = number - 1  # several addresses share the pool
        self._pause_s = BRIDGE_REDIAL_MIN_S
        self._up_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Line {self.number} {self.state}>"

    @property
    def room(self) -> Connection | None:
        """Its connection, if that takes more."""
        one = self.connection
        if one is None or one.full or one.transport is None or one.transport.is_closing():
            return None
        return one

    def dial(self) -> None:
        """If it is idle."""
        if self.state == "idle" and not self._closed:
            self.state = "connecting"
            self._timer = None
            self._task = self._keeper.loop.create_task(self._connect())

    def close(self) -> None:
        """For good."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self.connection is not None:
            self.connection.close("closing")

    def gone(self, reason: str) -> None:
        """Its connection has ended; dial again after a pause, the shortest if this one was good for a while."""
        self.connection = None
        if self.state == "up" and self._keeper.loop.time() - self._up_at > BRIDGE_CALM_S:
            self._pause_s = BRIDGE_REDIAL_MIN_S
        self._later(reason)

    def _later(self, reason: str) -> None:
        self.state = "pausing"
        self._keeper.lost(self, reason)
        if not self._closed:
            pause_s = random.uniform(BRIDGE_REDIAL_MIN_S, self._pause_s)
            self._pause_s = min(BRIDGE_REDIAL_MAX_S, 2 * self._pause_s)
            self._timer = self._keeper.loop.call_later(pause_s, self._again)

    def _again(self) -> None:
        self.state = "idle"
        if self._keeper.wanted(self):
            self.dial()

    async def _connect(self) -> None:
        addresses = self._keeper.plan.connect
        address = addresses[self._turn % len(addresses)]
        self._turn += 1
        connection = Connection(self._keeper, self.number, address)
        connection.mode = self
        try:
            async with asyncio.timeout(BRIDGE_CONNECT_S):
                await self._open(address, lambda: connection)
        except TimeoutError:
            self._later(f"{address} did not answer within {BRIDGE_CONNECT_S:g} s")
        except ssl.SSLError as error:
            self._later(f"{address}: the TLS handshake failed: {error.reason or error}")
        except (OSError, LocalError) as error:
            self._later(f"{address}: {getattr(error, 'strerror', None) or error}")
        else:
            self.connection, self.state, self._up_at = connection, "up", self._keeper.loop.time()
            self._keeper.ready(self)

    async def _open(self, address: str, make: Callable[[], Connection]) -> None:
        loop = self._keeper.loop
        if address.startswith("ipc://"):
            await loop.create_unix_connection(make, address.removeprefix("ipc://"))
            return
        numeric, *_ = await resolve(address)
        host, _, port = numeric.removeprefix("tcp://").rpartition(":")
        secure: dict[str, Any] = {}
        if self._tls is not None:
            name = self._server_name or address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
            secure = {"ssl": self._tls, "server_hostname": name, "ssl_handshake_timeout": HANDSHAKE_S}
        await loop.create_connection(make, host.strip("[]"), int(port), **secure)
