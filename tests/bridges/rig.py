"""A tcp-server in this process, on a loop, for tests; and the same as a process of its own, from a table.

async with served(reactor, "PUSH", frame=make("line"), ack=b"ok") as rig:
    reader, writer = await rig.dial()
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
import zmq

from bridges.framing import Framing, make
from bridges.tcp_server import TcpServer
from tests.loops import run_with_reactor, until
from tests.waiting import free_port
from tests.waiting import until as until_now
from tunnel.config.bridge_plan import BridgePlan, TcpPlan, ZmqPlan
from tunnel.config.plan import Endpoint
from tunnel.control import ask
from tunnel.errors import NotRunningError
from tunnel.keys import write_pair
from tunnel.log import Log
from tunnel.reactor import Reactor

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = {
    "PUSH": zmq.PULL,
    "PUB": zmq.SUB,
    "SUB": zmq.PUB,
    "PULL": zmq.PUSH,
    "REQ": zmq.ROUTER,
    "DEALER": zmq.ROUTER,
    "ROUTER": zmq.DEALER,
}
"""The bridge's socket → the application's."""
LINE: Final = make("line")


class Rig:
    """The bridge, its application, its devices."""

    def __init__(self, server: TcpServer, app: zmq.Socket[bytes], reactor: Reactor, port: int) -> None:
        self.server = server
        self.app = app
        self.reactor = reactor
        self.port = port
        self.writers: list[asyncio.StreamWriter] = []

    async def dial(self, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22, **more)
        self.writers.append(writer)
        return reader, writer

    async def dialled(self, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As dial; returns when the bridge has it."""
        before = len(self.server.connections)
        pair = await self.dial(**more)
        await self.until(lambda: len(self.server.connections) > before)
        return pair

    async def until(self, condition: Callable[[], object], within_s: float = 10) -> None:
        await until(condition, within_s, lambda: (self.status(), self.server.zmq.outlet))

    async def recv(self, within_s: float = 10) -> list[bytes]:
        await until(lambda: self.app.poll(0), within_s, lambda: f"no message: {self.status()}")
        return self.app.recv_multipart()

    async def recvs(self, count: int, within_s: float = 20) -> list[list[bytes]]:
        return [await self.recv(within_s) for _ in range(count)]

    def send(self, *frames: bytes) -> None:
        self.app.send_multipart(frames)

    def status(self) -> dict[str, Any]:
        return self.server.status()


def plan_of(
    socket: str, endpoint: str, port: int, reads: Framing = LINE, hwm: int = 64, bind: bool = False, **more: Any
) -> BridgePlan:
    tcp = TcpPlan(reads, more.pop("writes", reads), listen=(f"tcp://127.0.0.1:{port}",), **more)
    at = Endpoint("bind" if bind else "connect", endpoint)
    return BridgePlan("scales", "tcp-server", ZmqPlan(socket, (at,), None, hwm), tcp, Path("/nonexistent"))


@asynccontextmanager
async def served(
    reactor: Reactor,
    socket: str,
    reads: Framing = LINE,
    *,
    app_options: Mapping[int, Any] | None = None,
    bound: bool = True,
    at: str = "",
    **more: Any,
) -> AsyncIterator[Rig]:
    """A bridge on the loop. `bound=False`: its application is not there yet, or the test's own, `at` that endpoint."""
    app = reactor.context.socket(PEERS[socket])
    app.linger, app.sndtimeo = 0, 10_000  # its peers connect without the loop's help
    for option, value in (app_options or {}).items():
        app.setsockopt(option, value)
    if socket == "PUB":
        app.setsockopt(zmq.SUBSCRIBE, b"")
    endpoint = at or f"ipc://@zt-{uuid.uuid4().hex}"
    if bound and not at:
        app.bind(endpoint)
    port = free_port()
    server = TcpServer(plan_of(socket, endpoint, port, reads, **more), reactor, Log("test", fd=null()))
    rig = Rig(server, app, reactor, port)
    await server.start()
    await rig.until(lambda: server.status()["state"] == "listening")
    try:
        yield rig
    finally:
        for writer in rig.writers:
            writer.transport.abort()
        await server.close()
        app.close()


