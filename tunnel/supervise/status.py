"""One answer to "how is it?": the device's own account, the carriers', the bridges', supervisord's, the keeper's notes.

The shape (`status --json`) is in docs/operations.md. It comes within CONTROL_TIMEOUT_S even when the device hangs; the
routes are then unknown and `error` says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from tunnel.control import ask
from tunnel.errors import NotRunningError, ZtunnelError
from tunnel.limits import CONTROL_TIMEOUT_S
from tunnel.programs import KEEPER
from tunnel.supervise import beside, carriers
from tunnel.supervise.daemon import Supervisor
from tunnel.supervise.keeper import REPORT
from tunnel.supervise.places import DEVICE_SOCKET, Running

Status = dict[str, Any]
WELL: Final = ("up", "listening", "idle")
"""States in which a bridge does what it is for."""
_T = TypeVar("_T")
_PATIENCE_S: Final = 0.8 * CONTROL_TIMEOUT_S
"""For each of the questions, which are asked at the same time; the rest is for the command itself."""


def read(running: Running) -> Status:
    """Ask everybody. NotRunningError: nothing of this side runs. Never raises because the device is silent."""
    if not running.alive:
        raise NotRunningError(f"{running} is not running: `ztunnel up` starts it.")
    with ThreadPoolExecutor(max_workers=2) as aside:
        asked: Future[list[dict[str, Any]]] = aside.submit(Supervisor(running, _PATIENCE_S).processes)
        beside_it = aside.submit(beside.read, running, _PATIENCE_S)
        device, error = _try(lambda: ask(running.folder / DEVICE_SOCKET, "status", _PATIENCE_S))
        listed, trouble = _try(asked.result)
    told = beside_it.result()
    status: Status = {
        "table": running.name,
        "file": str(running.table),
        "side": running.side,
        "pid": running.pid,
        "started": running.started,
        "ready": False,
        "processes": _processes(running, listed or []),
        "links": [],
        "ports": [],
        "carriers": told[0],
        "bridges": told[1],
        "routes": {},
    }
    if device is not None:
        status |= {k: v for k, v in device.items() if k not in ("ok", "pid", "processes")}
        status["device_pid"] = device.get("pid")
    carriers.explain(status["links"], status["carriers"])
    status["error"] = " ".join(filter(None, (trouble, error))) or None
    status["degraded"] = degraded(status)
    return status


def degraded(status: Status) -> list[str]:
    """Every reason why this is not as it should be, as sentences; empty: all is well."""
    reasons = []
    for process in status["processes"]:
        if process["crash_loop"]:
            pause = process["next_try_s"]
            when = "" if pause is None else f", next try in {pause:.0f} s"
            reasons.append(f"process {process['name']} keeps dying ({process['last_exit']}){when}.")
        elif process["state"] != "RUNNING" and (process["name"], process["state"]) != (KEEPER, "STARTING"):
            reasons.append(f"process {process['name']} is {process['state']}.")
    if status["error"]:
        reasons.append(status["error"])
    for link in status["links"]:
        if link["state"] != "up":
            reasons.append(f"link to {link['peer']} is {link['state']}{_because(link)}.")
    reasons += _closed_ports(status)
    told = {link["reason"] for link in status["links"] if link["state"] != "up"}
    for carrier in status["carriers"]:
        if carrier["state"] not in carriers.WELL and carrier["reason"] not in told:
            reasons.append(_told(carrier))
    for bridge in status["bridges"]:
        if bridge["state"] not in WELL:
            reasons.append(_bridge(bridge))
    for name, route in status["routes"].items():
        if route["state"] != "ready":
            reasons.append(f"route {name} is {route['state']}{_because(route)}.")
    return reasons


def exit_code(status: Status, *, strict: bool) -> int:
    """3: the device runs but does not answer. 1: it does not run, or (`strict`) anything is degraded. 0: fine."""
    device = next((p for p in status["processes"] if p["name"] == "device"), None)
    if device is not None and (device["crash_loop"] or device["state"] != "RUNNING"):
        return 1
    if status["error"]:
        return 3
    return 1 if strict and status["degraded"] else 0


class Rates:
    """Messages a second of each route between two looks."""

    def __init__(self) -> None:
        self._before: tuple[float, dict[str, tuple[int, int]]] | None = None

    def of(self, status: Status, now: float) -> dict[str, dict[str, float]]:
        """route → {in, out}; zero at the first look and when a counter began anew."""
        counts = {name: (r["messages_in"], r["messages_out"]) for name, r in status["routes"].items()}
        then, before = self._before or (now, {})
        self._before = (now, counts)
        rates = {}
        for name, (came, went) in counts.items():
            came_before, went_before = before.get(name, (came, went))
            passed_s = max(now - then, 1e-3)
            rates[name] = {"in": max(came - came_before, 0) / passed_s, "out": max(went - went_before, 0) / passed_s}
        return rates


def closed(status: Status) -> list[str]:
    """Why the local sockets and link ports are not all open, as sentences; empty: they are, or nobody knows."""
    reasons = [
        f"route {name} is down{_because(route)}."
        for name, route in status["routes"].items()
        if route["state"] == "down"
    ]
    reasons += _closed_ports(status) + [_told(carrier) for carrier in carriers.shut(status["carriers"])]
    return reasons + [_bridge(bridge) for bridge in shut(status["bridges"])]


def shut(bridges: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those whose port on this box should be open and is not."""
    return [bridge for bridge in bridges if bridge["kind"] == "tcp-server" and bridge["state"] not in WELL]


