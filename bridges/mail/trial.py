"""`ztunnel mail test`: a real mail through a bridge, told step by step. What the kinds share, and the smtp-server's.

An smtp-server is dialled as any client would dial it, so what refuses a client refuses this one too, in the same words.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from typing import TYPE_CHECKING, Any, Final

from bridges.mail.addresses import AddressError, checked, shown
from bridges.mail.limits import TRIAL_S
from bridges.mail.rules import Destination
from tunnel.config.values import tcp
from tunnel.errors import UsageError

if TYPE_CHECKING:
    from bridges.smtp_server import SmtpServer

Reply = dict[str, Any]
_LOOK_S: Final = 0.05


class Steps:
    """What was tried, in order. Where one step needs the one before, the first that is not ok is the last."""

    def __init__(self) -> None:
        self.told: list[Reply] = []

    def add(self, step: str, found: str, todo: str = "", *, ok: bool = True) -> bool:
        """Returns `ok`. `todo`: what to do about it."""
        self.told.append({"step": step, "ok": ok, "found": found, "todo": todo})
        return ok

    def reply(self) -> Reply:
        """As the control socket says it."""
        return {"steps": self.told, "fine": all(step["ok"] for step in self.told)}


def address_of(request: Reply, key: str, default: str = "") -> str:
    """An address that somebody typed. UsageError: it is none."""
    said = request.get(key) or default
    try:
        return checked(said) if isinstance(said, str) and said else ""
    except AddressError as error:
        raise UsageError(f"{error}.") from None


def trial_mail(sender: str, to: str, bridge: str) -> bytes:
    """What is sent: plain words, and nothing that could be taken for an alarm."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, to
    mail["Subject"] = f"ztunnel mail test of {bridge}"
    mail["Date"], mail["Message-ID"] = format_datetime(localtime()), make_msgid(domain="ztunnel.invalid")
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(f"Somebody ran `ztunnel mail test {bridge}`. Nothing has happened.\n")
    return mail.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


async def settled(condition: Callable[[], bool], within_s: float = TRIAL_S) -> bool:
    """Whether that becomes true in time."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_LOOK_S)
    return True


class ServerTrial:
    """One mail through an smtp-server."""

    def __init__(self, server: SmtpServer, name: str) -> None:
        self._server = server
        self._name = name

    async def __call__(self, request: Reply) -> Reply:
        to = address_of(request, "address")
        if not to:
            rules = ", ".join(f"{rule.name} ({' '.join(rule.match)})" for rule in self._server.plan.rules)
            raise UsageError(f"say for whom the mail is; the rules of {self._name} are {rules}.")
        steps = Steps()
        found = self._server.find(to)
        if isinstance(found, str):
            steps.add("rule", f"{to}: {found}", "name an address that a rule of recipients: fits", ok=False)
            return steps.reply()
        way = f"route {found.zmq.route}" if found.zmq.route else ", ".join(e.address for e in found.zmq.endpoints)
        steps.add("rule", f"{found.rule}: topic {shown(found.topic.decode())}, {found.zmq.socket} to {way}")
        before = self._server.ways.handed(found.zmq)
        mail_id = await self._dialogue(request, to, steps)
        if mail_id:
            await self._handed(found, mail_id, before, steps)
        return steps.reply()

    async def _dialogue(self, request: Reply, to: str, steps: Steps) -> str:
        """The id of the mail, or "" where somebody refused."""
        import aiosmtplib  # only where somebody tries

        plan = self._server.plan
        address, secure = (plan.plain[0], False) if plan.plain else (plan.secure[0], True)
        where: Reply = {"socket_path": address.removeprefix("ipc://")} if address.startswith("ipc://") else {}
        if not where:
            there = tcp(address)
            host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(there.host, there.host)
            where = {"hostname": host, "port": there.port}
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # our own, whatever it is called
        client = aiosmtplib.SMTP(
            **where,
            use_tls=secure,
            start_tls=False,
            tls_context=context,
            timeout=plan.answer_s + TRIAL_S,
            local_hostname="mail-test.ztunnel.invalid",
        )
        try:
            await client.connect()
            await client.ehlo()
            steps.add("connect", f"{address}: {plan.hostname} answers")
            if plan.tls is not None and not secure:
                await client.starttls(validate_certs=False)
                await client.ehlo()
                steps.add("tls", "STARTTLS: the certificate was not looked at")
            if plan.require_login:
                user, password = request.get("user"), request.get("password")
                if not user or not isinstance(password, str):
                    steps.add("login", "this bridge wants a login", "say --user NAME", ok=False)
                    return ""
                await client.login(str(user), password)
                steps.add("login", f"{user}: taken")
            sender = address_of(request, "from", "mail-test@ztunnel.invalid")
            await client.mail(sender)
            await client.rcpt(to)
            answer = await client.data(trial_mail(sender, to, self._name))
            steps.add("taken", f"{answer.code} {answer.message}")
            await client.quit()
            return str(answer.message).rpartition(" ")[2]
        except aiosmtplib.SMTPResponseException as error:
            steps.add("refused", f"{error.code} {error.message}", _TODO.get(error.code // 100, ""), ok=False)
        except (aiosmtplib.SMTPException, OSError) as error:
            steps.add("connect", f"{address}: {error}", "is this box's own address in allow:?", ok=False)
        return ""

    async def _handed(self, found: Destination, mail_id: str, before: int, steps: Steps) -> None:
        server = self._server
        if server.plan.accept == "acked":
            steps.add("answered for", "before it was taken, as accept: acked promises")
            return
        steps.add("on disk", f"id {mail_id}, before it was taken")
        done = await settled(lambda: server.ways.handed(found.zmq) > before)
        answers = server.ways.answered_by(found.zmq)
        if done:
            steps.add("handed on", f"answered for by {answers}")
        elif found.zmq.route:
            todo = f"ztunnel probe {found.zmq.route} tells what holds it up; the mail waits on disk"
            steps.add("handed on", f"not within {TRIAL_S:.0f} s: {answers} has not answered", todo, ok=False)
        else:
            todo = "is the application there, and does it answer? The mail waits on disk"
            steps.add("handed on", f"not within {TRIAL_S:.0f} s: {answers} has not answered", todo, ok=False)


_TODO: Final = {4: "it may be taken later: see the reason", 5: "see docs/mail.md for this reply"}
