"""Kinds `idle` and `raw`: nothing in the stream ends a frame.

idle: a pause ends it. The owner has the clock and calls `pause` once nothing came for `idle_s`.
raw: what came at once is a message; it says nothing about where the sender's messages ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bridges.framings.base import Decoder, Framing, Gathering, Message, option
from tunnel.limits import FRAME_PAUSE_MAX_S, FRAME_PAUSE_MIN_S


@dataclass(frozen=True, kw_only=True)
class Chunks(Framing):
    def _wrap(self, body: bytes) -> bytes:
        if not body:
            self._refuse("it is empty, and nothing would go on the line")
        return body


@dataclass(frozen=True, kw_only=True)
class Idle(Chunks):
    kind: ClassVar[str] = "idle"
    pause: float = option(
        "seconds", 0.1, "a silence of this length ends a frame", least=FRAME_PAUSE_MIN_S, most=FRAME_PAUSE_MAX_S
    )

    @property
    def idle_s(self) -> float:
        return float(self.pause)

    def decoder(self) -> IdleDecoder:
        return IdleDecoder(self)


@dataclass(frozen=True, kw_only=True)
class Raw(Chunks):
    kind: ClassVar[str] = "raw"

    def decoder(self) -> RawDecoder:
        return RawDecoder(self)


class IdleDecoder(Gathering):
    def pause(self) -> list[Message]:
        if not self._buffer:
            return []
        frame = bytes(self._buffer)
        self._offset += len(frame)
        self._buffer.clear()
        return [frame]

    def end(self) -> list[Message]:
        return self.pause()

    def _ripe(self, data: bytes) -> bool:
        return False

    def _waits(self) -> None:
        if len(self._buffer) > self._max:
            self._too_long(0, [])

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        if len(data) > self._max:
            self._too_long(0, [])
        return 0


class RawDecoder(Decoder):
    @property
    def pending(self) -> int:
        return 0

    def _read(self, data: bytes, frames: list[Message]) -> None:
        # There are no borders to respect, so a read that is longer than a message may be is several.
        frames += [data[at : at + self._max] for at in range(0, len(data), self._max)]
        self._offset += len(data)

    def _drop(self) -> None:
        """Nothing is kept."""
