"""What both forms of the HTTP carrier are to the rest: something that carries a connection of the device's.

When either end goes, both go; an orderly end of one direction leaves the other open.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from tunnel.carriers.http_message import Stream
from tunnel.errors import LinkError
from tunnel.limits import HTTP_CHUNK_BYTES


class WireError(LinkError):
    """The connection is lost; the message is a sentence without its full stop."""


class Wire(Protocol):
    """A WebSocket, or a long-poll session."""

    async def carry(self, device: Stream, count: Count) -> str:
        """Both directions to their end; the reason in words when it was no orderly one, else "". Closes both."""

    async def close(self) -> None:
        """At once, both ways."""


class Chunks(Protocol):
    """A Wire of chunks. Backpressure is waiting: `send` returns when there is room for more, `receive` is called when
    there is room for what it gives."""

    async def send(self, data: bytes) -> None:
        """At most HTTP_CHUNK_BYTES; b"" is the end of this direction. WireError: it is lost."""

    async def receive(self) -> bytes:
        """The next bytes; b"" is the end of that direction. WireError: it is lost."""

    async def close(self) -> None:
        """At once, both ways."""


@dataclass(slots=True)
class Count:
    """What has been carried, for `status`; `bytes_in` came from the device."""

    bytes_in: int = 0
    bytes_out: int = 0


async def carry_chunks(wire: Chunks, device: Stream, count: Count) -> str:
    """`Wire.carry` of a wire of chunks."""

    async def out() -> None:
        while True:
            try:
                data = await device.reader.read(HTTP_CHUNK_BYTES)
            except ConnectionError:
                raise _Gone from None
            count.bytes_in += len(data)
            await wire.send(data)
            if not data:
                return

    async def back() -> None:
        while data := await wire.receive():
            count.bytes_out += len(data)
            if device.writer.is_closing():  # uvloop raises RuntimeError on a write then
                raise _Gone
            try:
                device.writer.write(data)
                await device.writer.drain()
            except ConnectionError:
                raise _Gone from None
        with contextlib.suppress(OSError, RuntimeError):
            device.writer.write_eof()

    ways = [asyncio.create_task(out()), asyncio.create_task(back())]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        errors = [error for way in done if (error := way.exception()) is not None]
        for error in errors:
            if not isinstance(error, LinkError | OSError | _Gone):
                raise error
        return next((str(error) for error in errors if not isinstance(error, _Gone)), "")
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        device.close()
        await wire.close()


class _Gone(Exception):
    """The device closed its end: no reason to tell."""


async def open_device(path: str) -> Stream:
    """A connection to the device's socket. OSError: it is not there."""
    return Stream(*await asyncio.open_unix_connection(path, limit=HTTP_CHUNK_BYTES))
