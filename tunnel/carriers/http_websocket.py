"""The link's bytes in WebSocket frames (RFC 6455): binary messages both ways, no extensions, a ping every 20 s.

Here the upgrade and the first words; then http_splice.py carries. Before the first byte each end says `ztunnel` in a
text message, which shows that frames come through both ways; `end` in one is the orderly end of a direction.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from typing import Final

from websockets.utils import accept_key

from tunnel.carriers.http_frames import WORD_BYTES, FrameError, Frames, Opcode, frame_of
from tunnel.carriers.http_message import Head, MessageError, Stream, answer, read_body, read_head, request
from tunnel.carriers.http_reach import Target
from tunnel.carriers.http_splice import Splice
from tunnel.carriers.http_wire import Count, WireError
from tunnel.errors import LinkError
from tunnel.limits import HTTP_HELLO_S

_HELLO: Final = b"ztunnel"
_NORMAL: Final = (1000).to_bytes(2, "big")


class UpgradeError(LinkError):
    """WebSocket does not come through; the sentence says what was answered instead."""

    hung_up = False
    """Nothing was answered at all."""


class GatewayError(UpgradeError):
    """What stands before the listener did not reach it; it may a moment later."""


class WebSocket:
    """A Wire, from after the upgrade on."""

    def __init__(self, stream: Stream, *, client: bool) -> None:
        self._stream = stream
        self._client = client
        self._frames = Frames(masked=not client)

    async def hello(self) -> None:
        """Say the word and hear it, within HTTP_HELLO_S. UpgradeError: it does not come."""
        try:
            async with asyncio.timeout(HTTP_HELLO_S):
                self._say(Opcode.TEXT, _HELLO)
                said = await self._hear()
        except TimeoutError:
            raise UpgradeError("the WebSocket was let in, but nothing comes through it") from None
        except (EOFError, OSError, RuntimeError):
            raise UpgradeError("the WebSocket was let in, but was cut before anything came") from None
        except FrameError as error:
            raise UpgradeError(f"the WebSocket was let in by something that breaks its protocol: {error}") from None
        if said != (Opcode.TEXT, _HELLO):
            raise UpgradeError("the WebSocket was let in by something that is no ztunnel listener")

    async def carry(self, device: Stream, count: Count) -> str:
        try:
            return await Splice(self._stream, self._frames, device, count, client=self._client).run()
        finally:
            device.close()
            await self.close()

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            self._say(Opcode.CLOSE, _NORMAL)
        self._stream.close()

    def _say(self, opcode: Opcode, word: bytes) -> None:
        self._stream.writer.write(frame_of(opcode, word, os.urandom(4) if self._client else b""))

    async def _hear(self) -> tuple[Opcode, bytes | memoryview]:
        """The next word that is not about the connection itself; nothing behind it is read."""
        while True:
            data = await self._stream.reader.readexactly(min(self._frames.due, WORD_BYTES))
            for opcode, word in self._frames.feed(memoryview(data)):
                if opcode is Opcode.PING:
                    self._say(Opcode.PONG, bytes(word))
                elif opcode is not Opcode.PONG:
                    return opcode, word


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
    socket = WebSocket(stream, client=True)
    await socket.hello()
    return socket


async def _refuse(stream: Stream, head: Head) -> None:
    if "ztunnel" in head.headers and head.status == 503:
        words = (await read_body(stream.reader, head, answer=True)).decode(errors="replace")
        raise WireError(words[:200].strip() or "the listener cannot take connections now")
    kind = " (HTML)" if "html" in head.headers.get("content-type", "") else ""
    error = GatewayError if head.status in (502, 503, 504) else UpgradeError
    raise error(f"the WebSocket upgrade was answered {head.status_words}{kind}")


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
    socket = WebSocket(stream, client=False)
    await socket.hello()
    return socket
