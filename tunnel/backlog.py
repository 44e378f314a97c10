"""Between a spool and its channel: what was read from the local socket goes to disk, and from there, in order, on.

The spool (tunnel/spool.py) stores and knows no link, the channel (tunnel/link/spooled.py) decides and knows no disk.
What is on disk for good goes on straight from memory while the channel has it there; else it is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tunnel.link.outbound import Batch, Piece
from tunnel.link.spooled import SpooledOutbound, Stored

if TYPE_CHECKING:
    from tunnel.link.wire import Segment


class Row(Protocol):
    """One unit, read back. `born` is wall-clock time, as it outlives the machine's uptime."""

    @property
    def number(self) -> int: ...

    @property
    def body(self) -> Segment: ...

    @property
    def messages(self) -> int: ...

    @property
    def born(self) -> float: ...


class Store(Protocol):
    """What a backlog needs of a spool."""

    @property
    def id(self) -> bytes: ...

    @property
    def first(self) -> int: ...

    @property
    def next(self) -> int: ...

    @property
    def durable(self) -> int: ...

    @property
    def has_room(self) -> bool: ...

    def put(self, segments: Sequence[Segment], messages: int, born: float, /) -> int: ...

    def read(self, after: int, most_bytes: int, then: Callable[[list[Any]], None], /) -> object:
        """`then` gets rows (Row)."""
        ...

    def done(self, upto: int, /) -> object: ...


def stored(store: Store) -> Stored:
    """What the link is told when the channel is made."""
    return Stored(store.id.hex(), store.first, store.next)


class Backlog:
    """One route's towards one peer. `stir`: something may enter the lane; `now` monotonic, `wall` not, in seconds."""

    def __init__(
        self,
        store: Store,
        outbound: SpooledOutbound,
        stir: Callable[[], object],
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.store = store
        self.outbound = outbound
        self._stir = stir
        self._now = now
        self._wall = wall
        self._done = outbound.released
        self._reading = False

    def __repr__(self) -> str:
        return f"<Backlog {self.outbound!r}{' reading' if self._reading else ''}>"

    @property
    def has_room(self) -> bool:
        """May more be read from the local socket?"""
        return self.store.has_room

    def put(self, pieces: Iterable[Piece], now: float) -> None:
        """What was read from the local socket: whole messages, of which those with fragments are units of their own."""
        born = self._wall() - (self._now() - now)
        unit: list[Piece] = []
        for piece in pieces:
            unit.append(piece)
            if not piece.more:
                segments = unit[0].segments if len(unit) == 1 else [s for one in unit for s in one.segments]
                number = self.store.put(segments, sum(one.messages for one in unit), born)
                self.outbound.stored(number, unit, now)
                unit = []

    def on_durable(self) -> None:
        """The spool has synced."""
        if self.outbound.synced(self.store.durable):
            self._stir()
        self.advance()

    def advance(self) -> None:
        """The channel has gone on: forget what is delivered, read what there is room for."""
        if self.outbound.released > self._done:
            self._done = self.outbound.released
            self.store.done(self._done)
        wanted = None if self._reading else self.outbound.wants()
        if wanted is not None:
            after, through, most_bytes = wanted
            self._reading = True
            self.store.read(after, most_bytes, lambda rows: self._on_rows(after, through, rows))

    def _on_rows(self, after: int, through: int, rows: Sequence[Row]) -> None:
        self._reading = False
        at = self._now() - self._wall()
        batches = [self._batch(row, at) for row in rows]
        if self.outbound.loaded(after, rows[-1].number if rows else through, batches):
            self._stir()
        self.advance()

    def _batch(self, row: Row, at: float) -> Batch:
        """`at`: what to add to its time. On the wire there are no times before the machine was started."""
        born = max(0.0, min(self._now(), row.born + at))
        size = len(row.body)
        return Batch((row.body,) if size else (), size, row.messages, False, born, unit=row.number)
