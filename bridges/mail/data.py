"""What a client says after DATA, cut into the mail and the rest: dots, line ends, and where the mail ends. Pure.

Only CRLF . CRLF ends a mail, whatever else looks like it: servers that disagree on that can be made to see two mails
where there is one (RFC 5321, 4.5.2 and 2.3.8). A CR or LF that stands alone is no line end here either; it is reported,
and refused by whoever asked for this, or for old devices made a line end (`normalise`), never an end of the mail.
"""

from __future__ import annotations

import re
from typing import Final

from bridges.mail.limits import HEADER_BYTES

END: Final = b"\r\n.\r\n"
_KEPT: Final = len(END) - 1
"""So much of what came may be the beginning of the end."""
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_RECEIVED: Final = re.compile(rb"(?im)^received:")


class Data:
    """Bytes in, bytes of the mail out, in pieces of any size; bounded memory however long the lines are."""

    def __init__(self, *, normalise: bool = False) -> None:
        self.done = False
        """The mail has ended, and `rest` came after it."""
        self.rest = b""
        self.bare = False
        """A CR or LF stood alone."""
        self._normalise = normalise
        self._kept = b"\r\n"
        self._virtual = 2
        """Bytes of the line end before the first line, which did not come."""
        self._line_start = False
        """What comes next begins a line, although its line end is not in `_kept`."""

    def __repr__(self) -> str:
        return f"<Data{' done' if self.done else ''}{' bare' if self.bare else ''}>"

    def feed(self, chunk: bytes) -> bytes:
        """What of the mail is certain now. After `done` there is no more."""
        held = self._kept + chunk
        at = held.find(END)
        if at >= 0:
            self.done, self.rest, self._kept = True, held[at + len(END) :], b""
            return self._out(held[: at + 2])
        cut = max(0, len(held) - _KEPT)
        if 0 < cut < len(held) and held[cut - 1 : cut + 1] == b"\r\n":  # a line end stays in one piece
            cut -= 1
        self._kept = held[cut:]
        return self._out(held[:cut])

    def _out(self, held: bytes) -> bytes:
        if not held:
            return held
        ends = held.count(b"\r\n")
        if held.count(b"\r") != ends or held.count(b"\n") != ends:
            self.bare = True
            if self._normalise:
                held = _LINE_END.sub(b"\r\n", held)
        if self._line_start and held.startswith(b"."):
            held = held[1:]
            self._line_start = False
        if held:
            self._line_start = held.endswith(b"\r\n")
        held = held.replace(b"\r\n.", b"\r\n")
        if self._virtual and held:
            held, self._virtual = held[self._virtual :], 0
        return held


class Header:
    """The header of a mail that comes in pieces: kept for a look at it, HEADER_BYTES at most."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._whole = False

    def feed(self, piece: bytes) -> None:
        if self._whole:
            return
        begin = max(0, len(self._held) - 3)
        self._held += piece[: HEADER_BYTES - len(self._held)]
        end = self._held.find(b"\r\n\r\n", begin)
        if end >= 0:
            del self._held[end + 2 :]
        self._whole = end >= 0 or len(self._held) >= HEADER_BYTES

    def hops(self) -> int:
        """Servers that this mail went through: its Received fields."""
        return len(_RECEIVED.findall(self._held))

    def values(self, name: str) -> list[str]:
        """Of a field, as they stand, on one line each."""
        unfolded = re.sub(rb"\r\n[ \t]+", b" ", bytes(self._held))
        found = re.findall(rb"(?im)^" + re.escape(name.encode()) + rb":[ \t]*(.*?)\r?$", unfolded)
        return [value.decode("utf-8", "replace").strip() for value in found]
