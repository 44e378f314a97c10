"""A whole tunnel for tests: a table with free ports and fresh keys, one device process a side, applications.

    tunnel = Tunnel(tmp_path)
    tunnel.write({"r": {"pattern": "pipeline", "from": f"dmz bind {a}", "to": f"plant connect {b}"}})
    tunnel.start()          # returns when every side's sockets are open and every link is up
    ...
    tunnel.close()

`dmz` listens, every other side dials it. Tables are written as YAML from plain dicts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
import zmq

from tests.waiting import free_port, until
from tunnel.control import ask
from tunnel.errors import NotRunningError
from tunnel.keys import write_pair

ROOT = Path(__file__).parents[1]


class DeviceProcess:
    """One side, as `python -m tunnel.device` runs it."""

    def __init__(self, tunnel: Tunnel, side: str) -> None:
        self.tunnel = tunnel
        self.side = side
        self.log = tunnel.folder / f"{side}.log"
        self.control = tunnel.runtime / f"{tunnel.name}.{side}" / "device.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tunnel.device", str(self.tunnel.table), "--as", self.side]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.tunnel.environment, stdout=log, stderr=log)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def status(self) -> dict[str, Any]:
        return ask(self.control, "status", timeout_s=5.0)

    def try_status(self) -> dict[str, Any] | None:
        """None while it does not answer; fails when the process has ended."""
        assert self.alive, f"the device of {self.side} ended:\n{self.log.read_text()[-4000:]}"
        try:
            return self.status()
        except NotRunningError:
            return None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Orderly; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)


class Tunnel:
    """Device processes of `sides` on loopback, and a 0MQ context for the applications."""

    name = "t"

    def __init__(self, folder: Path, sides: Sequence[str] = ("dmz", "plant")) -> None:
        self.folder = folder
        self.sides = tuple(sides)
        self.runtime = Path(tempfile.mkdtemp(prefix="zt", dir="/tmp"))  # paths of unix sockets must be short
        state = {"ZTUNNEL_RUNTIME_DIR": str(self.runtime), "ZTUNNEL_STATE_DIR": str(folder / "state")}
        self.environment = os.environ | state
        self.table = folder / f"{self.name}.yaml"
        self.link_port = free_port()
        self.devices = {side: DeviceProcess(self, side) for side in self.sides}
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._apps: list[zmq.Socket[bytes]] = []
        for side in self.sides:
            write_pair(folder / "keys", side)

    # --- the table ---------------------------------------------------------------------------------------------------

    def tcp(self) -> str:
        """An address for a local end that nobody holds."""
        return f"tcp://127.0.0.1:{free_port()}"

    def ipc(self, name: str) -> str:
        return f"ipc://{self.runtime}/{name}"

    def write(self, routes: Mapping[str, Mapping[str, Any]], **top: Any) -> None:
        listener, *diallers = self.sides
        address = f"tcp://127.0.0.1:{self.link_port}"
        table = {
            "version": 1,
            "sides": {side: {"key": f"keys/{side}.key"} for side in self.sides},
            "links": [{"listen": f"{listener} {address}", "dial": [f"{side} {address}" for side in diallers]}],
            "routes": {name: dict(route) for name, route in routes.items()},
            **top,
        }
        self.table.write_text(yaml.safe_dump(table, sort_keys=False))

    # --- the processes -----------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, within_s: float = 40) -> None:
        for device in self.devices.values():
            device.start()
        if wait:
            self.up(within_s)

    def up(self, within_s: float = 40) -> None:
        """Waits until every side is ready and every link up."""
        for device in self.devices.values():
            told: dict[str, Any] = {}

            def is_up(device: DeviceProcess = device, told: dict[str, Any] = told) -> bool:
                told.update(device.try_status() or {})
                return bool(told.get("ready")) and all(link["state"] == "up" for link in told["links"])

            until(is_up, within_s, lambda device=device, told=told: f"{device.side} up: {told}\n{_tail(device.log)}")

    def status(self, side: str) -> dict[str, Any]:
        return self.devices[side].status()

    def route(self, side: str, name: str) -> dict[str, Any]:
        return dict(self.status(side)["routes"][name])

    def dropped(self, side: str, name: str) -> dict[str, int]:
        return dict(self.route(side, name)["dropped"])

    def until_route(self, side: str, name: str, holds: Callable[[dict[str, Any]], Any], within_s: float = 15) -> Any:
        """Waits until `holds(status of the route)`; the status then."""
        last: dict[str, Any] = {}

        def check() -> bool:
            last.clear()
            last.update(self.route(side, name))
            return bool(holds(last))

        until(check, within_s, lambda: f"{side} {name}: {last}", every_s=0.05)
        return last

    def peers(self, side: str, name: str, count: int, within_s: float = 15) -> None:
        """Waits until so many applications are connected at this side's end of a route."""
        self.until_route(side, name, lambda r: sum(e["peers"] for e in r["endpoints"]) == count, within_s)

    # --- the applications --------------------------------------------------------------------------------------------

    def app(
        self,
        kind: int,
        method: str = "",
        address: str | Sequence[str] = (),
        options: Mapping[int, Any] | None = None,
    ) -> zmq.Socket[bytes]:
        """An application's socket; sends and receives give up after 15 s instead of hanging."""
        socket = self.context.socket(kind)
        self._apps.append(socket)  # pyzmq closes what nobody holds
        for option, value in (
            {zmq.LINGER: 0, zmq.SNDTIMEO: 15_000, zmq.RCVTIMEO: 15_000} | dict(options or {})
        ).items():
            socket.setsockopt(option, value)
        for each in [address] if isinstance(address, str) else address:
            if method == "connect":
                socket.connect(each)
            else:
                _bind_soon(socket, each)
        return socket

    def close(self) -> None:
        """Ends everything; fails when a device does not end in order."""
        ended: dict[str, int | None] = {}
        for device in self.devices.values():
            if device.alive and device.process is not None:
                device.process.terminate()
        for device in self.devices.values():
            if device.process is not None:
                try:
                    ended[device.side] = device.process.wait(20)
                except subprocess.TimeoutExpired:
                    ended[device.side] = None
                    device.kill()
        self.context.destroy(linger=0)
        shutil.rmtree(self.runtime, ignore_errors=True)
        hung = [side for side, code in ended.items() if code is None]
        assert not hung, f"{hung} did not stop within 20 s of SIGTERM"


def _bind_soon(socket: zmq.Socket[bytes], address: str) -> None:
    """A listener that was just closed may hold its address a moment longer."""

    def bound() -> bool:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            return False
        return True

    until(bound, 5, f"{address} can be bound")


def _tail(log: Path) -> str:
    return log.read_text()[-3000:] if log.exists() else ""
