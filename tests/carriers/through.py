"""Ends with carriers of their own process's kind between them: the device's unix sockets, and what carries the bytes.

The carriers run on the test's loop, as `python -m tunnel.carriers.process` runs them on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.carriers.ends import DIALLER_KEYS, LISTENER_KEYS, DialSpy, Ends
from tests.loops import until
from tests.servers import Sshd
from tests.waiting import free_port
from tunnel.carriers import CARRIERS, Dialled
from tunnel.carriers.process import Process
from tunnel.carriers.ssh import SshCarrier
from tunnel.config.plan import CarrierPlan, KeyPair, SshPlan


class Through(Ends):
    """The listener is at `path`; the dialler dials `dial_address`, behind which are `carriers`."""

    def __init__(self, path: Path, dial_address: str, carriers: list[Process]) -> None:
        super().__init__("ipc", str(path))
        self.dial_address = dial_address
        self.carriers = carriers

    def dial(
        self, own: KeyPair = DIALLER_KEYS, server: str = LISTENER_KEYS.public, source: str | None = None
    ) -> tuple[Dialled, DialSpy]:
        spy = DialSpy()
        scheme = self.dial_address.partition(":")[0]
        dialled = CARRIERS[scheme].dial(self.reactor, self.dial_address, own, server, source, spy)
        self.dialled.append(dialled)
        return dialled, spy

    async def open(self) -> None:
        """Returns when the carriers are up."""
        for carrier in self.carriers:
            await carrier.start()
        await until(
            lambda: all(carrier.status()["state"] in ("up", "listening") for carrier in self.carriers),
            15,
            lambda: [carrier.status() for carrier in self.carriers],
        )

    async def shut(self) -> None:
        """Ends the carriers; after `close`."""
        await asyncio.gather(*(carrier.close() for carrier in self.carriers))


def ssh_plan(sshd: Sshd, role: Any, socket: Path, target: str, **ssh: Any) -> CarrierPlan:
    """A carrier of that sshd: its key, its known_hosts, no agent."""
    how = SshPlan(
        user=sshd.user,
        host="127.0.0.1",
        port=sshd.port,
        target=target,
        identity=(sshd.identity,),
        agent=False,
        known_hosts=(sshd.known_hosts,),
    )
    address = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}/{target}"
    return CarrierPlan("ssh-dmz", "ssh", role, address, socket, ("dmz",), ssh=replace(how, **ssh))


def ssh_dial(sshd: Sshd, folder: Path, **ssh: Any) -> Through:
    """ipc → carrier → sshd → the listener's unix socket."""
    plan = ssh_plan(sshd, "dial", folder / "d", str(folder / "link"), **ssh)
    return Through(folder / "link", f"ipc://{folder}/d", [SshCarrier(plan)])


def ssh_listen(sshd: Sshd, folder: Path, **ssh: Any) -> Through:
    """tcp → a port that the sshd opened → carrier → the listener's unix socket."""
    port = free_port()
    plan = ssh_plan(sshd, "listen", folder / "link", f"127.0.0.1:{port}", **ssh)
    return Through(folder / "link", f"tcp://127.0.0.1:{port}", [SshCarrier(plan)])


SSH_WAYS: Final[dict[str, Callable[[Sshd, Path], Through]]] = {
    f"ssh-{role}-{backend}": lambda sshd, folder, way=way, backend=backend: way(sshd, folder, backend=backend)  # type: ignore[misc]
    for role, way in (("dial", ssh_dial), ("listen", ssh_listen))
    for backend in ("paramiko", "openssh")
}
