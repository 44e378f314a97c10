"""Shortcut between a connection of a stream and a link socket: one record at a time, and only what was foreseen."""

from __future__ import annotations

import os
import socket as sockets
import struct
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import zmq

from tests.pump.conftest import SECONDS, connected, receive
from tests.pump.test_shortcut import IN, NOTHING_OWED, OUT, frame
from tests.waiting import until
from tunnel.limits import INLINE_BYTES, JOURNAL
from tunnel.link import wire
from tunnel.link.wire import Ack
from tunnel.pump import AGAIN, DONE, LinkMessage

Socket = zmq.Socket[bytes]
STREAM, DATA = 77, 2


def record(body: bytes, *, kind: int = DATA, stream: int = STREAM) -> bytes:
    return struct.pack("<IB3xI", 8 + len(body), kind, stream) + body


class Bench:
    """A connection and a link pair around one Shortcut."""

    def __init__(self, pump: ModuleType, context: zmq.Context[Socket]) -> None:
        self.pump = pump
        self.far, self.link = connected(context, "tcp", zmq.DEALER, zmq.DEALER)
        self.client, self.local = sockets.socketpair()
        self.local.setblocking(False)
        self.client.settimeout(SECONDS)
        self.stirred: list[tuple[bool, bool, bool]] = []
        self.shortcut = pump.Shortcut(lambda *how: self.stirred.append(how))

    def arm(
        self,
        granted: int = 1 << 20,
        departs: tuple[int, int, int] | None = (OUT, 5, 1 << 20),
        enters: tuple[int, int, bytes | None, int, int] | None = (IN, 3, None, -1, 0),
        owed: tuple[int, int, bool] = NOTHING_OWED,
    ) -> None:
        door = self.local.fileno(), STREAM, granted
        self.shortcut.arm(door, self.link, b"", b"", departs, enters, owed)

    def hears(self, sent: bytes) -> LinkMessage | None:
        """This frame comes; what the shortcut does not take of it."""
        before = len(self.shortcut)
        self.far.send(sent)
        assert self.link.poll(SECONDS * 1000)
        message: LinkMessage | None = self.pump.recv(self.link, False, self.shortcut)
        assert (message is None) is (len(self.shortcut) > before)
        return message


@pytest.fixture
def bench(pump: ModuleType, context: zmq.Context[Socket]) -> Iterator[Bench]:
    bench = Bench(pump, context)
    yield bench
    bench.client.close()
    bench.local.close()


def test_a_record_leaves_with_what_is_owed(bench: Bench) -> None:
    bench.arm(owed=(1234, 1, True))
    assert bench.shortcut.depart(record(b"hello"))
    assert bench.shortcut.depart(record(b"again"))
    heads = []
    for sent, body in enumerate((b"hello", b"again")):
        header, run = wire.decode_data(receive(bench.far, 1)[0][0])
        assert (header.channel, header.seq, header.messages, bytes(run)) == (OUT, 5 + sent, 1, record(body))
        heads.append(header.ack)
    assert heads == [Ack(1234, [(IN, 2)]), None]
    journal = bench.shortcut.take()
    assert [(entered, seq, b"".join(map(bytes, piece.segments))) for entered, seq, _, piece, _ in journal] == [
        (False, 5, record(b"hello")),
        (False, 6, record(b"again")),
    ]
    assert [piece.messages for *_, piece, _ in journal] == [1, 1]


@pytest.mark.parametrize(
    ("arm", "body"),
    [({"departs": None}, b"x"), ({"departs": (OUT, 5, 0)}, b"x"), ({}, b"x" * (INLINE_BYTES - 11))],
    ids=["not armed", "no room", "not small"],
)
def test_what_is_not_foreseen_stays(bench: Bench, arm: dict[str, Any], body: bytes) -> None:
    bench.arm(**arm)
    assert not bench.shortcut.depart(record(body))
    assert bench.shortcut.take() == []
    assert not bench.far.poll(50)


def test_nothing_leaves_after_take_or_over_a_closed_link(bench: Bench) -> None:
    bench.arm()
    assert bench.shortcut.take() == []
    assert not bench.shortcut.depart(record(b"x"))
    bench.arm()
    bench.link.close()
    assert not bench.shortcut.depart(record(b"x"))
    assert (bench.shortcut.leaves, bench.shortcut.take()) == (False, [])


