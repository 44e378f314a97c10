"""A process under measurement: started, listened to, weighed through /proc, and ended without fail."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ANSWER_S = 60.0
"""A line that does not come within this time will not come."""


class MeasureError(RuntimeError):
    """A process of the measurement failed or stayed silent."""


class Process:
    """One child process. stdout is read line by line, stderr goes to a file that `explain` quotes from."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._start = (name, command, folder, env)
        self._stderr = folder / f"{name}-{time.monotonic_ns()}.log"
        with self._stderr.open("wb") as log:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=env
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        assert self._child.stdout is not None
        threading.Thread(target=self._read, args=(self._child.stdout,), daemon=True).start()

    def again(self) -> Process:
        """The same program, started anew."""
        return Process(*self._start)

    @property
    def pid(self) -> int:
        return self._child.pid

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def line(self, begins_with: str, timeout_s: float = ANSWER_S) -> str:
        """The next line that begins so; lines before it are passed over."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise MeasureError(self.explain(f"said no {begins_with!r} within {timeout_s:g} s")) from None
            if line is None:
                raise MeasureError(self.explain(f"ended (status {self._child.wait()}) without {begins_with!r}"))
            if line.startswith(begins_with):
                return line

    def result(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The JSON object that the program prints."""
        found: dict[str, Any] = json.loads(self.line("{", timeout_s))
        if "error" in found:
            raise MeasureError(f"{self.name}: {found['error']}")
        return found

    def go(self) -> None:
        """Tells the program, by a line on its stdin, to start measuring."""
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()

    def ended(self) -> bool:
        """Whether it has ended; what it said can still be read."""
        return self._child.poll() is not None

    def explain(self, what: str) -> str:
        """A sentence on what went wrong, with the end of the process's stderr."""
        return f"{self.name} {what}\n{self._stderr.read_text(errors='replace')[-2000:]}"

    def cpu_s(self) -> float:
        """CPU seconds of all threads so far (user and system)."""
        total_ns = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total_ns += int((task / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def memory_mb(self, peak: bool = False) -> float:
        """Resident memory now, or at its highest (MB of 10^6 bytes)."""
        field = "VmHWM:" if peak else "VmRSS:"
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024 / 1e6
        raise MeasureError(self.explain(f"has no {field}"))

    def pause(self) -> None:
        """SIGSTOP: the process stands still, its connections stay."""
        os.kill(self.pid, signal.SIGSTOP)

    def wait_until_idle(self, timeout_s: float = ANSWER_S) -> None:
        """Waits until the process uses next to no CPU (2 % over half a second)."""
        end = time.monotonic() + timeout_s
        before = self.cpu_s()
        while time.monotonic() < end:
            time.sleep(0.5)
            now = self.cpu_s()
            if now - before < 0.01:
                return
            before = now
        raise MeasureError(self.explain(f"did not come to rest within {timeout_s:g} s"))

    def end(self, gently_s: float = 0.0) -> None:
        """SIGTERM with so much time to go, then SIGKILL."""
        if gently_s:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(gently_s)
        self._child.kill()
        self._child.wait()
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end()


def wait_for_port(port: int, within_s: float = 30.0) -> None:
    """Until something listens there, on loopback."""
    _wait_for(socket.AF_INET, ("127.0.0.1", port), within_s)


def wait_for_socket(path: Path, within_s: float = 30.0) -> None:
    """Until something listens at this unix socket."""
    _wait_for(socket.AF_UNIX, str(path), within_s)


def _wait_for(family: socket.AddressFamily, address: Any, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        with socket.socket(family) as probe:
            if probe.connect_ex(address) == 0:
                return
        if time.monotonic() > deadline:
            raise MeasureError(f"nothing listens at {address} after {within_s:g} s")
        time.sleep(0.02)
