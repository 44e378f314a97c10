"""Records of streams: what is encoded is read back, what is malformed is told apart, what batches look like."""

from __future__ import annotations

import socket

import pytest

from tunnel import pump
from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_BYTES, LINK_PARTS, REFERENCE_BYTES, STREAM_TEXT_BYTES
from tunnel.patterns.stream_proxy import proxy_header
from tunnel.patterns.stream_records import (
    Code,
    Kind,
    Origin,
    decode_credit,
    decode_open,
    decode_reset,
    encode,
    encode_credit,
    encode_open,
    encode_reset,
    pieces_of,
)

FOUR = Origin(("192.0.2.1", 40000), ("198.51.100.2", 443))
SIX = Origin(("2001:db8::1", 1), ("2001:db8::2", 65535))
UNIX = Origin()


def body_of(record: bytes) -> tuple[int, int, bytes]:
    ((kind, stream, body),) = pump.records([record])
    return kind, stream, bytes(body)


@pytest.mark.parametrize("origin", [FOUR, SIX, UNIX], ids=["IPv4", "IPv6", "unix"])
def test_who_connected(origin: Origin) -> None:
    kind, stream, body = body_of(encode_open(9, origin))
    assert (kind, stream, decode_open(body)) == (Kind.OPEN, 9, origin)


@pytest.mark.parametrize("body", [b"", b"\0x", b"\4abc", b"\5" + bytes(12), b"\4" + bytes(13)])
def test_a_malformed_open(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_open(body)


def test_resets_credits_and_ends() -> None:
    assert decode_reset(body_of(encode_reset(1, Code.target_down, "nobody\nthere"))[2]) == (
        Code.target_down,
        "nobody?there",
    )
    assert decode_reset(b"") == decode_reset(b"\xff") == (Code.reset, "")
    assert len(body_of(encode_reset(1, Code.idle, "ä" * 1000))[2]) == 1 + STREAM_TEXT_BYTES
    assert decode_credit(body_of(encode_credit(1, 70_000))[2]) == 70_000
    assert body_of(encode(Kind.END, 3)) == (Kind.END, 3, b"")
    with pytest.raises(RemoteProtocolError):
        decode_credit(b"123")


def test_records_become_batches_of_few_parts() -> None:
    records = [encode(Kind.DATA, at, bytes(50)) for at in range(20_000)]
    records[100:100] = [encode(Kind.DATA, 1, bytes(REFERENCE_BYTES)), encode(Kind.DATA, 2, bytes(BATCH_BYTES - 12))]
    pieces = pieces_of(records)
    assert b"".join(bytes(segment) for piece in pieces for segment in piece.segments) == b"".join(records)
    assert sum(piece.messages for piece in pieces) == len(records)
    for piece in pieces:
        assert piece.size == sum(map(len, piece.segments)) <= BATCH_BYTES
        assert len(piece.segments) < LINK_PARTS // 2
        assert len(pump.records(piece.segments)) == piece.messages


def test_proxy_headers() -> None:
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    assert proxy_header(FOUR) == signature + b"\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x9c\x40\x01\xbb"
    addresses = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    assert proxy_header(SIX) == signature + b"\x21\x21\0\x24" + addresses + b"\0\x01\xff\xff"
    assert proxy_header(UNIX) == signature + b"\x21\0\0\0"
