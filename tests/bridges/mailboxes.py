"""A mailbox at a Dovecot, the bridge that fetches from it, and the application that is given its mails.

async with fetched(reactor, dovecot, folder, "REQ", since="all") as rig:
    topic, meta, raw = await rig.takes()
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import zmq

from bridges.imap import ImapBridge
from tests.bridges.rig import null
from tests.loops import until
from tests.servers import Dovecot
from tunnel.config.bridge_plan import BridgePlan, ZmqPlan
from tunnel.config.mail.imap import ImapPlan
from tunnel.config.plan import Endpoint, TlsPlan
from tunnel.keys import Secret
from tunnel.log import Log
from tunnel.reactor import Reactor

PEERS: Final = {"PUSH": zmq.PULL, "PUB": zmq.SUB, "REQ": zmq.ROUTER, "DEALER": zmq.ROUTER}


def mail(number: int | str, size: int = 0) -> bytes:
    return b"From: a@example.com\r\nSubject: %s\r\n\r\n%s\r\n" % (str(number).encode(), b"x" * size)


def mails(numbers: Iterable[int]) -> list[bytes]:
    return [mail(number) for number in numbers]


def subject(raw: bytes) -> str:
    return raw.split(b"Subject: ")[1].split(b"\r\n")[0].decode()


def plan_of(port: int, file: Path, **more: Any) -> ImapPlan:
    """Of the mailbox of Dovecot's user, without TLS."""
    told: dict[str, Any] = {
        "connect": (f"tcp://127.0.0.1:{port}",),
        "mode": "none",
        "tls": None,
        "user": Dovecot.user,
        "password": Secret(Dovecot.password),
        "token_command": (),
        "folders": ("INBOX",),
        "file": file,
        "since": "all",
        "poll_s": 30.0,
    }
    return ImapPlan(**(told | more))


def with_tls(ca: Path, mode: str = "implicit", name: str = "localhost") -> dict[str, Any]:
    return {"mode": mode, "tls": TlsPlan(ca=ca, server_name=name)}


class Application:
    """Who is given the mails; `bound` at an endpoint of its own."""

    def __init__(self, reactor: Reactor, socket: str, endpoint: str) -> None:
        self.asked = socket in ("REQ", "DEALER")
        self.socket = reactor.context.socket(PEERS[socket])
        self.socket.linger = 0
        if socket == "PUB":
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.socket.bind(endpoint)

    def look(self) -> list[bytes] | None:
        """A message, as it came; None: there is none."""
        return self.socket.recv_multipart() if self.socket.poll(0) else None

    def answer(self, message: list[bytes]) -> list[bytes]:
        """[topic, meta, raw] of it."""
        if not self.asked:
            return message
        route, number, empty, *frames = message
        self.socket.send_multipart([route, number, empty, b"done"])
        return frames

    def close(self) -> None:
        self.socket.close()


class Rig:
    def __init__(self, reactor: Reactor, plan: BridgePlan[ImapPlan], application: Application, log: Path) -> None:
        self.reactor = reactor
        self.plan = plan
        self.application = application
        self.log = log
        self.bridge: ImapBridge | None = None

    async def start(self) -> None:
        self.bridge = ImapBridge(self.plan, self.reactor, Log("test", fd=null()))
        await self.bridge.start()

    async def stop(self) -> None:
        if self.bridge is not None:
            bridge, self.bridge = self.bridge, None
            await bridge.close()

    async def takes(self, within_s: float = 15, *, answer: bool = True) -> list[bytes]:
        """[topic, meta, raw]."""
        found: list[list[bytes]] = []

        def look() -> bool:
            message = self.application.look()
            if message is not None:
                found.append(message)
            return bool(found)

        await until(look, within_s, self.told)
        return self.application.answer(found[0]) if answer else found[0]

    def answered(self) -> None:
        """Whatever is there."""
        while (message := self.application.look()) is not None:
            self.application.answer(message)

    async def take(self, count: int, within_s: float = 30) -> list[str]:
        """Their subjects."""
        return [subject((await self.takes(within_s))[2]) for _ in range(count)]

    async def until(self, condition: Callable[[], object], within_s: float = 15) -> None:
        await until(condition, within_s, self.told)

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What blocks, while the loop goes on."""
        return await asyncio.to_thread(work, *arguments)

    def told(self) -> Any:
        return self.status(), self.bridge.giving if self.bridge else None

    def status(self) -> dict[str, Any]:
        assert self.bridge is not None
        return self.bridge.status()

    @property
    def detail(self) -> dict[str, Any]:
        return dict(self.status()["detail"])

    def folder(self, name: str = "INBOX") -> dict[str, Any]:
        return dict(self.detail["folders"][name])


@asynccontextmanager
async def fetched(
    reactor: Reactor, folder: Path, port: int, socket: str = "REQ", *, receipts: str | None = None, **more: Any
) -> AsyncIterator[Rig]:
    endpoint = f"ipc://@zt-{uuid.uuid4().hex}"
    application = Application(reactor, socket, endpoint)
    zmq_plan = ZmqPlan(socket, (Endpoint("connect", endpoint),), receipts=receipts)
    plan = BridgePlan("box", "imap", zmq_plan, plan_of(port, folder / "spool" / "mailbox.db", **more), folder)
    rig = Rig(reactor, plan, application, folder / "bridge.log")
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()
        application.close()


def meta_of(frames: list[bytes]) -> dict[str, Any]:
    return dict(json.loads(frames[1]))
