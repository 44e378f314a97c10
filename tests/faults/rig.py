"""A tunnel with a fault relay in its link, counting applications, and halves that lack what a test takes out.

Each half is started through `tests.faults.without`, which runs `tunnel.device` unchanged unless a test takes a
protection out of it or sets a limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.apps import Apps
from tests.relay import Relay
from tests.tunnel_pair import ROOT, DeviceProcess, Tunnel
from tests.waiting import elapse, until

SIDES = ("dmz", "plant")
"""Who listens, who dials."""
QUICK = ("REDIAL_MAX_S=0.5", "REDIAL_CALM_S=1")
"""Limits that redial as fast as a first attempt: for tests that cut again and again within seconds."""
FULL = os.environ.get("FAULTS") == "full"
"""With the real limits throughout; takes much longer."""


class Half(DeviceProcess):
    """One side's device process, and what it says of itself."""

    def start(self, *, without: Sequence[str] = (), limits: Sequence[str] = (), nofile: int = 0) -> None:
        command = [sys.executable, "-m", "tests.faults.without"]
        for name in without:
            command += ["--without", name]
        for setting in limits:
            command += ["--limit", setting]
        if nofile:
            command += ["--nofile", str(nofile)]
        command += ["--", str(self.tunnel.table), "--as", self.side]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.tunnel.environment, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def link(self) -> dict[str, Any]:
        """The one link of this side, as its status tells it."""
        (link,) = self.status()["links"]
        return dict(link)

    def link_is(self, state: str) -> bool:
        return bool(self.link()["state"] == state)

    def route(self, name: str) -> dict[str, Any]:
        return dict(self.status()["routes"][name])

    def dropped(self, route: str | None = None) -> Counter[str]:
        """What this half says it dropped, by reason; of one route or of all."""
        routes = self.status()["routes"]
        total: Counter[str] = Counter()
        for name in [route] if route else routes:
            total.update(routes[name]["dropped"])
        return total

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def cpu_s(self) -> float:
        """CPU time this process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_share(self, over_s: float) -> float:
        """Share of one core that it uses over a stretch of time."""
        before = self.cpu_s()
        elapse(over_s)
        return (self.cpu_s() - before) / over_s

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


class Rig(Tunnel):
    """Two halves, `dmz` listening and `plant` dialling through a relay."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, SIDES)
        self.relay = Relay(("127.0.0.1", self.link_port))
        self.halves = {side: Half(self, side) for side in SIDES}
        self.devices.update(self.halves)
        self.dmz, self.plant = (self.halves[side] for side in SIDES)
        self.apps = Apps(folder)

    def write_routes(self, routes: str) -> None:
        """Writes the table; `routes` is the YAML of the mapping."""
        link = {"listen": f"dmz tcp://127.0.0.1:{self.link_port}", "dial": f"plant {self.relay.address}"}
        self.write(yaml.safe_load(routes), links=[link])

    def start(self, **how: Any) -> None:  # type: ignore[override]
        """Starts both halves alike; returns when both are ready and the link is up."""
        for half in self.halves.values():
            half.start(**how)
        self.up()

    def link_up(self, within_s: float) -> None:
        until(
            lambda: all(half.link_is("up") for half in self.halves.values()),
            within_s,
            lambda: [half.link() for half in self.halves.values()],
        )

    def both_dropped(self, route: str | None = None) -> Counter[str]:
        """What both halves say they dropped."""
        return self.dmz.dropped(route) + self.plant.dropped(route)

    def told(self) -> str:
        """What both halves say, for the message of a failed test."""
        return "\n".join(f"{side}: {half.status()}\n{half.log_text()[-2000:]}" for side, half in self.halves.items())

    def close(self) -> None:
        self.apps.close()
        for half in self.halves.values():
            half.kill()
        self.relay.close()
        super().close()
