"""A carrier with a process of its own: it moves the bytes of the link's connections inside something else.

Between it and the device is a private unix socket (`CarrierPlan.socket`), on which the device speaks to its peer as
ever: ZMTP, CURVE from end to end, a connection a lane. So whoever carries the bytes learns nothing, can inject nothing,
and when this process dies the device sees a cut link and no more. One file a carrier, one line each in PROCESSES.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast

from tunnel.config import read_plan
from tunnel.config.plan import CarrierPlan, Scheme
from tunnel.control import ControlServer
from tunnel.errors import UsageError, ZtunnelError
from tunnel.log import Log
from tunnel.reactor import run


class Process(Protocol):
    """What each of them is. Everything on the running loop; what blocks goes into threads or processes of its own."""

    async def start(self) -> None:
        """Open what is to be opened and begin; returns without waiting for the other end, which may be away."""

    async def close(self) -> None:
        """End every connection, and leave nothing open or on disk."""

    def status(self) -> dict[str, Any]:
        """{state: up|connecting|retrying|listening, reason, connections, bytes_in, bytes_out, refused: {reason: n},
        detail: {...}}: see docs/carriers.md. `bytes_in` came from the device; None where bytes are not counted."""


PROCESSES: Final[dict[Scheme, tuple[str, str]]] = {
    "ssh": ("tunnel.carriers.ssh", "SshCarrier"),
    "http": ("tunnel.carriers.http", "HttpCarrier"),
    "https": ("tunnel.carriers.http", "HttpCarrier"),
}
"""scheme → the module, imported only where it is needed, and the class, made from a CarrierPlan."""


def control_path(runtime_dir: Path, name: str) -> Path:
    """The control socket of a carrier's process."""
    return runtime_dir / f"{name}.sock"


async def serve(table: Path, side: str | None, name: str) -> int:
    """Run one carrier until it is told to stop."""
    plan = read_plan(table, side)
    carrier = next((carrier for carrier in plan.carriers if carrier.name == name), None)
    if carrier is None:
        raise UsageError(f"{table} has no carrier {name} for {plan.side}.")
    module, made = PROCESSES[carrier.scheme]
    process = cast("Callable[[CarrierPlan], Process]", getattr(importlib.import_module(module), made))(carrier)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def status(_request: dict[str, Any]) -> dict[str, Any]:
        known = {"name": name, "scheme": carrier.scheme, "role": carrier.role, "address": carrier.address}
        return {**known, "peers": list(carrier.peers), "pid": os.getpid(), **process.status()}

    def stop(_request: dict[str, Any]) -> dict[str, Any]:
        loop.call_soon(stopped.set)
        return {}

    plan.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    control = ControlServer(control_path(plan.runtime_dir, name), {"status": status, "stop": stop})
    log = Log(name)
    try:
        await control.start()
        await process.start()
        log.info("started", address=carrier.address, role=carrier.role)
        await stopped.wait()
    except ZtunnelError as error:
        log.error("failed", reason=str(error))
        return error.exit_code
    finally:
        await process.close()
        await control.close()
    return 0


def main(argv: list[str] | None = None) -> int:
    """The process's entry point; its exit code is the command line's."""
    parser = argparse.ArgumentParser(prog="ztunnel-carrier", description="Run one carrier of a table in this process.")
    parser.add_argument("table", type=Path, help="the route table (YAML)")
    parser.add_argument("--as", dest="side", help="the side, where this box holds several keys")
    parser.add_argument("--carrier", required=True, metavar="NAME", help="which one, such as ssh-dmz")
    options = parser.parse_args(argv)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return run(serve(options.table, options.side, options.carrier))
    except ZtunnelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
