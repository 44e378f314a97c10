"""The smtp-server bridge: mails from 20 connections onto disk and on to an application, beside a plain aiosmtpd.

    bridge    clients ─ bridges.process, each mail on disk (fsync) before its 250, then a request and its answer ─ REP
    plain     clients ─ aiosmtpd with a handler that pushes, nothing on disk, no answer ─ PULL

The clients are one process, the application is this one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zmq

from benchmarks.bridges import NO_TUNNEL
from benchmarks.process import MeasureError, Process, wait_for_port
from benchmarks.report import Target
from benchmarks.scenarios import Figures, Stage, stage
from benchmarks.systems import bridges_of, fresh_name
from demo.ports import free_ports

CONNECTIONS = 20
MANY = 50
LINE = b"x" * 76 + b"\r\n"
PLAIN = """\
import asyncio, zmq
from aiosmtpd.smtp import SMTP
push = zmq.Context().socket(zmq.PUSH)
push.connect("{sink}")
class Handler:
    async def handle_DATA(self, server, session, envelope):
        push.send(envelope.content)
        return "250 ok"
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), loop=loop, data_size_limit=1 << 26), "127.0.0.1", {port})
    await server.serve_forever()
asyncio.run(main())
"""


class MailServer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """As the report calls it."""

    @property
    def socket(self) -> int:
        """The application's."""

    def start(self, on: Stage, port: int, sink: str) -> Process:
        """Listening at this port; mails go to the application at `sink`."""


class Bridge:
    name = title = "bridge"
    socket = zmq.ROUTER

    def start(self, on: Stage, port: int, sink: str) -> Process:
        lines = [
            *NO_TUNNEL,
            "bridges:",
            "  b:",
            "    side: plant",
            "    kind: smtp-server",
            f"    listen: tcp://127.0.0.1:{port}",
            f"    zmq: DEALER connect {sink}",
            f"    connections: {MANY + 10}",
            f"    per_address: {MANY + 10}",
            "    recipients:",
            "      all:",
            "        match: '*@*'",
        ]
        process = on.enter(bridges_of(on.folder / fresh_name(), lines))["b"]
        wait_for_port(port)
        return process


class Plain:
    name = "plain"
    title = "plain aiosmtpd"
    socket = zmq.PULL

    def start(self, on: Stage, port: int, sink: str) -> Process:
        script = on.folder / "plain.py"
        script.write_text(PLAIN.format(sink=sink, port=port))
        process = on.enter(Process("plain", [sys.executable, str(script)], on.folder))
        wait_for_port(port)
        return process


SYSTEMS: tuple[MailServer, ...] = (Bridge(), Plain())


class Application:
    """Takes mails, and answers for them where it can."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.mails = 0

    def serve(self) -> None:
        """What is there now, at most for a moment."""
        until = time.monotonic() + 0.05
        while time.monotonic() < until and self._socket.poll(20):
            frames = self._socket.recv_multipart(copy=False)
            self.mails += 1
            if self._socket.type == zmq.ROUTER:
                self._socket.send_multipart([frames[0].bytes, frames[1].bytes, b""])


@contextmanager
def application(kind: int) -> Iterator[tuple[Application, str]]:
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger = 0
        yield Application(socket), f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


@dataclass(frozen=True)
class MailIn:
    """Mails of that size over so many connections as fast as they are taken; every one must reach the application."""

    name: str
    connections: int
    size: int
    each: int | None
    """So many mails a connection; None: for as long as a round is."""

    def runs_on(self, system: MailServer) -> bool:
        return self.each is None or isinstance(system, Bridge)

    def run(self, system: MailServer, folder: Path, seconds: float) -> Figures:
        (port,) = free_ports(1)
        with stage(folder) as on, application(system.socket) as (taking, sink):
            process = system.start(on, port, sink)
            words = [str(port), str(self.connections), str(self.size), str(self.each or 0), str(seconds)]
            clients = on.enter(Process("clients", [sys.executable, "-m", "benchmarks.mail_in", *words], folder))
            clients.line("connected")
            before = process.cpu_s()
            clients.go()
            told: dict[str, float] | None = None
            last, seen = time.monotonic(), 0
            while told is None or (taking.mails < told["mails"] and time.monotonic() - last < 20):
                taking.serve()
                if taking.mails > seen:
                    last, seen = time.monotonic(), taking.mails
                if told is None and clients.ended():
                    told = clients.result()
            if taking.mails != told["mails"]:
                raise MeasureError(f"{system.name}, {self.name}: {told['mails']} mails were taken, {taking.mails} came")
            return {
                "rate": told["mails"] / told["seconds"],
                "cpu_s": (process.cpu_s() - before) / told["mails"] * 1e6,
                "memory_mb": process.memory_mb(peak=True),
            }


SCENARIOS = (
    MailIn("mail in", CONNECTIONS, 10_000, None),
    MailIn("mail in, 50 with 20 MB each", MANY, 20_000_000, 1),
)
TARGETS = (
    Target("mail in", "mails of 10 KB a second, each on disk", "rate", False, 300, at_least=True, ours="bridge"),
    Target("mail in, 50 with 20 MB each", "MB of memory", "memory_mb", False, 100, ours="bridge"),
)


# --- the clients -----------------------------------------------------------------------------------------------------


async def _client(port: int, size: int, begin: asyncio.Event, more: asyncio.Event, each: int, number: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def say(data: bytes, code: bytes) -> None:
        writer.write(data)
        line = await reader.readline()
        if not line.startswith(code):
            raise SystemExit(f"{data[:60]!r} was answered with {line!r}")

    await say(b"", b"220")
    await say(b"HELO client.example.com\r\n", b"250")
    body = LINE * (size // len(LINE))
    print("connected" if number == 0 else "", flush=True)
    await begin.wait()
    count = 0
    while count < each or (not each and more.is_set()):
        await say(b"MAIL FROM:<a@example.com>\r\n", b"250")
        await say(b"RCPT TO:<b@example.com>\r\n", b"250")
        await say(b"DATA\r\n", b"354")
        await say(b"Subject: %d of %d\r\n\r\n" % (count, number) + body + b".\r\n", b"250")
        count += 1
    await say(b"QUIT\r\n", b"221")
    return count


async def _clients(port: int, connections: int, size: int, each: int, seconds: float) -> None:
    begin, more = asyncio.Event(), asyncio.Event()
    more.set()
    clients = [asyncio.create_task(_client(port, size, begin, more, each, n)) for n in range(connections)]
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    begin.set()
    if not each:
        await asyncio.sleep(seconds)
    more.clear()
    mails = sum(await asyncio.gather(*clients))
    print(json.dumps({"mails": mails, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    asyncio.run(_clients(*map(int, sys.argv[1:5]), float(sys.argv[5])))
