"""What the processes beside the device (carriers, bridges) say of themselves, all asked at the same time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tunnel.control import ask
from tunnel.errors import ZtunnelError
from tunnel.programs import PROGRAMS
from tunnel.supervise.places import Running

Told = dict[str, Any]
_SILENT: Told = {"state": "silent", "connections": 0, "bytes_in": 0, "bytes_out": 0, "refused": {}, "detail": {}}
_SILENT_BRIDGE: Told = {"frames_in": 0, "frames_out": 0, "dropped": {}, "ended": {}, "zmq": {}}


def read(running: Running, patience_s: float) -> tuple[list[Told], list[Told]]:
    """Every carrier's account, and every bridge's; one that does not answer is `silent`."""
    wanted = _wanted(running)
    if not wanted:
        return [], []
    with ThreadPoolExecutor(max_workers=min(32, len(wanted))) as aside:
        told = list(aside.map(lambda process: _ask(running, process, patience_s), wanted))
    return [one for one in told if "scheme" in one], [one for one in told if "scheme" not in one]


def control_of(running: Running, process: str) -> str | None:
    """The control socket of one of them, in the runtime folder."""
    return next((str(one["control"]) for one in _wanted(running) if one["process"] == process), None)


def known_bridges(running: Running) -> list[tuple[str, str]]:
    """Name and kind of each bridge of this side."""
    return [(str(one["bridge"]), str(one["kind"])) for one in _wanted(running) if "bridge" in one]


def _wanted(running: Running) -> list[Told]:
    """name, control and what is known of each beforehand."""
    try:
        listed = json.loads((running.folder / PROGRAMS).read_text())
    except (OSError, ValueError):
        return []
    return [
        {"name": name, "process": name, "control": p["control"], **p["about"]}
        for name, p in listed.items()
        if p.get("about")
    ]


def _ask(running: Running, wanted: Told, patience_s: float) -> Told:
    control, process = wanted.pop("control"), wanted.pop("process")
    if "bridge" in wanted:
        wanted["name"] = wanted.pop("bridge")
    try:
        told = ask(running.folder / control, "status", patience_s)
    except ZtunnelError:
        reason = f"the process {process} does not answer: `ztunnel logs {process}` may tell why"
        more = {} if "scheme" in wanted else _SILENT_BRIDGE
        return {**wanted, **_SILENT, **more, "reason": reason}
    return {**wanted, **{key: value for key, value in told.items() if key not in ("ok", "pid")}}
