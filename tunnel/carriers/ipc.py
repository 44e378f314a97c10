"""The link over a unix socket, `ipc:///path`: for halves on one machine, or a forward by something else (ssh -L).

CURVE all the same: a path does not prove who is behind it. Who may open the file at all is its mode and group.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket as sockets
import stat

from tunnel.carriers.base import DialEvents, ListenEvents, Who
from tunnel.carriers.zmtp import ZmtpDialled, ZmtpListener
from tunnel.config.plan import KeyPair, ListenPlan
from tunnel.errors import LocalError
from tunnel.limits import IPC_PATH_BYTES, LISTEN_BACKLOG
from tunnel.reactor import Reactor
from tunnel.zap import Zap


class IpcCarrier:
    """`ipc:///run/x/link`, or `ipc://@name` for Linux's abstract namespace."""

    def dial(
        self, reactor: Reactor, address: str, own: KeyPair, server: str, source: str | None, events: DialEvents
    ) -> ZmtpDialled:
        return ZmtpDialled(reactor, address, own, server, events)

    def listen(
        self, reactor: Reactor, zap: Zap, plan: ListenPlan, own: KeyPair, who: Who, events: ListenEvents
    ) -> ZmtpListener:
        path = _path(plan.address)
        return ZmtpListener(
            reactor, zap, plan, own, who, events, lambda: open_port(path, plan.mode, plan.group), lambda: _remove(path)
        )


def open_port(path: str, mode: int | None, group: str | None) -> sockets.socket:
    """A listening socket at `path`; a file that nobody listens on any more is replaced.

    Raises OSError, or LocalError with the reason.
    """
    if len(path.encode()) > IPC_PATH_BYTES:
        raise LocalError(f"the path is longer than {IPC_PATH_BYTES} bytes")
    if path.startswith("\0"):
        return _listen(path)
    _remove_stale(path)
    # nobody may connect before mode and group are as they shall be
    before = os.umask(0o177)
    try:
        port = _listen(path)
    finally:
        os.umask(before)
    try:
        if group is not None:
            shutil.chown(path, group=group)
        os.chmod(path, 0o600 if mode is None else mode)
    except (OSError, LookupError) as error:
        port.close()
        _remove(path)
        raise LocalError(f"mode or group cannot be set: {error}") from None
    return port


def _listen(path: str) -> sockets.socket:
    port = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        port.setblocking(False)
        port.bind(path)
        port.listen(LISTEN_BACKLOG)
    except OSError:
        port.close()
        raise
    return port


def _remove_stale(path: str) -> None:
    """Remove a socket that its owner left behind; anything else at that path is not ours to remove."""
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise LocalError("there is a file of that name that is no socket")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1)
        with contextlib.suppress(ConnectionRefusedError):
            probe.connect(path)
            raise LocalError("another program listens there already")
    _remove(path)


def _remove(path: str) -> None:
    if not path.startswith("\0"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _path(address: str) -> str:
    path = address.removeprefix("ipc://")
    return "\0" + path[1:] if path.startswith("@") else path
