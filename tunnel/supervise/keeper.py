"""Starts again what died: an event listener under supervisord (supervisord.org/events.html).

`Keeper` is pure: the list of processes and the time in, the names to start out. It pauses longer and longer while a
process keeps dying, never gives up, touches no sibling, and leaves alone what a person stopped. What it knows goes to
`keeper.json` for `status`. When the keeper itself dies, supervisord starts it again. Standard library only.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tunnel.errors import ZtunnelError
from tunnel.limits import CRASH_LOOP, KEEPER_SCAN_S, REVIVE_CALM_S, REVIVE_MAX_S, REVIVE_MIN_S
from tunnel.log import Log
from tunnel.supervise.rpc import Rpc

REPORT: Final = "keeper.json"
_DEAD: Final = ("EXITED", "FATAL")
_ALIVE: Final = ("STARTING", "RUNNING")


@dataclass(slots=True)
class _Life:
    pid: int = 0
    up_since: float | None = None
    due: float | None = None
    """When to start it again; None while it lives or was stopped by a person."""
    deaths_in_row: int = 0
    restarts: int = 0
    last_exit: str | None = None
    last_exit_at: float | None = None


class Keeper:
    """`look` at the processes as often as you like; times are monotonic seconds."""

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def look(self, processes: Sequence[Mapping[str, Any]], now: float) -> list[str]:
        """Names of the processes to start now. `processes` is supervisord's getAllProcessInfo without the keeper."""
        self._lives = {p["name"]: self._lives.get(p["name"], _Life()) for p in processes}
        to_start = []
        for process in processes:
            name, state, life = process["name"], process["statename"], self._lives[process["name"]]
            if state in _ALIVE:
                self._lives_on(life, process["pid"], now)
            elif state not in _DEAD:  # stopping, or stopped by a person: begin afresh when it comes back
                life.due, life.up_since, life.deaths_in_row = None, None, 0
            elif life.due is None:
                self._died(life, process, now)
            if life.due is not None and now >= life.due:
                to_start.append(name)
        return to_start

    def started(self, name: str) -> None:
        """It was started again (or tried to): if it is dead at the next look, it died once more."""
        life = self._lives[name]
        life.due, life.up_since = None, None
        life.restarts += 1

    def next_due(self) -> float | None:
        """When the next start is due."""
        return min((life.due for life in self._lives.values() if life.due is not None), default=None)

    def report(self) -> dict[str, dict[str, Any]]:
        """name → {restarts, crash_loop, next_try (monotonic seconds), last_exit, last_exit_at (wall clock)}."""
        return {
            name: {
                "restarts": life.restarts,
                "crash_loop": life.deaths_in_row >= CRASH_LOOP,
                "next_try": life.due,
                "last_exit": life.last_exit,
                "last_exit_at": life.last_exit_at,
            }
            for name, life in self._lives.items()
        }

    def _lives_on(self, life: _Life, pid: int, now: float) -> None:
        if life.up_since is None or life.pid != pid:
            life.pid, life.up_since = pid, now
        elif now - life.up_since >= REVIVE_CALM_S:
            life.deaths_in_row = 0
        life.due = None

    def _died(self, life: _Life, process: Mapping[str, Any], now: float) -> None:
        lived_s = 0.0 if life.up_since is None else now - life.up_since
        if lived_s >= REVIVE_CALM_S:
            life.deaths_in_row, pause_s = 0, 0.0
        else:
            pause_s = min(REVIVE_MIN_S * 2.0 ** min(life.deaths_in_row, 16), REVIVE_MAX_S)
        life.deaths_in_row += 1
        life.due, life.up_since = now + pause_s, None
        life.last_exit, life.last_exit_at = _how(process), float(process["stop"])


def _how(process: Mapping[str, Any]) -> str:
    if process["exitstatus"] == -1:
        return "killed by a signal (log/supervisord.log names it)"
    if process["statename"] == "FATAL" and process["spawnerr"] and not process["exitstatus"]:
        return str(process["spawnerr"])
    return f"exit status {process['exitstatus']}"


class _Listener:
    """The event listener's protocol on stdin and stdout; events only wake us, supervisord's list is what counts."""

    def __init__(self) -> None:
        self.log = Log("keeper")
        self.keeper = Keeper()
        self._rpc = Rpc(Path("supervisor.sock"), timeout_s=10.0)
        self._written = ""

    def run(self) -> None:
        _say("READY\n")
        while True:
            readable, _, _ = select.select([sys.stdin], [], [], self._pause_s())
            if readable and not self._swallow_event():
                return  # supervisord is gone
            with suppress(ZtunnelError):  # it is shutting down, or too busy to answer: look again later
                self._look()

    def _look(self) -> None:
        processes = [p for p in self._rpc("getAllProcessInfo") if p["name"] != "keeper"]
        before = self.keeper.report()
        names = self.keeper.look(processes, time.monotonic())
        self._tell_deaths(before)
        for name in names:
            self.keeper.started(name)
            try:
                self._rpc("startProcess", name, False)
            except ZtunnelError as error:
                self.log.error("process-not-started", process=name, reason=error)
            else:
                self.log.info("process-started-again", process=name)
        self._write_report()

    def _tell_deaths(self, before: Mapping[str, Mapping[str, Any]]) -> None:
        for name, now in self.keeper.report().items():
            if now["next_try"] is not None and before.get(name, {}).get("next_try") is None:
                self.log.error(
                    "process-died",
                    process=name,
                    how=now["last_exit"],
                    again_in_s=max(now["next_try"] - time.monotonic(), 0.0),
                    crash_loop="yes" if now["crash_loop"] else None,
                )

    def _write_report(self) -> None:
        text = json.dumps(self.keeper.report())
        if text != self._written:
            temporary = Path(f"{REPORT}.tmp")
            temporary.write_text(text)
            temporary.replace(REPORT)
            self._written = text

    def _pause_s(self) -> float:
        due = self.keeper.next_due()
        return KEEPER_SCAN_S if due is None else min(max(due - time.monotonic(), 0.0), KEEPER_SCAN_S)

    def _swallow_event(self) -> bool:
        header = sys.stdin.buffer.readline()
        if not header:
            return False
        fields = dict(pair.split(b":", 1) for pair in header.split())
        sys.stdin.buffer.read(int(fields[b"len"]))
        _say("RESULT 2\nOKREADY\n")
        return True


def _say(text: str) -> None:
    os.write(1, text.encode())


if __name__ == "__main__":
    _Listener().run()
