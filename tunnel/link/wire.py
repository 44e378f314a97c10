"""The frames of the link: bytes to values and back (docs/protocol.md, "Frames").

A link message is a list of parts. The first byte of part 0 is the kind. Everything here was or will be on the wire, so
every length that a peer wrote is checked before it is used; what does not fit raises RemoteProtocolError("frame", ...).
Numbers are little-endian, times are microseconds of the sender's own monotonic clock.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_BYTES, HELLO_BYTES, SUBSCRIPTION_FRAME_BYTES, TOPIC_BYTES

PROTOCOL: Final = "ztunnel"
VERSION: Final = 1


class Segment(Protocol):
    """A stretch of bytes that frames are made of: bytes, memoryview, or a received message held by reference."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

    def __len__(self) -> int: ...


Parts = list[Segment]


class Lane(IntEnum):
    """The two connections of a link."""

    CONTROL = 0
    DATA = 1


class Kind(IntEnum):
    """First byte of a link message."""

    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    OPEN = 4
    OPENED = 5
    DATA = 6
    ACK = 7
    PING = 8
    PONG = 9
    SUBSCRIBE = 10
    SUBSCRIBED = 11
    PEERS = 12
    BYE = 13


_KINDS: Final = {int(kind): kind for kind in Kind}

MORE: Final = 1
"""DATA flag: a fragment; the message goes on in the channel's next batch."""
ACKED: Final = 2
"""DATA flag: an acknowledgement block follows the header."""
UNIT: Final = 4
"""DATA flag: the number of its unit on the sender's disk follows, behind the acknowledgement block."""
FIRST: Final = 1
"""SUBSCRIBE flag: forget the set so far."""
LAST: Final = 2
"""SUBSCRIBE flag: the set stands; answer SUBSCRIBED."""

_DATA = struct.Struct("<BBHIQQI")
_UNIT = struct.Struct("<Q")
_ACK = struct.Struct("<QH")
_ACK_ITEM = struct.Struct("<IQ")
_PING = struct.Struct("<BQ")
_PONG = struct.Struct("<BQQ")
_SUBSCRIBE = struct.Struct("<BBII")
_SUBSCRIBED = struct.Struct("<BII")
_TOPIC = struct.Struct("<BI")
_PEERS_ITEM = struct.Struct("<II")

ACK_ITEMS: Final = 256
"""Channels in one acknowledgement block; more go in the next."""


class Ack(NamedTuple):
    """`lane_bytes` received on the data lane since OPEN, and the newest delivered sequence number per channel."""

    lane_bytes: int
    delivered: Sequence[tuple[int, int]]


class Data(NamedTuple):
    """The header of a batch; its run of frames is the rest of the parts."""

    channel: int
    seq: int
    born_us: int
    messages: int
    more: bool
    ack: Ack | None
    unit: int = 0
    """Of a spooled channel; 0: none."""


class Subscribe(NamedTuple):
    """A piece of a subscription set: (True, topic) subscribes, (False, topic) unsubscribes."""

    channel: int
    generation: int
    first: bool
    last: bool
    changes: list[tuple[bool, bytes]]


def _bad(what: str) -> RemoteProtocolError:
    return RemoteProtocolError("frame", f"the peer sent a malformed frame: {what}")


def kind_of(parts: Sequence[Segment]) -> Kind:
    """The kind of a link message; an empty or unknown one is the peer's error."""
    if not parts or not len(parts[0]):
        raise _bad("it is empty")
    first = memoryview(parts[0])[0]
    kind = _KINDS.get(first)
    if kind is None:
        raise _bad(f"kind {first} is not known")
    return kind


# --- HELLO, WELCOME, OPENED, REFUSE, BYE: JSON, for they are rare and read by people --------------------------------


def encode_json(kind: Kind, fields: dict[str, Any]) -> Parts:
    """Kind byte and UTF-8 JSON, in parts of at most a batch each."""
    body = bytes([kind]) + json.dumps(fields, separators=(",", ":")).encode()
    return [body[at : at + BATCH_BYTES] for at in range(0, len(body), BATCH_BYTES)]


def decode_json(parts: Sequence[Segment]) -> dict[str, Any]:
    """The fields of a JSON frame; at most HELLO_BYTES, and an object."""
    if sum(memoryview(part).nbytes for part in parts) > HELLO_BYTES:
        raise _bad("it is too long")
    try:
        fields = json.loads(b"".join(bytes(part) for part in parts)[1:])
    except (ValueError, RecursionError):
        raise _bad("it is not JSON") from None
    if not isinstance(fields, dict):
        raise _bad("it is not an object")
    return fields


def said(fields: dict[str, Any], key: str) -> str:
    """What the peer says to people: bounded, on one line, and safe to print."""
    value = fields.get(key)
    text = value[:400] if isinstance(value, str) else ""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


# --- OPEN ----------------------------------------------------------------------------------------------------------


def encode_open(nonce: bytes) -> Parts:
    return [bytes([Kind.OPEN]) + nonce]


def decode_open(parts: Sequence[Segment]) -> bytes:
    return bytes(memoryview(parts[0])[1:65])


# --- DATA and ACK ----------------------------------------------------------------------------------------------------


def encode_ack_block(ack: Ack) -> bytes:
    items = b"".join(_ACK_ITEM.pack(channel, seq) for channel, seq in ack.delivered)
    return _ACK.pack(ack.lane_bytes, len(ack.delivered)) + items


def encode_data(header: Data) -> bytes:
    """Part 0 of a batch."""
    flags, tail = MORE if header.more else 0, b""
    if header.unit:
        flags, tail = flags | UNIT, _UNIT.pack(header.unit)
    if header.ack is not None:
        flags, tail = flags | ACKED, encode_ack_block(header.ack) + tail
    return _DATA.pack(Kind.DATA, flags, 0, header.channel, header.seq, header.born_us, header.messages) + tail


