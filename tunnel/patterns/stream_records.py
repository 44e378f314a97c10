"""The records that a stream route's channel carries (docs/protocol.md, "Streams"). Bytes in, bytes out.

A record is a message of one frame: kind u8, 0 u8, 0 u16, stream u32, then the body. What is encoded here begins with
the frame's length, ready for a run; what is decoded is a body as `pump.records` gives it.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_BYTES, REFERENCE_BYTES, STREAM_TEXT_BYTES
from tunnel.pump import Piece, Segment

_HEAD: Final = struct.Struct("<IB3xI")
_CREDIT: Final = struct.Struct("<I")
_PORTS: Final = struct.Struct("<HH")
HEAD_BYTES: Final = _HEAD.size
"""What stands before the bytes of a DATA record: the frame's length and the record's own header."""
CREDIT_MOST: Final = 0xFFFF_FFFF


class Kind(IntEnum):
    """What a record says."""

    OPEN = 1
    DATA = 2
    END = 3
    RESET = 4
    CREDIT = 5


class Code(IntEnum):
    """Why a connection was reset."""

    reset = 0
    """The local connection broke, or was reset by the application."""
    target_down = 1
    limit = 2
    idle = 3
    credit = 4
    """The peer sent more than it may."""
    closing = 5
    """The route is taken away, or the process ends."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who connected to what: (address, port) each; none for a unix socket. IPv4 as such, never mapped into IPv6."""

    source: tuple[str, int] | None = None
    destination: tuple[str, int] | None = None


def encode(kind: Kind, stream: int, body: bytes = b"") -> bytes:
    return _HEAD.pack(8 + len(body), kind, stream) + body


def encode_open(stream: int, origin: Origin) -> bytes:
    """Body: family u8 (4, 6; 0: a unix socket, and nothing follows), source and destination address, their ports."""
    if origin.source is None or origin.destination is None:
        return encode(Kind.OPEN, stream, b"\0")
    source, destination = (ipaddress.ip_address(name) for name, _ in (origin.source, origin.destination))
    ports = _PORTS.pack(origin.source[1], origin.destination[1])
    return encode(Kind.OPEN, stream, bytes([source.version]) + source.packed + destination.packed + ports)


def decode_open(body: Segment) -> Origin:
    raw = bytes(body)
    if raw[:1] == b"\0" and len(raw) == 1:
        return Origin()
    size = {4: 4, 6: 16}.get(raw[0] if raw else 0, 0)
    if not size or len(raw) != 1 + 2 * size + _PORTS.size:
        raise RemoteProtocolError("batch", "an OPEN record of a stream is malformed")
    source, destination = raw[1 : 1 + size], raw[1 + size : 1 + 2 * size]
    source_port, destination_port = _PORTS.unpack(raw[1 + 2 * size :])
    return Origin(
        (str(ipaddress.ip_address(source)), source_port), (str(ipaddress.ip_address(destination)), destination_port)
    )


def encode_reset(stream: int, code: Code, text: str = "") -> bytes:
    return encode(Kind.RESET, stream, bytes([code]) + text.encode()[:STREAM_TEXT_BYTES])


def decode_reset(body: Segment) -> tuple[Code, str]:
    """A code that is not known here counts as `reset`."""
    raw = bytes(body)
    code = Code(raw[0]) if raw and raw[0] in Code._value2member_map_ else Code.reset
    text = raw[1 : 1 + STREAM_TEXT_BYTES].decode("utf-8", "replace")
    return code, "".join(letter if letter.isprintable() else "?" for letter in text)


def encode_credit(stream: int, size: int) -> bytes:
    return encode(Kind.CREDIT, stream, _CREDIT.pack(min(size, CREDIT_MOST)))


def decode_credit(body: Segment) -> int:
    if len(body) != _CREDIT.size:
        raise RemoteProtocolError("batch", "a CREDIT record of a stream is malformed")
    return int(_CREDIT.unpack(body)[0])


def pieces_of(records: Sequence[Segment]) -> list[Piece]:
    """Records as batches: small ones are copied together, for each segment may become a part of a link message."""
    if len(records) == 1:
        return [Piece((records[0],), len(records[0]), 1)]
    pieces: list[Piece] = []
    segments: list[Segment] = []
    small: list[Segment] = []
    size = messages = 0
    for record in records:
        length = len(record)
        if messages and size + length > BATCH_BYTES:
            pieces.append(Piece(_closed(segments, small), size, messages))
            segments, small, size, messages = [], [], 0, 0
        if length < REFERENCE_BYTES:
            small.append(record)
        else:
            segments = [*_closed(segments, small), record]
            small = []
        size += length
        messages += 1
    pieces.append(Piece(_closed(segments, small), size, messages))
    return pieces


def _closed(segments: Sequence[Segment], small: Sequence[Segment]) -> tuple[Segment, ...]:
    return (*segments, b"".join(small)) if small else tuple(segments)
