"""A spool on a disk that outlives processes, in virtual time: it syncs late, reads late, and forgets in crashes.

`Disk` is what lasts, `Spool` one process's way to it, with the calls of tunnel/spool.py. Of what was not synced a crash
keeps any first part; that something is done is noted late, so a crash may bring it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.sim.ledger import Broken, Segment, SpooledStream
from tests.sim.world import World

MOST_BYTES = 4_000_000
"""What may lie on a disk: a few writes without a link fill it now and then."""


class Body:
    """The segments of a unit, joined: it has a length, as link frames need, and no bytes."""

    __slots__ = ("segments", "size")

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self.size = sum(segment.size for segment in segments)

    def __len__(self) -> int:
        return self.size

    def stretch(self, start: int, stop: int) -> Body:
        """What stands there: whole segments, and stretches of the first and the last."""
        found, at = list[Segment](), 0
        for segment in self.segments:
            low, high = max(start - at, 0), min(stop - at, segment.size)
            if low < high:
                found.append(segment if (low, high) == (0, segment.size) else segment.stretch(low, high))
            at += segment.size
        return Body(found)


def unpack(segments: Sequence[Any]) -> list[Segment]:
    """What a run is made of."""
    return [one for part in segments for one in (part.segments if isinstance(part, Body) else (part,))]


@dataclass
class Row:
    number: int
    body: Body
    messages: int
    born: float

    @property
    def ids(self) -> set[int]:
        return {segment.id for segment in self.body.segments}


@dataclass
class Disk:
    """One file. It has one stream, which ends when the world does."""

    id: bytes
    stream: SpooledStream
    rows: dict[int, Row] = field(default_factory=dict)
    next: int = 1
    done: int = 0
    """As it is on disk."""
    in_use: bool = False

    def crash(self, spool: Spool, keep: float) -> None:
        """The process has died; of what was not synced the first part stays."""
        self.in_use = False
        tail = [row for number, row in sorted(self.rows.items()) if number > spool.durable]
        lost = tail[int(len(tail) * keep) :] if keep < 1 else []
        for row in lost:
            del self.rows[row.number]
            self.stream.forfeited |= row.ids
        for row in tail[: len(tail) - len(lost)]:
            self.stream.durable |= row.ids
        if lost:
            self.next = lost[0].number
        for number in [number for number in self.rows if number <= self.done]:
            del self.rows[number]


class Spool:
    """One process's."""

    def __init__(self, world: World, disk: Disk, on_durable: Callable[[], object]) -> None:
        if disk.in_use:
            raise Broken(f"two processes have {disk.id.hex()}")
        disk.in_use = True
        self.world = world
        self.disk = disk
        self.id = disk.id
        self.first = min(disk.rows, default=disk.next)
        self.next = disk.next
        self.durable = disk.next - 1
        self.released = self.first - 1
        self.on_durable = on_durable
        self.alive = True
        self._syncing = False

    @property
    def bytes(self) -> int:
        return sum(row.body.size for row in self.disk.rows.values() if row.number > self.released)

    @property
    def has_room(self) -> bool:
        return self.bytes < MOST_BYTES

    def put(self, segments: Sequence[Any], messages: int, born: float) -> int:
        disk, number = self.disk, self.disk.next
        disk.rows[number] = Row(number, Body(segments), messages, born)
        disk.next = self.next = number + 1
        if not self._syncing:
            self._syncing = True
            self.world.after(self.world.random.choice((0.0001, 0.002, 0.05, 0.5)), self._sync, number)
        return number

    def _sync(self, through: int) -> None:
        if not self.alive:
            return
        self.durable = through
        for number, row in self.disk.rows.items():
            if number <= through:
                self.disk.stream.durable |= row.ids
        self._syncing = self.next > through + 1
        if self._syncing:
            self.world.after(self.world.random.choice((0.0001, 0.002, 0.05)), self._sync, self.next - 1)
        self.on_durable()

    def read(self, after: int, most_bytes: int, then: Callable[[list[Row]], None]) -> None:
        through = self.durable
        self.world.after(
            self.world.random.choice((0.0, 0.001, 0.05, 0.5)), self._read, after, through, most_bytes, then
        )

    def _read(self, after: int, through: int, most_bytes: int, then: Callable[[list[Row]], None]) -> None:
        if not self.alive:
            return
        found: list[Row] = []
        for number in sorted(self.disk.rows):
            if after < number <= through and (not found or most_bytes > 0):
                found.append(self.disk.rows[number])
                most_bytes -= found[-1].body.size
        then(found)

    def done(self, upto: int) -> None:
        if upto > self.durable:
            raise Broken(f"{self.id.hex()}: unit {upto} is done where {self.durable} is on disk")
        self.released = max(self.released, upto)
        self.world.after(self.world.random.choice((0.0, 0.1, 1.0)), self._note, upto)

    def _note(self, upto: int) -> None:
        if not self.alive:
            return
        self.disk.done = max(self.disk.done, upto)
        for number in [number for number in self.disk.rows if number <= upto]:
            del self.disk.rows[number]

    def crash(self, again_through: int) -> None:
        """kill -9. Of what went through that unit, nobody will count what is repeated from now on."""
        self.alive = False
        left = [row for number, row in self.disk.rows.items() if self.released < number <= again_through]
        self.disk.stream.uncounted += sum(row.messages for row in left)
        self.disk.crash(self, self.world.random.choice((0.0, 0.5, 1.0)))

    def close(self) -> None:
        """In order: all is synced, all is noted."""
        self.alive = False
        self.disk.done = max(self.disk.done, self.released)
        self.disk.crash(self, 1.0)
