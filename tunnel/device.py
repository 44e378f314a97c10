"""The process: one side's routes and links on one loop, and nothing clever.

    python -m tunnel.device TABLE --as SIDE

It reads the table, opens the local sockets and the link ports, and answers on its control socket. A peer that is away,
an address in use, a name that does not resolve: none of them ends it. SIGTERM is an orderly end: nothing more is read,
what is under way is drained for at most BYE_S, the peers are told, and exits linger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunnel import pump
from tunnel.changes import between
from tunnel.config import read_plan
from tunnel.config.plan import Plan, RoutePlan
from tunnel.control import Command, ControlServer
from tunnel.errors import SpoolError, UsageError, ZtunnelError
from tunnel.exchange import Exchange
from tunnel.heap import keep_large_blocks
from tunnel.limits import BYE_S, EXIT_LINGER_S, SPOOL_RETRY_MAX_S, SWEEP_S
from tunnel.link.peer import Peer
from tunnel.links import DialLink, ListenLink
from tunnel.log import Log
from tunnel.patterns import Pattern
from tunnel.probe import look
from tunnel.programs import programs
from tunnel.reactor import Reactor, run
from tunnel.route import RunningRoute, unusable
from tunnel.served import raise_descriptor_limit
from tunnel.spool import Spool
from tunnel.spool_desk import SpoolDesk
from tunnel.taps import Taps
from tunnel.zap import Zap


class Device:
    """One side of one table, running: its routes, its links, and the exchange between them."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self.plan = plan
        self.reactor = Reactor(loop)
        self.zap = Zap(self.reactor)
        self.peers: dict[str, Peer] = {}
        self.routes: dict[str, RunningRoute] = {}
        self._unusable: dict[str, tuple[RoutePlan, str]] = {}
        """Spooled routes whose disk cannot be used yet, and why."""
        self.stopped = asyncio.Event()
        self._started_at = self.reactor.now()
        self._stopping = False
        self._reloading = asyncio.Lock()
        self._log = Log("device")
        self.exchange = Exchange(self.reactor, self._log)
        self._taps = Taps(self._pattern_of, self.reactor.call_later)
        self._control = ControlServer(
            plan.runtime_dir / "device.sock",
            {
                "status": self._on_status,
                "stop": self._on_stop,
                "reload": self._on_reload,
                "probe": self._on_probe,
                **SpoolDesk(self._spools_of).commands,
                **{name: self._caught_up(command) for name, command in self._taps.commands.items()},
            },
        )

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open everything. Local sockets that cannot be opened yet are retried by themselves."""
        await self._control.start()
        for side in self.plan.peer_keys:
            self.peers[side] = self._new_peer(side)
        for route_plan in self.plan.routes:
            await self._add_route(route_plan)
        self._start_links()
        self._sweep()
        self._log.info(
            "started",
            side=self.plan.side,
            table=self.plan.table,
            routes=len(self.routes),
            pump="compiled" if pump.COMPILED else f"pure ({pump.WHY_PURE})",
        )

    def _new_peer(self, side: str) -> Peer:
        return Peer(self.plan.side, side, os.urandom(16), compact=pump.keep_latest)

    async def _add_route(self, plan: Any) -> None:
        try:
            route = RunningRoute(self.reactor, self.zap, self.exchange, plan, self.peers, self.plan.runtime_dir)
        except SpoolError as error:
            self._wait_for_disk(plan, str(error))
            return
        self._unusable.pop(plan.name, None)
        self.routes[plan.name] = route
        self.exchange.aheads.add(route.pattern, route.ports)
        await route.open()

    def _wait_for_disk(self, plan: RoutePlan, reason: str) -> None:
        """The route's spool cannot be opened: say so, and try again for as long as the route is in the table."""
        self._log.error("spool-unusable", route=plan.name, reason=reason)
        self._unusable[plan.name] = (plan, reason)
        self.reactor.call_later(SPOOL_RETRY_MAX_S, lambda: self._try_again(plan))

    def _try_again(self, plan: RoutePlan) -> None:
        waiting = self._unusable.get(plan.name)
        if waiting is not None and waiting[0] is plan and not self._stopping:
            self._trial = self.reactor.loop.create_task(self._add_late(plan))

    async def _add_late(self, plan: RoutePlan) -> None:
        async with self._reloading:
            if self._unusable.get(plan.name, (None,))[0] is not plan:
                return
            await self._add_route(plan)
            if plan.name in self.routes:
                for side in plan.peers:
                    self.exchange.redial(side, "a route has its disk again")

    def _start_links(self) -> None:
        plan, exchange = self.plan, self.exchange
        own, keys, stir = plan.own, plan.peer_keys, exchange.stir
        if plan.listens:
            sides = {side for listen in plan.listens for side in listen.peers}
            peers = {side: self.peers[side] for side in sides}
            exchange.listens = ListenLink(self.reactor, self.zap, plan.listens, own, keys, peers, stir)
            exchange.listens.start()
        for dial in plan.dials:
            link = DialLink(self.reactor, dial, own, keys[dial.peer], self.peers[dial.peer], stir)
            exchange.dials[dial.peer] = link
            link.start()

    async def stop(self) -> None:
        """Orderly: read nothing more, drain, say goodbye, let exits linger."""
        if self._stopping:
            return
        self._stopping = True
        self._log.info("stopping", side=self.plan.side)
        for route in self.routes.values():
            if route.pattern.only_enters:
                # what applications send between the last look and the end of the socket is lost: no wait between
                route.pattern.read_out()
                await route.end.close()
            route.pattern.stop_reading()
        deadline = self.reactor.now() + BYE_S
        while self.reactor.now() < deadline and not self._drained():
            await asyncio.sleep(0.01)
        for link in self.exchange.links:
            link.goodbye(f"{self.plan.side} is stopping")
        for route in self.routes.values():
            await route.close_ends(EXIT_LINGER_S)
        await self._control.close()
        self.stopped.set()

    def _drained(self) -> bool:
        peers = all(peer.drained or not peer.is_open for peer in self.peers.values())
        return peers and all(route.pattern.idle() for route in self.routes.values())

    def close(self) -> None:
        self.zap.close()
        self.reactor.close()

    def _sweep(self) -> None:
        """Once a second: what has grown too old goes, link or no link; applications that came or went are told."""
        if self._stopping:
            return
        now = self.reactor.now()
        for route in self.routes.values():
            route.say_peers()
            route.pattern.want()
        for peer in self.peers.values():
            peer.sweep(now)
            self.exchange.touch(peer)
        self.exchange.settle()
        self.reactor.call_later(SWEEP_S, self._sweep)

    # --- control -----------------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Account for what went ahead of its bookkeeping: somebody wants to know what crossed."""
        for peer in self.peers.values():
            peer.catch_up()
        self.exchange.settle()

    def _caught_up(self, command: Command) -> Command:
        def run(request: dict[str, Any]) -> dict[str, Any] | Awaitable[dict[str, Any]]:
            self._catch_up()
            return command(request)

        return run

    def _on_status(self, _request: dict[str, Any]) -> dict[str, Any]:
        self._catch_up()
        listens = self.exchange.listens
        return {
            "side": self.plan.side,
            "name": self.plan.name,
            "pid": os.getpid(),
            "uptime_s": round(self.reactor.now() - self._started_at, 3),
            "ready": self.ready,
            "pump": "compiled" if pump.COMPILED else "pure",
            "links": self._links_status(),
            "ports": listens.ports_status() if listens is not None else [],
            "routes": {
                **{name: route.status() for name, route in self.routes.items()},
                **{name: unusable(plan, reason) for name, (plan, reason) in self._unusable.items()},
            },
        }

    def _links_status(self) -> list[dict[str, Any]]:
        links: list[dict[str, Any]] = [link.status() for link in self.exchange.dials.values()]
        if self.exchange.listens is not None:
            links += self.exchange.listens.status()
        for link in links:
            peer = self.peers[link["peer"]]
            link["rtt_ms"] = None if peer.rtt_s is None else round(peer.rtt_s * 1000, 3)
            link["outstanding_bytes"] = peer.credit.outstanding
            link["credit_bytes"] = peer.credit.credit_bytes
        return links

    async def _on_probe(self, request: dict[str, Any]) -> dict[str, Any]:
        """{route} → what `ztunnel probe` judges (tunnel/probe.py). UsageError: there is no such route here."""
        route = self.routes.get(str(request.get("route")))
        if route is None:
            raise UsageError(f"there is no route {request.get('route')} here.")
        return await look(route, self.exchange, self._links_status)

    def _spools_of(self, route: str) -> Mapping[str, Spool]:
        spools = self.routes[route].spools if route in self.routes else None
        return {} if spools is None else spools.by_peer

    def _pattern_of(self, route: str) -> Pattern | None:
        return self.routes[route].pattern if route in self.routes else None

    @property
    def ready(self) -> bool:
        """Every local socket and every link port is open."""
        ports = self.exchange.listens is None or self.exchange.listens.opened
        return ports and not self._unusable and all(route.opened for route in self.routes.values())

    async def _on_stop(self, _request: dict[str, Any]) -> dict[str, Any]:
        self.reactor.loop.call_soon(self._stop_soon)
        return {}

    def _stop_soon(self) -> None:
        self._stop_task = self.reactor.loop.create_task(self.stop())

    async def _on_reload(self, request: dict[str, Any]) -> dict[str, Any]:
        """Read the table again; touch only what differs. TableError and the like leave everything as it is."""
        async with self._reloading:
            return await self._reload(dry_run=bool(request.get("dry_run")))

    async def _reload(self, *, dry_run: bool) -> dict[str, Any]:
        plan = read_plan(self.plan.table, self.plan.side)
        changes = between(self.plan, plan)
        told = {**changes.told(), "programs": [asdict(program) for program in programs(plan)]}
        if dry_run:
            return told
        self.plan = plan
        for gone in changes.removed:
            self._unusable.pop(gone.name, None)
            route = self.routes.pop(gone.name, None)
            if route is None:
                continue
            self.exchange.aheads.remove(route.ports)
            await route.close(EXIT_LINGER_S)
        for side in plan.peer_keys:
            if side not in self.peers:
                self.peers[side] = self._new_peer(side)
        for come in changes.added:
            await self._add_route(come)
        if changes.links:
            self._restart_links()
        else:
            for side in changes.sides:
                self.exchange.redial(side, "the table has changed")
        self._log.info("reloaded", **changes.told())
        return told

    def _restart_links(self) -> None:
        for link in self.exchange.links:
            link.goodbye("the table has changed")
        self.exchange.dials.clear()
        self.exchange.listens = None
        self._start_links()


