"""What the pump hands out: pieces, counts and statuses, shared by the compiled pump and its pure twin.

A *segment* is anything with the buffer protocol and `len()`. A *run* is a sequence of segments whose concatenation is
`u32 little-endian (top bit: more parts follow; low 31 bits: length), bytes` repeated: whole messages, back to back.
Segment borders carry no meaning. This file knows no socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Protocol

MORE: Final = 0x8000_0000
"""Top bit of a frame's header: more parts of this message follow."""
DENY: Final = 63
"""The side of `Topics` that wins: a topic that matches one of its prefixes goes nowhere."""
TAG_CHANGES: Final = 256
"""Changes of tag that one `drain_tagged` follows before it ends: each costs objects of its own."""


class Status(IntEnum):
    """How `feed` and `send` ended."""

    DONE = 0
    """Every message of the run was handed over."""
    AGAIN = 1
    """The socket takes no more for now (EAGAIN)."""
    BAD = 2
    """The run is malformed at `position`; nothing of that message was sent."""
    LIMIT = 3
    """`max_messages` were handed over and more are left."""
    SENT = 4
    """The message was handed over."""
    UNREACHABLE = 5
    """That connection of the ROUTER is gone (EHOSTUNREACH)."""


DONE: Final = Status.DONE
AGAIN: Final = Status.AGAIN
BAD: Final = Status.BAD
LIMIT: Final = Status.LIMIT
SENT: Final = Status.SENT
UNREACHABLE: Final = Status.UNREACHABLE


class RunError(ValueError):
    """A run is malformed where `cut`, `first_frame`, `keep_latest` or `split` had to read it."""


class Segment(Protocol):
    """A stretch of bytes: bytes, memoryview, Chunk ..."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

    def __len__(self) -> int: ...


Segments = Sequence[Segment]


class Socket(Protocol):
    """What the pump needs to know of a zmq.Socket."""

    @property
    def underlying(self) -> int: ...


class Piece:
    """A run of at most BATCH_BYTES, or one larger message, or a fragment of one larger than FRAGMENT_BYTES.

    `size` is the sum of the segments' bytes, `messages` counts the messages that end here, `more` says that the last
    message goes on in the next piece.
    """

    __slots__ = ("messages", "more", "segments", "size")

    def __init__(self, segments: tuple[Segment, ...], size: int, messages: int, more: bool = False) -> None:
        self.segments = segments
        self.size = size
        self.messages = messages
        self.more = more

    def __repr__(self) -> str:
        return f"<Piece bytes={self.size} messages={self.messages} segments={len(self.segments)} more={self.more}>"


class Drained:
    """What was read from a socket: `pieces` in order, and messages dropped as `too_large` or as `probes`.

    `emptied`: it ended because the socket had nothing more, so EVENTS need not be read for POLLIN (`drain` only).
    """

    __slots__ = ("emptied", "pieces", "probes", "too_large")

    def __init__(self, pieces: list[Piece], too_large: int = 0, probes: int = 0) -> None:
        self.pieces = pieces
        self.too_large = too_large
        self.probes = probes
        self.emptied = False

    def __repr__(self) -> str:
        return f"<Drained pieces={self.pieces} too_large={self.too_large} probes={self.probes}>"


class Tagged(list[tuple[bytes, Drained]]):
    """(tag, what came under it) in order; `untagged` messages had one frame only and were dropped; `emptied`: above."""

    def __init__(self) -> None:
        super().__init__()
        self.untagged = 0
        self.emptied = False


class Split(list[Drained]):
    """What each side gets; `unmatched` messages went to no side, `denied` of them because of DENY."""

    def __init__(self) -> None:
        super().__init__()
        self.unmatched = 0
        self.denied = 0


class Fed:
    """How far `feed` came.

    `position` is the offset of the first unsent byte, always the start of a message; `messages` were handed over,
    `unreachable` more were skipped because their ROUTER peer is gone.
    """

    __slots__ = ("messages", "position", "status", "unreachable")

    def __init__(self, messages: int, position: int, status: Status, unreachable: int = 0) -> None:
        self.messages = messages
        self.position = position
        self.status = status
        self.unreachable = unreachable

    def __repr__(self) -> str:
        return (
            f"<Fed {self.status.name} messages={self.messages} position={self.position} unreachable={self.unreachable}>"
        )


class LinkMessage:
    """One message from a link socket. `overlong`: it had more than LINK_PARTS parts; the rest was dropped."""

    __slots__ = ("overlong", "parts", "routing_id", "user_id")

    def __init__(self, routing_id: bytes, user_id: str, parts: list[Segment], overlong: bool = False) -> None:
        self.routing_id = routing_id
        self.user_id = user_id
        self.parts = parts
        self.overlong = overlong

    def __repr__(self) -> str:
        sizes = [len(part) for part in self.parts]
        return (
            f"<LinkMessage from={self.routing_id.hex()} user={self.user_id!r} parts={sizes} overlong={self.overlong}>"
        )
