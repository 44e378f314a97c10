"""Lines for systemd's journal: a level that it understands before each, and no time, for it has its own.

    2026-03-01T12:00:00.123Z warn  device link-down peer=plant   →   <4>device link-down peer=plant

systemd says in JOURNAL_STREAM which file is the journal's (systemd.exec(5)); any other output stays as it is.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final

_LINE: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{8,12}Z (debug|info |warn |error) (.*)", re.DOTALL)
_PRIORITY: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3}
"""sd-daemon(3): syslog's numbers."""


def is_journal(descriptor: int) -> bool:
    """Whether this output goes to the journal."""
    with suppress(OSError, ValueError):
        device, inode = os.environ.get("JOURNAL_STREAM", "").split(":")
        found = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    return False


def logged(line: str) -> str:
    """A line of a part's log; one that has another form (a traceback's) is an error's."""
    match = _LINE.match(line)
    if match is None:
        return f"<{_PRIORITY['error']}>{line}"
    return f"<{_PRIORITY[match[1].strip()]}>{match[2]}"


def said(text: str, level: str = "info") -> str:
    """A sentence of our own, of several lines perhaps."""
    return "\n".join(f"<{_PRIORITY[level]}>{line}" for line in text.splitlines())
