"""A TCP relay that fails on command: it stands between a dialler and a listener, in a process of its own.

    with Relay(("127.0.0.1", listener_port)) as relay:      # listens on relay.port (relay.address is tcp://...)
        relay.wait(2)                    until 2 connections are through
        relay.cut("rst" | "fin")         end every connection on both sides; says how many. New ones are let in
        relay.black_hole()               keep and accept connections, forward nothing, hold what was sent. Directions:
                                         "both", "to_target", "to_client". heal() lets everything go on
        relay.swallow()                  as black_hole(), but what arrives is thrown away, so these connections never
                                         carry anything again, healed or not; those accepted after heal() do
        relay.half_open("client" | "target", how="rst" | "fin")
                                         close that side of every connection; the other is kept, told nothing, and
                                         what it sends is thrown away, until cut() or close()
        relay.refuse()                   answer every new connection with RST (present ones go on)
        relay.delay(0.05)                each direction, from now on (pipelined: it costs no throughput)
        relay.rate(1_000_000)            bytes per second, each direction of each connection; 0: as fast as it goes
        relay.heal()                     end black hole, swallow, refuse; delay and rate stay
        relay.target(host, port)         where new connections go
        relay.stats()                    {"connections", "accepted", "refused", "to_target", "to_client"} (bytes)

Every command has taken effect when its call returns. A black hole in user space still acknowledges at the TCP level
until the kernel's buffers are full, as a firewall that forgot a connection does not: what is lost is only progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

CHUNK = 256 * 1024
QUEUED_CHUNKS = 64
DIRECTIONS = ("to_target", "to_client")


class Relay:
    """The commands, as a test gives them; starts the relay's process and ends it."""

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), host, target[0], str(target[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lock = threading.Lock()
        self.host = host
        self.port: int = self._read()["port"]
        self.address = f"tcp://{host}:{self.port}"

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self, how: str = "rst") -> int:
        return int(self._do("cut", how=how)["cut"])

    def black_hole(self, direction: str = "both") -> None:
        self._do("hole", direction=direction)

    def swallow(self, direction: str = "both") -> None:
        self._do("swallow", direction=direction)

    def half_open(self, side: str, how: str = "rst") -> int:
        return int(self._do("half_open", side=side, how=how)["cut"])

    def refuse(self) -> None:
        self._do("refuse")

    def delay(self, seconds: float) -> None:
        self._do("delay", seconds=seconds)

    def rate(self, bytes_per_s: float) -> None:
        self._do("rate", bytes_per_s=bytes_per_s)

    def heal(self) -> None:
        self._do("heal")

    def target(self, host: str, port: int) -> None:
        self._do("target", host=host, port=port)

    def stats(self) -> dict[str, int]:
        answer = self._do("stats")
        del answer["ok"]
        return answer

    def wait(self, connections: int, within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while self.stats()["connections"] < connections:
            if time.monotonic() > deadline:
                raise AssertionError(f"{connections} connections were not there within {within_s} s: {self.stats()}")
            time.sleep(0.01)

    def close(self) -> None:
        """End every connection (FIN or RST as the kernel likes) and the process. May be called twice."""
        if self._process.poll() is None:
            self._process.stdin.close()  # type: ignore[union-attr]
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]

    def _do(self, command: str, **arguments: Any) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._read()
        if not answer.get("ok"):
            raise ValueError(answer)
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the relay's process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Direction:
    """One direction of one connection: read, wait as told, write."""

    def __init__(self, server: Server, name: str, source: socket.socket, sink: socket.socket) -> None:
        self.server = server
        self.name = name
        self.source = source
        self.sink = sink
        self.muted = False  # whatever comes is thrown away for ever
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)

    async def read(self) -> None:
        while True:
            data = await self.server.loop.sock_recv(self.source, CHUNK)
            await self._queue.put((time.monotonic() + self.server.delay_s, data))
            if not data:
                return

    async def write(self) -> None:
        while True:
            due, data = await self._queue.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if self.name in self.server.swallowed:
                self.muted = True
            if self.muted:
                if not data:
                    return
                continue
            await self.server.passable[self.name].wait()
            if not data:
                with contextlib.suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                return
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        rate = self.server.bytes_per_s
        step = len(view) if rate <= 0 else max(1024, int(rate / 50))
        while view:
            if rate > 0:
                await asyncio.sleep(min(step, len(view)) / rate)
            await self.server.loop.sock_sendall(self.sink, view[:step])
            self.server.carried[self.name] += min(step, len(view))
            view = view[step:]


class Connection:
    """A client's socket and the one to the target."""

    def __init__(self, server: Server, client: socket.socket, target: socket.socket) -> None:
        self.client = client
        self.target = target
        self.open = {"client", "target"}
        self.directions = [
            Direction(server, "to_target", client, target),
            Direction(server, "to_client", target, client),
        ]
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        for direction in self.directions:
            self.tasks += [asyncio.ensure_future(direction.read()), asyncio.ensure_future(direction.write())]
        try:
            await asyncio.gather(*self.tasks)
        except (OSError, asyncio.CancelledError):
            # one side was reset: a real path would carry the reset on
            self.end("rst")
        else:
            self.end("fin")

    def end(self, how: str) -> None:
        for task in self.tasks:
            task.cancel()
        for side in tuple(self.open):
            self.close_side(side, how)

    def close_side(self, side: str, how: str) -> None:
        self.open.discard(side)
        sock = self.client if side == "client" else self.target
        if how == "rst":
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        sock.close()


