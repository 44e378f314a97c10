"""One connection alone: credit, windows, ends and resets, as transcripts of what it says to its half."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.loops import LOOPS, until
from tunnel import pump
from tunnel.limits import STREAM_CREDIT_BYTES
from tunnel.patterns.stream_connection import Connection
from tunnel.patterns.stream_records import Code, Kind, decode_credit, decode_reset
from tunnel.pump import Segment


class Half:
    """Notes what a connection says."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.records: list[tuple[int, bytes]] = []
        self.room = True
        self.starved: list[Connection] = []
        self.forgotten = False
        self.growth = 0

    def may_read(self) -> bool:
        return self.room

    def starve(self, connection: Connection) -> None:
        self.starved.append(connection)

    def say(self, record: Segment) -> None:
        ((kind, stream, body),) = pump.records([record])
        assert stream == 7
        self.records.append((kind, bytes(body)))

    def send(self, connection: Connection, record: Segment, size: int) -> None:
        self.say(record)
        assert size == len(self.records[-1][1])

    def enlarge(self, connection: Connection) -> int:
        return self.growth

    def forget(self, connection: Connection) -> None:
        self.forgotten = True

    def said(self, kind: Kind) -> list[bytes]:
        return [body for said, body in self.records if said == kind]

    @property
    def sent(self) -> int:
        return sum(map(len, self.said(Kind.DATA)))

    @property
    def granted(self) -> int:
        return sum(map(decode_credit, self.said(Kind.CREDIT)))


Body = Callable[[Half, Connection, socket.socket], Awaitable[None]]


@pytest.fixture(params=sorted(LOOPS))
def play(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    """Runs `body(half, connection, application's end of its socket)`."""

    def run(body: Body) -> None:
        async def main() -> None:
            near, far = socket.socketpair()
            near.setblocking(False)
            far.setblocking(False)
            half = Half()
            connection = Connection(half, 7)
            connection.attach(near)
            try:
                await asyncio.wait_for(body(half, connection, far), 20)
            finally:
                connection.close(abort=False)
                far.close()

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main())

    return run


def read_all(far: socket.socket) -> bytes:
    got = b""
    try:
        while data := far.recv(1 << 16):
            got += data
    except BlockingIOError:
        pass
    return got


def fill(far: socket.socket) -> int:
    total = 0
    try:
        while True:
            total += far.send(bytes(1 << 14))
    except BlockingIOError:
        return total


Play = Callable[[Body], None]


def test_no_more_is_read_than_the_peer_granted(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        fill(far)
        await until(lambda: half.sent == STREAM_CREDIT_BYTES)
        await asyncio.sleep(0)
        assert (half.sent, connection.credit) == (STREAM_CREDIT_BYTES, 0)
        connection.on_credit(10)
        await until(lambda: half.sent == STREAM_CREDIT_BYTES + 10)

    play(body)


def test_it_starves_while_the_route_is_full_and_then_has_its_turn(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        half.room = False
        far.send(b"waits")
        await until(lambda: half.starved == [connection])
        assert half.records == []
        half.room = True
        connection.turn()
        assert half.said(Kind.DATA) == [b"waits"]
        far.send(b"flows")
        await until(lambda: half.said(Kind.DATA) == [b"waits", b"flows"])

    play(body)


def test_what_the_consumer_takes_is_granted_anew(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        data = os.urandom(1000)
        for _ in range(200):
            assert connection.on_data(data)
            assert read_all(far) == data
        assert half.granted + STREAM_CREDIT_BYTES == 200_000 + connection.granted
        assert connection.granted + connection.owed == STREAM_CREDIT_BYTES

    play(body)


@pytest.mark.parametrize("growth", [STREAM_CREDIT_BYTES, -10_000])
def test_a_window_grows_and_shrinks(play: Play, growth: int) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        half.growth = growth
        assert connection.on_data(bytes(STREAM_CREDIT_BYTES // 2))
        assert connection.window == STREAM_CREDIT_BYTES + growth
        assert connection.granted == connection.window

    play(body)


def test_a_consumer_that_stands_still_gets_no_credit_and_loses_nothing(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        data = os.urandom(STREAM_CREDIT_BYTES)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sizes = [1, 100, 5_000, 30_000, STREAM_CREDIT_BYTES]
        before = fill(connection.socket) if connection.socket else 0
        at = 0
        for size in sizes:
            assert connection.on_data(data[at : at + size])
            at += size
        assert connection.buffered == STREAM_CREDIT_BYTES
        assert half.granted == 0
        got = bytearray()
        while len(got) < before + len(data):
            got += read_all(far)
            await asyncio.sleep(0)
        assert bytes(got[before:]) == data
        assert half.granted + connection.owed == STREAM_CREDIT_BYTES

    play(body)


def test_more_than_was_granted_is_refused(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        assert not connection.on_data(bytes(STREAM_CREDIT_BYTES + 1))
        assert read_all(far) == b""

    play(body)


def test_each_direction_ends_alone_and_both_end_it(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        far.shutdown(socket.SHUT_WR)
        await until(lambda: half.said(Kind.END) == [b""])
        assert not half.forgotten
        assert connection.on_data(b"still")
        assert read_all(far) == b"still"
        connection.on_end()
        assert half.forgotten
        assert far.recv(1) == b""
        assert half.said(Kind.RESET) == []

    play(body)


def test_nothing_comes_after_the_end(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        connection.on_end()
        assert far.recv(1) == b""
        assert not connection.on_data(b"late")

    play(body)


def test_a_broken_socket_is_told_as_a_reset(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        far.close()
        await until(lambda: half.records)
        assert connection.on_data(b"to nobody")
        (reset,) = half.said(Kind.RESET)
        assert decode_reset(reset)[0] is Code.reset
        assert half.forgotten

    play(body)


def test_what_came_before_an_orderly_stop_is_handed_on(play: Play) -> None:
    async def body(half: Half, connection: Connection, far: socket.socket) -> None:
        before = fill(connection.socket) if connection.socket else 0
        assert connection.on_data(b"the last words")
        connection.on_reset(Code.closing)
        assert not half.forgotten
        got = bytearray()
        while len(got) < before + 14:
            got += read_all(far)
            await asyncio.sleep(0)
        assert got[before:] == b"the last words"
        await until(lambda: half.forgotten)

    play(body)


def test_until_the_target_answers_its_bytes_wait() -> None:
    async def main() -> Any:
        half = Half()
        connection = Connection(half, 7)
        assert connection.on_data(b"early")
        connection.on_end()
        near, far = socket.socketpair()
        near.setblocking(False)
        connection.attach(near, b"header ")
        got = far.recv(100), far.recv(100)
        granted = connection.granted + connection.owed
        connection.close(abort=False)
        far.close()
        return got, granted

    assert asyncio.run(main()) == ((b"header early", b""), STREAM_CREDIT_BYTES)
