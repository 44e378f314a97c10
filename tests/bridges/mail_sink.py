"""A mail server for tests, on the test's own loop: aiosmtpd with a script of what it says and does.

sink = await Sink().start()
sink.say("RCPT", "550 5.1.1 nobody", when=lambda address: address.startswith("gone"))
sink.do_at_dot("cut")                # next mail: the line is cut instead of an answer
sink.mails[0].content                # as it came, dots undoubled
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.waiting import free_port


@dataclass
class Mail:
    sender: str
    to: list[str]
    content: bytes
    options: list[str]


@dataclass
class Rule:
    """What is said at a step, for whom, and how often."""

    says: str
    when: Callable[[str], bool]
    times: int


class Server(SMTP):
    """aiosmtpd 1.4.6 as it comes, but for its script."""

    sink: Sink

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if transport not in self.sink.transports:
            self.sink.transports.append(transport)

    async def push(self, status: str | bytes) -> None:
        text = status.decode() if isinstance(status, bytes) else status
        if text.startswith("220 ") and not self.sink.greeted(self):
            said = self.sink.said("GREETING", "")
            if said is not None:
                text = said
        await super().push(text)

    async def smtp_EHLO(self, hostname: str) -> None:
        said = self.sink.said("EHLO", hostname)
        if said is None:
            await super().smtp_EHLO(hostname)
        else:
            await self.push(said)

    async def smtp_RSET(self, arg: str) -> None:
        self.sink.resets += 1
        await super().smtp_RSET(arg)


@dataclass
class Sink:
    """See the module. `tls`: STARTTLS is offered; `implicit`: TLS from the first byte."""

    tls: ssl.SSLContext | None = None
    implicit: bool = False
    login: tuple[str, str] | None = None
    utf8: bool = True
    port: int = field(default_factory=free_port)
    mails: list[Mail] = field(default_factory=list)
    transports: list[Any] = field(default_factory=list)
    connections: int = 0
    resets: int = 0
    logins: list[tuple[str, str]] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)
    at_dot: deque[Any] = field(default_factory=deque)
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    _greeted: set[int] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def start(self) -> Sink:
        self._server = await asyncio.get_running_loop().create_server(
            self._make, "127.0.0.1", self.port, ssl=self.tls if self.implicit else None
        )
        return self

    def _make(self) -> SMTP:
        self.connections += 1
        server = Server.__new__(Server)
        server.sink = self
        server.__init__(  # type: ignore[misc]
            self,
            hostname="sink.example",
            enable_SMTPUTF8=self.utf8,
            tls_context=None if self.implicit else self.tls,
            auth_required=False,
            auth_require_tls=False,
            authenticator=self._authenticate if self.login is not None else None,
            data_size_limit=64 << 20,
            timeout=60,
            loop=asyncio.get_running_loop(),
        )
        return server

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        for transport in self.transports:
            transport.abort()
        self.transports.clear()

    # --- the script --------------------------------------------------------------------------------------------------

    def say(self, step: str, says: str, *, when: Callable[[str], bool] = lambda _: True, times: int = 1 << 30) -> None:
        """At GREETING, EHLO, MAIL, RCPT, DATA."""
        self.rules.setdefault(step, []).append(Rule(says, when, times))

    def do_at_dot(self, *what: Any) -> None:
        """For the next mails, one each: "cut" (the mail is taken), "cut before", a reply, None, or what is awaited."""
        self.at_dot.extend(what)

    def said(self, step: str, about: str) -> str | None:
        self.commands.append(f"{step} {about}")
        for rule in self.rules.get(step, []):
            if rule.times and rule.when(about):
                rule.times -= 1
                return rule.says
        return None

    def greeted(self, server: Server) -> bool:
        known = id(server) in self._greeted
        self._greeted.add(id(server))
        return known

    # --- aiosmtpd's handler ------------------------------------------------------------------------------------------

    async def handle_MAIL(
        self, _s: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        said = self.said("MAIL", address)
        if said is None:
            envelope.mail_from, envelope.mail_options = address, options
        return said or "250 OK"

    async def handle_RCPT(self, _s: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any) -> str:
        said = self.said("RCPT", address)
        if said is None or said.startswith("2"):
            envelope.rcpt_tos.append(address)
        return said or "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        what = self.at_dot.popleft() if self.at_dot else None
        if callable(what):
            what = await what()
        assert isinstance(envelope.content, bytes)
        if what != "cut before" and not str(what or "250").startswith(("4", "5")):
            self.mails.append(
                Mail(
                    (envelope.mail_from or "").strip("<>"),
                    list(envelope.rcpt_tos),
                    envelope.content,
                    list(envelope.mail_options),
                )
            )
            self.over_tls.append(session.ssl is not None or self.implicit)
        if what in ("cut", "cut before"):
            server.transport.abort()
        return what if isinstance(what, str) and what[0].isdigit() else "250 2.0.0 taken"

    def _authenticate(self, _s: SMTP, _session: Session, _envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        found = (data.login.decode(), data.password.decode())
        self.logins.append(found)
        return AuthResult(success=found == self.login, handled=False)


@contextmanager
def sinking(port: int = 0) -> Iterator[Sink]:
    """One in a thread, for tests that have no loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    sink = asyncio.run_coroutine_threadsafe(_started(port or free_port()), loop).result(10)
    try:
        yield sink
    finally:
        asyncio.run_coroutine_threadsafe(sink.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _started(port: int) -> Sink:
    return await Sink(port=port).start()
