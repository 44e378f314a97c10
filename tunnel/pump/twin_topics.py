"""Topics and split in pure Python: a prefix is looked up in a dict, once for each length that occurs."""

from __future__ import annotations

from collections import Counter

from tunnel.pump.base import DENY, Drained, Segment, Segments, Split
from tunnel.pump.twin_runs import Pile, Reader


class Topics:
    """Who wants which topics: a counted set of byte prefixes for each side 0..62, and DENY (63), which wins."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[bytes, int]] = {}
        self._sides: dict[bytes, int] = {}
        self._lengths: Counter[int] = Counter()
        self._sorted: list[int] = []

    def add(self, side: int, prefix: bytes) -> bool:
        """One more subscription; True when it is this side's first to `prefix`."""
        if not 0 <= side <= DENY:
            raise ValueError(f"A side of Topics is 0..63, not {side}.")
        counts = self._counts.setdefault(side, {})
        counts[prefix] = counts.get(prefix, 0) + 1
        if counts[prefix] > 1:
            return False
        if prefix not in self._sides:
            self._lengths[len(prefix)] += 1
            if self._lengths[len(prefix)] == 1:
                self._sorted = sorted(self._lengths)
        self._sides[prefix] = self._sides.get(prefix, 0) | 1 << side
        return True

    def remove(self, side: int, prefix: bytes) -> bool:
        """One subscription less; True when it was this side's last to `prefix`. Unknown ones change nothing."""
        counts = self._counts.get(side, {})
        count = counts.get(prefix, 0)
        if count > 1:
            counts[prefix] = count - 1
        if count != 1:
            return False
        del counts[prefix]
        self._forget(side, prefix)
        return True

    def clear(self, side: int) -> None:
        """Forget every subscription of this side."""
        for prefix in self._counts.pop(side, {}):
            self._forget(side, prefix)

    def prefixes(self, side: int) -> list[bytes]:
        """The prefixes of this side, in the order of their first subscription."""
        return list(self._counts.get(side, {}))

    def match(self, topic: Segment) -> int:
        """Bit mask of the sides that subscribed to a prefix of `topic`; 0 when it is denied."""
        sides = self.sides_of(bytes(topic))
        return 0 if sides >> DENY else sides

    def sides_of(self, topic: bytes) -> int:
        """Like `match`, DENY included."""
        sides = 0
        for length in self._sorted:
            if length > len(topic):
                break
            sides |= self._sides.get(topic[:length], 0)
        return sides

    def _forget(self, side: int, prefix: bytes) -> None:
        left = self._sides[prefix] & ~(1 << side)
        if left:
            self._sides[prefix] = left
            return
        del self._sides[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]
            self._sorted = sorted(self._lengths)


def split(segments: Segments, topics: Topics, n: int) -> Split:
    """Sort messages by their first frame to the sides 0..n-1 that want it. RunError: malformed."""
    if not 1 <= n <= DENY:
        raise ValueError(f"A split has 1..63 sides, not {n}.")
    reader, piles, result, position = Reader(segments), [Pile() for _ in range(n)], Split(), 0
    while position < reader.size:
        frames = reader.checked(position)
        sides = topics.sides_of(bytes(reader.payload(*frames[0])))
        if sides >> DENY:
            result.denied += 1
            sides = 0
        start, position = position, sum(frames[-1])
        wanted = [side for side in range(n) if sides >> side & 1]
        result.unmatched += not wanted
        for side in wanted:
            piles[side].add(reader.parts(start, position))
    result.extend(Drained(pile.pieces()) for pile in piles)
    return result
