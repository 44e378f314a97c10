"""Ends with carriers of their own process's kind between them: the device's unix sockets, and what carries the bytes.

The carriers run on the test's loop, as `python -m tunnel.carriers.process` runs them on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.carriers.certificates import Authority
from tests.carriers.ends import DIALLER_KEYS, LISTENER_KEYS, DialSpy, Ends
from tests.loops import until
from tests.servers import Nginx, Server, Squid, Sshd
from tests.waiting import free_port
from tunnel.carriers import CARRIERS, Dialled
from tunnel.carriers.http import HttpCarrier
from tunnel.carriers.process import Process
from tunnel.carriers.ssh import SshCarrier
from tunnel.config.plan import CarrierPlan, KeyPair, ProxyPlan, SshPlan, TlsPlan


class Through(Ends):
    """The listener is at `path`; the dialler dials `dial_address`, behind which are `carriers`."""

    def __init__(
        self, path: Path, dial_address: str, carriers: Sequence[Process], server: Server | None = None
    ) -> None:
        super().__init__("ipc", str(path))
        self.dial_address = dial_address
        self.carriers = carriers
        self.server = server
        """What stands between the carriers, if it is this test's own."""

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
        if self.server is not None:
            self.server.start()
        for carrier in self.carriers:
            await carrier.start()
        await until(
            lambda: all(_opened(carrier) for carrier in self.carriers),
            15,
            lambda: [carrier.status() for carrier in self.carriers],
        )

    async def shut(self) -> None:
        """Ends the carriers; after `close`."""
        await asyncio.gather(*(carrier.close() for carrier in self.carriers))
        if self.server is not None:
            self.server.__exit__()


def _opened(carrier: Process) -> bool:
    """A dialling HTTP carrier connects when the device does, and not before."""
    return carrier.status()["state"] in (
        ("up", "listening", "connecting") if isinstance(carrier, HttpCarrier) else ("up", "listening")
    )


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


def http_ways(folder: Path, dialled: str, port: int, server: Server | None = None, **how: Any) -> Through:
    """ipc → carrier → whatever stands there → carrier → the listener's unix socket."""
    at, here = f"http://127.0.0.1:{port}/link", folder / "d"
    listen = CarrierPlan("http-plant", "http", "listen", at, folder / "link", ("plant",))
    scheme: Any = dialled.partition(":")[0]
    dial = CarrierPlan(f"{scheme}-dmz", scheme, "dial", dialled, here, ("dmz",), **{"proxy": ProxyPlan(""), **how})
    return Through(folder / "link", f"ipc://{here}", [HttpCarrier(listen), HttpCarrier(dial)], server)


def http(folder: Path) -> Through:
    port = free_port()
    return http_ways(folder, f"http://127.0.0.1:{port}/link", port)


def https_behind_nginx(folder: Path) -> Through:
    port, authority = free_port(), Authority(folder)
    nginx = Nginx(folder / "nginx", port, tls=authority.issue().pair)
    return http_ways(folder, f"https://127.0.0.1:{nginx.port}/link", port, nginx, tls=TlsPlan(ca=authority.path))


def https_through_squid(folder: Path) -> Through:
    """TLS inside CONNECT; the listening carrier ends it itself."""
    port, authority, squid = free_port(), Authority(folder), Squid(folder / "squid")
    files = authority.issue()
    how = {"tls": TlsPlan(ca=authority.path), "proxy": ProxyPlan(f"http://127.0.0.1:{squid.port}")}
    made = http_ways(folder, f"https://127.0.0.1:{port}/link", port, squid, **how)
    at = f"https://127.0.0.1:{port}/link"
    own = TlsPlan(cert=files.cert, key=files.key)
    listen = CarrierPlan("https-plant", "https", "listen", at, folder / "link", ("plant",), tls=own)
    made.carriers = [HttpCarrier(listen), *made.carriers[1:]]
    return made


def long_poll(folder: Path) -> Through:
    """An nginx that lets no WebSocket through."""
    port = free_port()
    nginx = Nginx(folder / "nginx", port, upgrade=False)
    return http_ways(folder, f"http://127.0.0.1:{nginx.port}/link", port, nginx)


HTTP_WAYS: Final[dict[str, Callable[[Path], Through]]] = {
    "http": http,
    "https-behind-nginx": https_behind_nginx,
    "https-through-squid": https_through_squid,
    "long-poll": long_poll,
}
