"""A process that owns a spool and is going to die: `python -m tests.spool_child PATH HOW`. It tells on stdout:

    next 17        the spool is open, and this is its next number
    durable 20     on_durable
    done 12        is about to say done(12)

HOW is `honest`, or a bug planted on purpose: `early` (tells rows durable when they were put), `unsynced`
(synchronous=OFF) or `trusting` (believes what it finds in the WAL). What a row holds follows from its number, so that
whoever reads it later can judge it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import random
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tunnel.limits import MIB
from tunnel.spool import Spool, file


def body_of(identity: bytes, number: int) -> bytes:
    """From 0 to 40 KB, most of them short; no two alike, and none a part of another's."""
    seed = hashlib.sha256(identity + number.to_bytes(8)).digest()
    length = (0, 10, 100, 1000, 40_000)[seed[0] % 5]
    return b"%d:" % number + (seed * (length // 32 + 1))[:length]


def tell(word: str, number: int) -> None:
    os.write(1, b"%s %d\n" % (word.encode(), number))


def live(path: Path, how: str, calls: queue.SimpleQueue[Callable[[], None]], soon: Callable[..., None]) -> None:
    """Puts, is told, removes; for ever."""
    chance = random.Random(os.urandom(8))
    spool = Spool(path, soon, max_bytes=8 * MIB, on_durable=lambda n: None if how == "early" else tell("durable", n))
    tell("next", spool.next)
    while True:
        for _ in range(chance.randrange(40)):
            if spool.has_room:
                number = spool.put([body_of(spool.id, spool.next)], 1, time.time())
                if how == "early":
                    tell("durable", number)
        while not calls.empty() or not spool.has_room:
            if not spool.has_room or chance.random() < 0.1:
                upto = min(chance.randrange(spool.first, spool.next + 1), spool.durable)
                if upto >= spool.first:
                    tell("done", upto)
                    spool.done(upto)
            with contextlib.suppress(queue.Empty):
                calls.get(timeout=0.01)()
        time.sleep(chance.random() / 1000)


def unsynced(path: Path) -> sqlite3.Connection:
    """Like spool.file.connect, but what is written stays in the page cache."""

    class Unsynced(sqlite3.Connection):
        def execute(self, statement: str, *values: object) -> sqlite3.Cursor:  # type: ignore[override]
            return super().execute(statement.replace("synchronous=FULL", "synchronous=OFF"), *values)  # type: ignore[arg-type]

    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, factory=Unsynced)


if __name__ == "__main__":
    if sys.argv[2] == "unsynced":
        file.connect = unsynced
    if sys.argv[2] == "trusting":
        file.write_again = lambda path: None
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    live(Path(sys.argv[1]), sys.argv[2], waiting, waiting.put)
