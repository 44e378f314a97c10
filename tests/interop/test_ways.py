"""Every pattern, bound and connected at either end, over tcp and ipc, with messages of every shape.

One tunnel carries all 32 routes; the applications are plain pyzmq.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import zmq

from tests.tunnel_pair import Tunnel

PATTERNS = ("reqrep", "pubsub", "pipeline", "pair")
METHODS = ("bind", "connect")
WAYS = list(itertools.product(PATTERNS, METHODS, METHODS, ("tcp", "ipc")))
OTHER = {"bind": "connect", "connect": "bind"}
APPS = {
    "reqrep": (zmq.DEALER, zmq.DEALER),
    "pubsub": (zmq.PUB, zmq.SUB),
    "pipeline": (zmq.PUSH, zmq.PULL),
    "pair": (zmq.PAIR, zmq.PAIR),
}

SHAPES: dict[str, list[bytes]] = {
    "one frame": [b"hello"],
    "one empty frame": [b""],
    "two frames": [b"topic", b"value"],
    "empty first": [b"", b"x"],
    "empty last": [b"x", b""],
    "empty between": [b"x", b"", b"y"],
    "only empty ones": [b"", b"", b""],
    "begins with 0 and 1": [b"\0\1", b"\1\0"],
    "many frames": [b"%d" % number for number in range(300)],
    "around a reference": [b"a", b"r" * 32_768, b"b", b"s" * 32_767, b""],
    "fills a batch": [b"x" * 262_140],
    "just over a batch": [b"x" * 262_141, b"y"],
    "10 MiB": [b"head", bytes(range(256)) * 40_960, b"tail"],
}


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Tunnel, dict[str, tuple[str, str]]]]:
    tunnel = Tunnel(tmp_path_factory.mktemp("ways"))
    routes: dict[str, dict[str, str]] = {}
    addresses: dict[str, tuple[str, str]] = {}
    for pattern, at_from, at_to, transport in WAYS:
        name = f"{pattern}-{at_from}-{at_to}-{transport}"
        near = tunnel.tcp() if transport == "tcp" else tunnel.ipc(f"{name}-f")
        far = tunnel.tcp() if transport == "tcp" else tunnel.ipc(f"{name}-t")
        addresses[name] = near, far
        routes[name] = {"pattern": pattern, "from": f"dmz {at_from} {near}", "to": f"plant {at_to} {far}"}
        if pattern in ("reqrep", "pair"):
            routes[name]["max_age"] = "never"
    tunnel.write(routes, defaults={"max_message": "16MiB", "hwm": 64})
    try:
        tunnel.start()
        yield tunnel, addresses
    finally:
        tunnel.close()


@pytest.mark.parametrize(("pattern", "at_from", "at_to", "transport"), WAYS)
def test_every_shape_crosses_every_way(
    ways: tuple[Tunnel, dict[str, tuple[str, str]]], pattern: str, at_from: str, at_to: str, transport: str
) -> None:
    tunnel, addresses = ways
    name = f"{pattern}-{at_from}-{at_to}-{transport}"
    near, far = addresses[name]
    client_kind, server_kind = APPS[pattern]
    options = {zmq.SUBSCRIBE: b""} if pattern == "pubsub" else {}
    server = tunnel.app(server_kind, OTHER[at_to], far, options)
    client = tunnel.app(client_kind, OTHER[at_from], near, {zmq.SNDHWM: 0})
    tunnel.peers("dmz", name, 1)
    tunnel.peers("plant", name, 1)
    if pattern == "pubsub":
        while not server.poll(50):  # until the subscription has crossed; a PUB drops silently before
            client.send(b"ready?")
        client.send(b"go")
        while server.recv() != b"go":
            pass
    for what, frames in SHAPES.items():
        client.send_multipart([b"", *frames] if pattern == "reqrep" else frames)
        got = server.recv_multipart()
        if pattern == "reqrep":
            # what a DEALER sees before the empty frame is opaque: ids of the way back, none of them empty
            ids = got.index(b"")
            envelope, got = got[: ids + 1], got[ids + 1 :]
            _check(got, frames, what)
            server.send_multipart(envelope + list(reversed(frames)))
            empty, *got = client.recv_multipart()
            assert empty == b""
            got.reverse()
        elif pattern == "pair":
            _check(got, frames, what)
            server.send_multipart(list(reversed(frames)))
            got = list(reversed(client.recv_multipart()))
        _check(got, frames, what)
    # and a thousand small ones, in order
    for number in range(1000):
        client.send_multipart([b"n", b"%d" % number])
    got_numbers = [int(server.recv_multipart()[-1]) for _ in range(1000)]
    assert got_numbers == list(range(1000))
    assert tunnel.dropped("dmz", name) == {}
    assert tunnel.dropped("plant", name) == {}
    client.close()
    server.close()
    tunnel.peers("dmz", name, 0)
    tunnel.peers("plant", name, 0)


def _check(got: list[bytes], sent: list[bytes], what: str) -> None:
    assert [len(frame) for frame in got] == [len(frame) for frame in sent], what
    assert got == sent, what
