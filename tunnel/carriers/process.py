"""A carrier with a process of its own: it moves the bytes of the link's connections inside something else.

Between it and the device is a private unix socket (`CarrierPlan.socket`), on which the device speaks to its peer as
ever: ZMTP, CURVE from end to end, a connection a lane. So whoever carries the bytes learns nothing, can inject nothing,
and when this process dies the device sees a cut link and no more. One file a carrier, one line each in PROCESSES.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from tunnel import served
from tunnel.config import read_plan
from tunnel.config.plan import CarrierPlan, Scheme
from tunnel.errors import UsageError
from tunnel.log import Log
from tunnel.served import Process

PROCESSES: Final[dict[Scheme, tuple[str, str]]] = {
    "ssh": ("tunnel.carriers.ssh", "SshCarrier"),
    "http": ("tunnel.carriers.http", "HttpCarrier"),
    "https": ("tunnel.carriers.http", "HttpCarrier"),
}
"""scheme → the module, imported only where it is needed, and the class, made from a CarrierPlan.

Its status is {state: up|connecting|retrying|listening, reason, connections, bytes_in, bytes_out, refused: {reason: n},
detail: {...}}: see docs/carriers.md. `bytes_in` came from the device; None where bytes are not counted."""


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
    known = {"name": name, "scheme": carrier.scheme, "role": carrier.role, "address": carrier.address}
    about = {**known, "peers": list(carrier.peers)}
    return await served.serve(process, control_path(plan.runtime_dir, name), Log(name), about)


def main(argv: list[str] | None = None) -> int:
    """The process's entry point; its exit code is the command line's."""
    return served.main("carrier", serve, argv)


if __name__ == "__main__":
    sys.exit(main())
