"""A bridge's process: one bridge of a table, run until it is told to stop. One file a kind, one line each in KINDS."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol, cast

from tunnel import served
from tunnel.config import read_plan
from tunnel.config.bridge_plan import BridgeKind, BridgePlan, OwnPlan
from tunnel.config.mail import MAIL
from tunnel.control import Command
from tunnel.errors import UsageError
from tunnel.heap import give_back_large_blocks
from tunnel.log import Log
from tunnel.reactor import Reactor
from tunnel.served import Process
from tunnel.spool import Spool
from tunnel.spool_desk import SpoolDesk


class Bridge(Process, Protocol):
    """What each of them is."""

    def spools(self) -> Mapping[str, Spool]:
        """What it keeps on disk, by name."""

    def commands(self) -> Mapping[str, Command]:
        """What it may be asked besides (tunnel/control.py)."""


KINDS: Final[dict[BridgeKind, tuple[str, str]]] = {
    "tcp-server": ("bridges.tcp_server", "TcpServer"),
    "tcp-client": ("bridges.tcp_client", "TcpClient"),
    "smtp-server": ("bridges.smtp_server", "SmtpServer"),
    "smtp-client": ("bridges.smtp_client", "SmtpClient"),
    "imap": ("bridges.imap", "ImapBridge"),
}
"""kind → the module, imported only where it is needed, and the class, made from (BridgePlan, Reactor, Log).

Its status is {state: up|listening|connecting|retrying, reason, connections, frames_in, frames_out, bytes_in, bytes_out,
refused: {reason: n}, dropped: {reason: n}, zmq: {...}, detail: {...}}: see docs/bridges.md. `in` is from TCP."""


async def serve(table: Path, side: str | None, name: str) -> int:
    """Run one bridge until it is told to stop."""
    plan = read_plan(table, side)
    bridge = next((bridge for bridge in plan.bridges if bridge.name == name), None)
    if bridge is None:
        raise UsageError(f"{table} has no bridge {name} for {plan.side}.")
    if bridge.kind in MAIL:
        give_back_large_blocks()
    module, made = KINDS[bridge.kind]
    make = cast("Callable[[BridgePlan[OwnPlan], Reactor, Log], Bridge]", getattr(importlib.import_module(module), made))
    reactor, log = Reactor(asyncio.get_running_loop()), Log(bridge.process)
    try:
        about = {"name": bridge.name, "kind": bridge.kind}
        running = make(bridge, reactor, log)
        desk = SpoolDesk(lambda asked: running.spools() if asked == bridge.process else {})
        commands = {**desk.commands, **running.commands()}
        return await served.serve(running, plan.runtime_dir / bridge.control, log, about, commands)
    finally:
        reactor.close()


def main(argv: list[str] | None = None) -> int:
    """The process's entry point; its exit code is the command line's."""
    return served.main("bridge", serve, argv)


if __name__ == "__main__":
    sys.exit(main())
