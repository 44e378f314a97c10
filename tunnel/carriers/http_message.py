"""HTTP/1.1 messages on asyncio streams, as little of it as a link needs: a head, a body, both bounded.

It serves both roles and the proxy's answer to CONNECT. What is not understood is refused, never guessed: a body is as
long as Content-Length says, chunked, or (answers only) ends with the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from tunnel.errors import LinkError
from tunnel.limits import BYE_S, HTTP_CHUNK_BYTES, HTTP_HEAD_BYTES

PHRASES: Final = {
    101: "Switching Protocols",
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    404: "Not Found",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    426: "Upgrade Required",
    503: "Service Unavailable",
}


class MessageError(LinkError):
    """What came is no HTTP message, or one that is too long."""


@dataclass(slots=True)
class Stream:
    """A connection: both halves of asyncio's streams."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Close at once; nothing is waited for."""
        with contextlib.suppress(Exception):
            self.writer.transport.abort()

    def close(self) -> None:
        """Close; what was written gets BYE_S to leave."""
        with contextlib.suppress(Exception):
            self.writer.close()
            if self.writer.transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(BYE_S, self.abort)
            else:
                self.abort()


@dataclass(frozen=True, slots=True)
class Head:
    """First line and headers (names in lower case; repeated ones joined by a comma)."""

    line: str
    headers: dict[str, str]

    @property
    def status(self) -> int:
        """Of an answer; MessageError where it is none."""
        words = self.line.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
            raise MessageError("the answer is not HTTP/1.1")
        return int(words[1])

    @property
    def status_words(self) -> str:
        """`407 Proxy Authentication Required`, at most 80 printable characters."""
        return "".join(c for c in self.line.partition(" ")[2][:80] if c.isprintable())

    def has(self, header: str, word: str) -> bool:
        """Whether a comma-separated header names `word`."""
        return word in (part.strip().lower() for part in self.headers.get(header, "").split(","))


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head; None when the connection ended before it began."""
    first = await reader.read(1)
    if not first:
        return None
    if not first.isalpha():  # TLS, mostly; it would never come to an empty line
        raise MessageError("what came is not HTTP")
    try:
        raw = first + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        raise MessageError("the connection ended within the head of a message") from None
    except asyncio.LimitOverrunError:
        raise MessageError("a head is longer than allowed") from None
    return parse_head(raw)


def parse_head(raw: bytes) -> Head:
    """`raw` with its empty line → Head. MessageError: malformed or too long."""
    if len(raw) > HTTP_HEAD_BYTES:
        raise MessageError(f"a head is longer than {HTTP_HEAD_BYTES} bytes")
    line, *fields = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon or not name or name != name.strip():
            raise MessageError("a header is malformed")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(line, headers)


async def read_body(reader: asyncio.StreamReader, head: Head, answer: bool = False) -> bytes:
    """The body that follows `head`, at most HTTP_CHUNK_BYTES."""
    coding, length = head.headers.get("transfer-encoding"), head.headers.get("content-length")
    try:
        if coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise MessageError("the body is encoded in a way that is not understood")
            return await _read_chunked(reader)
        if length is not None:
            if not (length.isascii() and length.isdigit()):
                raise MessageError("the length of the body is no number")
            return await reader.readexactly(_bounded(int(length)))
        if not answer or head.status in (204, 304) or head.status < 200:
            return b""
        return await _read_to_end(reader)
    except asyncio.IncompleteReadError:
        raise MessageError("the connection ended within a body") from None


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while data := await reader.read(HTTP_CHUNK_BYTES):
        body += data
        _bounded(len(body))
    return bytes(body)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        try:
            line = await reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0].strip()[:16], 16)
        except (ValueError, asyncio.LimitOverrunError):
            raise MessageError("the body's chunks are malformed") from None
        if size < 0:
            raise MessageError("the body's chunks are malformed")
        _bounded(len(body) + size)
        if size == 0:
            break
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise MessageError("the body's chunks are malformed")
    for _ in range(32):  # trailers
        if await reader.readuntil(b"\r\n") == b"\r\n":
            return bytes(body)
    raise MessageError("the body's trailers do not end")


def _bounded(length: int) -> int:
    if length > HTTP_CHUNK_BYTES:
        raise MessageError(f"a body is longer than {HTTP_CHUNK_BYTES} bytes")
    return length


def request(method: str, target: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
    """A whole request; `body` None: it has none and says so by saying nothing."""
    if body is not None:
        headers = {**headers, "Content-Length": str(len(body))}
    return _message(f"{method} {target} HTTP/1.1", headers, body)


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A whole answer that no cache may keep."""
    length = {} if status in (101, 204) else {"Content-Length": str(len(body))}
    kept = {} if status == 101 else {"Cache-Control": "no-store"}
    return _message(f"HTTP/1.1 {status} {PHRASES[status]}", {**(headers or {}), **kept, **length}, body)


def _message(line: str, headers: dict[str, str], body: bytes | None) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
