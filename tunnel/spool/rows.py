"""What passes between the spool, its thread and its file. Data only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunnel.limits import BATCH_COST_BYTES
from tunnel.pump import Segment


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it lies on disk. `born` is wall clock, in seconds: it survives restarts."""

    number: int
    body: bytes
    messages: int
    born: float
    meta: bytes = b""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as the command line sees it; `reason` says why a dead one was buried; `body` is there in `show` only."""

    number: int
    born: float
    messages: int
    size: int
    meta: bytes
    reason: str | None = None
    body: bytes | None = None


class Waiting(NamedTuple):
    """A row on its way to the disk. `size` is what it counts for in every bound."""

    number: int
    segments: Sequence[Segment]
    messages: int
    born: float
    meta: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What the file says about itself; written in the same transaction as what it counts, so it survives everything."""

    next: int = 1
    rows: int = 0
    bytes: int = 0
    messages: int = 0
    dead: int = 0
    dead_bytes: int = 0
    dead_lost: int = 0
    """Dead letters that had to go because there were too many, ever."""
    expired: int = 0
    """Messages removed because they were too old, ever."""
    dropped: int = 0
    """Messages removed by an operator, dead letters included, ever."""


def size_of(segments: Sequence[Segment], meta: bytes) -> int:
    """Bytes that a row counts for: its bodies, its meta, and its bookkeeping."""
    return sum(map(len, segments)) + len(meta) + BATCH_COST_BYTES
