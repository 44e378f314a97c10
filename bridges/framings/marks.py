"""Kinds `stx-etx` and `mllp`: marks before and behind each frame.

stx-etx: the marks as the table says, and where they may occur in messages a DLE that tells them apart:

    stuffing   on the line                          within the message
    none       STX message ETX [check]              neither mark
    escape     STX message ETX                      a DLE goes before each STX, ETX and DLE
    double     DLE STX message DLE ETX              each DLE comes twice (BSC's transparent mode)

check: lrc is one byte more, the exclusive or of message and ETX (ISO 1745, IEC 62056-21).
mllp: 0x0B message 0x1C 0x0D (HL7's Minimal Lower Layer Protocol).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from bridges.framings.base import Decoder, Framing, Gathering, Message, option, partial, wrong


@dataclass(frozen=True, kw_only=True)
class Marked(Framing):
    """A mark before and one behind, and neither in the message."""

    skip: bool = option("flag", False, "bytes between frames are skipped instead of refused")

    @property
    @abstractmethod
    def before(self) -> bytes:
        """The mark before a frame."""

    @property
    @abstractmethod
    def behind(self) -> bytes:
        """The mark behind it."""

    @property
    def checked(self) -> bool:
        return False

    def decoder(self) -> Decoder:
        return MarkedDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        before, behind = self.before, self.behind
        closed = body + behind
        if before in body or closed.find(behind) != len(body):
            self._refuse("it contains a mark that begins or ends frames")
        return b"".join((before, closed, lrc(closed) if self.checked else b""))


@dataclass(frozen=True, kw_only=True)
class Mllp(Marked):
    kind: ClassVar[str] = "mllp"

    @property
    def before(self) -> bytes:
        return b"\x0b"

    @property
    def behind(self) -> bytes:
        return b"\x1c\x0d"


@dataclass(frozen=True, kw_only=True)
class StxEtx(Marked):
    kind: ClassVar[str] = "stx-etx"
    start: bytes = option("bytes", b"\x02", "begins a frame")
    end: bytes = option("bytes", b"\x03", "ends a frame")
    stuffing: str = option(
        "choice", "none", "how marks within messages are told apart", choices=("none", "escape", "double")
    )
    dle: bytes = option("bytes", b"\x10", "the byte that stuffing uses", most=1)
    check: str = option("choice", "none", "a check byte behind each frame", choices=("none", "lrc"))

    def __post_init__(self) -> None:
        if self.stuffing == "none":
            return
        if len(self.start) > 1 or len(self.end) > 1:
            wrong("stuffing", "with it, start and end are one byte each")
        if self.dle in (self.start, self.end):
            wrong("dle", "it must differ from start and end")
        if self.check != "none":
            wrong("check", "there is none together with stuffing")

    @property
    def before(self) -> bytes:
        return self.dle + self.start if self.stuffing == "double" else self.start

    @property
    def behind(self) -> bytes:
        return self.dle + self.end if self.stuffing == "double" else self.end

    @property
    def checked(self) -> bool:
        return self.check == "lrc"

    @property
    def stuffed(self) -> bytes:
        """Bytes that a DLE goes before. The DLE is the last: so the others are put right while its pairs are whole."""
        return self.dle if self.stuffing == "double" else bytes(sorted({*self.start, *self.end})) + self.dle

    def decoder(self) -> Decoder:
        return MarkedDecoder(self) if self.stuffing == "none" else StuffedDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        if self.stuffing == "none":
            return super()._wrap(body)
        for byte in reversed(self.stuffed):
            body = body.replace(bytes([byte]), self.dle + bytes([byte]))
        return self.before + body + self.behind


def lrc(data: bytes) -> bytes:
    """The exclusive or of all bytes: halves folded onto each other, so that no byte is looked at by itself."""
    value, bits = int.from_bytes(data, "big"), 8 * len(data)
    while bits > 8:
        bits = (bits // 8 + 1) // 2 * 8
        value = value >> bits ^ value & ((1 << bits) - 1)
    return bytes([value])


def begin_of(data: bytes, at: int, mark: bytes, skip: bool) -> int:
    """Where from `at` on the mark comes, or may be on its way (at most at the end); -1: something else is there."""
    found = data.find(mark, at) if skip else at
    if found >= 0 and data.startswith(mark, found):
        return found
    end = len(data) - partial(data[max(at, len(data) - len(mark)) :], mark)
    return end if skip or end == at else -1


class MarkedDecoder(Gathering):
    """No stuffing: what lies between the marks is the message."""

    def __init__(self, framing: Marked) -> None:
        super().__init__(framing)
        self._before, self._behind, self._skip = framing.before, framing.behind, framing.skip
        self._checks = 1 if framing.checked else 0

    def _ripe(self, data: bytes) -> bool:
        buffer, behind = self._buffer, self._behind
        around = len(behind) - 1 + self._checks
        if len(buffer) < len(self._before) + around or behind in data:
            return True
        return bool(around) and behind in buffer[-around:] + data[: len(behind) - 1 + self._checks]

    def _waits(self) -> None:
        if self._hopeless(self._buffer):
            self._too_long(0, [])

    def _hopeless(self, begun: bytes | bytearray) -> bool:
        over = len(begun) - len(self._before) - self._max
        return over > 0 and over > partial(begun, self._behind)

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        at, behind = 0, self._behind
        while True:
            begin = begin_of(data, at, self._before, self._skip)
            if begin < 0:
                self._breach(at, frames, f"a frame begins with {self._before!r}, and something else is here.")
            if not data.startswith(self._before, begin):
                return begin
            at, body = begin, begin + len(self._before)
            stop = data.find(behind, body)
            if stop < 0:
                if self._hopeless(data[at:]):
                    self._too_long(at, frames)
                return at
            if stop - body > self._max:
                self._too_long(at, frames)
            end = stop + len(behind) + self._checks
            if end > len(data):
                return at
            frames.append(self._message(data, at, body, stop, frames))
            at = end

    def _message(self, data: bytes, at: int, body: int, stop: int, frames: list[Message]) -> bytes:
        message = data[body:stop]
        if self._before in message:
            self._breach(at, frames, f"a frame begins, and another ({self._before!r}) before its end.")
        if self._checks:
            check = stop + len(self._behind)
            if data[check : check + 1] != lrc(data[body:check]):
                self._breach(at, frames, "a frame begins whose check byte does not fit: bytes were lost or changed.")
        return message


class StuffedDecoder(Decoder):
    """What waits is unstuffed already, so that it is no longer than the message."""

    def __init__(self, framing: StxEtx) -> None:
        super().__init__(framing)
        self._before, self._behind, self._skip = framing.before, framing.behind, framing.skip
        self._dle, self._stuffed = framing.dle, framing.stuffed
        dle, stuffed = re.escape(self._dle), re.escape(self._stuffed)
        # Possessive: without a memory of where it could turn back, which would cost more than the bytes.
        self._run = re.compile(rb"[^%b]*+(?:%b[%b][^%b]*+)*+" % (stuffed, dle, stuffed, stuffed))
        """Bytes of a message with all their DLEs."""
        self._body = bytearray()
        self._inside = False
        self._carry = b""
        """The beginning of a mark or of a pair."""
        self._raw = 0
        """Bytes of the frame that has begun, as they came, without the carry."""

    @property
    def pending(self) -> int:
        return len(self._body) + len(self._carry) + (len(self._before) if self._inside else 0)

    def _drop(self) -> None:
        self._body.clear()
        self._inside, self._carry = False, b""

    def _read(self, data: bytes, frames: list[Message]) -> None:
        data, self._carry = self._carry + data, b""
        at = 0
        while at < len(data):
            begun = at
            at = self._inner(data, at, frames) if self._inside else self._outer(data, at, frames)
            self._raw += at - begun
            if not self._inside:
                self._offset += self._raw
                self._raw = 0
            if self._carry:
                return

    def _outer(self, data: bytes, at: int, frames: list[Message]) -> int:
        begin = begin_of(data, at, self._before, self._skip)
        if begin < 0:
            self._breach(0, frames, f"a frame begins with {self._before!r}, and something else is here.")
        self._offset += begin - at
        self._raw -= begin - at
        if data.startswith(self._before, begin):
            self._inside = True
            return begin + len(self._before)
        self._carry = data[begin:]
        return begin

    def _inner(self, data: bytes, at: int, frames: list[Message]) -> int:
        found = self._run.match(data, at)
        stop = found.end() if found else at
        self._body += self._unstuffed(data[at:stop])
        if len(self._body) > self._max:
            self._too_long(0, frames)
        if data.startswith(self._behind, stop):
            frames.append(bytes(self._body))
            self._body.clear()
            self._inside = False
            return stop + len(self._behind)
        self._carry = data[stop:]
        if self._carry not in (b"", self._dle):
            self._breach(0, frames, f"a frame begins in which {self._carry[:2]!r} is neither stuffed nor its end.")
        return stop

    def _unstuffed(self, run: bytes) -> bytes:
        if self._dle in run:
            for byte in self._stuffed:
                run = run.replace(self._dle + bytes([byte]), bytes([byte]))
        return run
