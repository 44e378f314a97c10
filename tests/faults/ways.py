"""A whole tunnel over every way that a link can travel: what carries it, what cuts it, which credentials will not do.

    way = WAYS["https through squid"](folder)
    way.write_routes(routes)
    way.start(limits=QUICK)        # the server on the way, the carriers' processes, both halves

Each carrier runs as its own process, as supervision would run it; a killed one is started again, as the keeper does.
The relay stands before the server that the carriers meet at, so what it cuts is the connection that carries the link.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from tests.carriers.certificates import Authority
from tests.faults.rig import SIDES, Rig
from tests.faults.unix_relay import UnixRelay
from tests.servers import Haproxy, Nginx, Server, Squid, Sshd, new_key
from tests.tunnel_pair import ROOT
from tests.waiting import free_port, until
from tunnel.config import read_plan
from tunnel.control import ask
from tunnel.errors import NotRunningError

CARRIED_WITHIN_S = 30


@dataclass(frozen=True)
class Wrong:
    """A credential of the carrier that must not do: the link with it, whose it is, and what its status says then."""

    side: str
    link: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Link:
    """The table's `links` entry, and what must not work in its place."""

    listen: Any
    dial: Any
    wrong: tuple[Wrong, ...] = ()

    @property
    def written(self) -> dict[str, Any]:
        return {"listen": self.listen, "dial": self.dial}


class Way(Rig):
    """A rig whose link is carried; `link_of` starts what stands between the carriers and says what the table says."""

    def __init__(self, folder: Path, link_of: Callable[[Way], Link]) -> None:
        super().__init__(folder)
        self.mends = False
        """What is cut on the way is mended there."""
        self.server: Server | None = None
        self.unix_relay: UnixRelay | None = None
        self.carriers: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self.routes: dict[str, Any] = {}
        self.link = link_of(self)

    # --- the table ---------------------------------------------------------------------------------------------------

    def write_routes(self, routes: str) -> None:
        self.routes = yaml.safe_load(routes)
        self.rewrite()

    def rewrite(self, link: dict[str, Any] | None = None, keys: dict[str, str] | None = None) -> None:
        """The table as it is, with another link or with other keys for a side."""
        sides = {side: {"key": f"keys/{(keys or {}).get(side, side)}.key"} for side in SIDES}
        self.write(self.routes, links=[link or self.link.written], sides=sides)

    # --- the processes -----------------------------------------------------------------------------------------------

    def start(self, **how: Any) -> None:
        for side in SIDES:
            for name in self.carrier_names(side):
                self.start_carrier(side, name)
        super().start(**how)

    def carrier_names(self, side: str) -> list[str]:
        with mock.patch.dict(os.environ, self.environment):
            return [carrier.name for carrier in read_plan(self.table, side).carriers]

    def start_carrier(self, side: str, name: str) -> None:
        command = [sys.executable, "-m", "tunnel.carriers.process", str(self.table), "--as", side, "--carrier", name]
        with (self.folder / f"{side}-{name}.log").open("ab") as log:
            self.carriers[side, name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def restart_carriers(self, of: Collection[str] = SIDES) -> None:
        """Kills them with SIGKILL, and starts them again."""
        for (side, name), process in list(self.carriers.items()):
            if side in of:
                process.kill()
                process.wait()
                self.start_carrier(side, name)

    def carrier_status(self, side: str) -> dict[str, Any]:
        """What this side's carrier says of itself; nothing while it does not answer."""
        (name,) = [name for of, name in self.carriers if of == side]
        try:
            return ask(self.runtime / f"{self.name}.{side}" / f"{name}.sock", "status", timeout_s=5)
        except NotRunningError:
            return {}

    # --- cuts --------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The connections that carry the link are reset."""
        if self.unix_relay is not None:
            self.unix_relay.cut()
        else:
            self.relay.cut("rst")

    def delay(self, seconds: float) -> None:
        """What crosses takes so long each way, so that something is always under way; but not over ipc."""
        self.relay.delay(seconds)

    def cuts(self) -> list[Callable[[], None]]:
        """What can happen to this way."""
        found: list[Callable[[], None]] = [self.reset]
        if self.carriers:
            found.append(self.restart_carriers)
        if self.server is not None:
            found.append(self.server.restart)
        return found

    def cut_by(self, cut: Callable[[], None]) -> bool:
        """Whether the link sees that; long-poll asks again after anything but the end of its own process."""
        return not self.mends or cut == self.restart_carriers

    def resumes(self) -> int:
        try:
            return int(self.plant.link()["resumes"])
        except NotRunningError:
            return -1

    def carried_again(self, before: int) -> None:
        """Waits until the link has resumed more often than that."""
        until(lambda: self.resumes() > before, CARRIED_WITHIN_S, self.told)

    def told(self) -> str:
        logs = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in self.folder.glob("*-*.log")]
        return "\n".join([super().told(), *logs, self.server.tail() if self.server else ""])

    def close(self) -> None:
        for process in self.carriers.values():
            process.kill()
            process.wait()
        if self.server is not None:
            self.server.__exit__()
        if self.unix_relay is not None:
            self.unix_relay.close()
        super().close()