async def serve(table: Path, side: str | None) -> int:
    """Run one side until it is told to stop."""
    log = Log("device")
    plan = read_plan(table, side)
    raise_descriptor_limit()
    keep_large_blocks()
    plan.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    loop = asyncio.get_running_loop()
    device = Device(plan, loop)
    loop.set_exception_handler(_log_bug)
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, device._stop_soon)
    try:
        await device.start()
        gc.freeze()  # what is there now stays: no collection need look at it again
        await device.stopped.wait()
    except ZtunnelError as error:
        log.error("failed", reason=str(error))
        return error.exit_code
    finally:
        device.close()
    return 0


def _log_bug(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback raised what nobody expected: one line in the log, and the process goes on."""
    error = context.get("exception")
    where = "".join(traceback.format_tb(error.__traceback__, -1)).split("\n")[0].strip() if error else ""
    Log("device").error("bug", error=f"{type(error).__name__}: {error}", where=where, what=context.get("message", ""))
    if error is not None and os.environ.get("ZTUNNEL_DEBUG"):
        traceback.print_exception(error)


def main(argv: list[str] | None = None) -> int:
    """The process's entry point; its exit code is the command line's."""
    parser = argparse.ArgumentParser(prog="ztunnel-device", description="Run one side of a table in this process.")
    parser.add_argument("table", type=Path, help="the route table (YAML)")
    parser.add_argument("--as", dest="side", help="the side, where this box holds several keys")
    options = parser.parse_args(argv)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return run(serve(options.table, options.side))
    except ZtunnelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
