"""The demo's processes: `ztunnel up` once a side, and the applications. Each ends with the demo, however that ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tunnel.control import ask
from tunnel.errors import NotRunningError

ROOT = Path(__file__).resolve().parent.parent
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In the child: SIGTERM when the demo is gone, even by SIGKILL (prctl(2)). A session of its own, so that Ctrl-C
    reaches the demo alone, which then ends everything in order."""
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _start(command: Sequence[str], **pipes: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, text=True, cwd=ROOT, env=environment, preexec_fn=_end_with_parent, **pipes
    )


class Side:
    """One half under supervision: `ztunnel up TABLE --as SIDE` in the foreground, its words in a file."""

    def __init__(self, table: Path, side: str, control: Path) -> None:
        self.side = side
        self._control = control
        self._log = table.with_name(f"{side}.log")
        command = [sys.executable, "-m", "tunnel.cli", "up", str(table), "--as", side]
        with self._log.open("w") as log:
            self._child = _start(command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def status(self) -> dict[str, Any]:
        """What the device says of itself; empty while it does not answer."""
        try:
            return ask(self._control, "status", timeout_s=1.0)
        except NotRunningError:
            return {}

    def ready(self) -> bool:
        """Every local socket open and the link up."""
        status = self.status()
        links = status.get("links", [])
        return bool(status.get("ready") and links and all(link["state"] == "up" for link in links))

    def last_words(self) -> str:
        return "\n".join(f"  {self.side}: {line}" for line in self._log.read_text().splitlines()[-12:])

    def stop(self) -> None:
        """Asks for an orderly end; `wait` says whether it came."""
        if self.alive:
            self._child.terminate()

    def wait(self, timeout_s: float = 25.0) -> bool:
        """Whether the half ended by itself, with exit code 0; when not, its whole group is killed."""
        try:
            return self._child.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            return False


class App:
    """One application. `said` is its latest line: sent, received, missing, perhaps round_trip_ms."""

    def __init__(self, module: str, method: str, endpoint: str) -> None:
        self.module = module
        self.said: dict[str, float] = {}
        self._errors: list[str] = []
        command = [sys.executable, "-m", f"demo.apps.{module}", method, endpoint]
        self._child = _start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self._child.stdout is not None
        self._reader = threading.Thread(target=self._listen, args=(self._child.stdout,), daemon=True)
        self._reader.start()

    def _listen(self, stdout: IO[str]) -> None:
        for line in stdout:
            if line.startswith("{"):
                self.said = json.loads(line)
            else:
                self._errors.append(line.rstrip())

    def count(self, what: str) -> int:
        return int(self.said.get(what, 0))

    def failure(self) -> str | None:
        """Why it ended, when it ended by itself."""
        if self._child.poll() is None:
            return None
        self._reader.join(1)
        return f"{self.module} ended: " + (self._errors[-1] if self._errors else f"status {self._child.returncode}")

    def end(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join(1)
        if self._child.stdout is not None:
            self._child.stdout.close()


def wait_for(condition: Any, timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
