"""A stand-in for tunnel.device until it lands: opens a plan's binds, answers the control socket, carries nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tunnel.config import read_plan
from tunnel.control import ControlServer
from tunnel.log import Log
from tunnel.supervise import programs


class StandIn:
    def __init__(self, table: Path, side: str) -> None:
        self.table, self.side = table, side
        self.plan = read_plan(table, side)
        self.log = Log("device")
        self.open: dict[str, socket.socket | str] = {}
        self.began = time.monotonic()

    async def run(self) -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, done.set)
        commands = {"status": self.status, "stop": lambda request: done.set() or {}, "reload": self.reload}
        server = ControlServer(self.plan.runtime_dir / "device.sock", commands)
        await server.start()
        self.log.info("started", side=self.side)
        while not done.is_set():
            self.try_binds()
            try:
                await asyncio.wait_for(done.wait(), 0.1)
            except TimeoutError:
                continue
        await server.close()
        self.log.info("stopped")

    def try_binds(self) -> None:
        for route in self.plan.routes:
            for end in route.end.endpoints:
                if end.method == "bind" and not isinstance(self.open.get(end.address), socket.socket):
                    sock = socket.socket()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    url = urlsplit(end.address)
                    try:
                        sock.bind((url.hostname or "", url.port or 0))
                        sock.listen()
                        self.open[end.address] = sock
                    except OSError as error:
                        sock.close()
                        self.open[end.address] = str(error.strerror)

    def reload(self, request: dict[str, Any]) -> dict[str, Any]:
        plan = read_plan(self.table, self.side)
        old, new = {r.name for r in self.plan.routes}, {r.name for r in plan.routes}
        changes = [f"route {n} added" for n in sorted(new - old)] + [f"route {n} removed" for n in sorted(old - new)]
        if not request.get("dry_run"):
            self.plan = plan
        return {"changes": changes}

    def status(self, request: dict[str, Any]) -> dict[str, Any]:
        routes = {}
        for route in self.plan.routes:
            ends = []
            for end in route.end.endpoints:
                got = self.open.get(end.address)
                down = isinstance(got, str)
                ends.append(
                    {
                        "address": end.address,
                        "method": end.method,
                        "state": "down" if down else ("bound" if end.method == "bind" else "connecting"),
                        "peers": 0,
                        "reason": got if down else None,
                    }
                )
            bad = any(e["state"] == "down" for e in ends)
            routes[route.name] = {
                "pattern": route.pattern,
                "end": route.where,
                "state": "down" if bad else "waiting",
                "reason": "a local socket is not open" if bad else "no link",
                "endpoints": ends,
                "messages_in": 0,
                "bytes_in": 0,
                "messages_out": 0,
                "bytes_out": 0,
                "dropped": {},
                "unacked_bytes": 0,
                "window_bytes": route.window_bytes,
            }
        return {
            "side": self.side,
            "ready": all(r["state"] != "down" for r in routes.values()),
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self.began,
            "links": [
                {"peer": p, "state": "down", "rtt_ms": None, "resumes": 0, "redials": 0} for p in self.plan.peer_keys
            ],
            "routes": routes,
        }


def install() -> None:
    """Make the supervisor start this instead of the device."""

    def device(plan: Any) -> programs.Program:
        argv = (*programs._python(), "-m", "tests.supervise.standin", "device", str(plan.table), "--as", plan.side)
        return programs.Program("device", argv, programs._environment(), control="device.sock")

    programs._device = device


if __name__ == "__main__":
    if sys.argv[1] == "device":
        asyncio.run(StandIn(Path(sys.argv[2]), sys.argv[4]).run())
    else:
        install()
        from tunnel.cli import main

        main()
