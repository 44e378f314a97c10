"""What the two backends of the SSH carrier have in common: their interface, what they count, what a target is."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from tunnel.errors import LinkError


class SshError(LinkError):
    """Why there is no session at the sshd: a sentence without its full stop."""


@dataclass
class Counts:
    """What a backend counts, from several threads; `bytes_in` came from the device."""

    counted: bool = True
    """Whether the bytes pass where they can be counted: else nobody is told a number."""

    connections: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    """Why the latest connection was refused, until one is not."""
    host_key: str = ""
    server: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, connections: int = 0, bytes_in: int = 0, bytes_out: int = 0) -> None:
        with self.lock:
            self.connections += connections
            self.bytes_in += bytes_in
            self.bytes_out += bytes_out

    def refuse(self, why: str, reason: str) -> None:
        """`why`: one word for the count, `reason`: the sentence."""
        with self.lock:
            self.refused[why] += 1
            self.reason = reason


class Backend(Protocol):
    """How a session is held."""

    async def start(self) -> None:
        """What stands whether there is a session or not."""

    async def connect(self) -> None:
        """Open a session. Raises SshError."""

    async def ended(self) -> str:
        """Wait for the session's end; why."""

    async def hang_up(self) -> None:
        """End the session, if there is one, and every connection in it."""

    async def close(self) -> None:
        """Leave nothing open and no file behind."""


def split_target(target: str) -> tuple[str, int] | str:
    """`HOST:PORT` (IPv6 in brackets), `PORT` alone (loopback at the sshd), or the path of a unix socket."""
    if target.startswith("/"):
        return target
    host, _, port = target.rpartition(":")
    return host.strip("[]") or "localhost", int(port)


def held(server: str, target: str, remark: str = "") -> str:
    """Why a sshd does not open a port for us: SSH itself has no word for it."""
    if "disabled" in remark or "denied" in remark:
        return (
            f"the sshd {server} does not let this account open {target} ({remark.rstrip('.')}): "
            "see AllowTcpForwarding, permitlisten"
        )
    return (
        f"the sshd {server} did not open {target}: another program or an old session of ours holds it (until the "
        "sshd's ClientAliveInterval ends that), or the account may not (AllowTcpForwarding, permitlisten)"
    )
