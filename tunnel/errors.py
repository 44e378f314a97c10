"""Every error of ztunnel, in one tree.

    ZtunnelError                  exit 1
    ├── UsageError                exit 2   the table, a key or the command line is wrong
    │   ├── TableError            exit 2   carries every problem of the table, each with its position
    │   └── KeyFileError          exit 2   a key file is missing, unreadable, too open or malformed
    ├── NotRunningError           exit 3   the table is not running here, or its processes do not answer
    ├── LocalError                exit 1   a local 0MQ endpoint could not be opened
    ├── SpoolError                exit 1   a spool's file could not be opened, or its disk does not answer
    └── LinkError                 exit 1   something about the link
        ├── LocalMisuseError               *we* called the link wrongly: a bug here
        └── RemoteProtocolError            *they* broke the protocol; `code` is what the peer is told

A message is one or two sentences: what is wrong, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ZtunnelError(Exception):
    """The root; `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(ZtunnelError):
    """The table, a key or the command line is wrong."""

    exit_code = 2


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong in a table: `file:line:column: path: sentence` (line and column from 1)."""

    file: str
    line: int
    column: int
    path: str
    sentence: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return f"{where}{self.path}: {self.sentence}" if self.path else f"{where}{self.sentence}"


class TableError(UsageError):
    """Every problem of a table at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, self.problems)))


class KeyFileError(UsageError):
    """A key file is missing, unreadable, too open or malformed."""


class NotRunningError(ZtunnelError):
    """The table is not running here, or its processes do not answer."""

    exit_code = 3


class LocalError(ZtunnelError):
    """A local 0MQ endpoint could not be opened."""


class SpoolError(ZtunnelError):
    """A spool's file could not be opened, or its disk does not answer."""


class LinkError(ZtunnelError):
    """Something about the link."""


class LocalMisuseError(LinkError):
    """We called the link wrongly: a bug on this side."""


class RemoteProtocolError(LinkError):
    """The peer broke the protocol. `code` is one word of docs/protocol.md that the peer is told."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
