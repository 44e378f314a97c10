"""Links inside SSH and HTTP, cut under load on all four patterns: nothing is lost, repeated or out of order.

Each carrier runs as its own process, as supervision would run it; a killed one is started again, as the keeper does.
Five cuts each here, twenty with FAULTS=full.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme
import yaml

from tests.faults.load import Load, four_routes
from tests.faults.rig import FULL, QUICK, Rig
from tests.servers import Haproxy, Nginx, Server, Squid, Sshd
from tests.tunnel_pair import ROOT
from tests.waiting import elapse, free_port, until
from tunnel.config import read_plan
from tunnel.control import ask
from tunnel.errors import NotRunningError

CUTS = 20 if FULL else 5
BACK_WITHIN_S = 30
Links = Callable[["CarrierRig"], list[dict[str, Any]]]


class CarrierRig(Rig):
    """A rig whose link is carried: the relay stands before the server that the carriers meet at."""

    def __init__(self, folder: Path, links: Links) -> None:
        super().__init__(folder)
        self.server: Server | None = None
        self.carriers: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._links = links(self)

    def write_routes(self, routes: str) -> None:
        self.write(yaml.safe_load(routes), links=self._links)

    def start(self, **how: Any) -> None:  # type: ignore[override]
        for side in self.halves:
            with mock.patch.dict(os.environ, self.environment):
                names = [carrier.name for carrier in read_plan(self.table, side).carriers]
            for name in names:
                self.start_carrier(side, name)
        assert self.carriers
        super().start(**how)

    def start_carrier(self, side: str, name: str) -> None:
        command = [sys.executable, "-m", "tunnel.carriers.process", str(self.table), "--as", side, "--carrier", name]
        with (self.folder / f"{side}-{name}.log").open("ab") as log:
            self.carriers[side, name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )

    def kill_carriers(self) -> None:
        """Every one of them, with SIGKILL; and started again."""
        for (side, name), process in list(self.carriers.items()):
            process.kill()
            process.wait()
            self.start_carrier(side, name)

    def carrier_status(self, side: str, name: str) -> dict[str, Any]:
        return ask(self.runtime / f"{self.name}.{side}" / f"{name}.sock", "status", timeout_s=5)

    def told(self) -> str:
        logs = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in self.folder.glob("*-*.log")]
        return "\n".join([super().told(), *logs, self.server.tail() if self.server else ""])

    def close(self) -> None:
        for process in self.carriers.values():
            process.kill()
            process.wait()
        if self.server is not None:
            self.server.stop()
        super().close()


def started_sshd(rig: CarrierRig) -> tuple[Sshd, dict[str, Any]]:
    """A sshd behind the relay, and the keys of a link through it."""
    sshd = Sshd(rig.folder / "sshd")
    sshd.start()
    rig.server = sshd
    rig.relay.target("127.0.0.1", sshd.port)
    port = rig.relay.address.rpartition(":")[2]
    known = sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{port} ")
    sshd.known_hosts.write_text(known)
    keys = {"identity": str(sshd.identity), "known_hosts": str(sshd.known_hosts), "agent": False}
    return sshd, {"at": f"ssh://{sshd.user}@127.0.0.1:{port}", "ssh": keys}


def over_ssh(backend: str) -> Links:
    def links(rig: CarrierRig) -> list[dict[str, Any]]:
        _, way = started_sshd(rig)
        dial = {
            "side": "plant",
            "address": f"{way['at']}/127.0.0.1:{rig.link_port}",
            "ssh": {**way["ssh"], "backend": backend},
        }
        return [{"listen": f"dmz tcp://127.0.0.1:{rig.link_port}", "dial": dial}]

    return links


def reverse_over_ssh(rig: CarrierRig) -> list[dict[str, Any]]:
    """The dmz half listens at the sshd; the plant half dials the port that the sshd opened."""
    _, way = started_sshd(rig)
    listen = {"side": "dmz", "address": f"{way['at']}/{rig.link_port}", "ssh": way["ssh"]}
    return [{"listen": listen, "dial": f"plant tcp://127.0.0.1:{rig.link_port}"}]


def over_http(rig: CarrierRig) -> list[dict[str, Any]]:
    port = free_port()
    rig.relay.target("127.0.0.1", port)
    dialled = rig.relay.address.replace("tcp://", "http://")
    return [{"listen": f"dmz http://127.0.0.1:{port}/link", "dial": f"plant {dialled}/link"}]


def listening_http(rig: CarrierRig) -> tuple[int, str]:
    """The dmz half's HTTP port, behind some server; and its `listen`."""
    port = free_port()
    return port, f"dmz http://127.0.0.1:{port}/link"


