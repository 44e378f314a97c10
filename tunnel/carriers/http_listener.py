"""The listening role of the HTTP carrier: a public port, one path on it, and a connection to the device for each link.

Who is not in `allow` is hung up on before TLS. Heads, bodies, the time for them, connections and those that have not
begun a link are all bounded. Other paths are answered 404, `/healthz` says whether the device's socket is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import ssl
import stat
import time
import urllib.parse
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

from tunnel.carriers.base import why_not_open
from tunnel.carriers.http_message import Head, MessageError, Stream, answer, read_body, read_head
from tunnel.carriers.http_sessions import Session, Sessions
from tunnel.carriers.http_tls import Contexts, in_words, listen_context
from tunnel.carriers.http_websocket import UpgradeError, accept, is_upgrade
from tunnel.carriers.http_wire import Count, Wire, open_device
from tunnel.carriers.tcp import open_port
from tunnel.config.addresses import http, opened
from tunnel.config.plan import CarrierPlan
from tunnel.errors import LocalError
from tunnel.limits import (
    HANDSHAKE_S,
    HTTP_CHUNK_BYTES,
    HTTP_CONNECTIONS,
    HTTP_HANDSHAKES,
    HTTP_SESSION_S,
    LISTEN_RETRY_S,
    SWEEP_S,
)
from tunnel.log import Log
from tunnel.zap import may_connect

_SHORT: Final = {"Connection": "close"}
_OURS: Final = {"Ztunnel": "1", **_SHORT}


class Listener:
    """See `tunnel.carriers.process.Process`."""

    def __init__(self, plan: CarrierPlan) -> None:
        self._plan = plan
        self._target = http(plan.address)
        self._contexts = Contexts(plan.tls, listen_context) if self._target.secure and plan.tls else None
        self._log = Log(plan.name)
        self._port: sockets.socket | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._strangers: set[asyncio.Task[Any]] = set()
        self._open = 0
        self._wires: set[Wire] = set()
        self._sessions = Sessions(self._begin)
        self._count = Count()
        self._refused: Counter[str] = Counter()
        self._last_refusal = ""
        self._reason = ""
        self.address = plan.address
        """As it is open: a port 0 becomes its number."""

    async def start(self) -> None:
        self._spawn(self._listen())
        self._spawn(self._sweep())

    async def close(self) -> None:
        await self._sessions.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._port is not None:
            self._port.close()
            self._port = None

    def status(self) -> dict[str, Any]:
        problem = self._contexts.problem if self._contexts is not None else ""
        return {
            "state": "retrying" if self._port is None else "listening",
            "reason": self._reason or problem,
            "connections": len(self._wires),
            "bytes_in": self._count.bytes_in,
            "bytes_out": self._count.bytes_out,
            "refused": dict(self._refused),
            "detail": {
                "listens": self.address,
                "long_poll": len(self._sessions),
                "strangers": len(self._strangers),
                "last_refusal": self._last_refusal,
            },
        }

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- the port -----------------------------------------------------------------------------------------------
    async def _listen(self) -> None:
        while True:
            try:
                if self._contexts is not None:
                    self._contexts.current()
                self._port = open_port(opened(self._plan.address))
                break
            except (OSError, LocalError) as error:
                self._reason = f"{self._plan.address} cannot be opened: {why_not_open(error)}"
                await asyncio.sleep(LISTEN_RETRY_S)
        self._reason = ""
        self.address = self._target._replace(port=self._port.getsockname()[1]).text
        self._log.info("listening", address=self.address)
        while True:
            await self._accept(self._port)

    async def _accept(self, port: sockets.socket) -> None:
        try:
            sock, name = await asyncio.get_running_loop().sock_accept(port)
        except OSError as error:
            self._reason = f"connections cannot be taken: {why_not_open(error)}"
            await asyncio.sleep(LISTEN_RETRY_S)
            return
        self._reason = ""
        peer = str(name[0]).partition("%")[0]
        if not may_connect(self._plan.allow, peer):
            self._refuse("address", f"{peer} is not in allow")
            sock.close()
        elif self._open >= HTTP_CONNECTIONS or len(self._strangers) >= HTTP_HANDSHAKES:
            self._refuse("busy", f"{peer} came while too many others had not begun a link")
            sock.close()
        else:
            self._open += 1
            self._strangers.add(self._spawn(self._serve(sock, peer)))

    def _refuse(self, reason: str, sentence: str) -> None:
        self._refused[reason] += 1
        self._last_refusal = sentence
        self._log.warn("refused", reason=reason, sentence=sentence)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await self._sessions.sweep()

    # --- one connection -----------------------------------------------------------------------------------------
    async def _serve(self, sock: sockets.socket, peer: str) -> None:
        stream: Stream | None = None
        try:
            stream = await self._secure(sock)
            patience = HANDSHAKE_S
            while await self._request(stream, patience):
                patience = HTTP_SESSION_S
        except ssl.SSLError as error:
            self._refuse("tls", f"{peer}: {in_words(error, peer)}")
        except TimeoutError:
            self._refuse("timeout", f"{peer} sent no request in time")
        except (MessageError, UpgradeError) as error:
            self._refuse("request", f"{peer}: {error}")
            if stream is not None and isinstance(error, MessageError) and not stream.writer.is_closing():
                stream.writer.write(answer(400, _SHORT))
        except (OSError, LocalError):
            pass  # it hung up, or there is no certificate, which status says
        finally:
            self._open -= 1
            self._known()
            if stream is None:
                sock.close()
            else:
                stream.close()

    def _known(self) -> None:
        """The connection that this task serves is no stranger's any more."""
        task = asyncio.current_task()
        if task is not None:
            self._strangers.discard(task)

    async def _secure(self, sock: sockets.socket) -> Stream:
        sock.setblocking(False)
        sock.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=HTTP_CHUNK_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        more: dict[str, Any] = {}
        if self._contexts is not None:
            more = {"ssl": self._contexts.current(), "ssl_handshake_timeout": HANDSHAKE_S}
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, **more)
        return Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _request(self, stream: Stream, patience_s: float) -> bool:
        """Answer one request. False: no more on this connection."""
        async with asyncio.timeout(patience_s):
            head = await read_head(stream.reader)
        if head is None:
            return False
        method, path, query = _asked(head)
        if path == "/healthz" and method in ("GET", "HEAD"):
            return await self._say(stream, self._health(method))
        if path != self._target.path:
            self._refused["path"] += 1
            return await self._say(stream, answer(404, _SHORT, b"not found\n"))
        if is_upgrade(head):
            await self._websocket(stream, head)
            return False
        if not query:
            return await self._say(stream, answer(426, {**_OURS, "Upgrade": "websocket"}, b"WebSocket only\n"))
        async with asyncio.timeout(HTTP_SESSION_S if patience_s > HANDSHAKE_S else HANDSHAKE_S):
            body = await read_body(stream.reader, head)
        said, known = await self._sessions.answer(method, query, body)
        if known:
            self._known()
        await self._say(stream, said)
        return known and not head.has("connection", "close") and head.line.endswith("HTTP/1.1")

    async def _say(self, stream: Stream, said: bytes) -> bool:
        if not stream.writer.is_closing():  # uvloop raises RuntimeError on a write then
            stream.writer.write(said)
            await stream.writer.drain()
        return False

    def _health(self, method: str) -> bytes:
        there = False
        with contextlib.suppress(OSError):
            there = stat.S_ISSOCK(os.stat(self._plan.socket).st_mode)
        said = answer(200, _SHORT, b"ok\n") if there else answer(503, _SHORT, b"the device is not running\n")
        return said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == "HEAD" else said

    async def _websocket(self, stream: Stream, head: Head) -> None:
        try:
            device = await open_device(str(self._plan.socket))
        except OSError:
            await self._say(stream, answer(503, _OURS, b"the listener's device is not running"))
            return
        try:
            wire = await accept(stream, head)
        except BaseException:
            device.abort()
            raise
        self._known()
        await self._carry(wire, device)

    async def _begin(self, session: Session) -> None:
        device = await open_device(str(self._plan.socket))
        self._spawn(self._carry(session, device))

    async def _carry(self, wire: Wire, device: Stream) -> None:
        self._wires.add(wire)
        began = time.monotonic()
        try:
            reason = await wire.carry(device, self._count)
        finally:
            self._wires.discard(wire)
        if reason:
            self._log.info("cut", reason=reason, after_s=round(time.monotonic() - began, 1))


def _asked(head: Head) -> tuple[str, str, str]:
    """(method, path, query) of a request."""
    words = head.line.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise MessageError("the request line is not HTTP/1.1")
    target = words[1]
    if not target.startswith("/"):
        target = urllib.parse.urlsplit(target)._replace(scheme="", netloc="").geturl()
    path, _, query = target.partition("?")
    return words[0], path, query
