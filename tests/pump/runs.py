"""What a run is, written down a second time as plainly as can be, to hold the pump against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from tunnel.pump import Piece, Segment

MORE = 0x8000_0000
Message = Sequence[bytes]


def encode(messages: Iterable[Message]) -> bytes:
    parts = []
    for message in messages:
        for index, frame in enumerate(message):
            more = MORE if index < len(message) - 1 else 0
            parts += [(len(frame) | more).to_bytes(4, "little"), frame]
    return b"".join(parts)


def decode(run: bytes) -> list[list[bytes]]:
    """Raises ValueError when the run is malformed."""
    messages, stop = readable(run)
    if stop < len(run):
        raise ValueError(f"the run is malformed at {stop} of {len(run)}")
    return messages


def readable(run: bytes) -> tuple[list[list[bytes]], int]:
    """The messages at the front that are whole, and where the first that is not begins (or the run's size)."""
    messages: list[list[bytes]] = []
    start = position = 0
    frames: list[bytes] = []
    while position + 4 <= len(run):
        value = int.from_bytes(run[position : position + 4], "little")
        size = value & ~MORE
        if position + 4 + size > len(run):
            break
        frames.append(run[position + 4 : position + 4 + size])
        position += 4 + size
        if not value & MORE:
            messages.append(frames)
            frames, start = [], position
    return messages, start


def joined(segments: Iterable[Segment]) -> bytes:
    return b"".join(bytes(segment) for segment in segments)


def contents(pieces: Iterable[Piece]) -> list[list[bytes]]:
    """The messages of pieces in order; checks on the way that the pieces tell the truth about themselves."""
    messages: list[list[bytes]] = []
    fragments = b""
    for piece in pieces:
        data = joined(piece.segments)
        assert len(data) == piece.size
        fragments += data
        if piece.more:
            assert piece.messages == 0
            continue
        whole = decode(fragments)
        assert len(whole) == piece.messages
        messages += whole
        fragments = b""
    assert not fragments, "the last fragment says that more follow"
    return messages


def at_borders(run: bytes, borders: Iterable[int]) -> list[bytes]:
    """The run as segments that meet at `borders` (any numbers; taken modulo the size)."""
    places = sorted({0, len(run), *(border % (len(run) + 1) for border in borders)})
    return [run[a:b] for a, b in pairwise(places)]
