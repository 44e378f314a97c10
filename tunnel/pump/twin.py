"""The pump in pure Python, over pyzmq's own calls: the same API as the compiled one, for where nothing can be compiled.

Its Chunk is a memoryview of the received frame. What a peer sent is read by `twin_runs.Reader`, which checks every
length before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from tunnel.limits import BATCH_BYTES, LINK_PARTS, MESSAGE_FRAMES, REFERENCE_BYTES
from tunnel.pump.base import (
    AGAIN,
    BAD,
    DONE,
    LIMIT,
    MORE,
    SENT,
    TAG_CHANGES,
    UNREACHABLE,
    Drained,
    Fed,
    LinkMessage,
    Segment,
    Segments,
    Status,
    Tagged,
)
from tunnel.pump.twin_runs import Pile, Reader, cut, first_frame, keep_latest
from tunnel.pump.twin_shortcut import Shortcut
from tunnel.pump.twin_streams import read_record, records
from tunnel.pump.twin_topics import Topics, split

Chunk = memoryview
Part = bytes | memoryview

__all__ = [
    "Chunk",
    "Shortcut",
    "Topics",
    "cut",
    "drain",
    "drain_shares",
    "drain_tagged",
    "events",
    "feed",
    "first_frame",
    "keep_latest",
    "read_record",
    "records",
    "recv",
    "send",
    "split",
]
"""What a pump has. A compiled one that lacks any of it was built from older source, and the twin takes over."""


class _Intake:
    """Takes whole messages off a socket until EAGAIN or a batch is full, and counts what it drops."""

    def __init__(self, socket: zmq.Socket[bytes], max_message: int) -> None:
        self.socket = socket
        self.max_message = max_message
        self.too_large = 0
        self.work = 0
        self.last = 0

    def full(self) -> bool:
        return self.work + self.last > BATCH_BYTES

    def take(self) -> list[zmq.Frame] | None:
        """The frames of the next message; None at EAGAIN."""
        try:
            frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN or self.work:
                return None
            raise
        self.work += sum(map(len, frames)) + 4 * len(frames)
        return frames

    def pack(self, frames: list[zmq.Frame]) -> list[Part] | None:
        """The message as stretches of a run; None, and counted, when it is too large."""
        sizes = list(map(len, frames))
        if sum(sizes) > self.max_message or len(frames) > MESSAGE_FRAMES or max(sizes) >= MORE:
            self.too_large += 1
            return None
        self.last = sum(sizes) + 4 * len(sizes)
        parts: list[Part] = []
        for index, frame in enumerate(frames):
            parts.append(header(sizes[index], index + 1 < len(sizes)))
            parts.append(frame.buffer.toreadonly() if sizes[index] >= REFERENCE_BYTES else frame.bytes)
        return parts


def header(size: int, more: bool) -> bytes:
    """A frame's header in a run."""
    return (size | MORE if more else size).to_bytes(4, "little")


def events(socket: zmq.Socket[bytes]) -> int:
    """ZMQ_EVENTS of the socket: POLLIN (1) and POLLOUT (2). Takes in what its descriptor announced."""
    return int(socket.getsockopt(zmq.EVENTS))


def drain(
    socket: zmq.Socket[bytes], max_message: int, skip_probe: bool = False, shortcut: Shortcut | None = None
) -> Drained | None:
    """Receive whole messages until EAGAIN or a batch is full; None: the shortcut took them. See the package."""
    intake, pile, probes = _Intake(socket, max_message), Pile(), 0
    emptied = False
    while not intake.full():
        frames = intake.take()
        if frames is None:
            emptied = True
            break
        parts = intake.pack(frames)
        if parts is not None and skip_probe and _is_probe(frames):
            probes += 1
        elif parts is not None:
            pile.add(parts)
    drained = Drained(pile.pieces(), intake.too_large, probes)
    if shortcut is not None and emptied and not intake.too_large and not probes and shortcut.go(drained.pieces, send):
        return None
    drained.emptied = emptied
    return drained


def drain_shares(socket: zmq.Socket[bytes], max_message: int, n: int, skip_probe: bool = False) -> list[Drained]:
    """Like `drain`, dealt out message by message to `n` runs, beginning with the first, which has the counts."""
    if n < 1:
        raise ValueError("drain_shares needs at least one share.")
    intake, piles, dealt, probes = _Intake(socket, max_message), [Pile() for _ in range(n)], 0, 0
    while not intake.full() and (frames := intake.take()) is not None:
        parts = intake.pack(frames)
        if parts is not None and skip_probe and _is_probe(frames):
            probes += 1
        elif parts is not None:
            piles[dealt % n].add(parts)
            dealt += 1
    shares = [Drained(pile.pieces()) for pile in piles]
    shares[0].too_large = intake.too_large
    shares[0].probes = probes
    return shares


def _is_probe(frames: list[zmq.Frame]) -> bool:
    """What a ROUTER receives when an application with PROBE_ROUTER connects: its routing id and an empty frame."""
    return len(frames) == 2 and not len(frames[1])


