"""Kind `line`: a delimiter ends each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bridges.framings.base import Framing, Gathering, Message, option, partial, wrong

_CR = b"\r"


@dataclass(frozen=True, kw_only=True)
class Line(Framing):
    kind: ClassVar[str] = "line"
    delimiter: bytes = option("bytes", b"\n", "the bytes that end a frame")
    strip_cr: bool = option("flag", False, "on reading, one CR before the delimiter goes, too")
    keep: bool = option("flag", False, "the delimiter is part of the message")
    open_end: bool = option(
        "flag", False, "what comes after the last delimiter is a message, too, when the stream ends"
    )

    def __post_init__(self) -> None:
        if self.strip_cr and _CR in self.delimiter:
            wrong("strip_cr", "the delimiter contains a CR itself")
        if self.strip_cr and self.keep:
            wrong("keep", "it cannot be kept as it was together with strip_cr")
        if self.keep and self.max_frame < len(self.delimiter):
            wrong("max_frame", "the delimiter, which is kept, is longer")

    def decoder(self) -> LineDecoder:
        return LineDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        delimiter = self.delimiter
        line = body if self.keep else body + delimiter
        # Found too early: within the message, or begun in it ("a" before the delimiter "aa").
        if line.find(delimiter) != len(line) - len(delimiter) or not line.endswith(delimiter):
            self._refuse(
                "it must end with the delimiter and not contain it before, for it is kept"
                if self.keep
                else "it contains the delimiter, and would be read as several"
            )
        if self.strip_cr and body.endswith(_CR):
            self._refuse("it ends with a CR, which would be taken off on reading (strip_cr)")
        return line


class LineDecoder(Gathering):
    def __init__(self, framing: Line) -> None:
        super().__init__(framing)
        self._delimiter = framing.delimiter
        self._strip_cr = framing.strip_cr
        self._keep = framing.keep
        self._open_end = framing.open_end
        self._limit = self._max - (len(self._delimiter) if self._keep else 0)
        """Bytes before the delimiter."""

    def end(self) -> list[Message]:
        if self._open_end and self._buffer:
            line = self._stripped(bytes(self._buffer))
            if len(line) > self._limit:
                self._too_long(0, [])
            self._offset += len(self._buffer)
            self._buffer.clear()
            return [line]
        return super().end()

    def _ripe(self, data: bytes) -> bool:
        delimiter = self._delimiter
        if delimiter in data:
            return True
        around = len(delimiter) - 1
        return bool(around) and delimiter in self._buffer[-around:] + data[:around]

    def _waits(self) -> None:
        if self._hopeless(self._buffer):
            self._too_long(0, [])

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        size = len(self._delimiter)
        lines = data.split(self._delimiter)
        rest = lines.pop()
        raw = lines
        if self._strip_cr:
            lines = [line.removesuffix(_CR) for line in raw]
        if len(data) > self._limit and lines and max(map(len, lines)) > self._limit:
            bad = next(index for index, line in enumerate(lines) if len(line) > self._limit)
            frames += self._kept(lines[:bad])
            self._too_long(sum(map(len, raw[:bad])) + size * bad, frames)
        frames += self._kept(lines)
        if self._hopeless(rest):
            self._too_long(len(data) - len(rest), frames)
        return len(data) - len(rest)

    def _kept(self, lines: list[bytes]) -> list[bytes]:
        return [line + self._delimiter for line in lines] if self._keep else lines

    def _stripped(self, line: bytes) -> bytes:
        return line.removesuffix(_CR) if self._strip_cr else line

    def _hopeless(self, begun: bytes | bytearray) -> bool:
        """Is a line too long whatever comes? Its end may be the beginning of the delimiter, or a CR before it."""
        over = len(begun) - self._limit
        if over <= 0:
            return False
        over -= partial(begun, self._delimiter)
        if self._strip_cr and begun.endswith(_CR, 0, self._limit + over):
            over -= 1
        return over > 0
