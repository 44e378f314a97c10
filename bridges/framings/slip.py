"""Kind `slip`: RFC 1055. END ends a frame; END and ESC within it are written as two bytes.

Nothing between two ENDs is no frame, as the RFC advises, so an empty message cannot be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bridges.framings.base import Decoder, Framing, Message, option

END, ESC, ESC_END, ESC_ESC = b"\xc0", b"\xdb", b"\xdb\xdc", b"\xdb\xdd"


@dataclass(frozen=True, kw_only=True)
class Slip(Framing):
    kind: ClassVar[str] = "slip"
    lead: bool = option(
        "flag", True, "an END goes before each frame, too, so that noise before it is a frame of its own"
    )

    def decoder(self) -> SlipDecoder:
        return SlipDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        if not body:
            self._refuse("it is empty")
        return (END if self.lead else b"") + body.replace(ESC, ESC_ESC).replace(END, ESC_END) + END


class SlipDecoder(Decoder):
    """What waits is unescaped already, so that it is no longer than the message."""

    def __init__(self, framing: Slip) -> None:
        super().__init__(framing)
        self._body = bytearray()
        self._escape = b""
        """An ESC whose second byte has not come."""
        self._raw = 0
        """Bytes of the frame that has begun, as they came."""

    @property
    def pending(self) -> int:
        return len(self._body) + len(self._escape)

    def _drop(self) -> None:
        self._body.clear()
        self._escape = b""

    def _read(self, data: bytes, frames: list[Message]) -> None:
        *ended, rest = data.split(END)
        for piece in ended:
            raw = self._raw + len(piece)
            if self._raw:
                piece, self._escape = self._escape + piece, b""
                self._gather(piece, frames)
                frames.append(bytes(self._body))
                self._body.clear()
                self._raw = 0
            elif piece:
                frames.append(self._unescaped(piece, frames))
            self._offset += raw + 1
        self._raw += len(rest)
        rest = self._escape + rest
        self._escape = ESC if rest.endswith(ESC) else b""
        self._gather(rest.removesuffix(ESC), frames)

    def _gather(self, piece: bytes, frames: list[Message]) -> None:
        self._body += self._unescaped(piece, frames)
        if self.pending > self._max:  # an ESC is at least one byte more
            self._too_long(0, frames)

    def _unescaped(self, piece: bytes, frames: list[Message]) -> bytes:
        escapes = piece.count(ESC)
        if escapes:
            if piece.count(ESC_END) + piece.count(ESC_ESC) != escapes:
                self._breach(0, frames, "a frame begins with an ESC (0xDB) in it that neither 0xDC nor 0xDD follows.")
            piece = piece.replace(ESC_END, END).replace(ESC_ESC, ESC)
        if len(piece) > self._max:
            self._too_long(0, frames)
        return piece
