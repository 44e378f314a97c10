"""How far a route is: `local` (its sockets here are open), `link` (messages can cross), `service` (and somebody is
connected at this side's end). For `ztunnel wait`."""

from __future__ import annotations

from tunnel.errors import UsageError
from tunnel.supervise.places import Running
from tunnel.supervise.status import Status, wait_for


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
    for endpoint in route["endpoints"]:
        if endpoint["state"] == "down":
            return f"{endpoint['address']} is not open: {endpoint['reason'] or 'no reason known'}."
    if not route["endpoints"] and not status["ready"]:
        return "its local sockets are not open yet."
    if stage in ("link", "service") and route["state"] != "ready":
        return f"it is {route['state']}: {route['reason'] or 'no reason known'}."
    if stage == "service" and not any(endpoint["peers"] for endpoint in route["endpoints"]):
        return "no application is connected at this side's end."
    return None
