"""How far a route is, for `ztunnel wait`.

local     its sockets here are open
link      messages can cross to the other side
service   and an application is there that serves: at `to`; the publishers' end of pubsub; the other end of a pair
"""

from __future__ import annotations

from typing import Any, Final

from tunnel.errors import UsageError
from tunnel.supervise.places import Running
from tunnel.supervise.status import Status, wait_for

_SERVING_END: Final = {"reqrep": "to", "pipeline": "to", "pubsub": "from"}


def wait_for_stage(running: Running, route: str, stage: str, timeout_s: float) -> tuple[Status, bool]:
    """The last status and whether the stage was reached. UsageError: there is no such route here."""

    def good(status: Status) -> bool:
        if status["routes"] and route not in status["routes"]:
            raise UsageError(
                f"there is no route {route} at side {running.side}; there are {', '.join(status['routes'])}."
            )
        return missing_of(status, route, stage) is None

    reached, status = wait_for(running, good, timeout_s)
    assert status is not None
    return status, reached


def missing_of(status: Status, name: str, stage: str) -> str | None:
    """What a route lacks for a stage, as a sentence; None: nothing."""
    route = status["routes"].get(name)
    if route is None:
        return str(status["error"] or "the device has not said yet.")
    if route["state"] == "down":
        return f"its local sockets are not open: {route['reason'] or 'no reason known'}."
    if stage in ("link", "service") and route["state"] != "ready":
        return f"it is {route['state']}: {route['reason'] or 'no reason known'}."
    if stage == "service" and not _serving(route):
        return f"no application is connected that serves it ({_where(route)})."
    return None


def _where(route: dict[str, Any]) -> str:
    if route["pattern"] == "pair" or route["end"] != _SERVING_END[route["pattern"]]:
        return "at the other side"
    return "at this side"


def _serving(route: dict[str, Any]) -> bool:
    if _where(route) == "at this side":
        return any(endpoint["peers"] for endpoint in route["endpoints"])
    return bool(route["remote_applications"])
