"""What really listens while the shipped tables run: their sockets, as the kernel lists them, are those they name.

Each table is moved to free ports of loopback, with a real sshd, nginx or squid where it needs one, and both its sides
are brought up by `ztunnel up -d`. Then every listening TCP and open UDP socket of their process trees is looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.carriers.certificates import Authority
from tests.configs.test_configs import BRIDGED, CARRIED, credentials
from tests.servers import Nginx, Squid, Sshd, descendants
from tests.supervise.rig import Rig, rig
from tests.waiting import free_port, until
from tunnel.keys import write_pair

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMED = {
    "stream": {"dmz": ["link 9440", "dmz 8080", "dmz 5432", "dmz 5560"], "plant": []},
    "over-ssh": {"dmz": ["link 9440", "dmz 5555", "dmz 5556"], "plant": [], "sshd": []},
    "reverse-over-ssh": {"plant": ["plant 5557"], "office": ["office 8080", "office 5557"], "sshd": ["link 9440"]},
    "over-https": {"dmz": ["link 8080", "dmz 5555"], "plant": []},
    "through-proxy": {"dmz": ["link 8080", "dmz 5557"], "plant": ["plant 6557"]},
    "scale": {"dmz": ["link 9440", "dmz 5557"], "plant": ["link 4001"]},
    "hl7": {"dmz": ["link 9440"], "plant": ["link 2575"]},
    "plc": {"dmz": ["link 9440", "dmz 5555"], "plant": []},
    "displays": {"dmz": ["link 9440", "dmz 5556"], "plant": ["link 4100"]},
    "reports": {"dmz": ["link 9440", "dmz 5555"], "plant": []},
    "service": {"dmz": ["link 9440", "link 7000"], "plant": []},
    "alarms": {"dmz": ["link 9440", "dmz 5558"], "plant": ["link 25"]},
    "notify": {"dmz": ["link 9440"], "plant": ["plant 5556"]},
    "mail-relay": {"dmz": ["link 9440"], "plant": ["link 25"]},
    "tickets": {"dmz": ["link 9440", "dmz 5557"], "plant": []},
}
"""Table → side, or whoever opens ports for it → what may listen there: whose port, and its number in the table."""
_LISTEN, _UNCONNECTED = "0A", "07"
"""States of /proc/net/tcp and /proc/net/udp."""


class Moved:
    """A shipped table on loopback and free ports, with the servers on its way, and its two sides running."""

    def __init__(self, name: str, here: Rig, backend: str, servers: ExitStack) -> None:
        self.rig = here
        here.environment["CREDENTIALS_DIRECTORY"] = credentials(here.folder / "credentials")
        self.named = NAMED[name]
        self.ports: dict[str, int] = {}
        self.sides = [side for side in self.named if side != "sshd"]
        self.sshd: Sshd | None = None
        table = self._moved(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))
        if "ssh" in name:
            self.sshd = servers.enter_context(Sshd(here.folder / "sshd"))
            table["links"] = [
                {role: self._through_sshd(self.sshd, end, backend) for role, end in link.items()}
                for link in table["links"]
            ]
        elif f"{name}.yaml" in CARRIED:
            table["links"][0]["dial"] = self._through_nginx("proxy" in name, servers)
        for side in set(self.sides) - {"dmz", "plant"}:
            write_pair(here.folder / "keys", side)
        here.table.write_text(yaml.safe_dump(table, sort_keys=False))

    def port(self, key: str) -> int:
        return self.ports.setdefault(key, free_port())

    def _moved(self, what: Any) -> Any:
        """Every string in the table, on loopback and a free port."""
        if isinstance(what, dict):
            return {key: "127.0.0.0/8" if key == "allow" else self._moved(value) for key, value in what.items()}
        if isinstance(what, list):
            return [self._moved(value) for value in what]
        if not isinstance(what, str):
            return what
        whose = what.split()[0] if " bind " in what else "to" if " connect " in what else "link"
        text = re.sub(r"(10\.0\.0\.\d+|192\.0\.2\.\d+|dmz\.example\.com)(?=:)", "127.0.0.1", what)
        text = re.sub(r"unix://\S*/", f"unix://{self.rig.runtime}/", text)
        return re.sub(r"(?<=[:/])\d{2,4}\b(?!\.)", lambda found: str(self.port(f"{whose} {found[0]}")), text)

    def _through_sshd(self, sshd: Sshd, end: Any, backend: str) -> Any:
        side, address = end.split() if isinstance(end, str) else (end["side"], end["address"])
        if not address.startswith("ssh://"):
            return end
        target = address.removeprefix("ssh://").partition("/")[2]
        how = {"identity": str(sshd.identity), "known_hosts": str(sshd.known_hosts), "agent": False, "backend": backend}
        return {"side": side, "address": f"ssh://{sshd.user}@127.0.0.1:{sshd.port}/{target}", "ssh": how}

    def _through_nginx(self, by_squid: bool, servers: ExitStack) -> dict[str, Any]:
        authority = Authority(self.rig.folder)
        files = authority.issue()
        nginx = servers.enter_context(Nginx(self.rig.folder / "nginx", self.port("link 8080"), files.pair))
        squid = servers.enter_context(Squid(self.rig.folder / "squid")) if by_squid else None
        return {
            "side": "plant",
            "address": f"https://127.0.0.1:{nginx.port}/link",
            "tls": {"ca": str(authority.path)},
            "proxy": f"http://127.0.0.1:{squid.port}" if squid else "none",
        }

    def up(self) -> None:
        """Both sides run, and the link between them is up."""
        for side in self.sides:
            self.rig.up(side)
        for side in self.sides:
            until(lambda side=side: self._linked(side), 30, lambda side=side: self.rig.status(side))  # type: ignore[misc]

    def _linked(self, side: str) -> bool:
        return all(link["state"] == "up" for link in self.rig.status(side)["links"])

    def check(self) -> None:
        """What listens is what is named, no more and no less."""
        assert self.found() == self.expected()

    def expected(self) -> dict[str, set[str]]:
        wanted = {whose: {f"tcp 127.0.0.1:{self.port(key)}" for key in keys} for whose, keys in self.named.items()}
        if self.sshd is not None:
            wanted["sshd"].add(f"tcp 127.0.0.1:{self.sshd.port}")
        return wanted

    def found(self) -> dict[str, set[str]]:
        roots = {side: self.rig.status(side)["pid"] for side in self.sides}
        if self.sshd is not None and self.sshd.process is not None:
            roots["sshd"] = self.sshd.process.pid
        return {whose: listening([root, *descendants(root)]) for whose, root in roots.items()}


def listening(pids: list[int]) -> set[str]:
    """`tcp 127.0.0.1:9440` for each TCP socket that listens, `udp ...` for each that anybody may send to."""
    held = {target for pid in pids for target in _descriptors(pid)}
    found = set()
    for kind, state in (("tcp", _LISTEN), ("tcp6", _LISTEN), ("udp", _UNCONNECTED), ("udp6", _UNCONNECTED)):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == state and f"socket:[{words[9]}]" in held:
                found.add(f"{kind[:3]} {_address(words[1])}")
    return found


def _descriptors(pid: int) -> Iterator[str]:
    """What a process holds open; what is closed meanwhile is passed over."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(descriptor)


