"""WebSocket frames (RFC 6455), pure: bytes in, pieces out. No I/O, no clock, no random.

What carries data is handed on as it comes, in whatever pieces, and is never gathered; so a message may be of any length
and costs nothing. Words (text and control frames) are gathered, and short. No extensions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # it was installed without a compiler
    from websockets.utils import apply_mask

WORD_BYTES: Final = 125
"""A word at most: what RFC 6455 allows a control frame."""
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_CONTROL: Final = 0x08
_U16, _U64 = 126, 127


class Opcode(IntEnum):
    """What a frame is."""

    CONT = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class FrameError(ValueError):
    """They broke the protocol; the message is the end of a sentence."""


def head_of(opcode: Opcode, size: int, mask: bytes = b"") -> bytes:
    """What goes before `size` bytes of a frame that is a whole message. `mask`: 4 bytes, or none (a server's)."""
    masked = _MASKED if mask else 0
    if size < _U16:
        return struct.pack("!BB", _FIN | opcode, masked | size) + mask
    if size < 1 << 16:
        return struct.pack("!BBH", _FIN | opcode, masked | _U16, size) + mask
    return struct.pack("!BBQ", _FIN | opcode, masked | _U64, size) + mask


def frame_of(opcode: Opcode, payload: bytes, mask: bytes = b"") -> bytes:
    """A whole frame."""
    return head_of(opcode, len(payload), mask) + masked(payload, mask)


def masked(payload: bytes | memoryview, mask: bytes) -> bytes | memoryview:
    """The payload as it goes on the line, and back: a copy, or without a mask itself."""
    return apply_mask(payload, mask) if mask else payload


class Frames:
    """What one end says, cut into frames."""

    def __init__(self, *, masked: bool) -> None:
        """`masked`: it is a client, whose frames must be masked; a server's must not be."""
        self._masked = masked
        self._head = bytearray()
        self._need = 2
        """Bytes of the head that is being read."""
        self._left = -1
        """Bytes of the payload that are still to come; -1: a head comes first."""
        self._opcode = Opcode.CONT
        self._final = True
        self._mask = b""
        self._message: Opcode | None = None
        """Of a message whose last frame has not come: what it is."""
        self._word = bytearray()
        self._text = bytearray()

    def __repr__(self) -> str:
        return f"<Frames {self._opcode.name} left={self._left} head={len(self._head)}>"

    @property
    def due(self) -> int:
        """Bytes until the next step, so that who reads no more than these reads nothing of the next frame."""
        return self._need - len(self._head) if self._left < 0 else self._left

    def feed(self, data: memoryview) -> Iterator[tuple[Opcode, bytes | memoryview]]:
        """(BINARY, a stretch of data, perhaps a part of `data` itself) or (TEXT, PING, PONG, CLOSE, all of it).

        Raises FrameError; what came before it is good, and nothing is after it.
        """
        at, size = 0, len(data)
        while at < size or self._left == 0:
            if self._left < 0:
                at += self._read_head(data[at : at + self._need - len(self._head)])
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            if self._opcode is Opcode.BINARY:
                if len(piece):
                    yield Opcode.BINARY, self._unmasked(piece)
            else:
                self._word += self._unmasked(piece)
            if not self._left:
                self._left = -1
                yield from self._end()

    def _read_head(self, data: memoryview) -> int:
        """Takes these bytes of a head, all of them."""
        self._head += data
        if len(self._head) < self._need:
            return len(data)
        head = self._head
        size = head[1] & _LENGTH
        if self._need == 2:
            self._check(head[0], head[1])
            self._need += {_U16: 2, _U64: 8}.get(size, 0) + (4 if self._masked else 0)
            if self._need > 2:
                return len(data)
        if size == _U16:
            size = int.from_bytes(head[2:4], "big")
        elif size == _U64:
            size = int.from_bytes(head[2:10], "big")
            if size >> 63:
                raise FrameError("a frame is longer than there are numbers")
        self._mask = bytes(head[-4:]) if self._masked else b""
        self._begin(head[0], size)
        self._head.clear()
        self._need = 2
        return len(data)

    def _check(self, first: int, second: int) -> None:
        if first & _RESERVED:
            raise FrameError("a frame has bits that only extensions use")
        if first & _OPCODE not in Opcode.__members__.values():
            raise FrameError(f"there are no frames of kind {first & _OPCODE}")
        if bool(second & _MASKED) is not self._masked:
            raise FrameError("a client's frame is not masked" if self._masked else "a server's frame is masked")
        if first & _CONTROL and (not first & _FIN or second & _LENGTH > WORD_BYTES):
            raise FrameError("a control frame is in parts, or too long")

    def _begin(self, first: int, size: int) -> None:
        """A head is read: this frame follows."""
        opcode, self._final = Opcode(first & _OPCODE), bool(first & _FIN)
        if not opcode & _CONTROL:
            if (opcode is Opcode.CONT) is (self._message is None):
                raise FrameError("the parts of a message are mixed up")
            opcode = self._message if self._message is not None else opcode
            self._message = None if self._final else opcode
            if opcode is Opcode.TEXT and len(self._text) + size > WORD_BYTES:
                raise FrameError("a text is too long")
        self._opcode, self._left = opcode, size
        self._word.clear()

    def _end(self) -> Iterator[tuple[Opcode, bytes]]:
        """A frame is complete."""
        if self._opcode is Opcode.TEXT:
            self._text += self._word
            if self._final:
                text = bytes(self._text)
                self._text.clear()  # first: who has heard enough asks no more
                yield Opcode.TEXT, text
        elif self._opcode is not Opcode.BINARY:
            yield self._opcode, bytes(self._word)

    def _unmasked(self, piece: memoryview) -> bytes | memoryview:
        mask, turn = self._mask, len(piece) % 4
        self._mask = mask[turn:] + mask[:turn]
        return masked(piece, mask)
