"""The carriers' part of the status: what their processes say, and which link it concerns.

The device sees of a carrier only that its connections end; why is known to the carrier. So its reason takes the place
of the device's for a link that is down.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tunnel.control import ask
from tunnel.errors import ZtunnelError
from tunnel.supervise.places import Running
from tunnel.supervise.programs import PROGRAMS

Carrier = dict[str, Any]
WELL = ("up", "listening")
"""States in which a carrier does what it is for."""


def read(running: Running, patience_s: float) -> list[Carrier]:
    """Every carrier's account of itself, all asked at the same time; one that does not answer is `silent`."""
    wanted = _wanted(running)
    if not wanted:
        return []
    with ThreadPoolExecutor(max_workers=min(32, len(wanted))) as aside:
        return list(aside.map(lambda carrier: _ask(running, carrier, patience_s), wanted))


def explain(links: Sequence[dict[str, Any]], carriers: Sequence[Carrier]) -> None:
    """Give each link that is down the reason of its carrier, where that has one."""
    for link in links:
        if link["state"] == "up":
            continue
        for carrier in carriers:
            if _carries(carrier, link) and carrier["reason"]:
                link["reason"] = carrier["reason"]


def shut(carriers: Sequence[Carrier]) -> list[Carrier]:
    """Those whose port on this box should be open and is not; a port at a sshd is not on this box."""
    return [c for c in carriers if c["role"] == "listen" and c["scheme"] != "ssh" and c["state"] != "listening"]


def _carries(carrier: Carrier, link: dict[str, Any]) -> bool:
    same = carrier["role"] == link["role"] and link["peer"] in carrier["peers"]
    return same and carrier["address"] in link["address"].split(", ")


def _wanted(running: Running) -> list[dict[str, Any]]:
    """name, control and what is known of each carrier beforehand."""
    try:
        listed = json.loads((running.folder / PROGRAMS).read_text())
    except (OSError, ValueError):
        return []
    return [{"name": name, "control": p["control"], **p["about"]} for name, p in listed.items() if p.get("about")]


def _ask(running: Running, wanted: dict[str, Any], patience_s: float) -> Carrier:
    control = wanted.pop("control")
    try:
        told = ask(running.folder / control, "status", patience_s)
    except ZtunnelError:
        return {
            **wanted,
            "state": "silent",
            "reason": f"the process {wanted['name']} does not answer: `ztunnel logs {wanted['name']}` may tell why",
            "connections": 0,
            "bytes_in": 0,
            "bytes_out": 0,
            "refused": {},
            "detail": {},
        }
    return {**wanted, **{key: value for key, value in told.items() if key not in ("ok", "pid")}}
