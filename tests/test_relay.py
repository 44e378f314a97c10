"""The fault relay itself: each fault is what it says, seen from plain TCP sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.relay import Relay


class Ends:
    """A relay, and the two sockets that it joins."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.relay = Relay(("127.0.0.1", self.listener.getsockname()[1]))
        self.open: list[socket.socket] = []

    def join(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(("127.0.0.1", self.relay.port), 5)
        server, _ = self.listener.accept()
        server.settimeout(5)
        self.open += [client, server]
        return client, server

    def close(self) -> None:
        for sock in (*self.open, self.listener):
            sock.close()
        self.relay.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            break
        data += more
    return data


def assert_silent(sock: socket.socket, seconds: float = 0.2) -> None:
    sock.settimeout(seconds)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    sock.settimeout(5)


def test_passes_bytes_and_fin_both_ways(ends: Ends) -> None:
    client, server = ends.join()
    payload = bytes(range(256)) * 4096
    client.sendall(payload)
    assert read(server, len(payload)) == payload
    server.sendall(b"back")
    assert read(client, 4) == b"back"
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"still")
    assert read(client, 5) == b"still"
    assert ends.relay.stats() == {
        "connections": 1,
        "accepted": 1,
        "refused": 0,
        "to_target": len(payload),
        "to_client": 9,
    }


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut_ends_both_sides(ends: Ends, how: str) -> None:
    pairs = [ends.join() for _ in range(3)]
    ends.relay.wait(3)
    assert ends.relay.cut(how) == 3
    for pair in pairs:
        for sock in pair:
            if how == "rst":
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
            else:
                assert sock.recv(1) == b""
    client, server = ends.join()
    client.sendall(b"x")
    assert server.recv(1) == b"x"


@pytest.mark.parametrize("direction", ["both", "to_target", "to_client"])
def test_black_hole_holds_and_heals(ends: Ends, direction: str) -> None:
    client, server = ends.join()
    ends.relay.wait(1)
    ends.relay.black_hole(direction)
    client.sendall(b"up")
    server.sendall(b"down")
    for sock, held in ((server, direction != "to_client"), (client, direction != "to_target")):
        if held:
            assert_silent(sock)
    late = socket.create_connection(("127.0.0.1", ends.relay.port), 5)
    ends.open.append(late)
    ends.relay.heal()
    assert read(server, 2) == b"up"
    assert read(client, 4) == b"down"
    late.sendall(b"late")
    late_server, _ = ends.listener.accept()
    late_server.settimeout(5)
    ends.open.append(late_server)
    assert read(late_server, 4) == b"late"


def test_swallowed_connections_stay_dead(ends: Ends) -> None:
    client, server = ends.join()
    ends.relay.wait(1)
    ends.relay.swallow()
    client.sendall(b"lost")
    ends.relay.heal()
    client.sendall(b"lost too")
    assert_silent(server)
    client, server = ends.join()
    client.sendall(b"x")
    assert server.recv(1) == b"x"


@pytest.mark.parametrize("side", ["client", "target"])
def test_half_open_tells_one_side_only(ends: Ends, side: str) -> None:
    client, server = ends.join()
    ends.relay.wait(1)
    assert ends.relay.half_open(side) == 1
    told, kept = (client, server) if side == "client" else (server, client)
    with pytest.raises(ConnectionResetError):
        told.recv(1)
    kept.sendall(b"x" * 100_000)
    assert_silent(kept)
    ends.relay.cut()
    assert kept.recv(1) == b""


def test_refuse(ends: Ends) -> None:
    client, server = ends.join()
    ends.relay.refuse()
    with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", ends.relay.port), 5) as refused:
        refused.recv(1)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    assert ends.relay.stats()["refused"] == 1


def test_delay_and_rate(ends: Ends) -> None:
    client, server = ends.join()
    ends.relay.delay(0.1)
    start = time.monotonic()
    client.sendall(b"x")
    server.recv(1)
    assert time.monotonic() - start >= 0.1
    ends.relay.delay(0)
    ends.relay.rate(200_000)
    start = time.monotonic()
    client.sendall(bytes(100_000))
    read(server, 100_000)
    assert 0.4 <= time.monotonic() - start < 5


def test_target_can_move(ends: Ends) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(5)
        ends.relay.target("127.0.0.1", other.getsockname()[1])
        with socket.create_connection(("127.0.0.1", ends.relay.port), 5) as client:
            client.sendall(b"x")
            server, _ = other.accept()
            with server:
                assert server.recv(1) == b"x"