class InMemory(Way):
    """Both halves in one process, on one loop, the memory carrier between them."""

    process: subprocess.Popen[bytes]

    def start(self, *, limits: Sequence[str] = ()) -> None:  # type: ignore[override]
        command = [sys.executable, "-m", "tests.faults.in_memory", *(f"--limit={limit}" for limit in limits)]
        with self.plant.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.table)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        for half in self.halves.values():
            half.process = self.process
        self.up()

    def reset(self) -> None:
        self.tell("cut")

    def delay(self, seconds: float) -> None:
        self.tell(f"delay {seconds}")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        super().close()
        if self.process.stdin is not None:
            self.process.stdin.close()


# --- the ways --------------------------------------------------------------------------------------------------------


def over_tcp(way: Way) -> Link:
    return Link(f"dmz tcp://127.0.0.1:{way.link_port}", f"plant {way.relay.address}")


def over_ipc(way: Way) -> Link:
    way.unix_relay = UnixRelay(way.runtime / "relay", way.runtime / "link")
    return Link(f"dmz {way.ipc('link')}", f"plant {way.ipc('relay')}")


def through_sshd(way: Way, backend: str) -> tuple[str, dict[str, Any], list[tuple[dict[str, Any], str]]]:
    """A sshd behind the relay: its address, the keys for it, and keys that will not do with what is said then."""
    sshd = Sshd(way.folder / "sshd")
    sshd.start()
    way.server = sshd
    way.relay.target("127.0.0.1", sshd.port)
    known = sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{way.relay.port} ")
    sshd.known_hosts.write_text(known)
    stranger, nobody = way.folder / "stranger", way.folder / "nobody"
    new_key(stranger)
    nobody.touch()
    keys = {
        "identity": str(sshd.identity),
        "known_hosts": str(sshd.known_hosts),
        "agent": False,
        "backend": backend,
    }
    wrong = [
        (keys | {"identity": str(stranger)}, "accepted no key of"),
        (keys | {"known_hosts": str(nobody)}, f"add to {nobody}: "),
    ]
    return f"ssh://{sshd.user}@127.0.0.1:{way.relay.port}", keys, wrong


def over_ssh(backend: str) -> Callable[[Way], Link]:
    """The plant half dials through the sshd."""

    def link(way: Way) -> Link:
        at, keys, wrong = through_sshd(way, backend)
        listen = f"dmz tcp://127.0.0.1:{way.link_port}"

        def dial(ssh: dict[str, Any]) -> dict[str, Any]:
            return {"side": "plant", "address": f"{at}/127.0.0.1:{way.link_port}", "ssh": ssh}

        wrongs = [Wrong("plant", {"listen": listen, "dial": dial(ssh)}, reason) for ssh, reason in wrong]
        return Link(listen, dial(keys), tuple(wrongs))

    return link