def test_bytes_enter(bench: Bench) -> None:
    bench.arm()
    sent = [frame(3, record(b"hello")), frame(4, record(b"world"), ack=Ack(5, [(OUT, 4)]))]
    assert [bench.hears(one) for one in sent] == [None, None]
    assert bench.client.recv(100) == b"helloworld"
    journal = bench.shortcut.take()
    assert [(entered, seq, what) for entered, seq, _, what, _ in journal] == [(True, 3, sent[0]), (True, 4, sent[1])]
    assert [(fed.messages, fed.position, fed.status) for *_, fed in journal] == [(1, 5, DONE), (1, 5, DONE)]
    assert bench.stirred == [(True, False, False)]


WRONG: dict[str, Callable[[], bytes]] = {
    "another stream": lambda: record(b"x", stream=STREAM + 1),
    "another kind": lambda: record(b"x", kind=3),
    "a reserved byte": lambda: record(b"x")[:5] + b"\1" + record(b"x")[6:],
    "no body": lambda: record(b""),
    "two records": lambda: record(b"x") + record(b"y"),
    "cut short": lambda: record(b"xy")[:-1],
    "shorter than a record": lambda: record(b"x")[:11],
    "a frame that goes on": lambda: struct.pack("<I", 9 | 0x8000_0000) + record(b"x")[4:],
    "more than was granted": lambda: record(b"x" * 11),
}


@pytest.mark.parametrize("run", WRONG.values(), ids=list(WRONG))
def test_only_bytes_of_this_connection_enter(bench: Bench, run: Callable[[], bytes]) -> None:
    bench.arm(granted=10)
    message = bench.hears(frame(3, run()))
    assert message is not None
    assert [bytes(part) for part in message.parts] == [frame(3, run())]
    assert (bench.shortcut.take(), bench.shortcut.enters, bench.shortcut.leaves) == ([], False, False)
    bench.local.close()
    assert bench.client.recv(100) == b""


def test_what_was_granted_is_used_up(bench: Bench) -> None:
    bench.arm(granted=10)
    assert bench.hears(frame(3, record(b"123456"))) is None
    assert bench.hears(frame(4, record(b"789"))) is None
    assert bench.hears(frame(5, record(b"01"))) is not None
    assert bench.client.recv(100) == b"123456789"


def fill(local: sockets.socket) -> int:
    """Until it takes no more; the bytes."""
    total = 0
    for piece in (b"\0" * 4096, b"\0"):
        while True:
            try:
                total += local.send(piece)
            except BlockingIOError:
                break
    return total


def test_a_connection_that_is_full_takes_nothing(bench: Bench) -> None:
    bench.arm()
    fill(bench.local)
    assert bench.hears(frame(3, record(b"x"))) is not None
    assert bench.shortcut.take() == []


def test_a_connection_that_becomes_full(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    bench = Bench(pump, context)
    with sockets.create_server(("127.0.0.1", 0)) as port:
        port.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        bench.local = sockets.create_connection(port.getsockname())
        bench.client, _ = port.accept()
    bench.local.setblocking(False)
    bench.local.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
    body, seq, before = os.urandom(4000), 3, fill(bench.local)
    bench.client.settimeout(SECONDS)
    # by and by there is room, until a record meets less of it than it has bytes
    read, entered = 0, 0
    while not bench.shortcut.full:
        bench.arm(enters=(IN, seq, None, -1, 0))
        if bench.hears(frame(seq, record(body))) is None:
            seq, entered = seq + 1, entered + 1
        else:
            read += len(bench.client.recv(1024))
        assert entered < 1000, "it never was full"
    *whole, (_, _, _, _, last) = bench.shortcut.take()
    assert all(fed.status is DONE and fed.position == len(body) for *_, fed in whole)
    assert (last.status, last.messages) == (AGAIN, 1)
    assert 0 < last.position < len(body)
    assert (bench.shortcut.enters, bench.shortcut.leaves) == (False, False)
    bench.local.close()
    rest = bytearray()
    while data := bench.client.recv(1 << 16):
        rest += data
    assert read + len(rest) == before + len(whole) * len(body) + last.position
    assert rest.endswith(body[: last.position])
    bench.client.close()


def test_a_connection_that_is_gone(bench: Bench) -> None:
    bench.arm()
    bench.client.close()
    until(lambda: bench.hears(frame(3, record(b"x"))) is not None, SECONDS, "it was written to nobody")
    assert not bench.shortcut.enters


def test_the_journal_is_bounded(bench: Bench) -> None:
    bench.arm()
    for _ in range(JOURNAL):
        assert bench.shortcut.depart(record(b"x"))
    assert not bench.shortcut.depart(record(b"x"))
    assert bench.hears(frame(3, record(b"x"))) is not None
    assert len(bench.shortcut) == JOURNAL
