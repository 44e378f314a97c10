"""Kinds `netstring` and `octet-count`: the length in decimal digits, a byte that ends them, then the message.

`12:hello world!,` (D. J. Bernstein, https://cr.yp.to/proto/netstrings.txt) and `12 hello world!` (RFC 6587, 3.4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bridges.framings.base import Framing, Gathering, Message


@dataclass(frozen=True, kw_only=True)
class Counted(Framing):
    mark: ClassVar[bytes]
    """Ends the digits."""
    tail: ClassVar[bytes]
    """Ends the frame."""
    may_be_empty: ClassVar[bool]

    def decoder(self) -> CountedDecoder:
        return CountedDecoder(self)

    def _wrap(self, body: bytes) -> bytes:
        if not body and not self.may_be_empty:
            self._refuse("it is empty, and a length must not begin with 0")
        return b"%d%b%b%b" % (len(body), self.mark, body, self.tail)


@dataclass(frozen=True, kw_only=True)
class Netstring(Counted):
    kind: ClassVar[str] = "netstring"
    mark: ClassVar[bytes] = b":"
    tail: ClassVar[bytes] = b","
    may_be_empty: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class OctetCount(Counted):
    kind: ClassVar[str] = "octet-count"
    mark: ClassVar[bytes] = b" "
    tail: ClassVar[bytes] = b""
    may_be_empty: ClassVar[bool] = False


class CountedDecoder(Gathering):
    def __init__(self, framing: Counted) -> None:
        super().__init__(framing)
        self._kind = framing.kind
        self._mark, self._tail = framing.mark, framing.tail
        self._may_be_empty = framing.may_be_empty
        self._digits = len(str(self._max))

    def _cut(self, data: bytes, frames: list[Message]) -> int:
        size, at, tail = len(data), 0, self._tail
        while at < size:
            begin, length = self._head(data, at, frames)
            end = begin + length + len(tail)
            if not begin or end > size:
                self._need = end - at if begin else size - at + 1
                return at
            if data[begin + length : end] != tail:
                self._breach(at, frames, f"a {self._kind} begins that does not end with {tail!r} where it should.")
            frames.append(data[begin : begin + length])
            at = end
        self._need = 1
        return at

    def _head(self, data: bytes, at: int, frames: list[Message]) -> tuple[int, int]:
        """Where the message begins and its length; 0 and nothing when the digits have not come entirely."""
        digits, mark, _ = data[at : at + self._digits + 1].partition(self._mark)
        zero = digits[0] == ord("0") if digits else False
        if not digits.isdigit() or (zero and not (self._may_be_empty and digits == b"0")):
            self._breach(
                at,
                frames,
                f"no {self._kind} begins here. Its length comes first, in decimal digits without a leading 0, then "
                f"{self._mark!r}.",
            )
        if len(digits) > self._digits or (mark and int(digits) > self._max):
            self._too_long(at, frames)
        return (at + len(digits) + 1, int(digits)) if mark else (0, 0)