def decode_data(part: Segment) -> tuple[Data, memoryview]:
    """The header in part 0 of a batch, and the rest of that part: there the batch begins."""
    view = memoryview(part)
    if view.nbytes < _DATA.size:
        raise _bad("a batch's header is too short")
    _, flags, _, channel, seq, born_us, messages = _DATA.unpack_from(view)
    ack, unit, length = None, 0, _DATA.size
    if flags & ACKED:
        ack, acked = _decode_ack_block(view[length:])
        length += acked
    if flags & UNIT:
        if view.nbytes < length + _UNIT.size:
            raise _bad("a batch's header ends before its unit")
        unit = int(_UNIT.unpack_from(view, length)[0])
        length += _UNIT.size
    return Data(channel, seq, born_us, messages, bool(flags & MORE), ack, unit), view[length:]


def _decode_ack_block(view: memoryview) -> tuple[Ack, int]:
    """The block at the beginning of `view`, and its length."""
    if view.nbytes < _ACK.size:
        raise _bad("an acknowledgement is too short")
    lane_bytes, count = _ACK.unpack_from(view)
    length = _ACK.size + count * _ACK_ITEM.size
    if view.nbytes < length:
        raise _bad("an acknowledgement is shorter than its count says")
    return Ack(lane_bytes, list(_ACK_ITEM.iter_unpack(view[_ACK.size : length]))), length


def encode_ack(ack: Ack) -> Parts:
    return [bytes([Kind.ACK]) + encode_ack_block(ack)]


def decode_ack(part: Segment) -> Ack:
    view = memoryview(part)[1:]
    ack, length = _decode_ack_block(view)
    if length != view.nbytes:
        raise _bad("an acknowledgement is longer than its count says")
    return ack


# --- PING and PONG ---------------------------------------------------------------------------------------------------


def encode_ping(clock_us: int) -> Parts:
    return [_PING.pack(Kind.PING, clock_us)]


def decode_ping(part: Segment) -> int:
    view = memoryview(part)
    if view.nbytes != _PING.size:
        raise _bad("a PING has the wrong length")
    return int(_PING.unpack(view)[1])


def encode_pong(echo_us: int, clock_us: int) -> Parts:
    return [_PONG.pack(Kind.PONG, echo_us, clock_us)]


def decode_pong(part: Segment) -> tuple[int, int]:
    """The clock that our PING carried, and the peer's own."""
    view = memoryview(part)
    if view.nbytes != _PONG.size:
        raise _bad("a PONG has the wrong length")
    _, echo_us, clock_us = _PONG.unpack(view)
    return echo_us, clock_us


# --- subscription sets -----------------------------------------------------------------------------------------------


def encode_subscribe(
    channel: int, generation: int, changes: Iterable[tuple[bool, bytes]], *, anew: bool
) -> list[Parts]:
    """One or more SUBSCRIBE messages that carry all changes; `anew`: they replace the whole set."""
    bodies: list[list[bytes]] = [[]]
    room = SUBSCRIPTION_FRAME_BYTES
    for add, topic in changes:
        record = _TOPIC.pack(add, len(topic)) + topic
        if len(record) > room:
            bodies.append([])
            room = SUBSCRIPTION_FRAME_BYTES
        bodies[-1].append(record)
        room -= len(record)
    frames: list[Parts] = []
    for index, records in enumerate(bodies):
        flags = (FIRST if anew and index == 0 else 0) | (LAST if index == len(bodies) - 1 else 0)
        head = _SUBSCRIBE.pack(Kind.SUBSCRIBE, flags, channel, generation)
        frames.append([head + b"".join(records)])
    return frames


def decode_subscribe(part: Segment) -> Subscribe:
    view = memoryview(part)
    if view.nbytes < _SUBSCRIBE.size:
        raise _bad("a SUBSCRIBE is too short")
    _, flags, channel, generation = _SUBSCRIBE.unpack_from(view)
    changes: list[tuple[bool, bytes]] = []
    at = _SUBSCRIBE.size
    while at < view.nbytes:
        if view.nbytes - at < _TOPIC.size:
            raise _bad("a topic is cut short")
        add, length = _TOPIC.unpack_from(view, at)
        at += _TOPIC.size
        if length > TOPIC_BYTES or length > view.nbytes - at:
            raise _bad("a topic is longer than allowed or than its frame")
        changes.append((bool(add), bytes(view[at : at + length])))
        at += length
    return Subscribe(channel, generation, bool(flags & FIRST), bool(flags & LAST), changes)


def encode_subscribed(channel: int, generation: int) -> Parts:
    return [_SUBSCRIBED.pack(Kind.SUBSCRIBED, channel, generation)]


def decode_subscribed(part: Segment) -> tuple[int, int]:
    view = memoryview(part)
    if view.nbytes != _SUBSCRIBED.size:
        raise _bad("a SUBSCRIBED has the wrong length")
    _, channel, generation = _SUBSCRIBED.unpack(view)
    return channel, generation


# --- how many applications are connected at the other end, per channel ------------------------------------------------


def encode_peers(counts: Iterable[tuple[int, int]]) -> Parts:
    return [bytes([Kind.PEERS]) + b"".join(_PEERS_ITEM.pack(channel, n) for channel, n in counts)]


def decode_peers(part: Segment) -> list[tuple[int, int]]:
    view = memoryview(part)[1:]
    if view.nbytes % _PEERS_ITEM.size:
        raise _bad("a PEERS has the wrong length")
    return list(_PEERS_ITEM.iter_unpack(view))
