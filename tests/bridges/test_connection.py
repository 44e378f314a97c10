"""Connection on a real socket: reasons to hold it, how it closes, what it says of its end."""

from __future__ import annotations

import asyncio
import socket as sockets
import struct
from collections.abc import Callable
from typing import Any

import pytest

from bridges.connection import FULL, MODE, ZMQ, Connection
from bridges.framing import FramingError, Message, make
from tests.bridges.rig import run
from tests.loops import LOOPS, until
from tunnel.config.bridge_plan import TcpPlan
from tunnel.reactor import Reactor

both_loops = pytest.mark.parametrize("loop", LOOPS)


class Owner:
    """Writes down what it is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **more: Any) -> None:
        self.plan = TcpPlan(make("line"), make("line"), **more)
        self.loop = loop
        self.told: list[Any] = []
        self._block = memoryview(bytearray(1 << 16))
        self.on_opened: Callable[[Connection], None] = lambda _: None

    def block(self) -> memoryview:
        return self._block

    def opened(self, connection: Connection) -> None:
        self.told.append("opened")
        self.on_opened(connection)

    def came(self, connection: Connection, messages: list[Message], size: int) -> None:
        self.told += messages

    def breach(self, connection: Connection, error: FramingError) -> None:
        self.told.append("breach")

    def ended(self, connection: Connection) -> None:
        self.told.append("ended")

    def writable(self, connection: Connection) -> None:
        self.told.append("writable")

    def closed(self, connection: Connection, reason: str) -> None:
        self.told.append(("closed", reason))


async def joined(owner: Owner, rcvbuf: int = 0) -> tuple[Connection, sockets.socket]:
    """A connection, and the device's blocking socket."""
    with sockets.create_server(("127.0.0.1", 0)) as port:
        device = sockets.socket()
        if rcvbuf:
            device.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, rcvbuf)
        device.connect(port.getsockname())
        near, _ = port.accept()
    near.setblocking(False)
    connection = Connection(owner, 7, "127.0.0.1")
    await owner.loop.connect_accepted_socket(lambda: connection, near)
    return connection, device


@both_loops
def test_each_reason_to_hold_it_counts_by_itself(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop)
        owner.on_opened = lambda connection: connection.hold(MODE)  # before it was ever read
        connection, device = await joined(owner)
        connection.hold(ZMQ)
        connection.hold(ZMQ)
        connection.hold(FULL)
        device.sendall(b"x\n")
        for why in (FULL, ZMQ):
            connection.go_on(why)
            connection.go_on(why)
            await asyncio.sleep(0.02)
            assert owner.told == ["opened"]
        connection.go_on(MODE)
        await until(lambda: owner.told == ["opened", b"x"])
        device.close()
        await until(lambda: owner.told[-1] == "ended")
        connection.close()
        await until(lambda: owner.told[-1] == ("closed", ""))

    run(body, loop)


@both_loops
def test_what_was_said_and_ended_before_it_is_read(loop: str) -> None:
    """uvloop reads it although it is held from the beginning."""

    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop)
        owner.on_opened = lambda connection: connection.hold(MODE)
        with sockets.create_server(("127.0.0.1", 0)) as port:
            device = sockets.create_connection(port.getsockname())
            near, _ = port.accept()
        device.sendall(b"one\ntwo\n")
        device.shutdown(sockets.SHUT_WR)
        near.setblocking(False)
        connection = Connection(owner, 7, "127.0.0.1")
        await reactor.loop.connect_accepted_socket(lambda: connection, near)
        await asyncio.sleep(0.05)
        assert owner.told == ["opened"]
        connection.go_on(MODE)
        await until(lambda: owner.told == ["opened", b"one", b"two", "ended"])
        for why in (ZMQ, FULL):  # its end is not read a second time
            connection.hold(why)
            connection.go_on(why)
            await asyncio.sleep(0.02)
        assert owner.told == ["opened", b"one", b"two", "ended"]
        connection.close()
        await until(lambda: owner.told[-1] == ("closed", ""))
        device.close()

    run(body, loop)


@both_loops
def test_closing_lets_what_was_written_go(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop, queue_bytes=1000)
        connection, device = await joined(owner, 4096)
        device.settimeout(10)
        connection.write(b"x" * 3_000_000)
        await until(lambda: connection.full)
        connection.close("because")
        assert connection.ending
        got = await asyncio.to_thread(lambda: sum(len(data) for data in iter(lambda: device.recv(1 << 16), b"")))
        assert got == 3_000_000
        await until(lambda: owner.told[-1] == ("closed", "because"))
        device.close()

    run(body, loop)


@both_loops
def test_closing_waits_for_one_that_does_not_read_only_so_long(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.connection.BRIDGE_CLOSE_S", 0.1)

    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop)
        connection, device = await joined(owner, 4096)
        connection.write(b"x" * 8_000_000)
        connection.close("because")
        await until(lambda: owner.told[-1] == ("closed", "because"))
        device.close()

    run(body, loop)


@both_loops
def test_a_reset_is_called_one(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop)
        connection, device = await joined(owner)
        device.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        device.close()
        await until(lambda: owner.told[-1] == ("closed", "reset"))
        assert connection.reason == "reset"
        connection.write(b"into the void")
        connection.close("again")

    run(body, loop)


@both_loops
def test_one_that_was_given_up_before_it_was_there_is_closed(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop)
        with sockets.create_server(("127.0.0.1", 0)) as port:
            device = sockets.create_connection(port.getsockname())
            near, _ = port.accept()
        near.setblocking(False)
        connection = Connection(owner, 7, "127.0.0.1")
        connection.abort("takeover")
        await reactor.loop.connect_accepted_socket(lambda: connection, near)
        await until(lambda: owner.told == [("closed", "takeover")])
        device.close()

    run(body, loop)


@both_loops
def test_full_and_writable_again(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        owner = Owner(reactor.loop, queue_bytes=100_000)
        connection, device = await joined(owner, 4096)
        device.settimeout(10)
        written = 0
        while not connection.full:
            connection.write(b"x" * 10_000)
            written += 10_000
            await asyncio.sleep(0)
        assert await asyncio.to_thread(lambda: len(_read(device, written))) == written
        await until(lambda: "writable" in owner.told)
        assert not connection.full
        device.close()
        connection.abort("done")
        await until(lambda: owner.told[-1] == ("closed", "done"))

    run(body, loop)


def _read(device: sockets.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        got += device.recv(1 << 16)
    return got
