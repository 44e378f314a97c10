"""Kind `fixed`: every frame has the same size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bridges.framings.base import REQUIRED, Framing, Gathering, Message, option, wrong
from tunnel.limits import FRAME_MOST_BYTES


@dataclass(frozen=True, kw_only=True)
class Fixed(Framing):
    kind: ClassVar[str] = "fixed"
    size: int = option("integer", REQUIRED, "bytes of every frame", least=1, most=FRAME_MOST_BYTES)
    pad: bytes | None = option("bytes", None, "the byte that shorter messages are filled up with on writing", most=1)
    strip: bool = option("flag", False, "on reading, that byte is taken off the end")

    def __post_init__(self) -> None:
        if self.size > self.max_frame:
            wrong("size", f"it is more than max_frame, {self.max_frame:,} bytes")
        if self.strip and self.pad is None:
            wrong("strip", "it needs pad, the byte to take off")

    def decoder(self) -> FixedDecoder:
        return FixedDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        if len(body) > self.size or (len(body) < self.size and self.pad is None):
            short = " (pad fills shorter ones up)" if len(body) < self.size else ""
            self._refuse(f"it has {len(body):,} bytes, and every frame has {self.size:,}{short}")
        if self.pad is None:
            return body
        if self.strip and body.endswith(self.pad):
            self._refuse("it ends with the byte that is taken off on reading (strip)")
        return body.ljust(self.size, self.pad)


class FixedDecoder(Gathering):
    def __init__(self, framing: Fixed) -> None:
        super().__init__(framing)
        self._size = self._need = framing.size
        self._pad = framing.pad if framing.strip else None

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        size, pad = self._size, self._pad
        stop = len(data) - len(data) % size
        cut = [data[at : at + size] for at in range(0, stop, size)]
        frames += cut if pad is None else [frame.rstrip(pad) for frame in cut]
        return stop
