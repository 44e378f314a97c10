"""The dialling role of the HTTP carrier: the device connects here, and each connection goes out as one of its own.

WebSocket where it comes through. Where it does not, long-poll takes over by itself, and WebSocket is tried again from
time to time, soon where it was only slow; when it comes through then, connections are made anew over it (the link
resumes).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine
from typing import Any

from tunnel.carriers.http_longpoll import LongPoll
from tunnel.carriers.http_message import MessageError, Stream
from tunnel.carriers.http_reach import Reach
from tunnel.carriers.http_websocket import GatewayError, UpgradeError, WebSocket, upgrade
from tunnel.carriers.http_wire import Count, Wire, WireError
from tunnel.carriers.ipc import open_port
from tunnel.config.plan import CarrierPlan
from tunnel.errors import LinkError, ZtunnelError
from tunnel.limits import (
    HANDSHAKE_S,
    HTTP_CHUNK_BYTES,
    HTTP_CONNECTIONS,
    HTTP_DIAL_S,
    HTTP_HELLO_S,
    HTTP_SLOW_AGAIN_S,
    HTTP_UPGRADE_S,
    HTTP_WEBSOCKET_AGAIN_S,
)
from tunnel.log import Log


class SlowUpgradeError(UpgradeError):
    """Nobody refused it: our patience ended, and the next one may come through."""


class Dialler:
    """See `tunnel.carriers.process.Process`."""

    def __init__(self, plan: CarrierPlan) -> None:
        self._plan = plan
        self._reach = Reach(plan)
        self._log = Log(plan.name)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wires: set[Wire] = set()
        self._count = Count()
        self._attempts = 0
        self._reason = ""
        self._no_websocket = ""
        """Why long-poll is in use; empty: WebSocket."""
        self._again: asyncio.TimerHandle | None = None
        self._slow_again_s = HTTP_SLOW_AGAIN_S
        self._came_back_at = float("-inf")
        """When WebSocket last took over from long-poll."""

    async def start(self) -> None:
        port = open_port(str(self._plan.socket), 0o600, None)
        self._server = await asyncio.start_unix_server(self._on_device, sock=port, limit=HTTP_CHUNK_BYTES)

    async def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._plan.socket)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        state = "up" if self._wires else "retrying" if self._reason else "connecting"
        proxy = self._reach.proxy()
        return {
            "state": state,
            "reason": "" if state == "up" else self._reason,
            "connections": len(self._wires),
            "bytes_in": self._count.bytes_in,
            "bytes_out": self._count.bytes_out,
            "refused": {},
            "detail": {
                "mode": "long-poll" if self._no_websocket else "websocket",
                "why": self._no_websocket or "WebSocket comes through" if state == "up" else self._no_websocket,
                "proxy": "" if proxy is None else proxy.url,
            },
        }

    def _on_device(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        device = Stream(reader, writer)
        if len(self._tasks) >= HTTP_CONNECTIONS:
            device.abort()
            return
        self._spawn(self._serve(device))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, device: Stream) -> None:
        """One connection of the device, from its coming to its end."""
        try:
            async with asyncio.timeout(HTTP_DIAL_S):
                wire = await self._dial()
        except TimeoutError:
            device.abort()
            return self._failed(f"no connection within {HTTP_DIAL_S:g} s: does something on the way drop it?")
        except (ZtunnelError, OSError) as error:
            device.abort()
            return self._failed(self._reach.words(error))
        except BaseException:
            device.abort()
            raise
        self._wires.add(wire)
        self._reason = ""
        try:
            reason = await wire.carry(device, self._count)
        finally:
            self._wires.discard(wire)
        if reason:
            self._failed(reason)
        return None

    def _failed(self, reason: str) -> None:
        self._reason = reason
        self._log.warn("cut", reason=reason)

    async def _dial(self) -> Wire:
        if self._no_websocket:
            return await LongPoll.open(self._reach)
        try:
            return await self._websocket()
        except UpgradeError as refused:
            try:
                wire = await LongPoll.open(self._reach)
            except LinkError as error:
                hint = self._reach.hint() if refused.hung_up else ""
                raise WireError(f"{refused}{hint}; long-poll: {error}") from None
            if isinstance(refused, GatewayError):  # the listener was away for a moment, and is there now
                with contextlib.suppress(LinkError, OSError):
                    better = await self._websocket()
                    await wire.close()
                    return better
            self._fall_back(refused)
            return wire

    async def _websocket(self) -> WebSocket:
        stream = await self._reach.open()
        began = time.monotonic()
        try:
            async with asyncio.timeout(HTTP_UPGRADE_S):
                return await upgrade(stream, self._reach.target)
        except TimeoutError:
            stream.abort()
            raise SlowUpgradeError(f"the WebSocket upgrade was not answered within {HTTP_UPGRADE_S:g} s") from None
        except UpgradeError as error:
            stream.abort()
            if time.monotonic() - began >= HTTP_HELLO_S:
                raise SlowUpgradeError(str(error)) from None
            raise
        except MessageError as error:
            stream.abort()
            raise UpgradeError(str(error)) from None
        except BaseException:
            stream.abort()
            raise

    def _fall_back(self, why: UpgradeError) -> None:
        if not self._no_websocket:
            self._log.warn("long-poll", why=why)
            self._no_websocket = str(why)
            if time.monotonic() - self._came_back_at > HTTP_WEBSOCKET_AGAIN_S:
                self._slow_again_s = HTTP_SLOW_AGAIN_S  # else it comes and goes: each return cuts the link
            self._try_later(why)

    def _try_later(self, why: Exception) -> None:
        pause_s = HTTP_WEBSOCKET_AGAIN_S
        if type(why) is not UpgradeError:  # it was slow, or not even reached
            pause_s = self._slow_again_s
            self._slow_again_s = min(2 * pause_s, HTTP_WEBSOCKET_AGAIN_S)
        loop = asyncio.get_running_loop()
        self._again = loop.call_later(pause_s, lambda: self._spawn(self._try_websocket()))

    async def _try_websocket(self) -> None:
        """A WebSocket without a link in it; when it works, the long-poll connections end and are dialled anew."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                wire = await self._websocket()
        except (LinkError, OSError, TimeoutError) as error:
            self._try_later(error)
            return
        await wire.close()
        self._log.info("websocket", after=self._no_websocket)
        self._no_websocket = ""
        self._came_back_at = time.monotonic()
        for old in tuple(self._wires):
            await old.close()