def over_https(rig: CarrierRig) -> list[dict[str, Any]]:
    """nginx ends the TLS; its own certificate's authority is trusted alone."""
    port, listen = listening_http(rig)
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    ca, cert, key = (rig.folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    made.private_key_pem.write_to_path(key)
    for pem in made.cert_chain_pems:
        pem.write_to_path(cert, append=True)
    rig.server = Nginx(rig.folder / "nginx", port, tls=(cert, key))
    rig.server.start()
    rig.relay.target("127.0.0.1", rig.server.port)
    dialled = rig.relay.address.replace("tcp://127.0.0.1", "https://localhost")
    return [{"listen": listen, "dial": {"side": "plant", "address": f"{dialled}/link", "tls": {"ca": str(ca)}}}]


def behind_haproxy(rig: CarrierRig) -> list[dict[str, Any]]:
    port, listen = listening_http(rig)
    rig.server = Haproxy(rig.folder / "haproxy", port)
    rig.server.start()
    rig.relay.target("127.0.0.1", rig.server.port)
    dialled = rig.relay.address.replace("tcp://", "http://")
    return [{"listen": listen, "dial": f"plant {dialled}/link"}]


def through_squid(rig: CarrierRig) -> list[dict[str, Any]]:
    """The relay stands before the proxy."""
    port, listen = listening_http(rig)
    rig.server = Squid(rig.folder / "squid")
    rig.server.start()
    rig.relay.target("127.0.0.1", rig.server.port)
    proxy = {"url": rig.relay.address.replace("tcp://", "http://")}
    return [{"listen": listen, "dial": {"side": "plant", "address": f"http://127.0.0.1:{port}/link", "proxy": proxy}}]


def by_long_poll(rig: CarrierRig) -> list[dict[str, Any]]:
    """An nginx that lets no WebSocket through."""
    port, listen = listening_http(rig)
    rig.server = Nginx(rig.folder / "nginx", port, upgrade=False)
    rig.server.start()
    rig.relay.target("127.0.0.1", rig.server.port)
    dialled = rig.relay.address.replace("tcp://", "http://")
    return [{"listen": listen, "dial": f"plant {dialled}/link"}]


KINDS: dict[str, Links] = {
    "ssh": over_ssh("paramiko"),
    "openssh": over_ssh("openssh"),
    "reverse ssh": reverse_over_ssh,
    "http": over_http,
    "https behind nginx": over_https,
    "http behind haproxy": behind_haproxy,
    "http through squid": through_squid,
    "long-poll": by_long_poll,
}


@pytest.fixture(params=list(KINDS))
def carried(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[CarrierRig]:
    rig = CarrierRig(tmp_path, KINDS[request.param])
    yield rig
    rig.close()


def connection_reset(rig: CarrierRig) -> None:
    rig.relay.cut("rst")


def processes_killed(rig: CarrierRig) -> None:
    rig.kill_carriers()


def server_restarted(rig: CarrierRig) -> None:
    assert rig.server is not None
    rig.server.restart()


def resumes(rig: Rig) -> int:
    try:
        return int(rig.plant.link()["resumes"])
    except NotRunningError:
        return -1


@pytest.mark.timeout(600)
def test_cuts_lose_repeat_and_reorder_nothing(carried: CarrierRig) -> None:
    carried.write_routes(four_routes(carried))
    carried.start(limits=QUICK)
    load = Load(carried, rate=400)
    load.go()
    ways = [connection_reset, processes_killed, *([server_restarted] if carried.server else [])]
    for cut, _ in zip(itertools.cycle(ways), range(CUTS), strict=False):
        before = resumes(carried)
        cut(carried)
        if cut is processes_killed:  # the other cuts a long-poll outlives: it asks again, and the link sees nothing
            until(lambda: resumes(carried) > before, BACK_WITHIN_S, carried.told)  # noqa: B023
        load.flows(BACK_WITHIN_S)
        elapse(0.2)
    assert resumes(carried) >= CUTS // len(ways)
    load.flows(20)
    load.finish()
    load.assert_clean()
    assert carried.both_dropped().total() == 0, carried.both_dropped()
