"""Runs in pure Python: reading them, and gathering ranges of them into pieces. Knows no socket."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tunnel.limits import BATCH_BYTES, FRAGMENT_BYTES, MESSAGE_FRAMES, REFERENCE_BYTES
from tunnel.pump.base import MORE, Piece, RunError, Segment, Segments

Part = bytes | memoryview


class Reader:
    """A run in several segments. Every length in it is checked before it is used."""

    def __init__(self, segments: Segments) -> None:
        self.views = [memoryview(segment).cast("B") for segment in segments if len(segment)]
        self.starts = [0, *accumulate(map(len, self.views))]
        self.size = self.starts[-1]

    def parts(self, start: int, stop: int) -> list[memoryview]:
        """The bytes start..stop as stretches of the segments. `stop` is at most `size`."""
        parts: list[memoryview] = []
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            base = self.starts[index]
            part = self.views[index][start - base : stop - base]
            parts.append(part)
            start += len(part)
            index += 1
        return parts

    def payload(self, start: int, size: int) -> Part:
        """A frame's bytes, by reference when they lie in one segment."""
        parts = self.parts(start, start + size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def message(self, position: int) -> list[tuple[int, int]] | None:
        """(start, size) of each frame of the message at `position`; None when it is malformed."""
        frames: list[tuple[int, int]] = []
        while position + 4 <= self.size and len(frames) < MESSAGE_FRAMES:
            value = int.from_bytes(self.payload(position, 4), "little")
            start, size = position + 4, value & ~MORE
            if start + size > self.size:
                return None
            frames.append((start, size))
            if not value & MORE:
                return frames
            position = start + size
        return None

    def checked(self, position: int) -> list[tuple[int, int]]:
        """Like `message`, but a malformed one raises RunError."""
        if position > self.size:
            raise RunError(f"Position {position} lies behind the end of a run of {self.size} bytes.")
        frames = self.message(position)
        if frames is None:
            raise RunError(f"The run is malformed in the message at byte {position} of {self.size}.")
        return frames


def segments_of(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Large stretches stay references, what lies between is copied together."""
    segments: list[Part] = []
    small: list[Part] = []
    for part in parts:
        if isinstance(part, memoryview) and len(part) >= REFERENCE_BYTES:
            if small:
                segments.append(b"".join(small))
                small = []
            segments.append(part)
        else:
            small.append(part)
    joined = b"".join(small)
    return (*segments, joined) if joined else tuple(segments)


class Pile:
    """Messages on their way to one receiver, divided into pieces as they come."""

    def __init__(self) -> None:
        self._done: list[Piece] = []
        self._parts: list[Part] = []
        self._size = 0
        self._messages = 0

    def add(self, parts: Sequence[Part]) -> None:
        """Add one whole message, given as stretches of its run."""
        size = sum(map(len, parts))
        if self._size + size > BATCH_BYTES:
            self._close()
        self._parts.extend(parts)
        self._size += size
        self._messages += 1
        if size > FRAGMENT_BYTES:
            self._fragment()

    def pieces(self) -> list[Piece]:
        self._close()
        return self._done

    def _close(self) -> None:
        if self._size:
            self._done.append(Piece(segments_of(self._parts), self._size, self._messages))
        self._parts, self._size, self._messages = [], 0, 0

    def _fragment(self) -> None:
        reader = Reader(self._parts)
        for start in range(0, reader.size, FRAGMENT_BYTES):
            stop = min(start + FRAGMENT_BYTES, reader.size)
            last = stop == reader.size
            self._done.append(Piece(segments_of(reader.parts(start, stop)), stop - start, int(last), not last))
        self._parts, self._size, self._messages = [], 0, 0


def pack(frames: Sequence[Part]) -> list[Piece]:
    """One message as pieces. Frames from REFERENCE_BYTES up are kept by reference where they are memoryviews."""
    parts: list[Part] = []
    for index, frame in enumerate(frames):
        more = index + 1 < len(frames)
        parts += ((len(frame) | MORE if more else len(frame)).to_bytes(4, "little"), frame)
    pile = Pile()
    pile.add(parts)
    return pile.pieces()


def cut(segments: Segments, position: int) -> tuple[tuple[Segment, ...], int]:
    """Take the message at `position` out: (a run of it alone, the position behind it). RunError: malformed."""
    reader = Reader(segments)
    start, size = reader.checked(position)[-1]
    return segments_of(reader.parts(position, start + size)), start + size


def first_frame(segments: Segments, position: int) -> bytes:
    """The first frame of the message at `position`. RunError: malformed."""
    reader = Reader(segments)
    return bytes(reader.payload(*reader.checked(position)[0]))


def keep_latest(runs: Sequence[Segments]) -> tuple[list[Piece], int]:
    """Of messages with the same first frame only the newest stays: (pieces, how many were dropped)."""
    reader = Reader([segment for segments in runs for segment in segments])
    newest: dict[bytes, int] = {}
    messages: list[tuple[bytes, int, int]] = []
    position = 0
    while position < reader.size:
        frames = reader.checked(position)
        name = bytes(reader.payload(*frames[0]))
        newest[name] = len(messages)
        messages.append((name, position, sum(frames[-1])))
        position = sum(frames[-1])
    pile = Pile()
    for number, (name, start, stop) in enumerate(messages):
        if newest[name] == number:
            pile.add(reader.parts(start, stop))
    return pile.pieces(), len(messages) - len(newest)
