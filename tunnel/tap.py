"""Samples of the messages that cross one half of a route, for `ztunnel tap`.

A `Tap` hangs on a pattern while somebody looks, and is asked once a batch; without one, a batch costs one test of an
attribute. It counts everything and keeps a few messages of each batch, at a bounded rate, in a ring of bounded size:
whoever reads slowly finds more left out, and holds up nobody (tunnel/taps.py has the readers). It knows runs
(tunnel/pump), no sockets.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

from tunnel.limits import (
    TAP_BATCH_FRAMES,
    TAP_BATCH_MESSAGES,
    TAP_FRAME_BYTES,
    TAP_FRAMES,
    TAP_RATE,
    TAP_RING_BYTES,
    TAP_RING_MESSAGES,
)
from tunnel.pump import MORE, Drained, Segment

Direction = Literal["in", "out"]
DIRECTIONS: Final[tuple[Direction, ...]] = ("in", "out")


@dataclass(frozen=True, slots=True)
class Sample:
    """One message. `number` counts a tap's samples from 1; `time` is wall clock, for people."""

    number: int
    time: float
    direction: Direction
    peer: str
    frames: tuple[tuple[int, bytes], ...]
    """(size, first bytes) of the first TAP_FRAMES frames."""
    frame_count: int
    size: int
    """Bytes of the counted frames."""
    whole: bool
    """False: it has more frames than were counted."""
    certain: bool
    """False: other messages of this batch were not handed over, and this may be one of them."""

    @property
    def held_bytes(self) -> int:
        return sum(len(first) for _, first in self.frames)

    def told(self, frame_bytes: int) -> dict[str, Any]:
        """For a reader who wants so much of each frame; bytes as hex."""
        return {
            "time": self.time,
            "direction": self.direction,
            "peer": self.peer,
            "size": self.size,
            "frame_count": self.frame_count,
            "frames": [[size, first[:frame_bytes].hex()] for size, first in self.frames],
            "whole": self.whole,
            "certain": self.certain,
        }


class Allowance:
    """So many samples a second, and as many at once after a quiet second."""

    def __init__(self, now: float) -> None:
        self._left = float(TAP_RATE)
        self._at = now

    def take(self, wanted: int, now: float) -> int:
        """How many of these may be sampled now."""
        self._left = min(TAP_RATE, self._left + (now - self._at) * TAP_RATE)
        self._at = now
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken


class Tap:
    """What one route's readers share: the counts and the ring."""

    def __init__(self, now: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self.frame_bytes = TAP_FRAME_BYTES
        """So much of each frame is kept: what the most curious reader wants."""
        self.seen: dict[Direction, int] = dict.fromkeys(DIRECTIONS, 0)
        self.samples: deque[Sample] = deque()
        self.last = 0
        """The newest sample's number."""
        self._held_bytes = 0
        self._now, self._wall = now, wall
        self._allowances = {direction: Allowance(now()) for direction in DIRECTIONS}

    def __repr__(self) -> str:
        return f"<Tap in={self.seen['in']} out={self.seen['out']} kept={len(self.samples)}>"

    def entered(self, peer: str, drained: Drained) -> None:
        """A batch was read from the local socket, on its way to `peer`."""
        messages = sum(piece.messages for piece in drained.pieces)
        if messages:
            self._look("in", peer, chain.from_iterable(piece.segments for piece in drained.pieces), 0, messages, True)

    def left(self, peer: str, segments: Iterable[Segment], position: int, handed: int, passed: int) -> None:
        """From `position` on `passed` messages are dealt with, and `handed` of them went to the local socket."""
        if handed:
            self._look("out", peer, segments, position, handed, handed == passed)

    def _look(
        self, direction: Direction, peer: str, run: Iterable[Segment], position: int, messages: int, certain: bool
    ) -> None:
        self.seen[direction] += messages
        wanted = min(messages, TAP_BATCH_MESSAGES)
        granted = self._allowances[direction].take(wanted, self._now())
        if not granted:
            return
        at = self._wall()
        walk = Walk(run, position)
        for _ in range(granted):
            message = walk.message(self.frame_bytes)
            if message is None:
                return
            self.last += 1
            self._keep(Sample(self.last, at, direction, peer, *message, certain))

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._held_bytes += sample.held_bytes
        while len(self.samples) > TAP_RING_MESSAGES or self._held_bytes > TAP_RING_BYTES:
            self._held_bytes -= self.samples.popleft().held_bytes


class Walk:
    """Reads headers and first bytes of a run, and copies nothing else."""

    def __init__(self, segments: Iterable[Segment], position: int) -> None:
        self._segments = iter(segments)
        self._view = memoryview(b"")
        self._at = 0
        self._headers_left = TAP_BATCH_FRAMES
        self._ended = not self._skip(position)

    def message(self, frame_bytes: int) -> tuple[tuple[tuple[int, bytes], ...], int, int, bool] | None:
        """(frames, frame_count, size, whole) of the next message; None: nothing more is looked at in this run."""
        frames: list[tuple[int, bytes]] = []
        count = total = 0
        more = True
        while more and not self._ended:
            header = self._take(4)
            if len(header) < 4 or not self._headers_left:
                self._ended = True
                break
            self._headers_left -= 1
            value = int.from_bytes(header, "little")
            size, more = value & ~MORE, bool(value & MORE)
            first = self._take(min(size, frame_bytes)) if len(frames) < TAP_FRAMES else b""
            if len(frames) < TAP_FRAMES:
                frames.append((size, first))
            count += 1
            total += size
            self._ended = not self._skip(size - len(first))
        return (tuple(frames), count, total, not more) if count else None

    def _take(self, size: int) -> bytes:
        """The next bytes; fewer at the run's end."""
        taken = b""
        while True:
            part = self._view[self._at : self._at + size - len(taken)]
            self._at += len(part)
            taken = taken + part if taken else bytes(part)
            if len(taken) == size or not self._next_segment():
                return taken

    def _skip(self, size: int) -> bool:
        """False: the run is shorter."""
        while self._at + size > len(self._view):
            size -= len(self._view) - self._at
            if not self._next_segment():
                return False
        self._at += size
        return True

    def _next_segment(self) -> bool:
        for segment in self._segments:
            self._view, self._at = memoryview(segment).cast("B"), 0
            return True
        return False