def silent(status: Status) -> list[str]:
    """The processes that run and do not answer; one that died is the keeper's affair."""
    told = {"device": status["error"] is None}
    told |= {carrier["name"]: carrier["state"] != "silent" for carrier in status["carriers"]}
    told |= {f"bridge-{bridge['name']}": bridge["state"] != "silent" for bridge in status["bridges"]}
    if not status["processes"]:
        return ["supervisord"]
    alive = (p["name"] for p in status["processes"] if p["state"] == "RUNNING")
    return [name for name in alive if not told.get(name, True)]


def wait_for(
    running: Running, good: Callable[[Status], bool], timeout_s: float, *, pause_s: float = 0.1
) -> tuple[bool, Status | None]:
    """Ask until `good` or the time is over: (was it good, the last status). NotRunningError: it ended meanwhile."""
    deadline = time.monotonic() + timeout_s
    while True:
        status = read(running)
        if good(status):
            return True, status
        if time.monotonic() + pause_s > deadline:
            return False, status
        time.sleep(pause_s)


def _processes(running: Running, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        notes = json.loads((running.folder / REPORT).read_text())
    except (OSError, ValueError):
        notes = {}
    found = []
    for process in listed:
        note = notes.get(process["name"], {})
        alive = process["statename"] in ("STARTING", "RUNNING", "STOPPING")
        next_try = note.get("next_try")
        found.append(
            {
                "name": process["name"],
                "state": process["statename"],
                "pid": process["pid"] or None,
                "uptime_s": max(process["now"] - process["start"], 0) if alive else 0,
                "restarts": note.get("restarts", 0),
                "crash_loop": note.get("crash_loop", False),
                "next_try_s": None if next_try is None else max(next_try - time.monotonic(), 0.0),
                "last_exit": note.get("last_exit"),
            }
        )
    return found


def _closed_ports(status: Status) -> list[str]:
    return [
        f"link port {port['address']} is not open{_because(port)}."
        for port in status["ports"]
        if port["state"] != "listening"
    ]


def _told(carrier: dict[str, Any]) -> str:
    return f"carrier {carrier['name']} is {carrier['state']}{_because(carrier)}."


def _bridge(bridge: dict[str, Any]) -> str:
    return f"bridge {bridge['name']} is {bridge['state']}{_because(bridge)}."


def _because(thing: dict[str, Any]) -> str:
    reason = str(thing.get("reason") or "").rstrip(".")
    return f": {reason}" if reason else ""


def _try(function: Callable[[], _T]) -> tuple[_T | None, str | None]:
    try:
        return function(), None
    except ZtunnelError as error:
        return None, str(error)
