"""WebSocket frames: any split gives the same, the websockets library is understood and understands us, breaches end."""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.frames import Opcode as Theirs
from websockets.protocol import Protocol, Side

from tunnel.carriers.http_frames import WORD_BYTES, FrameError, Frames, Opcode, frame_of, head_of, masked

MASKS = (b"", b"\x00\x00\x00\x00", b"abcd")
SIZES = (0, 1, 3, 4, 125, 126, 127, 65_535, 65_536, 200_000)


def fed(frames: Frames, pieces: Sequence[bytes]) -> list[tuple[Opcode, bytes]]:
    """What comes of these, neighbouring stretches of data put together."""
    found: list[tuple[Opcode, bytes]] = []
    for piece in pieces:
        for opcode, payload in frames.feed(memoryview(piece)):
            if opcode is Opcode.BINARY and found and found[-1][0] is Opcode.BINARY:
                found[-1] = Opcode.BINARY, found[-1][1] + bytes(payload)
            else:
                found.append((opcode, bytes(payload)))
    return found


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(borders)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_comes_out_as_it_went_in(size: int, mask: bytes) -> None:
    payload = os.urandom(size)
    frame = frame_of(Opcode.BINARY, payload, mask)
    assert frame == head_of(Opcode.BINARY, size, mask) + masked(payload, mask)
    assert fed(Frames(masked=bool(mask)), [frame]) == ([(Opcode.BINARY, payload)] if payload else [])


MESSAGES = st.lists(
    st.tuples(st.sampled_from((Opcode.BINARY, Opcode.TEXT, Opcode.PING, Opcode.PONG)), st.binary(max_size=WORD_BYTES))
    | st.tuples(st.just(Opcode.BINARY), st.binary(min_size=126, max_size=400)),
    max_size=8,
)


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_any_split_gives_the_same(messages: list[tuple[Opcode, bytes]], at: list[int], client: bool) -> None:
    said = b"".join(frame_of(opcode, payload, os.urandom(4) if client else b"") for opcode, payload in messages)
    whole = fed(Frames(masked=client), [said])
    assert fed(Frames(masked=client), cut(said, at)) == whole
    assert [each for each in whole if each[0] is not Opcode.BINARY] == [
        each for each in messages if each[0] is not Opcode.BINARY
    ]
    assert b"".join(p for o, p in whole if o is Opcode.BINARY) == b"".join(p for o, p in messages if o is Opcode.BINARY)


@given(MESSAGES, st.booleans())
def test_the_library_says_what_we_hear_and_hears_what_we_say(
    messages: list[tuple[Opcode, bytes]], client: bool
) -> None:
    ours, theirs = Frames(masked=client), Protocol(Side.CLIENT if client else Side.SERVER)
    for opcode, payload in messages:
        send = {
            Opcode.BINARY: theirs.send_binary,
            Opcode.TEXT: theirs.send_text,
            Opcode.PING: theirs.send_ping,
            Opcode.PONG: theirs.send_pong,
        }[opcode]
        send(payload)
    assert fed(ours, [b"".join(theirs.data_to_send())]) == fed(
        Frames(masked=False), [frame_of(opcode, payload) for opcode, payload in messages]
    )
    other = Protocol(Side.SERVER if client else Side.CLIENT, max_size=None)
    for opcode, payload in messages:
        other.receive_data(frame_of(opcode, payload, os.urandom(4) if client else b""))
    heard = [event for event in other.events_received() if isinstance(event, Frame)]
    assert [(Theirs(opcode), payload) for opcode, payload in messages] == [
        (frame.opcode, bytes(frame.data)) for frame in heard
    ]


def part(opcode: int, payload: bytes, *, final: bool) -> bytes:
    return struct.pack("!BB", (0x80 if final else 0) | opcode, len(payload)) + payload


def test_messages_in_parts_with_words_between() -> None:
    said = [
        part(Opcode.BINARY, b"a", final=False),
        part(Opcode.PING, b"?", final=True),
        part(Opcode.CONT, b"b", final=True),
        part(Opcode.TEXT, b"e", final=False),
        part(Opcode.CONT, b"nd", final=True),
        part(Opcode.CLOSE, b"\x03\xe8", final=True),
    ]
    assert fed(Frames(masked=False), said) == [
        (Opcode.BINARY, b"a"),
        (Opcode.PING, b"?"),
        (Opcode.BINARY, b"b"),
        (Opcode.TEXT, b"end"),
        (Opcode.CLOSE, b"\x03\xe8"),
    ]


BROKEN = {
    "bits of extensions": b"\xc2\x00",
    "an unknown kind": b"\x83\x00",
    "an unknown control frame": b"\x8b\x00",
    "masked by a server": b"\x82\x80",
    "a ping in parts": b"\x09\x00",
    "a long ping": b"\x89\x7e\x00\x7e",
    "a part of nothing": b"\x80\x00",
    "a new message within one": b"\x02\x00\x82\x00",
    "a long text": b"\x81\x7e\x00\x7e",
    "a text that grows long": part(Opcode.TEXT, b"x" * 100, final=False) + part(Opcode.CONT, b"x" * 26, final=True),
    "a length beyond all": b"\x82\x7f\x80" + b"\0" * 7,
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=list(BROKEN))
def test_who_breaks_the_protocol_is_found_out(said: bytes) -> None:
    good = frame_of(Opcode.BINARY, b"good")
    for pieces in ([good + said], [bytes([byte]) for byte in good + said]):
        heard = bytearray()
        with pytest.raises(FrameError):
            hear(Frames(masked=False), pieces, heard)
        assert heard == b"good"


def hear(frames: Frames, pieces: Sequence[bytes], heard: bytearray) -> None:
    for piece in pieces:
        for _, payload in frames.feed(memoryview(piece)):
            heard += payload


def test_a_client_must_mask() -> None:
    with pytest.raises(FrameError, match="not masked"):
        list(Frames(masked=True).feed(memoryview(frame_of(Opcode.BINARY, b"x"))))


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_garbage_is_bounded_and_raises_nothing_else(garbage: bytes, at: list[int], client: bool) -> None:
    frames = Frames(masked=client)
    total = 0
    try:
        for piece in cut(garbage, at):
            total += sum(len(payload) for _, payload in frames.feed(memoryview(piece)))
    except FrameError:
        return
    assert total <= len(garbage)


def test_who_reads_what_is_due_reads_nothing_of_the_next_frame() -> None:
    said = memoryview(frame_of(Opcode.TEXT, b"ztunnel", b"abcd") + frame_of(Opcode.BINARY, b"data", b"abcd"))
    frames, at, heard = Frames(masked=True), 0, []
    while not heard:
        due = frames.due
        heard = list(frames.feed(said[at : at + due]))
        at += due
    assert heard == [(Opcode.TEXT, b"ztunnel")]
    assert fed(frames, [bytes(said[at:])]) == [(Opcode.BINARY, b"data")]
