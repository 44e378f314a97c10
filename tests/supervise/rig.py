"""A side under real supervision: a table with free ports and keys, the `ztunnel` command, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tunnel.config  # noqa: F401
from tests.waiting import free_port, until
from tunnel.keys import write_pair
from tunnel.supervise.places import find_all
from tunnel.supervise.status import read

ROOT = Path(__file__).resolve().parents[2]
ZTUNNEL = [sys.executable, "-m", "tunnel.cli"]


class Rig:
    """One table, `demo`, with the keys of both sides beside it; its runtime folder is short and private."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = runtime
        self.ports = {name: free_port() for name in ("link", "tasks", "tasks_out", "more")}
        self.table = folder / "demo.yaml"
        places = {"ZTUNNEL_RUNTIME_DIR": str(runtime), "ZTUNNEL_STATE_DIR": str(folder / "state")}
        self.environment = {**os.environ, **places, "PYTHONPATH": str(ROOT)}
        self.environment.pop("NOTIFY_SOCKET", None)
        for side in ("dmz", "plant"):
            write_pair(folder / "keys", side)
        self.write_table()

    def write_table(self, path: Path | None = None, *, more: str = "") -> None:
        (path or self.table).write_text(
            f"""\
version: 1
name: demo
sides:
  dmz:
    key: {self.folder}/keys/dmz.key
  plant:
    key: {self.folder}/keys/plant.key
links:
  - listen: dmz tcp://127.0.0.1:{self.ports["link"]}
    dial: plant tcp://127.0.0.1:{self.ports["link"]}
routes:
  tasks:
    pattern: pipeline
    from: dmz bind tcp://127.0.0.1:{self.ports["tasks"]}
    to: plant bind tcp://127.0.0.1:{self.ports["tasks_out"]}
{more}"""
        )

    def more(self) -> str:
        """One more route, for `write_table`."""
        return f"""\
  news:
    pattern: pubsub
    from: plant connect tcp://127.0.0.1:1
    to: dmz bind tcp://127.0.0.1:{self.ports["more"]}
"""

    def run(self, *arguments: object, within_s: float = 60, **other: Any) -> subprocess.CompletedProcess[str]:
        """Run one `ztunnel` command to its end."""
        return subprocess.run(
            [*ZTUNNEL, *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            **other,
        )

    def start(self, *arguments: object, **other: Any) -> subprocess.Popen[str]:
        """Start a `ztunnel` command that stays; its stdout is a pipe."""
        return subprocess.Popen(
            [*ZTUNNEL, *map(str, arguments)],
            env={**self.environment, **other.pop("env", {})},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **other,
        )

    def up(self, side: str = "dmz") -> None:
        """`up -d`, which must succeed."""
        done = self.run("up", self.table, "--as", side, "-d")
        assert done.returncode == 0, done.stderr

    def status(self, side: str = "dmz") -> dict[str, Any]:
        """What `status --json` prints, without the wait for a Python to start."""
        running = next(r for r in find_all(self.runtime) if r.side == side)
        return read(running)

    def process(self, name: str = "device") -> dict[str, Any]:
        return next(p for p in self.status()["processes"] if p["name"] == name)

    def pid(self, name: str = "device") -> int:
        return int(self.process(name)["pid"])

    def pids(self) -> list[int]:
        """supervisord's and every process's."""
        now = self.status()
        return [now["pid"], *(p["pid"] for p in now["processes"])]

    def clean(self) -> None:
        for running in find_all(self.runtime):
            os.kill(running.pid, signal.SIGKILL)
            until(lambda r=running: not r.alive, 10, "supervisord is gone")
        shutil.rmtree(self.runtime, ignore_errors=True)


@contextmanager
def rig(tmp_path: Path) -> Iterator[Rig]:
    """pytest's own folders are too long for unix sockets."""
    made = Rig(tmp_path, Path(tempfile.mkdtemp(prefix="zt")))
    try:
        yield made
    finally:
        made.clean()


def ended(pid: int) -> bool:
    """Is this process gone (or a zombie that nobody reaps)?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"
