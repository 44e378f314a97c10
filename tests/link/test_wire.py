"""Frames, byte by byte as docs/protocol.md gives them, and everything malformed that a peer may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_BYTES, HELLO_BYTES, LINK_FRAME_BYTES, SUBSCRIPTION_FRAME_BYTES, TOPIC_BYTES
from tunnel.link import wire
from tunnel.link.wire import Ack, Data, Kind

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
acks = st.builds(Ack, u64, st.lists(st.tuples(u32, u64), max_size=20))


def test_data_header_bytes() -> None:
    header = Data(channel=7, seq=1, born_us=2, messages=3, more=False, ack=None)
    assert wire.encode_data(header).hex() == "06000000070000000100000000000000020000000000000003000000"


def test_data_header_with_acknowledgement_bytes() -> None:
    raw = wire.encode_data(Data(1, 2, 3, 4, True, Ack(5, [(6, 7)])))
    assert raw[:4].hex() == "06030000"
    assert raw[28:].hex() == "05000000000000000100060000000700000000000000"


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (wire.encode_open(b"n" * 16), "04" + "6e" * 16),
        (wire.encode_ack(Ack(1, [])), "07" "0100000000000000" "0000"),
        (wire.encode_ping(1), "08" "0100000000000000"),
        (wire.encode_pong(1, 2), "09" "0100000000000000" "0200000000000000"),
        (wire.encode_subscribe(1, 2, [(True, b"A")], anew=True)[0], "0a" "03" "01000000" "02000000" "010100000041"),
        (wire.encode_subscribed(1, 2), "0b" "01000000" "02000000"),
        (wire.encode_peers([(1, 2)]), "0c" "01000000" "02000000"),
        (wire.encode_json(Kind.BYE, {"text": "x"}), "0d" + b'{"text":"x"}'.hex()),
    ],
)  # fmt: skip
def test_frame_bytes(frame: list[bytes], expected: str) -> None:
    assert [bytes(part).hex() for part in frame] == [expected]


@given(st.builds(Data, u32, u64, u64, u32, st.booleans(), st.none() | acks, u64))
def test_data_comes_back(header: Data) -> None:
    assert wire.decode_data(wire.encode_data(header) + b"run") == (header, b"run")


@given(acks)
def test_ack_comes_back(ack: Ack) -> None:
    assert wire.decode_ack(wire.encode_ack(ack)[0]) == ack


@given(u64, u64)
def test_ping_and_pong_come_back(echo: int, clock: int) -> None:
    assert wire.decode_ping(wire.encode_ping(clock)[0]) == clock
    assert wire.decode_pong(wire.encode_pong(echo, clock)[0]) == (echo, clock)


@given(st.lists(st.tuples(u32, u32), max_size=9))
def test_peers_come_back(counts: list[tuple[int, int]]) -> None:
    assert wire.decode_peers(wire.encode_peers(counts)[0]) == counts


@given(u32, u32, st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=20), st.booleans())
def test_subscriptions_come_back(channel: int, generation: int, changes: list[tuple[bool, bytes]], anew: bool) -> None:
    (frame,) = wire.encode_subscribe(channel, generation, changes, anew=anew)
    assert wire.decode_subscribe(frame[0]) == (channel, generation, anew, True, changes)


def test_a_large_set_goes_in_pieces_that_fit() -> None:
    changes = [(True, b"%04d" % n + bytes(TOPIC_BYTES - 4)) for n in range(100)]
    frames = [frame[0] for frame in wire.encode_subscribe(1, 1, changes, anew=True)]
    pieces = [wire.decode_subscribe(frame) for frame in frames]
    assert len(frames) > 3
    assert max(map(len, frames)) <= SUBSCRIPTION_FRAME_BYTES + 64 <= LINK_FRAME_BYTES
    assert [piece.first for piece in pieces] == [True] + [False] * (len(frames) - 1)
    assert [piece.last for piece in pieces] == [False] * (len(frames) - 1) + [True]
    assert [change for piece in pieces for change in piece.changes] == changes


def test_json_that_is_long_goes_in_parts() -> None:
    fields = {"text": "x" * (2 * BATCH_BYTES)}
    parts = wire.encode_json(Kind.HELLO, fields)
    assert [len(part) <= BATCH_BYTES for part in parts] == [True] * 3
    assert wire.decode_json(parts) == fields


_DATA = wire.encode_data(Data(1, 2, 3, 4, False, Ack(1, [(1, 1)])))
_SUB = wire.encode_subscribe(1, 1, [(True, b"topic")], anew=True)[0][0]

MALFORMED = [
    (wire.decode_data, _DATA[:27]),
    (wire.decode_data, _DATA[:-1]),
    (wire.decode_data, _DATA[:36] + b"\xff\xff" + _DATA[38:]),
    (wire.decode_ack, b"\7"),
    (wire.decode_ack, b"\7" + bytes(9)),
    (wire.decode_ack, b"\7" + bytes(8) + b"\1\0" + bytes(11)),
    (wire.decode_ping, b"\x08"),
    (wire.decode_ping, bytes(10)),
    (wire.decode_pong, bytes(16)),
    (wire.decode_pong, bytes(18)),
    (wire.decode_subscribe, _SUB[:9]),
    (wire.decode_subscribe, _SUB[:-1]),
    (wire.decode_subscribe, _SUB + b"\1"),
    (wire.decode_subscribe, _SUB[:11] + (TOPIC_BYTES + 1).to_bytes(4, "little") + bytes(TOPIC_BYTES + 1)),
    (wire.decode_subscribe, _SUB[:11] + b"\xff\xff\xff\xff"),
    (wire.decode_subscribed, bytes(8)),
    (wire.decode_peers, bytes(8)),
]


@pytest.mark.parametrize(("decode", "raw"), MALFORMED, ids=lambda value: getattr(value, "__name__", ""))
def test_malformed_frames_are_the_peers_error(decode: object, raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as error:
        decode(raw)  # type: ignore[operator]
    assert error.value.code == "frame"


@pytest.mark.parametrize(
    "parts",
    [[b"\1"], [b"\1{"], [b"\1[]"], [b"\1\xff"], [b"\1" + b"[" * 5000], [b"\1null"], [b"\1" + b"1" * 5000]],
)
def test_malformed_json_is_the_peers_error(parts: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode_json(parts)


def test_json_is_bounded_before_it_is_read() -> None:
    with pytest.raises(RemoteProtocolError, match="too long"):
        wire.decode_json([b"\1"] + [bytes(HELLO_BYTES // 2)] * 2)


@pytest.mark.parametrize("parts", [[], [b""], [b"", b"\1"], [b"\0"], [b"\x0e"], [b"\xff"]])
def test_unknown_kinds_are_the_peers_error(parts: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.kind_of(parts)


def test_what_the_peer_says_to_people_is_safe_to_print() -> None:
    assert wire.said({"text": "all well"}, "text") == "all well"
    assert wire.said({"text": "a\nb\x1b[2Jc\ud800"}, "text") == "a?b?[2Jc?"
    assert wire.said({"text": 5}, "text") == ""
    assert len(wire.said({"text": "x" * 9999}, "text")) == 400