_null: list[int] = []


def null() -> int:
    if not _null:
        _null.append(os.open(os.devnull, os.O_WRONLY))
    return _null[0]


def run(body: Callable[[Reactor], Any], loop: str = "default", within_s: float = 60) -> None:
    """On that loop; whatever the loop would log as an error is one."""

    async def watched(reactor: Reactor) -> None:
        errors: list[dict[str, Any]] = []
        reactor.loop.set_exception_handler(lambda _, context: errors.append(context))
        await body(reactor)
        assert not errors, errors

    run_with_reactor(watched, loop, within_s)


# --- processes -------------------------------------------------------------------------------------------------------


class BridgeProcess:
    """`python -m bridges.process` of a table with one bridge."""

    def __init__(
        self, folder: Path, runtime: Path, bridge: Mapping[str, Any], limit: int | None, module: str = "bridges.process"
    ) -> None:
        self.environment: dict[str, str] = {}
        """More variables, for the next start."""
        self._module = module
        self.table = folder / "t.yaml"
        self.log = folder / "bridge.log"
        self.port = free_port()
        self._environment = os.environ | {"ZTUNNEL_RUNTIME_DIR": str(runtime), "ZTUNNEL_STATE_DIR": str(folder / "s")}
        self._runtime = runtime
        self._limit = limit
        for side in ("dmz", "plant"):
            write_pair(folder / "keys", side)
        kind = bridge.get("kind", "tcp-server")
        listen = {"listen": f"tcp://127.0.0.1:{self.port}"} if kind.endswith("-server") else {}
        told = {"side": "plant", "kind": kind, **listen, **bridge}
        at = f"tcp://127.0.0.1:{free_port()}"
        table = {
            "version": 1,
            "sides": {side: {"key": f"keys/{side}.key"} for side in ("dmz", "plant")},
            "links": [{"listen": f"dmz {at}", "dial": f"plant {at}"}],
            "routes": {"none": {"pattern": "pipeline", "from": "dmz bind local", "to": "plant bind local"}},
            "bridges": {"b": told},
        }
        self.table.write_text(yaml.safe_dump(table))

    def start(self, *, waits: bool = True) -> None:
        command = [sys.executable, "-m", self._module, str(self.table), "--as", "plant", "--bridge", "b"]
        if self._limit is not None:
            command = ["prlimit", f"--nofile={self._limit}", *command]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment | self.environment, stdout=log, stderr=log
            )
        if waits:
            until_now(lambda: self._begun(self.try_status()), 20, self.log.read_text)

    def _begun(self, status: dict[str, Any] | None) -> bool:
        return status is not None and (not status["kind"].endswith("-server") or status["state"] == "listening")

    def try_status(self) -> dict[str, Any] | None:
        """None while it does not answer; fails when the process has ended."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.status()
        except NotRunningError:
            return None

    @property
    def control(self) -> Path:
        return next(iter(self._runtime.glob("*/bridge-*.sock")), Path("/nonexistent"))

    def status(self) -> dict[str, Any]:
        return ask(self.control, "status", timeout_s=5.0)

    def dial(self) -> sockets.socket:
        client = sockets.create_connection(("127.0.0.1", self.port), 10)
        client.settimeout(20)
        return client

    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, within_s: float = 12) -> int:
        """TERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


@contextmanager
def process(
    folder: Path,
    bridge: Mapping[str, Any],
    *,
    limit: int | None = None,
    waits: bool = True,
    module: str = "bridges.process",
) -> Iterator[BridgeProcess]:
    """Running, and listening if it `waits` for that; at the end it is gone, and its log holds no traceback.

    `limit`: of its descriptors.
    """
    runtime = Path(tempfile.mkdtemp(prefix="zb", dir="/tmp"))
    bridge_process = BridgeProcess(folder, runtime, bridge, limit, module)
    try:
        bridge_process.start(waits=waits)
        yield bridge_process
    finally:
        bridge_process.close()
        shutil.rmtree(runtime, ignore_errors=True)
