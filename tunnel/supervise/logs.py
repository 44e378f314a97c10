"""Reading what the processes logged: the last lines of each, merged by time, and what is added from then on.

supervisord rotates the files (`device.log` → `device.log.1`); a tail follows over that without losing a line.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from tunnel.errors import UsageError
from tunnel.limits import KIB, MIB
from tunnel.supervise.places import LOGS

LONGEST_LINE = 64 * KIB
"""More than that without a line's end is shown in pieces."""


def log_files(folder: Path, part: str | None = None) -> dict[str, Path]:
    """part → its log file, in a runtime folder. Without `part`: all but supervisord's own. UsageError: no such part."""
    found = {path.stem: path for path in sorted((folder / LOGS).glob("*.log"))}
    if part is None:
        found.pop("supervisord", None)
        return found
    if part not in found:
        raise UsageError(f"there is no log of {part}; there are {', '.join(found) or 'none yet'}.")
    return {part: found[part]}


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines (looking back 1 MiB at most, and one rotation)."""
    text = b""
    for file in (path.with_name(f"{path.name}.1"), path):
        try:
            with file.open("rb") as stream:
                stream.seek(max(os.fstat(stream.fileno()).st_size - MIB, 0))
                text += stream.read(MIB)
        except FileNotFoundError:
            continue
    return text.decode(errors="replace").splitlines()[-count:] if count else []


def merged(parts: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of several logs by their time. A line without one (a traceback's) stays behind the line before it."""
    return (line for _, line in heapq.merge(*(_timed(lines) for lines in parts), key=lambda pair: pair[0]))


class Tail:
    """What is added to one log file from now on (`from_start`: from its beginning)."""

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._rest = b""
        self._open()
        if self._stream is not None and not from_start:
            self._stream.seek(0, os.SEEK_END)

    def read(self) -> list[str]:
        """The whole lines that came since the last call."""
        lines = self._take()
        if self._rotated():
            lines += self._take()  # written between the read and the rename
            self.close()
            self._open()
            lines += self._take()
        return lines

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self) -> None:
        try:
            self._stream = self._path.open("rb")
        except OSError:
            self._stream = None

    def _take(self) -> list[str]:
        if self._stream is None:
            return []
        self._rest += self._stream.read()
        *whole, self._rest = self._rest.split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            whole.append(self._rest)
            self._rest = b""
        return [line.decode(errors="replace") for line in whole]

    def _rotated(self) -> bool:
        try:
            there = self._path.stat()
        except OSError:
            return False  # between the rename and the new file: look again next time
        if self._stream is None:
            return True
        ours = os.fstat(self._stream.fileno())
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return True
        if there.st_size < self._stream.tell():  # truncated in place
            self._stream.seek(0)
        return False


class Tails:
    """All parts of a runtime folder, those that appear later included."""

    def __init__(self, folder: Path, part: str | None = None, *, from_start: bool = False) -> None:
        self._folder = folder
        self._part = part
        self._tails = {p: Tail(path, from_start=from_start) for p, path in log_files(folder, part).items()}

    def read(self) -> list[str]:
        """New lines of all parts, by time."""
        for part, path in log_files(self._folder, self._part).items():
            if part not in self._tails:
                self._tails[part] = Tail(path, from_start=True)
        return list(merged([tail.read() for tail in self._tails.values()]))

    def close(self) -> None:
        for tail in self._tails.values():
            tail.close()


def _timed(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    time = ""
    for line in lines:
        first = line[:24]
        if first[:4].isdigit() and first[10:11] == "T" and first[-1:] == "Z":
            time = first
        yield time, line
