"""An smtp-server on the loop, its application, and clients that say what a test wants them to say.

async with serving(reactor, folder) as rig:
    client = await rig.dial()
    await client.ehlo()
    assert await client.say("MAIL FROM:<a@example.com>") == "250 2.1.0 ok"
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import zmq

from bridges.smtp_server import SmtpServer
from tests.bridges.rig import null
from tests.loops import until
from tests.waiting import free_port
from tunnel.config.bridge_plan import BridgePlan, ZmqPlan
from tunnel.config.mail.smtp_server_plan import RulePlan, SmtpServerPlan
from tunnel.config.plan import Endpoint, SpoolPlan
from tunnel.log import Log
from tunnel.reactor import Reactor

PEERS: Final = {"PUSH": zmq.PULL, "PUB": zmq.SUB, "REQ": zmq.REP, "DEALER": zmq.ROUTER}
MAIL: Final = b"Subject: hello\r\nMessage-ID: <1@example.com>\r\n\r\nhow are you\r\n"
ENVELOPE: Final = ("MAIL FROM:<a@example.com>", "RCPT TO:<ups+west@example.com>")


class Client:
    """One SMTP client, which waits for every reply, unless it is told not to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self, within_s: float = 20) -> str:
        """The next reply, its last line; "": the connection was closed."""
        while True:
            async with asyncio.timeout(within_s):
                line = (await self.reader.readline()).decode()
            if line[3:4] != "-":
                return line.rstrip("\r\n")

    async def say(self, text: str | bytes, within_s: float = 20) -> str:
        self.write((text.encode() if isinstance(text, str) else text) + b"\r\n")
        return await self.reply(within_s)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def ehlo(self) -> list[str]:
        """What is offered."""
        self.write(b"EHLO client.example.com\r\n")
        lines = []
        while True:
            line = (await self.reader.readline()).decode().rstrip("\r\n")
            assert line.startswith("250"), line
            lines.append(line[4:])
            if line[3] == " ":
                return lines[1:]

    async def envelope(self, *lines: str) -> None:
        for line in lines or ENVELOPE:
            assert (await self.say(line)).startswith("250"), line

    async def mail(self, data: bytes = MAIL, *lines: str) -> str:
        """A whole transaction; `data` as it goes over the line but for the final dot."""
        await self.envelope(*lines)
        assert (await self.say("DATA")).startswith("354")
        self.write(data + b".\r\n")
        return await self.reply()

    async def closed(self) -> bool:
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read() == b""
        return True


class Rig:
    """The bridge and its application."""

    def __init__(self, server: SmtpServer, app: zmq.Socket[bytes], reactor: Reactor, port: int) -> None:
        self.server = server
        self.app = app
        self.reactor = reactor
        self.port = port
        self.clients: list[Client] = []

    async def dial(self, *, greeted: bool = True, **more: Any) -> Client:
        """`greeted`: it has read the banner, and said EHLO."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, **more))
        self.clients.append(client)
        if greeted:
            assert (await client.reply()).startswith("220 mail.test ESMTP")
            await client.ehlo()
        return client

    async def until(self, condition: Callable[[], object], within_s: float = 20) -> None:
        await until(condition, within_s, self.server.status)

    async def recv(self, within_s: float = 20) -> list[bytes]:
        await until(lambda: self.app.poll(0), within_s, lambda: f"no message: {self.server.status()}")
        return self.app.recv_multipart()

    async def mails(self, count: int = 1) -> list[tuple[bytes, dict[str, Any], bytes]]:
        """(topic, meta, raw) each."""
        found = [await self.recv() for _ in range(count)]
        return [(topic, json.loads(meta), raw) for topic, meta, raw in found]

    def nothing_came(self) -> bool:
        return not self.app.poll(0)

    @property
    def detail(self) -> dict[str, Any]:
        detail: dict[str, Any] = self.server.status()["detail"]
        return detail

    @property
    def refused(self) -> dict[str, int]:
        refused: dict[str, int] = self.server.status()["refused"]
        return refused


@asynccontextmanager
async def serving(
    reactor: Reactor,
    folder: Path,
    *,
    socket: str = "PUSH",
    bound: bool = True,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    max_spool: int = 1 << 30,
    expire_s: float | None = None,
    secure: bool = False,
    app: zmq.Socket[bytes] | None = None,
    endpoint: str = "",
    **more: Any,
) -> AsyncIterator[Rig]:
    """`bound`: the application is there; else `rig.app` may bind `rig.server`'s endpoint later."""
    app = app or reactor.context.socket(PEERS[socket])
    app.linger = 0
    app.sndtimeo = 10_000
    if socket == "PUB":
        app.setsockopt(zmq.SUBSCRIBE, b"")
    endpoint = endpoint or f"ipc://@zt-{uuid.uuid4().hex}"
    if bound:
        app.bind(endpoint)
    port = free_port()
    zmq_plan = ZmqPlan(socket, (Endpoint("connect", endpoint),))
    said = rules or {"ups": {"match": ("ups@*",), "topic": "alarm.{tag}"}}
    made = tuple(RulePlan(name, zmq=zmq_plan, **{"topic": name, **rule}) for name, rule in said.items())
    address = (f"tcp://127.0.0.1:{port}",)
    plan = SmtpServerPlan(
        made,
        SpoolPlan(folder / "spool", max_spool, expire_s),
        "mail.test",
        plain=() if secure else address,
        secure=address if secure else (),
        **more,
    )
    server = SmtpServer(
        BridgePlan("post", "smtp-server", zmq_plan, plan, folder, "table"), reactor, Log("t", fd=null())
    )
    rig = Rig(server, app, reactor, port)
    await server.start()
    await rig.until(lambda: server.status()["state"] == "listening" or "disk" in server.status()["reason"])
    try:
        yield rig
    finally:
        for client in rig.clients:
            client.writer.transport.abort()
        await server.close()
        app.close()
