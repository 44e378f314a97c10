"""A mail's bytes on their way in: in memory while they are few, else in a file beside the database, bit by bit.

The file is on disk (fsync) before the database says that the mail is there; a file that no row of the database names is
what a killed process left, and goes at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from bridges.mail.limits import INLINE_BYTES
from tunnel.spool.owned import sync_folder


class Body:
    """One mail's bytes. `digest` is of the whole, whichever way it lies; OSError (of add, finish): the disk."""

    def __init__(self, path: Path) -> None:
        """`path`: where the file will be, if there has to be one."""
        self.size = 0
        self.digest = hashlib.sha256()
        self._path = path
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._fd = -1
        self._left = False

    def __repr__(self) -> str:
        return f"<Body bytes={self.size} {'file' if self.file else 'held'}>"

    @property
    def file(self) -> str | None:
        """The name of its file, where it has one."""
        return self._path.name if self._fd >= 0 else None

    @property
    def held(self) -> bytes:
        """The whole mail, where it has no file."""
        return b"".join(self._held)

    async def add(self, piece: bytes) -> None:
        """More of it."""
        self.size += len(piece)
        self.digest.update(piece)
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > INLINE_BYTES:
            await self._write()

    async def whole(self) -> bytes:
        """All of it."""
        if self._fd < 0:
            return self.held
        await self._write()
        return await asyncio.to_thread(self._path.read_bytes)

    async def finish(self) -> None:
        """It is whole: what is in a file is on disk."""
        if self._fd >= 0:
            await self._write()
            await asyncio.to_thread(self._sync)

    def discard(self) -> None:
        """Nobody wants it."""
        self._held, self._held_bytes = [], 0
        self.close()
        if self._left:
            return
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def leave(self) -> None:
        """The file is somebody else's from now on: `discard` does not touch it."""
        self._left = True

    def close(self) -> None:
        """Safe to call twice; the file stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _write(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        await asyncio.to_thread(self._append, held)

    def _append(self, pieces: Iterable[bytes]) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        view = memoryview(b"".join(pieces))  # which are many where a client says a byte at a time
        while view:
            view = view[os.write(self._fd, view) :]

    def _sync(self) -> None:
        os.fsync(self._fd)
        sync_folder(self._path.parent)


def tidy(folder: Path, named: set[str], *, keep: bool = False) -> None:
    """Make the folder, or remove files in it that no row names. `keep`: rows of another database may name them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in os.scandir(folder):
        if entry.name not in named and not keep and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
