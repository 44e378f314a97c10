"""Kind `multipart`: whole 0MQ messages of any number of frames, in the layout that ztunnel uses itself (its batches).

Each frame: u32 little-endian, whose top bit says that more frames of the message follow and whose other bits are the
length; then the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Final

from bridges.framings.base import Framing, Gathering, Message
from tunnel.limits import MESSAGE_FRAMES

MORE: Final = 0x8000_0000
_HEADER: Final = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Multipart(Framing):
    """max_frame bounds the whole message, in which each frame after the first counts for 4 bytes more."""

    kind: ClassVar[str] = "multipart"

    def decoder(self) -> MultipartDecoder:
        return MultipartDecoder(self)

    def encode(self, message: Message) -> bytes:
        frames = [message] if isinstance(message, bytes) else message
        if not 1 <= len(frames) <= MESSAGE_FRAMES:
            self._refuse(f"it has {len(frames):,} frames; there may be 1 to {MESSAGE_FRAMES:,}")
        size = sum(map(len, frames)) + _HEADER.size * (len(frames) - 1)
        if size > self.max_frame:
            self._refuse(f"it has {size:,} bytes, and max_frame is {self.max_frame:,}")
        pack = _HEADER.pack
        parts = [part for frame in frames[:-1] for part in (pack(MORE | len(frame)), frame)]
        return b"".join((*parts, pack(len(frames[-1])), frames[-1]))

    def _wrap(self, body: bytes) -> bytes:
        return self.encode(body)


class MultipartDecoder(Gathering):
    def __init__(self, framing: Multipart) -> None:
        super().__init__(framing)
        self._frames: list[bytes] = []
        """Of a message whose last frame has not come."""
        self._held = 0
        """Their bytes, with headers."""

    @property
    def pending(self) -> int:
        return self._held + len(self._buffer)

    def _drop(self) -> None:
        super()._drop()
        self._frames.clear()
        self._held = 0

    def _read(self, data: bytes, frames: list[Message]) -> None:
        before = self._held
        super()._read(data, frames)
        # The message that has begun begins where its first frame began.
        self._offset += before - self._held

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        unpack, header, most = _HEADER.unpack_from, _HEADER.size, self._max + _HEADER.size
        size, at, held, parts = len(data), 0, self._held, self._frames
        while at + header <= size:
            word = unpack(data, at)[0]
            end = at + header + (word & ~MORE)
            held += end - at
            if held + (header if word >= MORE else 0) > most:  # another header at least will follow
                self._too_long(self._held + end - held, frames)
            if end > size:
                self._need = end - at
                self._held = held - (end - at)
                return at
            part = data[at + header : end]
            at = end
            if word >= MORE:
                parts.append(part)
                if len(parts) >= MESSAGE_FRAMES:
                    self._breach(
                        self._held + at - held,
                        frames,
                        f"a message begins that has more than {MESSAGE_FRAMES:,} frames.",
                    )
            else:
                frames.append([*parts, part])
                parts.clear()
                held = 0
        self._need = header
        self._held = held
        return at
