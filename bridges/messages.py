"""Messages as runs, and runs as messages: what the pump moves in batches, as lists that a bridge can look at. Pure.

A run is `u32 little-endian (top bit: more frames follow; low 31 bits: length), bytes`, repeated (tunnel/pump).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from bridges.framing import Message
from tunnel.pump import MORE, Segment

_U32 = struct.Struct("<I")
_LENGTH = MORE - 1


def run_of(messages: Iterable[Message], before: Sequence[bytes] = ()) -> bytes:
    """One run of these messages, each with the frames `before` in front."""
    pack = _U32.pack
    head = b"".join(pack(len(frame) | MORE) + frame for frame in before)
    parts: list[bytes] = []
    for message in messages:
        if isinstance(message, bytes):
            parts += (head, pack(len(message)), message)
        else:
            parts.append(head)
            *first, last = message
            for frame in first:
                parts += (pack(len(frame) | MORE), frame)
            parts += (pack(len(last)), last)
    return b"".join(parts)


def pieces_of(message: Sequence[Segment]) -> tuple[Segment, ...]:
    """The run of one message, without a copy of its frames."""
    *first, last = message
    pieces: list[Segment] = []
    for frame in first:
        pieces += (_U32.pack(len(frame) | MORE), frame)
    return (*pieces, _U32.pack(len(last)), last)


def messages_of(segments: Sequence[Segment]) -> Iterator[list[bytes]]:
    """The messages of a run, each a list of its frames."""
    run = bytes(segments[0]) if len(segments) == 1 else b"".join(segments)
    unpack, at, end = _U32.unpack_from, 0, len(run)
    frames: list[bytes] = []
    while at < end:
        (size,) = unpack(run, at)
        at += 4 + (size & _LENGTH)
        frames.append(run[at - (size & _LENGTH) : at])
        if not size & MORE:
            yield frames
            frames = []
