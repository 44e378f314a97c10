"""A relay between unix sockets that cuts on command: what tests.relay is for TCP, as far as tests of `ipc` need it.

relay = UnixRelay(path, target)     # listens at `path`; each connection goes on to `target`
relay.cut()                         # ends every connection on both sides. New ones are let in
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class UnixRelay:
    """Runs in threads of the test's process, two a connection."""

    def __init__(self, path: Path, target: Path) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """How many connections that were."""
        with self._lock:
            found, self._open = self._open, set()
        for each in found:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return len(found) // 2

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # close() alone leaves accept() waiting
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                target = socket.socket(socket.AF_UNIX)
                try:
                    target.connect(str(self._target))
                except OSError:  # nobody listens there yet
                    client.close()
                    target.close()
                    continue
                with self._lock:
                    self._open |= {client, target}
                for way in ((client, target), (target, client)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()  # the other direction's thread closes the other one
