"""supervisord's XML-RPC over its unix socket: one call, one connection, one time limit.

Standard library only, as the keeper imports it and is to stay small.
"""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any, NoReturn

from tunnel.errors import NotRunningError, ZtunnelError


class Rpc:
    """`Rpc(socket)("getAllProcessInfo")`. NotRunningError: nobody answers; Refused: supervisord says no."""

    def __init__(self, path: Path, timeout_s: float = 1.0) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def __call__(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        transport = _UnixTransport(self._path, timeout_s or self._timeout_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport, allow_none=True) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise Refused(method, fault.faultCode, fault.faultString) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            self._unreachable(error)

    def _unreachable(self, error: Exception) -> NoReturn:
        raise NotRunningError(f"the supervisor behind {self._path} does not answer ({error or type(error).__name__}).")


class Refused(ZtunnelError):
    """supervisord said no; `fault` is its code (supervisor/xmlrpc.py, class Faults)."""

    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    ALREADY_STARTED = 60
    NOT_RUNNING = 70
    ALREADY_ADDED = 90
    STILL_RUNNING = 91
    CANT_REREAD = 92

    def __init__(self, method: str, fault: int, text: str) -> None:
        super().__init__(f"the supervisor refused {method}: {text}.")
        self.fault = fault


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, self._timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
