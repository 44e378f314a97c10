"""The link's bytes in WebSocket frames (RFC 6455): binary messages both ways, no extensions, a ping every 20 s.

The framing is that of the websockets library, without its I/O: here the bytes come from, and go to, asyncio streams.
Before the first byte each end says `ztunnel` in a text message, which shows that frames come through both ways; `end`
in one is the orderly end of a direction.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import time
from collections import deque
from typing import Final

from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side
from websockets.utils import accept_key

from tunnel.carriers.http_message import Head, MessageError, Stream, answer, read_body, read_head, request
from tunnel.carriers.http_reach import Target
from tunnel.carriers.http_wire import WireError
from tunnel.errors import LinkError
from tunnel.limits import HTTP_CHUNK_BYTES, HTTP_HELLO_S, HTTP_MESSAGE_BYTES, HTTP_PING_S, HTTP_SILENCE_S

_HELLO: Final = b"ztunnel"
_END: Final = b"end"
_DATA: Final = (Opcode.BINARY, Opcode.CONT)


class UpgradeError(LinkError):
    """WebSocket does not come through; the sentence says what was answered instead."""

    hung_up = False
    """Nothing was answered at all."""


class WebSocket:
    """A Wire, from after the upgrade on."""

    def __init__(self, stream: Stream, side: Side) -> None:
        self._stream = stream
        self._protocol = Protocol(side, max_size=HTTP_MESSAGE_BYTES)
        self._frames: deque[Frame] = deque()
        self._heard = time.monotonic()
        self._writing = asyncio.Lock()
        stream.writer.transport.set_write_buffer_limits(high=2 * HTTP_CHUNK_BYTES)
        self._alive: asyncio.Task[None] | None = None

    async def hello(self) -> None:
        """Say the word and hear it, within HTTP_HELLO_S. UpgradeError: it does not come."""
        try:
            async with asyncio.timeout(HTTP_HELLO_S):
                await self._write_text(_HELLO)
                frame = await self._next()
        except TimeoutError:
            raise UpgradeError("the WebSocket was let in, but nothing comes through it") from None
        except (WireError, OSError) as error:
            raise UpgradeError(f"the WebSocket was let in, but was cut before anything came: {error}") from None
        if frame is None or frame.opcode is not Opcode.TEXT or bytes(frame.data) != _HELLO:
            raise UpgradeError("the WebSocket was let in by something that is no ztunnel listener")
        self._alive = asyncio.create_task(self._keep_alive())

    async def send(self, data: bytes) -> None:
        if not data:
            await self._write_text(_END)
            return
        self._check_open()
        self._protocol.send_binary(data)
        await self._flush()

    async def receive(self) -> bytes | bytearray | memoryview:
        while True:
            frame = await self._next()
            if frame is None:
                raise WireError("the WebSocket was closed by the other end or on the way")
            if frame.opcode in _DATA and frame.data:
                return frame.data
            if frame.opcode is Opcode.TEXT and bytes(frame.data) == _END:
                return b""

    async def close(self) -> None:
        if self._alive is not None:
            self._alive.cancel()
        with contextlib.suppress(Exception):
            self._protocol.send_close(1000)
            self._stream.writer.writelines(self._protocol.data_to_send())
        self._stream.close()

    async def _next(self) -> Frame | None:
        """The next frame; None at the end. What pings are answered goes out here."""
        while not self._frames:
            data = await self._stream.reader.read(HTTP_CHUNK_BYTES)
            self._heard = time.monotonic()
            if not data:
                return None
            self._protocol.receive_data(data)
            if self._protocol.writes:
                await self._flush()
            for event in self._protocol.events_received():
                if isinstance(event, Frame):
                    self._frames.append(event)
            if self._protocol.parser_exc is not None:
                raise WireError(f"the other end broke the WebSocket protocol: {self._protocol.parser_exc}")
        frame = self._frames.popleft()
        return None if frame.opcode is Opcode.CLOSE else frame

    async def _write_text(self, text: bytes) -> None:
        self._check_open()
        self._protocol.send_text(text)
        await self._flush()

    async def _flush(self) -> None:
        if self._stream.writer.is_closing():  # uvloop raises RuntimeError on a write then
            raise WireError("the WebSocket was closed by the other end or on the way")
        for data in self._protocol.data_to_send():
            if data:
                self._stream.writer.write(data)
        async with self._writing:
            await self._stream.writer.drain()

    def _check_open(self) -> None:
        if self._protocol.close_expected() or self._protocol.parser_exc is not None:
            raise WireError("the WebSocket was closed by the other end or on the way")

    async def _keep_alive(self) -> None:
        """Ping; a silent connection is cut, which ends `receive`."""
        while True:
            await asyncio.sleep(HTTP_PING_S)
            if time.monotonic() - self._heard > HTTP_SILENCE_S and self._stream.reader._buffer_empty():  # type: ignore[attr-defined]
                self._stream.abort()
                return
            with contextlib.suppress(WebSocketException, OSError, RuntimeError):
                self._protocol.send_ping(b"")
                for data in self._protocol.data_to_send():
                    self._stream.writer.write(data)


async def upgrade(stream: Stream, target: Target) -> WebSocket:
    """The dialler's part. UpgradeError: what was answered instead; WireError: the listener says why not now."""
    key = base64.b64encode(os.urandom(16)).decode()
    headers = {
        "Host": target.host_header,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": key,
        "Sec-WebSocket-Version": "13",
    }
    stream.writer.write(request("GET", target.path, headers))
    try:
        head = await read_head(stream.reader)
    except MessageError as malformed:
        raise UpgradeError(f"the WebSocket upgrade was answered with something that is not HTTP: {malformed}") from None
    if head is None:
        error = UpgradeError("the connection was closed instead of answering the WebSocket upgrade")
        error.hung_up = True
        raise error
    if head.status != 101:
        await _refuse(stream, head)
    if head.headers.get("sec-websocket-accept") != accept_key(key) or "sec-websocket-extensions" in head.headers:
        raise UpgradeError("the WebSocket upgrade was answered wrongly by something on the way")
    socket = WebSocket(stream, Side.CLIENT)
    await socket.hello()
    return socket


async def _refuse(stream: Stream, head: Head) -> None:
    if "ztunnel" in head.headers and head.status == 503:
        words = (await read_body(stream.reader, head, answer=True)).decode(errors="replace")
        raise WireError(words[:200].strip() or "the listener cannot take connections now")
    kind = " (HTML)" if "html" in head.headers.get("content-type", "") else ""
    raise UpgradeError(f"the WebSocket upgrade was answered {head.status_words}{kind}")


def is_upgrade(head: Head) -> bool:
    """Whether a request asks for a WebSocket as we speak it."""
    return (
        head.has("upgrade", "websocket")
        and head.has("connection", "upgrade")
        and head.headers.get("sec-websocket-version") == "13"
        and bool(head.headers.get("sec-websocket-key"))
    )


async def accept(stream: Stream, head: Head) -> WebSocket:
    """The listener's part; `head` is_upgrade. UpgradeError: the dialler does not say its word."""
    key = head.headers["sec-websocket-key"]
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(key)}
    stream.writer.write(answer(101, headers))
    socket = WebSocket(stream, Side.SERVER)
    await socket.hello()
    return socket
