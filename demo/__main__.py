"""Runs the demo: `make demo`, or `python -m demo`. Ends on Ctrl-C, or by itself after DEMO_SECONDS.

Both halves run on this machine from one table (configs/demo.yaml), each under its own supervisor as `ztunnel up` starts
it; the applications are unmodified pyzmq programs. Exit code 0 when every route carried messages and all ended well.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from demo.processes import App, Side, wait_for
from demo.screen import RouteApps, Screen
from demo.table import Demo, prepare
from tunnel.config.plan import RoutePlan
from tunnel.errors import ZtunnelError

READY_S = 30.0
GRACE_S = 15.0
"""How much longer than DEMO_SECONDS a busy machine may take until every route has carried something."""
APPLICATIONS = {
    "reqrep": (["orders_client", "orders_client"], ["orders_service"]),
    "pubsub": (["ticks_feed"], ["ticks_screen"]),
    "pipeline": (["tasks_source"], ["tasks_worker"]),
    "pair": (["chat"], ["chat"]),
}
"""pattern → applications at `from`, applications at `to`."""


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Interrupt:
    """Ctrl-C or SIGTERM asks for the end, and asks once: a second one changes nothing while all is being ended."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def main() -> int:
    seconds = _seconds()
    interrupt = Interrupt()
    with tempfile.TemporaryDirectory(prefix="ztunnel-demo-") as folder:
        try:
            return _run(prepare(Path(folder)), seconds, interrupt)
        except (DemoError, ZtunnelError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1


def _seconds() -> float | None:
    given = os.environ.get("DEMO_SECONDS", "")
    try:
        return float(given) if given else None
    except ValueError:
        print(f"demo: DEMO_SECONDS={given} is not a number of seconds.", file=sys.stderr)
        sys.exit(2)


def _run(demo: Demo, seconds: float | None, interrupt: Interrupt) -> int:
    print(f"One table, two halves on this machine, one link dialled from the inside: {demo.table}")
    sides: list[Side] = []
    apps: list[App] = []
    try:
        for side, plan in demo.plans.items():
            sides.append(Side(demo.table, side, plan.runtime_dir / "device.sock"))
        routes = _start_applications(demo, apps)
        _wait_until_ready(sides, interrupt)
        print(f"Ready. From another terminal: .venv/bin/ztunnel status {demo.name} --as dmz")
        print(f"Ends after {seconds:g} s, or on Ctrl-C." if seconds else "Ends on Ctrl-C.", flush=True)
        _watch(demo, sides, routes, seconds, interrupt)
    finally:
        ended_well = _end(sides, apps)
        for plan in demo.plans.values():
            shutil.rmtree(plan.runtime_dir, ignore_errors=True)  # of this demo alone: its name holds our pid
    return _judge(routes, sides, ended_well)


def _wait_until_ready(sides: Sequence[Side], interrupt: Interrupt) -> None:
    def settled() -> bool:
        return interrupt.asked or not all(side.alive for side in sides) or all(side.ready() for side in sides)

    in_time = wait_for(settled, READY_S)
    if interrupt.asked:
        raise DemoError("ended before it was ready.")
    if not in_time or not all(side.alive for side in sides):
        words = "\n".join(side.last_words() for side in sides)
        what = "did not get ready" if in_time is False else "could not be started"
        raise DemoError(f"the two halves {what}; their last words:\n{words}")


def _start_applications(demo: Demo, apps: list[App]) -> list[RouteApps]:
    routes = []
    for route in demo.routes:
        at_from, at_to = APPLICATIONS[route.pattern]
        started = RouteApps(route)
        for names, end, where in (
            (at_to, route.ends["to"], started.at_to),
            (at_from, route.ends["from"], started.at_from),
        ):
            for name in names:
                apps.append(_start_application(name, end))
                where.append(apps[-1])
        routes.append(started)
    return routes


def _start_application(name: str, end: RoutePlan) -> App:
    """An application binds where the tunnel connects, and the other way round."""
    endpoint = end.end.endpoints[0]
    return App(name, "connect" if endpoint.method == "bind" else "bind", endpoint.address)


def _watch(
    demo: Demo, sides: Sequence[Side], routes: list[RouteApps], seconds: float | None, interrupt: Interrupt
) -> None:
    end = time.monotonic() + seconds if seconds else float("inf")

    def done() -> bool:
        now = time.monotonic()
        return now >= end and (now >= end + GRACE_S or all(route.carried for route in routes))

    with Screen(demo, routes) as screen:
        due = time.monotonic()
        while not interrupt.asked and not done():
            due += 1
            while not interrupt.asked and not done() and (left := due - time.monotonic()) > 0:
                time.sleep(min(left, 0.1))
            screen.show({side.side: side.status() for side in sides})
            for app in (app for route in routes for app in route.at_from + route.at_to):
                if failure := app.failure():
                    raise DemoError(f"an application failed: {failure}")
            if dead := [side for side in sides if not side.alive]:
                raise DemoError("a half ended:\n" + "\n".join(side.last_words() for side in dead))


def _end(sides: Sequence[Side], apps: Sequence[App]) -> bool:
    """Ends the applications, then both halves at once; whether these ended by themselves."""
    with ExitStack() as stack:
        for app in apps:
            stack.callback(app.end)
    for side in sides:
        side.stop()
    return [side.wait() for side in sides].count(False) == 0  # waits for every one


def _judge(routes: Sequence[RouteApps], sides: Sequence[Side], ended_well: bool) -> int:
    for route in routes:
        missing = f", {route.missing} missing" if route.missing else ""
        print(f"{route.route.name:<10} {route.title:<28} {route.crossed:>9,} messages{missing}")
    silent = [route.route.name for route in routes if not route.carried]
    if silent:
        print(f"demo: nothing came through on {', '.join(silent)}.", file=sys.stderr)
    if not ended_well:
        print("demo: a half did not end in order:", file=sys.stderr)
        print("\n".join(side.last_words() for side in sides), file=sys.stderr)
    return 1 if silent or not ended_well else 0


if __name__ == "__main__":
    sys.exit(main())
