"""What the tests and the fuzz target of framings share: every kind with various options, and streams cut to pieces."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bridges.framing import Framing, FramingError, Message, make

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "line": [
        {},
        {"delimiter": b"\r\n"},
        {"delimiter": b"\0"},
        {"delimiter": b"aa"},
        {"delimiter": b"aba"},
        {"strip_cr": True},
        {"strip_cr": True, "delimiter": b"aba"},
        {"keep": True},
        {"keep": True, "delimiter": b"\r\n"},
        {"open_end": True},
        {"open_end": True, "delimiter": b"\r\n"},
        {"open_end": True, "strip_cr": True},
    ],
    "length": [
        {},
        {"width": 1},
        {"width": 2, "order": "little"},
        {"width": 8, "inclusive": True},
        {"width": 2, "offset": 3, "header": 7},
        {"width": 2, "offset": 3, "header": 7, "inclusive": True, "keep": True},
        {"width": 4, "adjust": 2},
        {"width": 1, "adjust": -3, "keep": True},
        {"width": "varint"},
        {"width": "varint", "offset": 2, "keep": True},
        {"width": "varint", "inclusive": True},
        {"width": "varint", "offset": 1, "inclusive": True, "adjust": -1},
    ],
    "fixed": [{"size": 1}, {"size": 5}, {"size": 5, "pad": b"\0"}, {"size": 5, "pad": b" ", "strip": True}],
    "stx-etx": [
        {},
        {"check": "lrc"},
        {"skip": True},
        {"start": b"$", "end": b"$"},
        {"start": b"<<", "end": b">>", "check": "lrc", "skip": True},
        {"stuffing": "escape"},
        {"stuffing": "escape", "dle": b"\\", "start": b"[", "end": b"]", "skip": True},
        {"stuffing": "double"},
        {"stuffing": "double", "dle": b"^", "skip": True},
    ],
    "mllp": [{}, {"skip": True}],
    "netstring": [{}],
    "octet-count": [{}],
    "slip": [{}, {"lead": False}],
    "idle": [{"pause": 0.02}],
    "raw": [{}],
    "multipart": [{}],
}
CASES = [(kind, options) for kind, variants in VARIANTS.items() for options in variants]
ENDLESS = ("idle", "raw")
"""Kinds in which nothing in the stream ends a frame."""
OVERHEAD = 32
"""Bytes of marks and headers of all these variants, at most."""


def name_of(case: tuple[str, dict[str, Any]]) -> str:
    kind, options = case
    return " ".join([kind, *(f"{name}={value!r}" for name, value in options.items())])


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(borders)]


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@dataclass
class Heard:
    """What came of a stream. `offset` is where it broke; `sentence` why."""

    messages: list[Message]
    offset: int | None = None
    sentence: str = ""
    most_pending: int = 0
    """Bytes held between two reads."""
    fed: int = 0
    """Bytes taken before it broke."""

    def same(self, other: Heard) -> bool:
        return (self.messages, self.offset) == (other.messages, other.offset)


def hear(framing: Framing, pieces: Sequence[bytes], *, end: bool = True) -> Heard:
    """The whole life of a connection, each piece a read."""
    decoder = framing.decoder()
    heard = Heard([])
    try:
        for piece in pieces:
            heard.messages += decoder.feed(piece)
            heard.most_pending = max(heard.most_pending, decoder.pending)
            heard.fed += len(piece)
        if end:
            heard.messages += decoder.end()
            assert decoder.pending == 0
    except FramingError as error:
        heard.messages += error.before
        heard.offset, heard.sentence = error.offset, str(error)
        heard.most_pending += decoder.pending and 1 << 40  # nothing is kept of a stream that broke
    return heard


def writable(kind: str, options: dict[str, Any], bodies: Iterable[bytes], max_frame: int) -> list[Message]:
    """Messages made of these that the framing can write."""
    framing = make(kind, max_frame=max_frame, **options)
    # What is kept belongs to the message, so the application brings it along.
    bare = make(kind, max_frame=max_frame, **{name: value for name, value in options.items() if name != "keep"})
    messages: list[Message] = []
    for body in bodies:
        message: Message = body
        try:
            if kind == "multipart":
                message = body.split(b"a")
            elif "keep" in options:
                message = bare.encode(body)
            framing.encode(message)
        except FramingError:
            continue
        messages.append(message)
    return messages


def as_read(options: dict[str, Any], message: Message) -> Message:
    """What a message that was written is read as: the same, unless it was filled up."""
    if "pad" in options and "strip" not in options:
        assert isinstance(message, bytes)
        return message.ljust(options["size"], options["pad"])
    return message
