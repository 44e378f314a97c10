"""The carriers' part of the status: which link each concerns, and what is wrong with it.

The device sees of a carrier only that its connections end; why is known to the carrier. So its reason takes the place
of the device's for a link that is down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Carrier = dict[str, Any]
WELL = ("up", "listening")
"""States in which a carrier does what it is for."""


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
