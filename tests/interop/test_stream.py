"""Byte streams through two real halves: TCP and unix sockets, half-close, resets, limits, refusals, PROXY protocol."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.streams import Handler, Service, connected, echo, exactly, to_the_end, was_reset
from tests.tunnel_pair import Tunnel
from tests.waiting import elapse, free_port, until
from tunnel.control import ask
from tunnel.errors import ZtunnelError


def count_and_answer(connection: socket.socket) -> None:
    """Reads to the end, then tells the digest: works only where half-close does."""
    digest = hashlib.sha256()
    while data := connection.recv(1 << 16):
        digest.update(data)
    connection.sendall(digest.hexdigest().encode())


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[Tunnel]:
    tunnel = Tunnel(tmp_path)
    yield tunnel
    tunnel.close()


@pytest.fixture
def service() -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(handler: Handler, path: str = "") -> Service:
        made.append(Service(handler, path))
        return made[-1]

    yield make
    for each in made:
        each.close()


def started(tunnel: Tunnel, target: str, *, listener: str = "plant", **route: Any) -> str:
    """A stream route towards `target`; its address for clients. `route`: further keys."""
    other = next(side for side in tunnel.sides if side != listener)
    entry = route.pop("entry", None) or tunnel.tcp()
    tunnel.write(
        {"s": {"pattern": "stream", "from": f"{other} bind {entry}", "to": f"{listener} connect {target}"} | route}
    )
    tunnel.start()
    return entry


def test_an_interface_may_be_listened_at(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address, entry=f"tcp://lo:{free_port()}", allow="any")
    with contextlib.closing(connected(entry.replace("lo", "127.0.0.1"))) as client:
        client.sendall(b"by name")
        assert exactly(client, 7) == b"by name"


@pytest.mark.parametrize("listener", ["plant", "dmz"])
def test_bytes_go_both_ways(tunnel: Tunnel, service: Callable[..., Service], listener: str) -> None:
    entry = started(tunnel, service(echo).address, listener=listener)
    with connected(entry) as client:
        client.sendall(b"hello")
        assert exactly(client, 5) == b"hello"
        big = os.urandom(8 << 20)
        sender = threading.Thread(target=client.sendall, args=(big,))
        sender.start()
        assert exactly(client, len(big)) == big
        sender.join()
    side = next(side for side in tunnel.sides if side != listener)
    told = tunnel.until_route(side, "s", lambda r: r["connections"] == 0)
    assert told["opened"] == 1
    assert told["bytes_in"] == told["bytes_out"] == len(big) + 5


def test_half_close_both_ways(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(count_and_answer).address)
    data = os.urandom(3_000_000)
    with connected(entry) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert to_the_end(client) == hashlib.sha256(data).hexdigest().encode()


def test_the_service_may_end_first(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    heard: list[bytes] = []

    def greet_then_listen(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        heard.append(to_the_end(connection))

    entry = started(tunnel, service(greet_then_listen).address)
    with connected(entry) as client:
        assert to_the_end(client) == b"bye"
        client.sendall(b"still here")
    until(lambda: heard, 10, "the service hears what came after its own end")
    assert heard == [b"still here"]


def test_unix_sockets_at_both_ends(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo, f"{tunnel.runtime}/service").address, entry=tunnel.ipc("entry"))
    with connected(entry) as client:
        client.sendall(b"over files")
        assert exactly(client, 10) == b"over files"


def test_a_reset_is_passed_on_both_ways(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    ended: list[bool] = []
    abort = struct.pack("ii", 1, 0)

    def serve(connection: socket.socket) -> None:
        if exactly(connection, 1) == b"1":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
            connection.close()
        else:
            ended.append(was_reset(connection))

    entry = started(tunnel, service(serve).address)
    with connected(entry) as client:
        client.sendall(b"1")
        assert was_reset(client)
    client = connected(entry)
    client.sendall(b"2")
    until(lambda: tunnel.route("plant", "s")["bytes_out"] >= 2, 10, "the service has the byte")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
    client.close()
    until(lambda: ended, 10, "the service sees the end")
    assert ended == [True]


def test_a_dead_target_is_told_and_counted(tunnel: Tunnel) -> None:
    entry = started(tunnel, f"tcp://127.0.0.1:{free_port()}")
    with connected(entry) as client:
        assert was_reset(client)
    for side in tunnel.sides:
        assert tunnel.route(side, "s")["refused"] == {"target_down": 1}
    (endpoint,) = tunnel.route("plant", "s")["endpoints"]
    assert endpoint["state"] == "down"
    assert "Nobody listens" in endpoint["reason"]


def test_no_more_than_the_route_allows(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address, connections=2)
    with connected(entry) as one, connected(entry) as two:
        for client in (one, two):
            client.sendall(b"x")
            assert exactly(client, 1) == b"x"
        with connected(entry) as three:
            assert was_reset(three)
        assert tunnel.route("dmz", "s")["refused"] == {"limit": 1}
    tunnel.until_route("dmz", "s", lambda r: r["connections"] == 0)
    with connected(entry) as again:
        again.sendall(b"y")
        assert exactly(again, 1) == b"y"


def test_an_idle_connection_is_ended(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address, idle="300ms")
    with connected(entry) as client:
        client.sendall(b"x")
        assert exactly(client, 1) == b"x"
        assert was_reset(client)
    tunnel.until_route("dmz", "s", lambda r: r["ended"].get("idle") == 1 and not r["connections"])


def test_the_target_learns_who_connected(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    heard: list[bytes] = []
    target = service(lambda connection: heard.append(to_the_end(connection)))
    entry = started(tunnel, target.address, to={"side": "plant", "connect": target.address, "proxy_protocol": True})
    with connected(entry) as client:
        own, theirs = client.getsockname(), client.getpeername()
        client.sendall(b"then the bytes")
    until(lambda: heard, 10, "the service has heard all")
    addresses = socket.inet_aton("127.0.0.1") * 2 + struct.pack(">HH", own[1], theirs[1])
    assert heard == [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses + b"then the bytes"]


def test_a_slow_reader_holds_up_only_itself(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address)
    with connected(entry) as slow, connected(entry) as quick:
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(bytes(1 << 16))
        for _ in range(20):
            quick.sendall(b"q" * 10_000)
            assert exactly(quick, 10_000) == b"q" * 10_000


def test_a_thousand_connections(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address)
    clients = [connected(entry) for _ in range(1000)]
    for at, client in enumerate(clients):
        client.sendall(b"%08d" % at)
    assert [exactly(client, 8) for client in clients] == [b"%08d" % at for at in range(1000)]
    assert tunnel.route("plant", "s")["connections"] == 1000
    for client in clients:
        client.close()
    for side in tunnel.sides:
        tunnel.until_route(side, "s", lambda r: r["connections"] == 0)


@pytest.mark.parametrize("side", ["dmz", "plant"])
def test_a_killed_half_resets_and_the_route_comes_back(
    tunnel: Tunnel, service: Callable[..., Service], side: str
) -> None:
    entry = started(tunnel, service(echo).address)
    other = next(each for each in tunnel.sides if each != side)
    client = connected(entry)
    client.sendall(b"x")
    assert exactly(client, 1) == b"x"
    tunnel.devices[side].kill()
    tunnel.devices[side].start()
    tunnel.up()
    assert was_reset(client) == (side == "plant")  # of a dead half's own sockets the kernel ends without RST
    client.close()
    told = tunnel.until_route(other, "s", lambda r: r["connections"] == 0)
    assert told["ended"] == {"peer_restart": 1}
    with connected(entry) as client:
        client.sendall(b"back")
        assert exactly(client, 4) == b"back"


def test_without_a_link_a_client_waits_then_is_turned_away(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address, connect="700ms")
    tunnel.devices["plant"].kill()
    tunnel.until_route("dmz", "s", lambda r: r["state"] == "waiting")
    with connected(entry) as client:
        assert was_reset(client)
    assert tunnel.route("dmz", "s")["refused"] == {"link_down": 1}


def test_without_a_link_who_leaves_gives_up_its_place(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    """Who has said all that it will say, and waits for the answer, has not left: it has it when the link is back."""
    entry = started(tunnel, service(count_and_answer).address, connect="40s")
    tunnel.devices["plant"].kill()
    tunnel.until_route("dmz", "s", lambda r: r["state"] == "waiting")
    with connected(entry) as waits:
        waits.sendall(b"a question")
        waits.shutdown(socket.SHUT_WR)
        with connected(entry):
            tunnel.until_route("dmz", "s", lambda r: r["connections"] == 2)
        tunnel.until_route("dmz", "s", lambda r: (r["connections"], r["refused"]) == (1, {"hung_up": 1}))
        tunnel.devices["plant"].start()
        assert to_the_end(waits) == hashlib.sha256(b"a question").hexdigest().encode()


def test_reload_ends_the_connections_of_a_route_that_goes_and_comes(
    tunnel: Tunnel, service: Callable[..., Service]
) -> None:
    entry = started(tunnel, service(echo).address)
    client = connected(entry)
    client.sendall(b"x")
    assert exactly(client, 1) == b"x"
    table = tunnel.table.read_text()
    tunnel.write({})
    for side in tunnel.sides:
        ask(tunnel.devices[side].control, "reload", timeout_s=10)
    assert was_reset(client)
    client.close()
    with pytest.raises(ConnectionRefusedError):
        connected(entry)
    tunnel.table.write_text(table)
    for side in tunnel.sides:
        ask(tunnel.devices[side].control, "reload", timeout_s=10)
    tunnel.until_route("dmz", "s", lambda r: r["state"] == "ready")
    with connected(entry) as client:
        client.sendall(b"again")
        assert exactly(client, 5) == b"again"


def test_a_side_that_reloads_alone_ends_them_too(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address)
    with connected(entry) as client:
        client.sendall(b"x")
        assert exactly(client, 1) == b"x"
        tunnel.table.write_text(tunnel.table.read_text().replace("pattern: stream", "pattern: stream\n    connect: 3s"))
        ask(tunnel.devices["plant"].control, "reload", timeout_s=10)
        assert was_reset(client)
    tunnel.until_route("dmz", "s", lambda r: r["connections"] == 0 and r["state"] == "ready")


def test_an_orderly_stop_hands_on_what_it_has_and_tells_the_other_half(
    tunnel: Tunnel, service: Callable[..., Service]
) -> None:
    entry = started(tunnel, service(echo).address)
    with connected(entry) as client:
        client.sendall(b"x")
        assert exactly(client, 1) == b"x"
        assert tunnel.devices["plant"].stop() == 0
        assert was_reset(client)
    tunnel.until_route("dmz", "s", lambda r: r["connections"] == 0 and r["ended"] == {"closing": 1})


def test_a_quiet_half_that_stops_tells_the_other_too(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    """Nothing is under way, so nothing but the word itself keeps it from leaving at once."""
    entry = started(tunnel, service(echo).address)
    with connected(entry) as client:
        client.sendall(b"x")
        assert exactly(client, 1) == b"x"
        elapse(0.5)  # until everything is acknowledged, both ways
        assert tunnel.devices["plant"].stop() == 0
        assert was_reset(client)


def test_two_targets_share_the_connections(tmp_path: Path, service: Callable[..., Service]) -> None:
    tunnel = Tunnel(tmp_path, ("dmz", "plant-a", "plant-b"))
    try:
        a, b, entry = service(echo), service(echo), tunnel.tcp()
        ends = [f"plant-a connect {a.address}", f"plant-b connect {b.address}"]
        tunnel.write({"s": {"pattern": "stream", "from": f"dmz bind {entry}", "to": ends}})
        tunnel.start()
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                client = stack.enter_context(connected(entry))
                client.sendall(b"x")
                assert exactly(client, 1) == b"x"
            assert (a.accepted, b.accepted) == (3, 3)
    finally:
        tunnel.close()


def test_without_the_compiled_pump_it_is_the_same(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    tunnel.environment = tunnel.environment | {"ZTUNNEL_PUMP": "pure"}
    entry = started(tunnel, service(count_and_answer).address)
    assert tunnel.status("dmz")["pump"] == "pure"
    data = os.urandom(2_000_000)
    with connected(entry) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert to_the_end(client) == hashlib.sha256(data).hexdigest().encode()


def test_fifty_that_do_not_read_hold_what_their_windows_say(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    entry = started(tunnel, service(echo).address, window="1MiB")
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(connected(entry))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(200):
                    client.send(bytes(1 << 16))
        with connected(entry) as quick:
            quick.sendall(b"q")
            assert exactly(quick, 1) == b"q"
        for side in tunnel.sides:
            pid = tunnel.status(side)["pid"]
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            assert resident < 128 << 20, f"{side} holds {resident}"


def test_what_is_looked_at_is_no_stream(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    started(tunnel, service(echo).address)
    with pytest.raises(ZtunnelError, match="connect to it"):
        ask(tunnel.devices["dmz"].control, "probe", timeout_s=10, route="s")
    assert ask(tunnel.devices["dmz"].control, "tap-start", timeout_s=10, route="s")["reader"]


def test_whom_allow_leaves_out_is_turned_away(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    target = service(echo)
    entry = tunnel.tcp()
    near = {"side": "dmz", "bind": entry, "allow": ["192.0.2.0/24"]}
    tunnel.write({"s": {"pattern": "stream", "from": near, "to": f"plant connect {target.address}"}})
    tunnel.start()
    with connected(entry) as client:
        assert client.recv(1) == b""
    assert tunnel.route("dmz", "s")["refused"] == {"address": 1}
    assert target.accepted == 0


def test_the_next_address_answers_where_the_first_does_not(tunnel: Tunnel, service: Callable[..., Service]) -> None:
    port = service(echo).address.rpartition(":")[2]
    entry = started(tunnel, f"tcp://127.0.0.1:{free_port()} tcp://localhost:{port}")
    with connected(entry) as client:
        client.sendall(b"found")
        assert exactly(client, 5) == b"found"
    first, second = tunnel.route("plant", "s")["endpoints"]
    assert (first["state"], second["state"]) == ("down", "ready")