def drain_tagged(
    socket: zmq.Socket[bytes], max_message: int, shortcut: Shortcut | None = None, tag: bytes = b""
) -> Tagged | None:
    """Like `drain`; the first frame of each message is taken off and says to which (tag, Drained) it belongs.

    None: all was under `tag`, and the shortcut took it.
    """
    intake, tagged = _Intake(socket, max_message), Tagged()
    groups: list[tuple[bytes, Pile, int]] = []
    while not intake.full() and len(groups) <= TAG_CHANGES:
        frames = intake.take()
        if frames is None:
            tagged.emptied = True
            break
        if len(frames) == 1:
            tagged.untagged += 1
            continue
        name = frames[0].bytes
        if not groups or groups[-1][0] != name:
            groups.append((name, Pile(), intake.too_large))
        parts = intake.pack(frames[1:])
        if parts is not None:
            groups[-1][1].add(parts)
    counts = [*(before for _, _, before in groups), intake.too_large]
    for index, (name, pile, before) in enumerate(groups):
        tagged.append((name, Drained(pile.pieces(), counts[index + 1] - before)))
    alone = tagged.emptied and not tagged.untagged and not intake.too_large and [name for name, _ in tagged] == [tag]
    if alone and shortcut is not None and shortcut.go(tagged[0][1].pieces, send):
        return None
    return tagged


def feed(
    socket: zmq.Socket[bytes],
    segments: Segments,
    position: int = 0,
    prefix: bytes | None = None,
    max_messages: int = 0,
    patience_us: int = 0,
) -> Fed:
    """Send the messages of a run from `position` on until EAGAIN. See the package's docstring.

    `patience_us` saves the compiled pump turns of the loop; here a turn costs little beside a message: not used.
    """
    reader = Reader(segments)
    fed = Fed(0, position, DONE)
    if position > reader.size:
        fed.status = BAD
    while fed.position < reader.size and fed.status is DONE:
        if max_messages and fed.messages + fed.unreachable >= max_messages:
            fed.status = LIMIT
            break
        frames = reader.message(fed.position)
        if frames is None:
            fed.status = BAD
            break
        parts = [reader.payload(start, size) for start, size in frames]
        try:
            sent = _send_message(socket, parts if prefix is None else [prefix, *parts])
        except zmq.ZMQError:
            if not fed.messages and not fed.unreachable:
                raise
            sent = AGAIN
        if sent is AGAIN:
            fed.status = AGAIN
            break
        fed.position = sum(frames[-1])
        if sent is SENT:
            fed.messages += 1
        else:
            fed.unreachable += 1
    return fed


def _send_message(socket: zmq.Socket[bytes], parts: Sequence[Segment]) -> Status:
    last = len(parts) - 1
    for index, part in enumerate(parts):
        flags = zmq.DONTWAIT | (zmq.SNDMORE if index < last else 0)
        try:
            socket.send(part, flags, copy=len(part) < REFERENCE_BYTES)
        except zmq.Again:
            if 0 < index < last:
                _end_broken_message(socket)
            return AGAIN
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return UNREACHABLE
    return SENT


def _end_broken_message(socket: zmq.Socket[bytes]) -> None:
    """Give a message whose middle part met EAGAIN a last part: PUSH and DEALER throw away everything up to it.

    (libzmq, lb_t::sendpipe: the pipe died, what was written is rolled back, `_dropping` until a part without MORE.)
    PAIR keeps no such state: an extra part would be a message of its own.
    """
    if socket.type in (zmq.PUSH, zmq.DEALER, zmq.REQ):
        socket.send(b"", zmq.DONTWAIT)


def send(socket: zmq.Socket[bytes], parts: Segments) -> Status:
    """Send one multipart message. See the package's docstring."""
    return _send_message(socket, parts)


def recv(socket: zmq.Socket[bytes], router: bool = False, shortcut: Shortcut | None = None) -> LinkMessage | None:
    """Receive one multipart message that the shortcut does not take, or None. See the package's docstring."""
    while (message := _recv(socket, router)) is not None:
        if shortcut is None or not (shortcut.enters and shortcut.is_from(message.routing_id, message.user_id)):
            break
        if len(message.parts) != 1 or message.overlong:
            shortcut.disarm()
            break
        if not shortcut.feed(bytes(message.parts[0]), feed):
            break
    return message


def _recv(socket: zmq.Socket[bytes], router: bool) -> LinkMessage | None:
    try:
        frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return None
    try:
        user_id = str(frames[0].get("User-Id"))
    except zmq.ZMQError:
        user_id = ""
    routing_id = frames.pop(0).bytes if router else b""
    parts: list[Segment] = [
        frame.buffer.toreadonly() if len(frame) >= REFERENCE_BYTES else frame.bytes for frame in frames[:LINK_PARTS]
    ]
    return LinkMessage(routing_id, user_id, parts, len(frames) > LINK_PARTS)
