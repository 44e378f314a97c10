"""A process beside the device (a carrier, a bridge): begun, asked by its control socket, told to stop, ended."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from tunnel.control import Command, ControlServer
from tunnel.errors import ZtunnelError
from tunnel.limits import DESCRIPTORS
from tunnel.log import Log
from tunnel.reactor import run


class Process(Protocol):
    """What each of them is. Everything on the running loop; what blocks goes into threads or processes of its own."""

    async def start(self) -> None:
        """Open what is to be opened and begin; returns without waiting for the other end, which may be away."""

    async def close(self) -> None:
        """End every connection, and leave nothing open or on disk."""

    def status(self) -> dict[str, Any]:
        """How it is, as docs/carriers.md and docs/bridges.md say."""


async def serve(
    process: Process, control_file: Path, log: Log, about: dict[str, Any], commands: Mapping[str, Command] | None = None
) -> int:
    """Run it until TERM, INT or `stop`; its exit code. `about`: what its status says besides; `commands`: what else it
    may be asked."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    def status(_request: dict[str, Any]) -> dict[str, Any]:
        return {**about, "pid": os.getpid(), **process.status()}

    def stop(_request: dict[str, Any]) -> dict[str, Any]:
        loop.call_soon(stopped.set)
        return {}

    control_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    control = ControlServer(control_file, {**(commands or {}), "status": status, "stop": stop})
    try:
        await control.start()
        await process.start()
        log.info("started", **{key: value for key, value in about.items() if isinstance(value, str) and key != "name"})
        await stopped.wait()
    except ZtunnelError as error:
        log.error("failed", reason=str(error))
        return error.exit_code
    finally:
        await process.close()
        await control.close()
    return 0


def main(
    what: str, run_one: Callable[[Path, str | None, str], Coroutine[Any, Any, int]], argv: list[str] | None
) -> int:
    """The command line `TABLE [--as SIDE] --WHAT NAME` of such a process; its exit code is the command line's."""
    parser = argparse.ArgumentParser(prog=f"ztunnel-{what}", description=f"Run one {what} of a table in this process.")
    parser.add_argument("table", type=Path, help="the route table (YAML)")
    parser.add_argument("--as", dest="side", help="the side, where this box holds several keys")
    parser.add_argument(f"--{what}", dest="name", required=True, metavar="NAME", help="which one")
    options = parser.parse_args(argv)
    raise_descriptor_limit()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return run(run_one(options.table, options.side, options.name))
    except ZtunnelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of descriptors to the hard one (at most DESCRIPTORS); what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
