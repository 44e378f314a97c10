"""Those who come to the link's port and should not: unmodified 0MQ and plain TCP, each with a fault of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import zmq

from tests.faults.rig import Rig
from tests.tunnel_pair import ROOT
from tunnel.config.plan import KeyPair
from tunnel.keys import read_pair
from tunnel.link import wire
from tunnel.link.hello import Hello
from tunnel.link.wire import Kind

Frames = list[bytes]


def own_key() -> KeyPair:
    """A key that nobody knows."""
    from tunnel.config.plan import Secret

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), Secret(secret.decode()))


class Visitor:
    """A DEALER at the link's port."""

    def __init__(self, rig: Rig, *, own: KeyPair | None, server: str | None, plain: bool = False) -> None:
        self.context = zmq.Context[Any]()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.routing_id = b"v" + os.urandom(15)
        if own is not None and server is not None:
            self.socket.curve_publickey = own.public.encode()
            self.socket.curve_secretkey = own.secret.reveal().encode()
            self.socket.curve_serverkey = server.encode()
        if plain:
            self.socket.plain_username = b"plant"
            self.socket.plain_password = b"guess"
        self.socket.connect(f"tcp://127.0.0.1:{rig.link_port}")

    def say(self, *parts: bytes) -> None:
        self.socket.send_multipart(list(parts))

    def answer(self, within_s: float) -> Frames | None:
        return self.socket.recv_multipart() if self.socket.poll(within_s * 1000) else None

    def close(self) -> None:
        self.context.destroy(0)


def greeting(side: str = "plant", version: int = wire.VERSION, session: bytes | None = None) -> Frames:
    """A HELLO as a half would say it, of a session of its own."""
    hello = Hello(
        side=side,
        session=session or os.urandom(16),
        attempt=1,
        peer_session=b"",
        clock_us=int(time.monotonic() * 1e6),
        routes=(),
        version=version,
    )
    return [bytes(part) for part in wire.encode_json(Kind.HELLO, hello.fields())]


def keys(rig: Rig) -> tuple[KeyPair, str]:
    """(the dialler's pair, the listener's public key)"""
    folder = rig.folder / "keys"
    return read_pair(folder / "plant.key_secret"), read_pair(folder / "dmz.key_secret").public


def wrong_server_key(rig: Rig) -> Visitor:
    return Visitor(rig, own=keys(rig)[0], server=own_key().public)


def unknown_key(rig: Rig) -> Visitor:
    return Visitor(rig, own=own_key(), server=keys(rig)[1])


def no_key(rig: Rig) -> Visitor:
    return Visitor(rig, own=None, server=None)


def password(rig: Rig) -> Visitor:
    return Visitor(rig, own=None, server=None, plain=True)


def right_key(rig: Rig) -> Visitor:
    return Visitor(rig, own=keys(rig)[0], server=keys(rig)[1])


def talk(rig: Rig, text: bytes) -> None:
    """A TCP client that says something else than ZMTP, until the listener closes or a moment has passed."""
    with socket.create_connection(("127.0.0.1", rig.link_port), 5) as client:
        client.settimeout(2)
        try:
            client.sendall(text)
            while client.recv(4096):
                pass
        except OSError:
            pass


def silent(rig: Rig, count: int) -> list[socket.socket]:
    """TCP connections that say nothing."""
    return [socket.create_connection(("127.0.0.1", rig.link_port), 5) for _ in range(count)]


def closed_by_peer(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        while data := client.recv(4096):
            assert data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def flood(rig: Rig, count: int) -> subprocess.Popen[bytes]:
    """A process that holds `count` silent connections and makes new ones for those it loses, until it is killed."""
    return subprocess.Popen([sys.executable, "-m", "tests.faults.strangers", str(rig.link_port), str(count)], cwd=ROOT)


def _flood(port: int, count: int) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
    clients: list[socket.socket] = []
    while True:
        while len(clients) < count:
            client = socket.socket()
            client.setblocking(False)
            # many source addresses, or the ports of one run out
            client.bind((f"127.0.0.{2 + len(clients) % 200}", 0))
            client.connect_ex(("127.0.0.1", port))
            clients.append(client)
            if len(clients) % 100 == 0:
                time.sleep(0.01)
        time.sleep(0.2)
        clients = [client for client in clients if not _ended(client)]


def _ended(client: socket.socket) -> bool:
    try:
        ended = client.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        ended = True
    if ended:
        client.close()
    return ended


STRANGERS: dict[str, Callable[[Rig], Visitor]] = {
    "wrong server key": wrong_server_key,
    "unknown key": unknown_key,
    "no key": no_key,
    "password": password,
}
"""Those who must never get an answer, whatever they say."""

if __name__ == "__main__":
    _flood(int(sys.argv[1]), int(sys.argv[2]))
