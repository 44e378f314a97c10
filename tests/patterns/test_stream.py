"""Clients of a stream that wait for a link: who is noticed when it leaves, and who is waited for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.loops import run_with_reactor, until
from tunnel.config.plan import EndPlan, RoutePlan, StreamPlan
from tunnel.patterns import stream as streams
from tunnel.patterns.base import Port
from tunnel.patterns.stream import StreamFrom
from tunnel.reactor import Reactor

Pair = tuple[socket.socket, socket.socket]


def tcp() -> Pair:
    """(client, what the listener accepted)"""
    with socket.create_server(("127.0.0.1", 0)) as port:
        return socket.create_connection(port.getsockname()), port.accept()[0]


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a body with the clients' end of a route whose link is down."""
    monkeypatch.setattr(streams, "STREAM_SWEEP_S", 0.02)

    def run(body: Callable[[StreamFrom], Any], **stream: Any) -> None:
        async def main(reactor: Reactor) -> None:
            plan = RoutePlan(
                "s", "stream", "from", EndPlan("TCP", ()), ("a",), ("z",), ("z",), stream=StreamPlan(**stream)
            )
            pattern = StreamFrom(plan, cast("Any", reactor))
            pattern.make_end(reactor, tmp_path)
            channel = SimpleNamespace(epoch=1, refused=None, outbound=None, inbound=None)
            pattern.attach_ports([Port(cast("Any", SimpleNamespace(side="z", is_open=False)), cast("Any", channel))])
            await body(pattern)
            await pattern.stream_end.close()
            assert pattern.count() == 0

        run_with_reactor(main, within_s=20)

    return run


def close(client: socket.socket) -> None:
    client.close()


def speak_and_break_off(client: socket.socket) -> None:
    client.sendall(b"a question")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def speak_and_close(client: socket.socket) -> None:
    client.sendall(b"a question")
    client.close()


def speak_and_end(client: socket.socket) -> None:
    client.sendall(b"a question")
    client.shutdown(socket.SHUT_WR)


def do_nothing(client: socket.socket) -> None:
    """It waits."""


@pytest.mark.parametrize(
    ("pair", "leave"),
    [(tcp, close), (tcp, speak_and_break_off), (socket.socketpair, close), (socket.socketpair, speak_and_close)],
)
def test_who_leaves_is_noticed(
    waiting: Callable[..., None], pair: Callable[[], Pair], leave: Callable[[socket.socket], None]
) -> None:
    async def body(pattern: StreamFrom) -> None:
        client, accepted = pair()
        pattern.on_accept(accepted, "")
        assert pattern.count() == 1
        leave(client)
        await until(lambda: pattern.count() == 0, 5)
        assert pattern.told()["refused"] == {"hung_up": 1}

    waiting(body)


@pytest.mark.parametrize("pair", [tcp, socket.socketpair])
@pytest.mark.parametrize("stay", [do_nothing, speak_and_end])
def test_who_stays_is_waited_for(
    waiting: Callable[..., None], pair: Callable[[], Pair], stay: Callable[[socket.socket], None]
) -> None:
    async def body(pattern: StreamFrom) -> None:
        (client, accepted), (other, leaver) = pair(), pair()
        pattern.on_accept(accepted, "")
        pattern.on_accept(leaver, "")
        stay(client)
        other.close()
        await until(lambda: pattern.told()["refused"] == {"hung_up": 1}, 5)
        assert pattern.count() == 1
        client.close()

    waiting(body)


def test_its_place_is_free_for_the_next(waiting: Callable[..., None]) -> None:
    async def body(pattern: StreamFrom) -> None:
        pairs = [tcp() for _ in range(3)]
        pattern.on_accept(pairs[0][1], "")
        pattern.on_accept(pairs[1][1], "")
        assert pattern.told()["refused"] == {"limit": 1}
        pairs[0][0].close()
        await until(lambda: pattern.count() == 0, 5)
        pattern.on_accept(pairs[2][1], "")
        assert pattern.told()["refused"] == {"hung_up": 1, "limit": 1}
        assert pattern.count() == 1
        for client, _ in pairs:
            client.close()

    waiting(body, connections=1)
