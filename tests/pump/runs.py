"""What a run is, written down a second time as plainly as can be, to hold the pump against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunnel.pump import Piece, Segment

MORE = 0x8000_0000
Message = Sequence[bytes]


def encode(messages: Iterable[Message]) -> bytes:
    run = b""
    for message in messages:
        for index, frame in enumerate(message):
            more = MORE if index < len(message) - 1 else 0
            run += (len(frame) | more).to_bytes(4, "little") + frame
    return run


def decode(run: bytes) -> list[list[bytes]]:
    """Raises ValueError when the run is malformed."""
    messages: list[list[bytes]] = []
    frames: list[bytes] = []
    while run:
        value = int.from_bytes(run[:4], "little")
        size = value & ~MORE
        if len(run) < 4 + size:
            raise ValueError("the run ends in the middle of a frame")
        frames.append(run[4 : 4 + size])
        run = run[4 + size :]
        if not value & MORE:
            messages.append(frames)
            frames = []
    if frames:
        raise ValueError("the run ends in the middle of a message")
    return messages


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
    return [run[a:b] for a, b in zip(places, places[1:], strict=False)]
