"""TCP (and unix) services and clients for tests of streams: blocking sockets, a thread for each served connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

Handler = Callable[[socket.socket], None]


class Service:
    """A TCP (or unix) server: `handler` runs in a thread for each connection."""

    def __init__(self, handler: Handler, path: str = "") -> None:
        self.listening = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.listening.bind(path or ("127.0.0.1", 0))
        self.listening.listen(2000)
        self.address = f"ipc://{path}" if path else f"tcp://127.0.0.1:{self.listening.getsockname()[1]}"
        self.accepted = 0
        self._handler = handler
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._handler(connection)

    def close(self) -> None:
        self.listening.close()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


def connected(entry: str) -> socket.socket:
    if entry.startswith("ipc://"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(entry.removeprefix("ipc://"))
    else:
        host, port = entry.removeprefix("tcp://").rsplit(":", 1)
        client = socket.create_connection((host, int(port)))
    client.settimeout(20)
    return client


def exactly(client: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size:
        data = client.recv(min(1 << 20, size - len(got)))
        if not data:
            break
        got += data
    return bytes(got)


def to_the_end(client: socket.socket) -> bytes:
    got = bytearray()
    while data := client.recv(1 << 20):
        got += data
    return bytes(got)


def was_reset(client: socket.socket) -> bool:
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False