class Server:
    """In the relay's process: the listening socket, the connections, what is wrong at the moment."""

    def __init__(self, host: str, target: tuple[str, int]) -> None:
        self.loop = asyncio.get_running_loop()
        self.target = target
        self.passable = {name: asyncio.Event() for name in DIRECTIONS}
        self.swallowed: set[str] = set()
        self.refusing = False
        self.delay_s = 0.0
        self.bytes_per_s = 0.0
        self.carried = dict.fromkeys(DIRECTIONS, 0)
        self.accepted = self.refused = 0
        self.connections: set[Connection] = set()
        self.half: list[tuple[socket.socket, asyncio.Task[None]]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener = socket.create_server((host, 0), backlog=1024)
        self.listener.setblocking(False)
        self.heal()

    def heal(self) -> None:
        for event in self.passable.values():
            event.set()
        self.swallowed.clear()
        self.refusing = False

    async def accept(self) -> None:
        while True:
            client, _ = await self.loop.sock_accept(self.listener)
            if self.refusing:
                self.refused += 1
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                continue
            self.accepted += 1
            self._spawn(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = socket.socket()
        target.setblocking(False)
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # the target is asked only once something may pass, as on a path that loses every packet
        await self.passable["to_target"].wait()
        try:
            await self.loop.sock_connect(target, self.target)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            target.close()
            return
        connection = Connection(self, client, target)
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _discard(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while await self.loop.sock_recv(sock, CHUNK):
                pass

    def stop(self, direction: str) -> None:
        for name in DIRECTIONS:
            if direction in (name, "both"):
                self.passable[name].clear()

    async def do_cut(self, how: str) -> dict[str, Any]:
        cut = len(self.connections)
        for connection in tuple(self.connections):
            connection.end(how)
        self.connections.clear()
        for sock, task in self.half:
            task.cancel()
            sock.close()
        self.half.clear()
        await asyncio.sleep(0)
        return {"cut": cut}

    async def do_half_open(self, side: str, how: str) -> dict[str, Any]:
        cut = len(self.connections)
        for connection in tuple(self.connections):
            for task in connection.tasks:
                task.cancel()
            connection.close_side(side, how)
            kept = connection.target if side == "client" else connection.client
            connection.open.clear()  # run() ends now and must not close the side that is kept
            self.half.append((kept, self._spawn(self._discard(kept))))
        self.connections.clear()
        await asyncio.sleep(0)
        return {"cut": cut}

    async def do_hole(self, direction: str) -> dict[str, Any]:
        self.stop(direction)
        return {}

    async def do_swallow(self, direction: str) -> dict[str, Any]:
        names = [name for name in DIRECTIONS if direction in (name, "both")]
        self.swallowed.update(names)
        for connection in self.connections:
            for one in connection.directions:
                one.muted = one.muted or one.name in names
        return {}

    async def do_refuse(self) -> dict[str, Any]:
        self.refusing = True
        return {}

    async def do_delay(self, seconds: float) -> dict[str, Any]:
        self.delay_s = seconds
        return {}

    async def do_rate(self, bytes_per_s: float) -> dict[str, Any]:
        self.bytes_per_s = bytes_per_s
        return {}

    async def do_heal(self) -> dict[str, Any]:
        self.heal()
        return {}

    async def do_target(self, host: str, port: int) -> dict[str, Any]:
        self.target = (host, port)
        return {}

    async def do_stats(self) -> dict[str, Any]:
        return {
            "connections": len(self.connections),
            "accepted": self.accepted,
            "refused": self.refused,
            **self.carried,
        }


async def serve(host: str, target: tuple[str, int]) -> None:
    server = Server(host, target)
    print(json.dumps({"port": server.listener.getsockname()[1]}), flush=True)
    accepting = asyncio.ensure_future(server.accept())
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    threading.Thread(target=_read_lines, args=(server.loop, lines), daemon=True).start()
    while line := await lines.get():
        request = json.loads(line)
        command: Callable[..., Awaitable[dict[str, Any]]] = getattr(server, "do_" + request.pop("do"))
        print(json.dumps({"ok": True, **await command(**request)}), flush=True)
    accepting.cancel()
    server.listener.close()
    await server.do_cut("fin")


def _read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[bytes]) -> None:
    while line := sys.stdin.buffer.readline():
        loop.call_soon_threadsafe(lines.put_nowait, line)
    loop.call_soon_threadsafe(lines.put_nowait, b"")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> None:
    host, target_host, target_port = sys.argv[1:]
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(serve(host, (target_host, int(target_port))))


if __name__ == "__main__":
    main()