def _address(text: str) -> str:
    """0100007F:24E0 → 127.0.0.1:9440; the kernel writes words of four bytes in its own order."""
    host, port = text.split(":")
    words = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    shown = str(IPv4Address(words)) if len(words) == 4 else f"[{IPv6Address(words)}]"
    return f"{shown}:{int(port, 16)}"


@pytest.fixture
def moved(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Moved]:
    name, backend = request.param
    with rig(tmp_path) as here, ExitStack() as servers:
        yield Moved(name, here, backend, servers)


def test_every_table_with_a_carrier_or_a_bridge_and_the_streams_are_looked_at() -> None:
    assert set(NAMED) == {"stream", *(name.removesuffix(".yaml") for name in (*CARRIED, *BRIDGED))}


CASES = [(name, backend) for name in NAMED for backend in (("paramiko", "openssh") if "ssh" in name else ("",))]


@pytest.mark.parametrize("moved", CASES, indirect=True, ids=lambda case: " ".join(case).strip())
def test_nothing_listens_but_what_the_table_names(moved: Moved) -> None:
    moved.up()
    moved.check()


@pytest.mark.parametrize("moved", [("over-ssh", "openssh")], indirect=True, ids=["over-ssh"])
def test_control_a_port_that_nobody_named_is_found(moved: Moved) -> None:
    """One route more than the test knows of, open to everybody."""
    table = yaml.safe_load(moved.rig.table.read_text())
    stray = f"tcp://0.0.0.0:{free_port()}"
    table["routes"]["stray"] = {
        "pattern": "stream",
        "from": f"plant bind {stray}",
        "to": "dmz connect tcp://127.0.0.1:1",
    }
    table["routes"]["stray"]["allow"] = "any"
    moved.rig.table.write_text(yaml.safe_dump(table))
    moved.up()
    with pytest.raises(AssertionError):
        moved.check()
    assert moved.found()["plant"] == {stray.replace("://", " ")}


def test_every_kind_of_socket_is_found() -> None:
    before = listening([os.getpid()])
    with ExitStack() as opened:
        four = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        six = opened.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        datagrams = opened.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        datagrams.bind(("::", 0))
        asking = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asking.connect(("127.0.0.1", 9))
        ports = [one.getsockname()[1] for one in (four, six, datagrams)]
        expected = {f"tcp 127.0.0.1:{ports[0]}", f"tcp [::1]:{ports[1]}", f"udp [::]:{ports[2]}"}
        assert listening([os.getpid()]) - before == expected
    assert listening([os.getpid()]) == before
