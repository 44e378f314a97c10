"""read_record and records, over both pumps and real sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from types import ModuleType

import pytest

from tunnel.limits import REFERENCE_BYTES
from tunnel.pump import RunError

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """(whose descriptor is read, whoever sends)."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    yield near, far
    near.close()
    far.close()


def record(kind: int, stream: int, body: bytes) -> bytes:
    return struct.pack("<IB3xI", 8 + len(body), kind, stream) + body


def told(found: list[tuple[int, int, object]]) -> list[tuple[int, int, bytes]]:
    return [(kind, stream, bytes(body)) for kind, stream, body in found]  # type: ignore[call-overload]


def test_nothing_something_and_the_end(pump: ModuleType, ends: Ends) -> None:
    near, far = ends
    assert pump.read_record(near.fileno(), 2, 7, 100) is None
    far.send(b"hello")
    assert bytes(pump.read_record(near.fileno(), 2, 7, 100)) == record(2, 7, b"hello")
    far.close()
    assert pump.read_record(near.fileno(), 2, 7, 100) == b""


def test_no_more_than_asked_for(pump: ModuleType, ends: Ends) -> None:
    near, far = ends
    far.send(b"0123456789")
    assert bytes(pump.read_record(near.fileno(), 2, 0xFFFF_FFFF, 4)) == record(2, 0xFFFF_FFFF, b"0123")
    assert bytes(pump.read_record(near.fileno(), 2, 1, 100)) == record(2, 1, b"456789")


@pytest.mark.parametrize("size", [1, REFERENCE_BYTES - 13, REFERENCE_BYTES - 12, REFERENCE_BYTES, 150_000])
def test_what_was_read_stays_whatever_is_read_next(pump: ModuleType, ends: Ends, size: int) -> None:
    near, far = ends
    bodies = [os.urandom(size) for _ in range(3)]
    kept = []
    for stream, body in enumerate(bodies):
        far.sendall(body)
        kept.append(pump.read_record(near.fileno(), 2, stream, 1 << 18))
    assert [bytes(each) for each in kept] == [record(2, at, body) for at, body in enumerate(bodies)]
    assert told(pump.records(kept)) == [(2, at, body) for at, body in enumerate(bodies)]


def test_a_broken_connection_raises(pump: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port:
        near = socket.create_connection(port.getsockname())
        far, _ = port.accept()
    near.setblocking(False)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with near, pytest.raises(ConnectionResetError):
        pump.read_record(near.fileno(), 2, 1, 100)


@pytest.mark.parametrize("step", [1, 3, 12, 13, 50_000])
def test_records_whatever_the_borders_of_segments(pump: ModuleType, step: int) -> None:
    wanted = [(1, 5, b"\0"), (2, 5, os.urandom(1000)), (3, 6, b""), (2, 7, os.urandom(40_000)), (5, 5, b"1234")]
    run = b"".join(record(*each) for each in wanted)
    segments = [pump.Chunk(run[at : at + step]) for at in range(0, len(run), step)]
    assert told(pump.records(segments)) == wanted


def test_large_bodies_are_not_copied(pump: ModuleType) -> None:
    run = pump.Chunk(record(2, 1, bytes(100_000)))
    ((_, _, body),) = pump.records([run])
    with memoryview(body) as view, memoryview(run) as whole:
        assert view.obj is not None
        assert whole[12:].tobytes() == view.tobytes()
    assert not isinstance(body, bytes)


@pytest.mark.parametrize(
    "run",
    [
        b"\0\0\0",
        struct.pack("<I", 7) + bytes(7),
        struct.pack("<I", 9) + bytes(8),
        struct.pack("<I", 8 | 0x8000_0000) + bytes(8) + struct.pack("<I", 8) + bytes(8),
        record(2, 1, b"x") + b"\xff\xff\xff\x7f",
    ],
    ids=["no header", "too short", "cut off", "two frames", "a lie behind a record"],
)
def test_what_is_no_run_of_records(pump: ModuleType, run: bytes) -> None:
    with pytest.raises(RunError):
        pump.records([run])
