"""An smtp-client in this process, on a loop, with its application and a mail server; for tests.

async with sending(reactor, tmp_path, "PULL", relay=sink.port) as rig:
    rig.send(RAW, id="1")
    await rig.until(lambda: sink.mails)
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import zmq

from bridges.mail.retry import Schedule
from bridges.smtp_client import SmtpClient
from tests.bridges.rig import null
from tests.loops import until
from tunnel.config.bridge_plan import BridgePlan, ZmqPlan
from tunnel.config.mail.smtp_client_plan import SmtpClientPlan
from tunnel.config.plan import Endpoint, SpoolPlan
from tunnel.log import Log
from tunnel.reactor import Reactor

PEERS: Final = {"PULL": zmq.PUSH, "SUB": zmq.XPUB, "REP": zmq.DEALER}
RAW: Final = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: one\r\n\r\nHello.\r\n"
QUICK: Final = Schedule(((0.05, 1000),))


class Rig:
    """The bridge, and the application that talks to it."""

    def __init__(self, client: SmtpClient, app: zmq.Socket[bytes], kind: str) -> None:
        self.client = client
        self.app = app
        self.kind = kind

    def send(self, raw: bytes = RAW, **meta: Any) -> None:
        said = {"from": "a@example.com", "to": ["b@example.com"], **meta}
        self.send_frames(json.dumps(said).encode(), raw)

    def send_frames(self, *frames: bytes) -> None:
        head = [b""] if self.kind == "REP" else [b"topic"] if self.kind == "SUB" else []
        self.app.send_multipart([*head, *frames])

    async def reply(self, within_s: float = 10) -> dict[str, Any]:
        await until(lambda: self.app.poll(0), within_s, lambda: f"no reply: {self.status()}")
        told: dict[str, Any] = json.loads(self.app.recv_multipart()[-1])
        return told

    async def ask(self, **meta: Any) -> dict[str, Any]:
        self.send(**meta)
        return await self.reply()

    async def until(self, condition: Callable[[], object], within_s: float = 10) -> None:
        await until(condition, within_s, self.status)

    def status(self) -> dict[str, Any]:
        return self.client.status()

    def detail(self, word: str) -> Any:
        return self.status()["detail"][word]

    async def command(self, name: str, **request: Any) -> dict[str, Any]:
        answer = self.client.commands()[name](request)
        found: dict[str, Any] = answer if isinstance(answer, dict) else await answer
        return found

    async def mails(self, state: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.command("mail-list", state=state))["mails"]
        return found


def plan_of(folder: Path, socket: str, endpoint: str, relay: int | None, **more: Any) -> BridgePlan[SmtpClientPlan]:
    zmq_plan = ZmqPlan(socket, (Endpoint("connect", endpoint),), None, more.pop("hwm", 64))
    state = SpoolPlan(folder / "spool", more.pop("max_spool", 1 << 30), more.pop("expire_dead_s", 7 * 86400.0))
    more = {"hostname": "client.example", "retry": QUICK, "timeout_s": 20.0, **more}
    if "relays" in more:
        more["relay"] = more.pop("relays")
    if relay is not None:
        more["relay"] = (f"tcp://127.0.0.1:{relay}",)
    return BridgePlan("mails", "smtp-client", zmq_plan, SmtpClientPlan(state=state, **more), Path("/none"), "plant")


@asynccontextmanager
async def sending(
    reactor: Reactor, folder: Path, socket: str = "PULL", *, relay: int | None = None, lookup: Any = None, **more: Any
) -> AsyncIterator[Rig]:
    app = reactor.context.socket(PEERS[socket])
    app.linger, app.sndtimeo = 0, 10_000
    app.sndhwm = more.pop("app_hwm", 1000)
    endpoint = f"ipc://@zt-{uuid.uuid4().hex}"
    app.bind(endpoint)
    client = SmtpClient(plan_of(folder, socket, endpoint, relay, **more), reactor, Log("test", fd=null()), lookup)
    await client.start()
    if socket == "SUB":
        await until(lambda: app.poll(0), 10)
        app.recv()  # its subscription
    try:
        yield Rig(client, app, socket)
    finally:
        await client.close()
        app.close()
