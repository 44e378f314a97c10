"""What a database on disk needs beneath SQLite: one owner, plain files only, and a WAL that is known to be written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

from tunnel.errors import SpoolError
from tunnel.limits import MIB, SPOOL_SET_ASIDE


def take_lock(lock: Path, path: Path) -> int:
    """Holds the file `lock` for as long as the descriptor is open. SpoolError: another process has it."""
    fd = open_plain(lock, os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise SpoolError(
            f"{path} is in use by process {owner or '?'}: a spool has one owner; ask it by the control socket."
        ) from None
    with contextlib.suppress(OSError):  # only for the sentence above: a full disk is no reason to refuse
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def open_plain(path: Path, more: int = 0) -> int:
    """For reading and writing. No link is followed: who may write to the folder could choose the file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | more, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise SpoolError(f"{path} is a symbolic link, and a spool follows none: remove it.") from None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise SpoolError(f"{path} is no plain file: remove it.")


def write_again(path: Path) -> None:
    """Writes the file over itself and fsyncs it: see "a failed fsync" in file.py. Not for the database: closing it here
    would take SQLite's locks away (POSIX locks are per process)."""
    try:
        fd = open_plain(path)
    except FileNotFoundError:
        return
    try:
        at = 0
        while piece := os.pread(fd, MIB, at):
            if os.pwrite(fd, piece, at) != len(piece):
                raise OSError(f"{path} could not be written again")
            at += len(piece)
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: Path) -> str:
    """A corrupt database goes out of the way, with its WAL: where it is now. SpoolError: so many lie there already."""
    for number in range(1, SPOOL_SET_ASIDE + 1):
        aside = path.with_name(f"{path.name}.corrupt-{number}")
        if not aside.exists():
            break
    else:
        raise SpoolError(
            f"{path} is corrupt, and {SPOOL_SET_ASIDE} corrupt ones lie beside it already: look at the disk, "
            "save what is in them (sqlite3 FILE .recover), then remove them."
        )
    for suffix in ("-wal", ""):  # the WAL first: without it a half-moved pair would be taken for a whole file
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    sync_folder(path.parent)
    return str(aside)


def sync_folder(folder: Path) -> None:
    """What was made or renamed in it is on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