def reverse_over_ssh(backend: str) -> Callable[[Way], Link]:
    """The dmz half listens at the sshd; the plant half dials the port that the sshd opened."""

    def link(way: Way) -> Link:
        at, keys, wrong = through_sshd(way, backend)
        dial = f"plant tcp://127.0.0.1:{way.link_port}"

        def listen(ssh: dict[str, Any]) -> dict[str, Any]:
            return {"side": "dmz", "address": f"{at}/{way.link_port}", "ssh": ssh}

        wrongs = [Wrong("dmz", {"listen": listen(ssh), "dial": dial}, reason) for ssh, reason in wrong]
        return Link(listen(keys), dial, tuple(wrongs))

    return link


def behind(way: Way, server: Server | None, port: int) -> str:
    """Where to dial the HTTP listener on `port`: at the relay, which leads to the server before it."""
    if server is not None:
        way.server = server
        server.start()
    way.relay.target("127.0.0.1", server.port if server else port)
    return f"http://127.0.0.1:{way.relay.port}/link"


def by_http(server_of: Callable[[Way, int], Server | None]) -> Callable[[Way], Link]:
    def link(way: Way) -> Link:
        port = free_port()
        return Link(f"dmz http://127.0.0.1:{port}/link", f"plant {behind(way, server_of(way, port), port)}")

    return link


def by_long_poll(way: Way) -> Link:
    """nginx lets no WebSocket through."""
    way.mends = True
    return by_http(lambda way, port: Nginx(way.folder / "nginx", port, upgrade=False))(way)


def trusting(listen: Any, way: Way, authority: Authority, dial: dict[str, Any]) -> Link:
    """A link by TLS that trusts this authority alone; another one will not do."""
    other = Authority(way.folder, "other")
    right, wrong = ({**dial, "tls": {"ca": str(ca.path)}} for ca in (authority, other))
    untrusted = Wrong("plant", {"listen": listen, "dial": wrong}, "signed by a CA that is not trusted here")
    return Link(listen, right, (untrusted,))


def behind_nginx(way: Way) -> Link:
    """nginx ends the TLS."""
    port, authority = free_port(), Authority(way.folder)
    at = behind(way, Nginx(way.folder / "nginx", port, tls=authority.issue().pair), port)
    dial = {"side": "plant", "address": at.replace("http://", "https://")}
    return trusting(f"dmz http://127.0.0.1:{port}/link", way, authority, dial)


def through_squid(way: Way) -> Link:
    """TLS inside CONNECT, which the listening carrier ends itself. The relay stands before the proxy."""
    port, authority = free_port(), Authority(way.folder)
    files = authority.issue()
    files.key.chmod(0o600)
    proxy = behind(way, Squid(way.folder / "squid"), port).removesuffix("/link")
    at = f"https://127.0.0.1:{port}/link"
    listen = {"side": "dmz", "address": at, "tls": {"cert": str(files.cert), "key": str(files.key)}}
    return trusting(listen, way, authority, {"side": "plant", "address": at, "proxy": {"url": proxy}})


WAYS: dict[str, Callable[[Path], Way]] = {
    "memory": lambda folder: InMemory(folder, over_tcp),
    **{
        name: lambda folder, link=link: Way(folder, link)  # type: ignore[misc]
        for name, link in {
            "tcp": over_tcp,
            "ipc": over_ipc,
            "ssh": over_ssh("paramiko"),
            "openssh": over_ssh("openssh"),
            "reverse ssh": reverse_over_ssh("paramiko"),
            "reverse openssh": reverse_over_ssh("openssh"),
            "http": by_http(lambda way, port: None),
            "https behind nginx": behind_nginx,
            "http behind haproxy": by_http(lambda way, port: Haproxy(way.folder / "haproxy", port)),
            "https through squid": through_squid,
            "long-poll": by_long_poll,
        }.items()
    },
}
