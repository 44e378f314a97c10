"""Whoever knocks at a link port without the right key: refused, counted, and the good dialler goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
import zmq

from tests.carriers.ends import DIALLER_KEYS, LISTENER_KEYS, STRANGER_KEYS, Ends, run_within, until
from tunnel.carriers import Lane, zmtp
from tunnel.config.plan import Allow
from tunnel.limits import FRAGMENT_BYTES, HANDSHAKE_S

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"
PATIENCE_S = 2.0
"""HANDSHAKE_S in the tests of the slow; that of 200 who come at once has the real one."""


class Good:
    """A dialler that exchanges frames all the time; the longest it had to wait counts."""

    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        self.echoes = 0
        self.longest_s = 0.0

    async def run(self) -> None:
        dialled, spy = self.ends.dial()
        await until(lambda: spy.is_up)
        while True:
            seen = len(spy.received)
            start = time.monotonic()
            for lane in Lane:
                assert dialled.send(lane, [b"good", bytes(500)])
            await until(lambda seen=seen: len(spy.received) == seen + 2)  # type: ignore[misc]
            self.longest_s = max(self.longest_s, time.monotonic() - start)
            self.echoes += 1


@contextlib.asynccontextmanager
async def attacked(scheme: str, path: str, allow: Allow | None = None) -> AsyncIterator[Ends]:
    """A listener and a good dialler, which must have got on all the time."""
    ends = Ends(scheme, path)
    try:
        ends.listen(allow)
        ends.spy.echo = True
        good = Good(ends)
        task = asyncio.ensure_future(good.run())
        await until(lambda: good.echoes or task.done())
        before = good.echoes
        yield ends
        await until(lambda: good.echoes > before + 10 or task.done())
        assert not task.done(), task.exception()
        assert good.longest_s < 1.5
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        ends.close()


def refused(ends: Ends) -> dict[str, int]:
    assert ends.listener is not None
    return {reason: count for reason, count in ends.listener.status()["refused"].items() if count}


def connections(ends: Ends) -> int:
    assert ends.listener is not None
    return int(ends.listener.status()["connections"])


def knock(ends: Ends) -> sockets.socket:
    """A plain connection to the link's port."""
    if ends.address.startswith("ipc://"):
        sock = sockets.socket(sockets.AF_UNIX)
        sock.connect(ends.address.removeprefix("ipc://"))
        return sock
    host, _, port = ends.address.removeprefix("tcp://").rpartition(":")
    return sockets.create_connection((host, int(port)), 5)


async def silent(ends: Ends) -> dict[str, int]:
    knocking = await asyncio.to_thread(lambda: [knock(ends) for _ in range(200)])
    await until(lambda: connections(ends) == 202)
    await until(lambda: connections(ends) == 2, HANDSHAKE_S + 5)
    for sock in knocking:
        sock.settimeout(5)
        assert sock.recv(100)[:1] in (b"\xff", b"")  # at most libzmq's greeting, then it hung up
        sock.close()
    return {"timeout": 200}


async def silent_after_the_greeting(ends: Ends) -> dict[str, int]:
    sock = knock(ends)
    sock.sendall(GREETING)
    await until(lambda: connections(ends) == 3)
    await until(lambda: connections(ends) == 2, PATIENCE_S + 5)
    sock.close()
    return {"timeout": 1}


async def drip(ends: Ends) -> dict[str, int]:
    """One byte now and then: the handshake's deadline is for the whole of it."""
    sock = knock(ends)
    await until(lambda: connections(ends) == 3)
    start = time.monotonic()
    for byte in GREETING * 1000:
        if connections(ends) == 2:
            break
        with contextlib.suppress(OSError):
            sock.send(bytes([byte]))
        await asyncio.sleep(0.5)
    assert time.monotonic() - start < PATIENCE_S + 3
    sock.close()
    return {"timeout": 1}


async def garbage(ends: Ends) -> dict[str, int]:
    for size in (1, 64, 1000, 100_000):
        sock = knock(ends)
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.send(b"\x01" + os.urandom(size))
        sock.close()
    await until(lambda: sum(refused(ends).values()) == 4 and connections(ends) == 2)
    return refused(ends)


async def http(ends: Ends) -> dict[str, int]:
    sock = knock(ends)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    await until(lambda: refused(ends) and connections(ends) == 2)
    sock.close()
    return {"handshake": 1}


