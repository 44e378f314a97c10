"""Kind `length`: a header with a length in it, then so many bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from bridges.framings.base import Framing, Gathering, Message, option, wrong
from tunnel.limits import FRAME_HEADER_BYTES, FRAME_MOST_BYTES

VARINT_BYTES = 10
"""A base-128 varint of 64 bits (protobuf's, LEB128) at most."""
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""Of struct, by width."""


@dataclass(frozen=True, kw_only=True)
class Length(Framing):
    kind: ClassVar[str] = "length"
    width: int | str = option("choice", 4, "bytes of the length itself", choices=(1, 2, 4, 8, "varint"))
    order: str = option("choice", "big", "its byte order; a varint has none", choices=("big", "little"))
    offset: int = option(
        "integer",
        0,
        "bytes of the header before the length; written as zeros unless kept",
        most=FRAME_HEADER_BYTES - 10,
    )
    header: int = option("integer", 0, "bytes of the whole header; 0: it ends with the length", most=FRAME_HEADER_BYTES)
    inclusive: bool = option("flag", False, "the length counts the header, too")
    adjust: int = option(
        "integer",
        0,
        "added to the length on reading, taken off it on writing",
        least=-FRAME_MOST_BYTES,
        most=FRAME_MOST_BYTES,
    )
    keep: bool = option("flag", False, "the header is part of the message")

    def __post_init__(self) -> None:
        if self.width == "varint":
            if self.header:
                wrong("header", "a header with a varint has no fixed length; leave it out")
            if self.order != "big":
                wrong("order", "a varint has no byte order; leave it out")
        elif self.header and self.header < self.offset + int(self.width):
            wrong("header", f"the length alone reaches to byte {self.offset + int(self.width)}")
        if self.keep and self.max_frame < self.header_bytes:
            wrong("max_frame", "the header, which is kept, is longer")

    @property
    def header_bytes(self) -> int:
        """Of a varint: at least."""
        return self.header or self.offset + (1 if self.width == "varint" else int(self.width))

    def decoder(self) -> Gathering:
        return VarintDecoder(self) if self.width == "varint" else LengthDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        if self.keep:
            if self._frames_in(body) != [body]:
                self._refuse("the length in its header, which it brings along, is not its own")
            return body
        if self.width == "varint":
            return bytes(self.offset) + self._varint_for(len(body)) + body
        value = len(body) - self.adjust + (self.header_bytes if self.inclusive else 0)
        if not 0 <= value < 1 << 8 * int(self.width):
            self._refuse(f"a length of {self.width} bytes cannot say {value:,}")
        behind = self.header_bytes - self.offset - int(self.width)
        said = value.to_bytes(int(self.width), "big" if self.order == "big" else "little")
        return b"".join((bytes(self.offset), said, bytes(behind), body))

    def _frames_in(self, message: bytes) -> list[Message]:
        try:
            return self.decoder().feed(message)
        except ValueError:
            return []

    def _varint_for(self, size: int) -> bytes:
        value = size - self.adjust + (self.offset if self.inclusive else 0)
        # Where the length counts its own bytes, too: longer ones grow slower than they count, so one of these fits.
        widths = range(1, VARINT_BYTES + 1)
        said = (varint(value + own if self.inclusive else value) for own in widths)
        fitting = next((each for own, each in zip(widths, said, strict=True) if len(each) == own), b"")
        if not fitting:
            self._refuse(f"a length cannot say {value:,}")
        return fitting


def varint(value: int) -> bytes:
    """The shortest one; nothing for a number below 0."""
    if value < 0:
        return b""
    said = bytearray()
    while value > 0x7F:
        said.append(value & 0x7F | 0x80)
        value >>= 7
    said.append(value)
    return bytes(said)


class Announced(Gathering):
    """What both have in common."""

    _limit: int
    """Of header and body."""

    def _announced(self, whole: int, at: int, frames: list[Message]) -> NoReturn:
        if whole > self._limit:
            self._too_long(at, frames)
        self._breach(
            at,
            frames,
            "the length says less than nothing for what follows the header. Look at width, order, offset, inclusive "
            "and adjust.",
        )


class LengthDecoder(Announced):
    """A length of fixed width."""

    def __init__(self, framing: Length) -> None:
        super().__init__(framing)
        self._field_at = framing.offset
        code = _CODES[int(framing.width)]
        self._unpack = struct.Struct((">" if framing.order == "big" else "<") + code).unpack_from
        self._header = self._need = framing.header_bytes
        self._more = framing.adjust - (self._header if framing.inclusive else 0)
        """What follows the header is the length and this."""
        self._strip = 0 if framing.keep else self._header
        self._limit = self._max + self._strip

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        unpack, field_at, header, limit, strip = self._unpack, self._field_at, self._header, self._limit, self._strip
        more = header + self._more
        size, at, add = len(data), 0, frames.append
        while at + header <= size:
            whole = unpack(data, at + field_at)[0] + more
            if not header <= whole <= limit:
                self._announced(whole, at, frames)
            if at + whole > size:
                self._need = whole
                return at
            add(data[at + strip : at + whole])
            at += whole
        self._need = header
        return at


class VarintDecoder(Announced):
    """A varint, whose bytes show where it ends."""

    def __init__(self, framing: Length) -> None:
        super().__init__(framing)
        self._field_at = framing.offset
        self._need = framing.header_bytes
        self._adjust = framing.adjust
        self._inclusive = framing.inclusive
        self._keep = framing.keep

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        size, at = len(data), 0
        while True:
            field_at = at + self._field_at
            body_at, value = self._varint(data, field_at, at, frames)
            if not body_at:
                self._need = max(size - at, self._field_at) + 1
                return at
            header = body_at - at
            whole = value + self._adjust + (0 if self._inclusive else header)
            self._limit = self._max + (0 if self._keep else header)
            if not header <= whole <= self._limit:
                self._announced(whole, at, frames)
            if at + whole > size:
                self._need = whole
                return at
            frames.append(data[at if self._keep else body_at : at + whole])
            at += whole

    def _varint(self, data: bytes, start: int, at: int, frames: list[Message]) -> tuple[int, int]:
        """Where it ends and what it says; 0 and nothing when it has not come entirely."""
        value = 0
        for index, byte in enumerate(data[start : start + VARINT_BYTES]):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return start + index + 1, value
        if len(data) >= start + VARINT_BYTES:
            self._breach(at, frames, f"a varint is longer than {VARINT_BYTES} bytes. Look at width and offset.")
        return 0, 0
