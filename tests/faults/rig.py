"""Two real device processes on loopback with a fault relay between them, and the applications at both ends.

The listener is `dmz`, the dialler `plant`, as in the guide. Each half is started through `tests.faults.without`, which
runs `tunnel.device` unchanged unless a test takes a protection out of it or sets a limit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.apps import Apps
from tests.relay import Relay
from tests.waiting import elapse, free_port, until
from tunnel.control import ask
from tunnel.errors import NotRunningError
from tunnel.keys import write_pair

SIDES = ("dmz", "plant")
ROOT = Path(__file__).parents[2]
QUICK = ("REDIAL_MAX_S=0.5", "REDIAL_CALM_S=1")
"""Limits that redial as fast as a first attempt: for tests that cut again and again within seconds."""
FULL = os.environ.get("FAULTS") == "full"
"""Longer and larger runs."""


class Half:
    """One side's device process. Its log goes to a file."""

    def __init__(self, rig: Rig, side: str) -> None:
        self.rig = rig
        self.side = side
        self.log = rig.folder / f"{side}.log"
        self.control = rig.runtime / f"{rig.name}.{side}" / "device.sock"
        self.process: subprocess.Popen[bytes] | None = None
        self.last: dict[str, Any] = {}

    def start(self, *, without: Sequence[str] = (), limits: Sequence[str] = (), nofile: int = 0) -> Half:
        command = [sys.executable, "-m", "tests.faults.without"]
        for name in without:
            command += ["--without", name]
        for setting in limits:
            command += ["--limit", setting]
        if nofile:
            command += ["--nofile", str(nofile)]
        command += ["--", str(self.rig.table), "--as", self.side]
        environment = os.environ | {"ZTUNNEL_RUNTIME_DIR": str(self.rig.runtime)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log)
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def status(self, timeout_s: float = 5.0) -> dict[str, Any]:
        self.last = ask(self.control, "status", timeout_s=timeout_s)
        return self.last

    def ready(self, within_s: float = 20) -> Half:
        """Waits until every local socket is open."""

        def is_ready() -> bool:
            assert self.alive, f"the {self.side} half ended:\n{self.log_text()[-3000:]}"
            try:
                return bool(self.status()["ready"])
            except NotRunningError:
                return False

        until(is_ready, within_s, lambda: f"{self.side} ready; {self.last}\n{self.log_text()[-3000:]}")
        return self

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

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 15) -> None:
        """The orderly way."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the {self.side} half did not stop within {within_s} s of SIGTERM") from None


class Rig:
    """A table, two halves, a relay in the link, applications."""

    name = "t"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = Path(tempfile.mkdtemp(prefix="zt", dir="/tmp"))
        """Short, because paths of unix sockets are."""
        self.link_port = free_port()
        self.relay = Relay(("127.0.0.1", self.link_port))
        self.halves = {side: Half(self, side) for side in SIDES}
        self.dmz, self.plant = (self.halves[side] for side in SIDES)
        self.apps = Apps(folder)
        self.table = folder / f"{self.name}.yaml"
        for side in SIDES:
            write_pair(folder / "keys", side)

    def ipc(self, name: str) -> str:
        return f"ipc://{self.runtime}/{name}.ipc"

    def write(self, routes: str) -> None:
        """Writes the table; `routes` is the text of the mapping, unindented."""
        keys = "".join(f"  {side}:\n    key: keys/{side}.key\n" for side in SIDES)
        body = "".join(f"  {line}\n" if line else "\n" for line in routes.strip().splitlines())
        self.table.write_text(
            f"version: 1\nsides:\n{keys}links:\n"
            f"  - listen: dmz tcp://127.0.0.1:{self.link_port}\n"
            f"    dial: plant tcp://127.0.0.1:{self.relay.port}\n"
            f"routes:\n{body}"
        )

    def start(self, **how: Any) -> None:
        """Starts both halves alike; returns when both are ready and the link is up."""
        for half in self.halves.values():
            half.start(**how)
        self.up(30)

    def up(self, within_s: float) -> None:
        for half in self.halves.values():
            half.ready(within_s)
        self.link_up(within_s)

    def link_up(self, within_s: float) -> None:
        def both() -> bool:
            try:
                return all(half.link_is("up") for half in self.halves.values())
            except NotRunningError:
                return False

        until(both, within_s, lambda: [half.last.get("links") for half in self.halves.values()])

    def dropped(self, route: str | None = None) -> Counter[str]:
        """What both halves say they dropped."""
        return self.dmz.dropped(route) + self.plant.dropped(route)

    def told(self) -> str:
        """What both halves say, for the message of a failed test."""
        return "\n".join(f"{side}: {half.status()}\n{half.log_text()[-2000:]}" for side, half in self.halves.items())

    def close(self) -> None:
        self.apps.close()
        for half in self.halves.values():
            if half.process is not None and half.process.poll() is None:
                half.kill()
        self.relay.close()
        shutil.rmtree(self.runtime, ignore_errors=True)


def cpu_share(half: Half, over_s: float) -> float:
    """Share of one core that a half uses over a stretch of time."""
    before, began = half.cpu_s(), time.monotonic()
    elapse(over_s)
    return (half.cpu_s() - before) / (time.monotonic() - began)
