"""How messages are cut out of a stream of bytes and laid into it: pure, symmetric, bounded.

    framing = make("line", max_frame=65_536, delimiter=b"\\r\\n")     once, from the table
    decoder = framing.decoder()                                     for each connection and direction
    decoder.feed(data), decoder.pause(), decoder.end()              messages
    framing.encode(message)                                         bytes

Knows neither sockets nor the time: who owns the connection reads it, and says when a pause is over. The kinds lie in
bridges/framings/, one file a family; docs/framing.md shows bytes of each.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final

from bridges.framings.base import (
    COMMON,
    MAX_FRAME,
    REQUIRED,
    Decoder,
    Framing,
    FramingError,
    Message,
    Option,
    OptionError,
    options_of,
)
from bridges.framings.chunks import Idle, Raw
from bridges.framings.counted import Netstring, OctetCount
from bridges.framings.fixed import Fixed
from bridges.framings.length import Length
from bridges.framings.line import Line
from bridges.framings.marks import Mllp, StxEtx
from bridges.framings.multipart import Multipart
from bridges.framings.slip import Slip

__all__ = [
    "COMMON",
    "KINDS",
    "MAX_FRAME",
    "OPTIONS",
    "REQUIRED",
    "Decoder",
    "Framing",
    "FramingError",
    "Message",
    "Option",
    "OptionError",
    "make",
]

KINDS: Final[dict[str, type[Framing]]] = {
    "line": Line,
    "length": Length,
    "fixed": Fixed,
    "stx-etx": StxEtx,
    "mllp": Mllp,
    "netstring": Netstring,
    "octet-count": OctetCount,
    "slip": Slip,
    "idle": Idle,
    "raw": Raw,
    "multipart": Multipart,
}
OPTIONS: Final[dict[str, dict[str, Option]]] = {kind: options_of(framing) for kind, framing in KINDS.items()}
"""Kind, name of the option, what it is. `max_frame`, which every kind has, is in COMMON."""


def make(kind: str, *, max_frame: int = MAX_FRAME, **options: Any) -> Framing:
    """The framing that the table asks for. OptionError (a ValueError) names the first option that is wrong."""
    if kind not in KINDS:
        raise OptionError(f"There is no framing {kind!r}.{_hint(kind, KINDS)}")
    known = OPTIONS[kind]
    values = {"max_frame": COMMON["max_frame"].read("max_frame", max_frame)}
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"Framing {kind} has no option {name!r}.{_hint(name, known)}", name)
        values[name] = known[name].read(name, value)
    for name, each in known.items():
        if each.default is REQUIRED and name not in values:
            raise OptionError(f"Framing {kind} needs {name}: {each.meaning}.", name)
    return KINDS[kind](**values)


def _hint(word: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" There are: {', '.join(names)}." if names else " It has none but max_frame."
