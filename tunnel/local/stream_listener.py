"""A `bind` address of a stream route: a listening socket, opened again and again until it is open, and who comes in.

Connections are handed on as they are accepted; whom `allow` leaves out is closed at once and counted. Knows TCP and
unix sockets, nothing of streams over the link.
"""

from __future__ import annotations

import errno
import socket as sockets
from collections.abc import Callable
from typing import Any, Final

from tunnel.config.plan import EndPlan, Endpoint
from tunnel.errors import LocalError
from tunnel.limits import STREAM_ACCEPT_PAUSE_S, STREAM_ACCEPTS_A_TURN, STREAM_BACKLOG
from tunnel.local.endpoint import Pause
from tunnel.local.ipc import IpcFile
from tunnel.local.words import ipc_path, why_bind_failed
from tunnel.ports import listening
from tunnel.reactor import Reactor
from tunnel.zap import may_connect

OnAccept = Callable[[sockets.socket, str], None]
"""A connection that does not block, and the address it came from (`192.0.2.7`; "" from a unix socket)."""
_NO_MORE_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class StreamListener:
    """One address; `refused` counts whom `allow` turned away."""

    def __init__(self, reactor: Reactor, plan: Endpoint, end: EndPlan, on_accept: OnAccept, *, private: bool) -> None:
        self.refused = 0
        self.last_refused = ""
        """Who was turned away last."""
        self.waited = 0
        """Times that there were no descriptors left, and who came had to wait."""
        self.port: sockets.socket | None = None
        self._reactor = reactor
        self._plan = plan
        self._end = end
        self._on_accept = on_accept
        self._path = ipc_path(plan.address)
        self._file = IpcFile(self._path, mode=end.mode, group=end.group, private=private) if self._path else None
        self._pause = Pause()
        self._reason = ""
        self._timer: Any = None
        self._reading = False
        self._paused = False

    def __repr__(self) -> str:
        return f"<StreamListener {self._plan.address} {self.state}>"

    @property
    def state(self) -> str:
        return "bound" if self.port is not None else "retrying"

    def start(self) -> None:
        """Listen now, or as soon as that is possible."""
        self._timer = None
        try:
            if self._path is not None and self._file is not None:
                self.port = _listen_unix(self._path, self._file)
            else:
                self.port = listening(self._plan.address, STREAM_BACKLOG)
        except LocalError as error:
            self._failed(f"{self._plan.address}: {error}" if self._path is None else str(error))
        except OSError as error:
            self._failed(why_bind_failed(self._plan.address, error.errno or 0))
        else:
            self._reason = ""
            self._pause.reset()
            self._read(not self._paused)

    def stop(self) -> None:
        """Let nobody in any more; the address is free again."""
        if self._timer is not None:
            self._timer.cancel()
        if self.port is not None:
            self._read(False)
            self.port.close()
            self.port = None
            if self._file is not None:
                self._file.remove()

    def pause(self, *, paused: bool) -> None:
        """Leave who comes in the kernel's queue for now."""
        self._paused = paused
        self._read(not paused)

    def status(self, peers: int) -> dict[str, Any]:
        return {
            "address": self._plan.address,
            "method": "bind",
            "state": self.state,
            "peers": peers,
            "reason": self._reason,
            "turned_away": self.refused,
        }

    def _failed(self, reason: str) -> None:
        self._reason = reason
        self._timer = self._reactor.call_later(self._pause.take(), self.start)

    def _read(self, wanted: bool) -> None:
        if self.port is None or wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            self._reactor.loop.add_reader(self.port.fileno(), self._on_readable)
        else:
            self._reactor.loop.remove_reader(self.port.fileno())

    def _on_readable(self) -> None:
        for _ in range(STREAM_ACCEPTS_A_TURN):
            if self.port is None or not self._reading:
                return
            try:
                connection, name = self.port.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_MORE_DESCRIPTORS:
                    self._out_of_descriptors(error)
                    return
                continue  # that client is gone already
            self._admit(connection, "" if self._path is not None else str(name[0]))

    def _admit(self, connection: sockets.socket, address: str) -> None:
        if address and not may_connect(self._end.allow, address):
            self.refused += 1
            self.last_refused = address
            connection.close()
            return
        connection.setblocking(False)
        self._on_accept(connection, address)

    def _out_of_descriptors(self, error: OSError) -> None:
        """Waiting beats spinning: the kernel keeps who comes meanwhile."""
        self.waited += 1
        self._reason = f"{self._plan.address}: {error.strerror}; who comes waits."
        self._read(False)
        self._timer = self._reactor.call_later(STREAM_ACCEPT_PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        self._reason = ""
        self._read(not self._paused)


def _listen_unix(path: str, file: IpcFile) -> sockets.socket:
    port = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        port.setblocking(False)
        file.bind(lambda: port.bind("\0" + path[1:] if path.startswith("@") else path))
        port.listen(STREAM_BACKLOG)
    except (OSError, LocalError):
        port.close()
        raise
    return port
