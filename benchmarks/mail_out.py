"""The smtp-client bridge: mails of 10 KB from a PUSH to a mail server on this machine, beside a script on aiosmtplib.

    bridge       PUSH ─ bridges.process, each mail on disk (fsync) before it is sent and after ─ an aiosmtpd sink
    by hand      PULL ─ a Python loop with one aiosmtplib connection, nothing on disk ─ the same sink

The sink is a process of its own; the PUSH is this one.
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
from typing import Any, Protocol

import zmq

from benchmarks.bridges import NO_TUNNEL
from benchmarks.process import MeasureError, Process, wait_for_port
from benchmarks.report import Target
from benchmarks.scenarios import Figures, Stage, stage
from benchmarks.systems import bridges_of, fresh_name
from demo.ports import free_ports

MAIL = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: one of many\r\n\r\n" + (b"x" * 78 + b"\r\n") * 128
META = b'{"from": "a@example.com", "to": "b@example.com"}'
QUIET_S = 2.0
"""After which nothing more comes."""
BY_HAND = """\
import asyncio, json, sys
import aiosmtplib, zmq, zmq.asyncio
async def main():
    pull = zmq.asyncio.Context().socket(zmq.PULL)
    pull.connect("{source}")
    smtp = aiosmtplib.SMTP(hostname="127.0.0.1", port={port}, start_tls=False)
    await smtp.connect()
    while True:
        meta, raw = await pull.recv_multipart()
        said = json.loads(meta)
        await smtp.sendmail(said["from"], said["to"], raw)
asyncio.run(main())
"""


class MailSystem(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """As the report calls it."""

    def start(self, on: Stage, source: str, port: int) -> Process:
        """Takes mails from the PUSH at `source` and sends them to this port."""


class Bridge:
    name = title = "bridge"

    def start(self, on: Stage, source: str, port: int) -> Process:
        lines = [
            *NO_TUNNEL,
            "bridges:",
            "  b:",
            "    side: plant",
            "    kind: smtp-client",
            f"    zmq: PULL connect {source}",
            f"    relay: tcp://127.0.0.1:{port}",
            "    allow_to: any",
        ]
        return on.enter(bridges_of(on.folder / fresh_name(), lines))["b"]


class ByHand:
    name = "by hand"
    title = "aiosmtplib by hand"

    def start(self, on: Stage, source: str, port: int) -> Process:
        script = on.folder / "by_hand.py"
        script.write_text(BY_HAND.format(source=source, port=port))
        return on.enter(Process("by hand", [sys.executable, str(script)], on.folder))


SYSTEMS: tuple[MailSystem, ...] = (Bridge(), ByHand())


@contextmanager
def pushing() -> Iterator[tuple[zmq.Socket[bytes], str]]:
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger, push.sndtimeo = 0, 30_000
        yield push, f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}"


@dataclass(frozen=True)
class MailOut:
    """Mails of 10 KB as fast as they go; every one is counted at the server."""

    name: str = "mail out"

    def runs_on(self, _system: MailSystem) -> bool:
        return True

    def run(self, system: MailSystem, folder: Path, seconds: float) -> Figures:
        (port,) = free_ports(1)
        with stage(folder) as on, pushing() as (push, source):
            sink = on.enter(Process("sink", [sys.executable, "-m", "benchmarks.mail_out", str(port)], folder))
            wait_for_port(port)
            process = system.start(on, source, port)
            push.send_multipart([META, MAIL])
            sink.line("first")
            before, began, sent = process.cpu_s(), time.monotonic(), 1
            while time.monotonic() - began < seconds:
                push.send_multipart([META, MAIL])
                sent += 1
            sink.go()
            told = sink.result()
            if told["mails"] != sent:
                raise MeasureError(f"{system.name}, {self.name}: {sent} mails went in, {told['mails']} came")
            cpu = (process.cpu_s() - before) / sent * 1e6
            return {"rate": sent / told["seconds"], "cpu_s": cpu, "memory_mb": process.memory_mb(peak=True)}


SCENARIOS = (MailOut(),)
TARGETS = (Target("mail out", "mails of 10 KB a second", "rate", False, 200, at_least=True, ours="bridge"),)


class Counting:
    """aiosmtpd's handler."""

    def __init__(self) -> None:
        self.mails = 0
        self.first = self.last = 0.0

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        assert len(envelope.content) == len(MAIL)
        self.last = time.monotonic()
        if not self.mails:
            self.first = self.last
            print("first", flush=True)
        self.mails += 1
        return "250 taken"


async def sink(port: int) -> dict[str, float]:
    """The mail server's process: mails that came, from the first to the last of them."""
    from aiosmtpd.smtp import SMTP

    counting = Counting()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(counting, loop=loop), "127.0.0.1", port)
    await asyncio.to_thread(sys.stdin.readline)
    while time.monotonic() - counting.last < QUIET_S:
        await asyncio.sleep(0.1)
    server.close()
    return {"mails": counting.mails, "seconds": counting.last - counting.first}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(sink(int(sys.argv[1])))), flush=True)
