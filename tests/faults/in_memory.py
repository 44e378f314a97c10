"""Both sides of a table on one loop in one process, the memory carrier between them, commanded by lines on stdin.

    python -m tests.faults.in_memory [--limit NAME=VALUE]... TABLE

No table may name the memory carrier, so the plans are read as they are and their link is put there. Everything else is
`tunnel.device` unchanged: each side has its own context, sockets, sessions and control socket. The commands: `cut`, and
`delay SECONDS` (each frame is under way so long).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from tests.faults.rig import SIDES
from tunnel import limits

ADDRESS = "memory://link"


async def serve(table: Path) -> None:
    from tunnel import device
    from tunnel.carriers import CARRIERS
    from tunnel.carriers.memory import MemoryCarrier
    from tunnel.config import read_plan
    from tunnel.config.plan import Plan

    def plan_of(table: Path, side: str | None) -> Plan:
        plan = read_plan(table, side)
        listens = tuple(replace(listen, address=ADDRESS) for listen in plan.listens)
        return replace(plan, listens=listens, dials=tuple(replace(dial, addresses=(ADDRESS,)) for dial in plan.dials))

    vars(device)["read_plan"] = plan_of  # what a reload reads, too
    loop, carrier = asyncio.get_running_loop(), CARRIERS["memory"]
    assert isinstance(carrier, MemoryCarrier)
    devices = [device.Device(plan_of(table, side), loop) for side in SIDES]
    for each in devices:
        each.plan.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stop() -> None:
        for each in devices:
            each._stop_soon()

    def do(word: str, *arguments: str) -> None:
        if word == "cut":
            carrier.cut()
        else:
            carrier.delay_s = float(arguments[0])

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(do, *line.split())
        loop.call_soon_threadsafe(stop)

    loop.add_signal_handler(signal.SIGTERM, stop)
    threading.Thread(target=listen, daemon=True).start()
    for each in devices:
        await each.start()
    for each in devices:
        await each.stopped.wait()
    for each in devices:
        each.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("table", type=Path)
    options = parser.parse_args()
    for setting in options.limit:
        name, _, value = setting.partition("=")
        setattr(limits, name, type(getattr(limits, name))(value))

    from tunnel.reactor import run

    run(serve(options.table))


if __name__ == "__main__":
    main()
