"""What lies in a spool whose owner was killed: read from a copy, by nothing but SQLite and the form of a batch."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path


def messages(path: Path) -> list[tuple[str, int]]:
    """(name, number) of each counted message (tests.apps) on disk, in order; may be such as are delivered too."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            if path.with_name(path.name + suffix).exists():
                shutil.copy(path.with_name(path.name + suffix), Path(folder) / f"copy{suffix}")
        database = sqlite3.connect(Path(folder) / "copy")
        bodies = [body for (body,) in database.execute("SELECT body FROM rows ORDER BY number")]
        database.close()
    return [(parts[0].decode(), int(parts[1])) for body in bodies for parts in whole(body)]


def whole(batch: bytes) -> Iterator[list[bytes]]:
    """Its messages, frame by frame (docs/protocol.md, "The batch")."""
    at, frames = 0, list[bytes]()
    while at < len(batch):
        word = int.from_bytes(batch[at : at + 4], "little")
        size = word & 0x7FFFFFFF
        frames.append(batch[at + 4 : at + 4 + size])
        at += 4 + size
        if not word >> 31:
            yield frames
            frames = []