async def hangs_up(ends: Ends) -> dict[str, int]:
    for _ in range(50):
        knock(ends).close()
    await until(lambda: refused(ends).get("handshake") == 50 and connections(ends) == 2)
    return {"handshake": 50}


def client(ends: Ends, kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
    socket = ends.reactor.context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    return socket


def set_curve(socket: zmq.Socket[bytes], server: str = LISTENER_KEYS.public, own: object = DIALLER_KEYS) -> None:
    keys = STRANGER_KEYS if own is STRANGER_KEYS else DIALLER_KEYS
    socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.reveal().encode())


async def try_it(ends: Ends, socket: zmq.Socket[bytes]) -> dict[str, int]:
    socket.connect(ends.address)
    with contextlib.suppress(zmq.Again):
        socket.send(b"let me in", zmq.DONTWAIT)
    await until(lambda: refused(ends) and connections(ends) == 2)
    socket.close()
    return refused(ends)


async def null(ends: Ends) -> dict[str, int]:
    got = await try_it(ends, client(ends))
    # which of the two hangs up first is a race: both know from the greetings that it cannot work
    assert got in ({"mechanism": 1}, {"handshake": 1})
    return got


async def plain(ends: Ends) -> dict[str, int]:
    socket = client(ends)
    socket.setsockopt(zmq.PLAIN_USERNAME, b"plant")
    socket.setsockopt(zmq.PLAIN_PASSWORD, b"secret")
    got = await try_it(ends, socket)
    assert got in ({"mechanism": 1}, {"handshake": 1})
    return got


async def wrong_server_key(ends: Ends) -> dict[str, int]:
    socket = client(ends)
    set_curve(socket, server=STRANGER_KEYS.public)
    await try_it(ends, socket)
    return {"key": 1}


async def unknown_client_key(ends: Ends) -> dict[str, int]:
    socket = client(ends)
    set_curve(socket, own=STRANGER_KEYS)
    await try_it(ends, socket)
    return {"key": 1}


ATTACKS: list[Callable[[Ends], Awaitable[dict[str, int]]]] = [
    silent,
    silent_after_the_greeting,
    drip,
    garbage,
    http,
    hangs_up,
    null,
    plain,
    wrong_server_key,
    unknown_client_key,
]


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: str(attack.__name__))
def test_refused_counted_and_the_good_dialler_undisturbed(
    attack: Callable[[Ends], Awaitable[dict[str, int]]], scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attack is not silent:
        monkeypatch.setattr(zmtp, "HANDSHAKE_S", PATIENCE_S)

    async def body() -> None:
        async with attacked(scheme, str(tmp_path / "link")) as ends:
            assert refused(ends) == {}
            expected = await attack(ends)
            assert refused(ends) == expected
            assert ends.listener is not None
            assert ends.listener.status()["admitted"] == 2
            assert ends.listener.status()["state"] == "listening"

    run_within(body(), 100)


def test_an_address_outside_allow_is_refused_though_its_key_is_right(tmp_path: Path) -> None:
    async def body() -> None:
        async with attacked("tcp", str(tmp_path), Allow(networks=(ip_network("127.0.0.1/32"),))) as ends:
            _, spy = ends.dial(source="127.0.0.2")
            await until(lambda: len(spy.losses) == 2)
            assert all("refused by the listener" in reason for _, reason in spy.losses)
            assert refused(ends) == {"address": 2}
            assert ends.listener is not None
            assert "127.0.0.2" in ends.listener.status()["last_refusal"]

    run_within(body())


def test_a_known_dialler_that_sends_too_much_is_cut_off_and_nobody_else(tmp_path: Path) -> None:
    async def body() -> None:
        async with attacked("tcp", str(tmp_path)) as ends:
            assert ends.listener is not None
            listener = ends.listener
            too_large, too_many = client(ends), client(ends)
            for socket, parts in ((too_large, [bytes(2 * FRAGMENT_BYTES)]), (too_many, [b"x"] * 5000)):
                set_curve(socket)
                socket.connect(ends.address)
                socket.send_multipart(parts)
            await until(lambda: listener.status()["admitted"] == 4)
            # the frame above MAXMSGSIZE ends its connection, the one of too many parts is dropped
            await until(lambda: connections(ends) == 3 and refused(ends) == {"frames": 1})

    run_within(body())
