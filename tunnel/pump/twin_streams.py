"""Byte streams in pure Python: what a descriptor has, as one record of a run, and a run as records.

A record is a message of one frame: kind u8, three zero bytes, stream u32 little-endian, then its body
(docs/protocol.md, "Streams").
"""

from __future__ import annotations

import os
import struct

from tunnel.pump.base import RunError, Segment, Segments
from tunnel.pump.twin_runs import Reader

_HEAD = struct.Struct("<IB3xI")
_RECORD = struct.Struct("<B3xI")


def read_record(fd: int, kind: int, stream: int, most: int) -> Segment | None:
    """One record of at most `most` bytes from a descriptor that does not block, with its frame's length before it.

    None: nothing is there now; b"": the other end will send no more. OSError: the connection is broken.
    """
    try:
        data = os.read(fd, most)
    except (BlockingIOError, InterruptedError):
        return None
    return _HEAD.pack(_RECORD.size + len(data), kind, stream) + data if data else b""


def records(segments: Segments) -> list[tuple[int, int, Segment]]:
    """The run as a list of (kind, stream, body). RunError: it is malformed, or a message in it is no record."""
    reader = Reader(segments)
    found: list[tuple[int, int, Segment]] = []
    position = 0
    while position < reader.size:
        frames = reader.checked(position)
        start, size = frames[0]
        if len(frames) > 1 or size < _RECORD.size:
            raise RunError(f"The message at byte {position} of {reader.size} is no record of a stream.")
        kind, stream = _RECORD.unpack(reader.payload(start, _RECORD.size))
        found.append((kind, stream, reader.payload(start + _RECORD.size, size - _RECORD.size) if size > 8 else b""))
        position = start + size
    return found
