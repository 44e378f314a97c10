"""smtp-server: mail comes in by SMTP and becomes messages.

Here is who may come in, what becomes of a mail, and the life of the bridge. The protocol is a connection's
(mail/smtp_session.py), where a mail goes the rules' (mail/rules.py), its bytes on disk the inbox's (mail/inbox.py).
A client hears 250 when its mail is on disk, or (`accept: acked`) when somebody has answered for it, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket as sockets
import ssl
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from bridges.mail.bodies import Body
from bridges.mail.inbox import FullError, Inbox
from bridges.mail.inbox_desk import InboxDesk
from bridges.mail.limits import HOPS, SMTP_LATE, SMTP_RCVBUF_BYTES
from bridges.mail.raw import HOP
from bridges.mail.rules import Destination, LookupTroubleError, Rules
from bridges.mail.smtp_post import Answer, Letter, new_id
from bridges.mail.smtp_session import Session
from bridges.mail.trial import ServerTrial
from bridges.mail.users import Users, UsersError
from bridges.mail.ways import NoRoomError, Ways
from bridges.tls import server_context
from tunnel.config.bridge_plan import BridgePlan
from tunnel.config.mail.smtp_server_plan import SmtpServerPlan
from tunnel.config.plan import EndPlan, Endpoint
from tunnel.control import Command
from tunnel.errors import SpoolError
from tunnel.limits import BRIDGE_LOG_S, BRIDGE_STOP_S, HANDSHAKE_S
from tunnel.local.stream_listener import StreamListener
from tunnel.log import Log
from tunnel.reactor import Reactor
from tunnel.spool import Spool

_TICK_S: Final = 60.0


class SmtpServer:
    """See `bridges.process.Bridge`; and the Post of its connections."""

    def __init__(self, plan: BridgePlan[SmtpServerPlan], reactor: Reactor, log: Log) -> None:
        self.plan = plan.own
        self.loop = reactor.loop
        self.log = log
        self.closing = False
        self.refused: Counter[str] = Counter()
        self.counted: Counter[str] = Counter()
        self.reason = ""
        self.inbox = Inbox(self.plan.spool)
        self.sessions: dict[Session, None] = {}
        self._table = plan.table
        self._by_address: Counter[str] = Counter()
        self._owing: Counter[bytes] = Counter()
        """Mails whose clients are still there, and may be reading their 250: the same from another one is no repeat."""
        self._late: dict[bytes, str] = {}
        """Ids of mails that nobody acknowledged in time, the oldest first: whoever had one may see it come again."""
        self._bytes_in = 0
        self._errors = itertools.count(1)
        self._tell_at = 0.0
        self._rules = Rules(self.plan.rules)
        self._users = Users(self.plan.users) if self.plan.users is not None else None
        self._tls = server_context(self.plan.tls) if self.plan.tls is not None else None
        self.ways = Ways(self.plan, reactor, self.inbox, log)
        self.inbox.on_found = self.ways.look
        self._taking: set[asyncio.Task[Any]] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        end = EndPlan("TCP", (), allow=self.plan.allow)
        self._listeners = [
            StreamListener(reactor, Endpoint("bind", address), end, self._acceptor(secure), private=False)
            for secure, addresses in ((False, self.plan.plain), (True, self.plan.secure))
            for address in addresses
        ]
        self._commands: dict[str, Command] = {
            **InboxDesk(self.inbox, self.ways.again).commands,
            "mail-test": ServerTrial(self, plan.name),
        }

    # --- its life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.inbox.open()
        self.counted["recovered"] += self.inbox.rows
        if self.inbox.database.set_aside:
            self.log.error("corrupt", set_aside=self.inbox.database.set_aside)
        self.ways.start()
        for listener in self._listeners:
            listener.start()
        self._tick()

    async def close(self) -> None:
        """Take nothing more; answer what was taken, within the limits; then end. What waits lies on disk."""
        self.closing = True
        for listener in self._listeners:
            listener.stop()
        if self._timer is not None:
            self._timer.cancel()
        for session in tuple(self.sessions):
            if session.idle:
                await session.close("421 4.3.2 closing; come again later")
        deadline = self.loop.time() + BRIDGE_STOP_S
        while (self.sessions or self._taking) and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        for session in tuple(self.sessions):
            session.abort()
        for task in tuple(self._opening):
            task.cancel()
        await self.ways.close()
        await self.inbox.close()

    def spools(self) -> Mapping[str, Spool]:
        return {}

    def commands(self) -> Mapping[str, Command]:
        return self._commands

    def _tick(self) -> None:
        self._timer = self.loop.call_later(_TICK_S, self._tick)
        self.inbox.sweep()
        self.inbox.forget(self.plan.duplicates_s)
        self._keep(self.loop.create_task(self._expire()))

    async def _expire(self) -> None:
        with contextlib.suppress(SpoolError):
            count = await self.inbox.expire()
            if count:
                self.log.warning("expired", mails=count, reason="nobody took them in time; see ztunnel mail ls")

    def _keep(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)
        return task

    def status(self) -> dict[str, Any]:
        listeners = [listener.status(len(self.sessions)) for listener in self._listeners]
        shut = [listener for listener in listeners if listener["state"] != "bound"]
        disk = self.inbox.database.trouble or ("" if self.plan.accept == "acked" else self.inbox.refusal(0))
        trouble = disk or next((one["reason"] for one in (*shut, *listeners) if one["reason"]), "")
        trouble = trouble or self.ways.reason
        refused = Counter(self.refused)
        refused["address"] += sum(listener["turned_away"] for listener in listeners)
        first, *others = self.ways
        return {
            "state": "retrying" if shut or disk else "listening",
            "reason": trouble or self.reason,
            "connections": len(self.sessions),
            "refused": dict(sorted((+refused).items())),
            "frames_in": self.counted["taken"],
            "frames_out": 0,
            "bytes_in": self._bytes_in,
            "bytes_out": 0,
            "dropped": {},
            "ended": {},
            "zmq": first.status(),
            "detail": {
                **{word: self.counted[word] for word in ("taken", "duplicates", "late", "errors", "recovered")},
                "handed": self.ways.taken + self.counted["acked"],
                "refused_by_route": self.ways.refused,
                "may_repeat": sum(handover.may_repeat for handover in self.ways),
                "spool": self.inbox.status(),
                "sockets": [handover.status() for handover in others],
            },
        }

    # --- who comes in ------------------------------------------------------------------------------------------------

    def _acceptor(self, secure: bool) -> Any:
        return lambda socket, address: self._on_accept(socket, address, secure)

    def _on_accept(self, socket: sockets.socket, address: str, secure: bool) -> None:
        refusal = self._refusal(address)
        if refusal:
            self.refused[refusal] += 1
            self.reason = f"{address or 'somebody'}: there are too many connections ({refusal})"
            with contextlib.suppress(OSError):
                if not secure:
                    socket.send(b"421 4.7.0 too many connections; come again later\r\n")
            socket.close()
            return
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, SMTP_RCVBUF_BYTES)
        session = Session(self, address, secure=secure, tls=self._tls)
        self.sessions[session] = None
        self._by_address[address] += 1
        task = self.loop.create_task(self._open(session, socket, secure))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _refusal(self, address: str) -> str:
        if len(self.sessions) >= self.plan.connections:
            return "limit"
        return "per_address" if address and self._by_address[address] >= self.plan.per_address else ""

    async def _open(self, session: Session, socket: sockets.socket, secure: bool) -> None:
        layer: dict[str, Any] = {"ssl": self._tls, "ssl_handshake_timeout": HANDSHAKE_S} if secure else {}
        try:
            await self.loop.connect_accepted_socket(lambda: session, socket, **layer)
        except (ssl.SSLError, OSError) as error:
            socket.close()
            self.refused["tls" if secure else "gone"] += 1
            self.reason = f"{session.address}: it was gone before it was served: {error}"
            self._forget(session)
        except asyncio.CancelledError:
            socket.close()
            self._forget(session)
            raise

    def _forget(self, session: Session) -> None:
        if session in self.sessions:
            del self.sessions[session]
            self._by_address[session.address] -= 1
            if not self._by_address[session.address]:
                del self._by_address[session.address]

    # --- Post, for the connections -----------------------------------------------------------------------------------

    def ended(self, session: Session, reason: str) -> None:
        self._forget(session)
        if reason:
            self.refused[reason] += 1

    def count(self, reason: str) -> None:
        self.refused[reason] += 1

    def room(self, size: int) -> str:
        return self.inbox.refusal(size)

    def new_body(self) -> tuple[str, Body]:
        mail_id = new_id()
        return mail_id, self.inbox.body(mail_id)

    def settled(self, digest: bytes, *, told: bool) -> None:
        self._owing[digest] -= 1
        if self._owing[digest] <= 0:
            del self._owing[digest]
        if told:
            self.inbox.told(digest, keep=self.plan.duplicates == "all")

    def failed(self, error: Exception) -> str:
        """Something of ours: it stands in the log under this number, and the client hears the number."""
        number = f"{int(time.time()):x}-{next(self._errors)}"
        self.counted["errors"] += 1
        where = traceback.extract_tb(error.__traceback__)[-1:]
        place = f"{where[0].filename.rpartition('/')[2]}:{where[0].lineno}" if where else "?"
        if self.loop.time() >= self._tell_at:
            self._tell_at = self.loop.time() + BRIDGE_LOG_S
            self.log.error("local-error", id=number, error=f"{type(error).__name__}: {error}", at=place)
        return number

    async def login(self, name: str, password: bytes) -> bool | None:
        if self._users is None:
            return False
        try:
            return await self._users.are(name, password)
        except UsersError as error:
            self.reason = str(error)
            self.log.warning("users", reason=str(error))
            return None

    def find(self, address: str) -> Destination | str:
        try:
            found = self._rules.find(address)
        except LookupTroubleError as error:
            self.reason = str(error)
            self.refused["lookup"] += 1
            self.log.warning("lookup", reason=str(error))
            return "451 4.3.0 whether that one is known cannot be said at the moment"
        if found is not None:
            return found
        if self._rules.serves(address):
            self.refused["unknown"] += 1
            return "550 5.1.1 nobody of that name here"
        self.refused["relay"] += 1
        return "550 5.7.1 mail for there is not taken here"

    async def take(self, letter: Letter) -> Answer:
        """Checks, then the disk or the application. The body is the inbox's, or gone, when this ends."""
        task = asyncio.current_task()
        if task is not None:
            self._keep(task)
        try:
            return await self._take(letter)
        except FullError as error:
            self.refused["full"] += 1
            letter.body.discard()
            return Answer(f"452 4.3.1 {error}")
        except (SpoolError, OSError) as error:
            letter.body.discard()
            return Answer(f"452 4.3.1 local error {self.failed(error)}")
        except Exception as error:
            letter.body.discard()
            return Answer(f"451 4.3.0 local error {self.failed(error)}")

    async def _take(self, letter: Letter) -> Answer:
        if letter.bare:
            return self._turn_down(letter, "bare_line_ends", "550 5.5.2 a CR or LF stands alone in the mail")
        if letter.header.hops() >= HOPS or self._table in letter.header.values(HOP):
            return self._turn_down(letter, "loop", "554 5.4.6 this mail goes in circles")
        digest = letter.digest(anyone=self.plan.duplicates == "all")
        live = digest in self._owing
        self._owing[digest] += 1  # until the connection says that it is settled
        try:
            answer = await self._once(letter, digest, live=live)
        except BaseException:
            self.settled(digest, told=False)
            raise
        if answer.digest is None:
            self.settled(digest, told=False)
        return answer

    async def _once(self, letter: Letter, digest: bytes, *, live: bool) -> Answer:
        """`live`: a client that sent the same is still there."""
        if self.plan.duplicates == "all" or (self.plan.duplicates == "unanswered" and not live):
            known = await self.inbox.known(digest, self.plan.duplicates_s, told=self.plan.duplicates == "all")
            if known is not None:
                self.counted["duplicates"] += 1
                self.log.info("duplicate", mail=known, client=letter.client)
                letter.body.discard()
                return Answer(f"250 2.0.0 {known}", digest)
        letter.id = self._late.pop(digest, letter.id)
        refusal = await (self._spool(letter, digest) if self.plan.accept == "spooled" else self._ask(letter, digest))
        if refusal:
            return self._turn_down(letter, "refused_by_route", refusal)
        self.counted["taken"] += 1
        self._bytes_in += letter.body.size
        return Answer(f"250 2.0.0 {letter.id}", digest)

    def _turn_down(self, letter: Letter, reason: str, text: str) -> Answer:
        self.refused[reason] += 1
        self.reason = f"{letter.client}: {text}"
        letter.body.discard()
        return Answer(text)

    async def _spool(self, letter: Letter, digest: bytes) -> str:
        rule = letter.destination
        await self.inbox.put(letter.id, rule.rule, rule.topic, letter.meta(), letter.body, digest)
        self.ways.look(rule.zmq)
        return ""

    async def _ask(self, letter: Letter, digest: bytes) -> str:
        """`accept: acked`: the reply that refuses it, or "" when somebody has answered for it."""
        try:
            refusal = await self.ways.ask(letter)
        except NoRoomError:
            return "451 4.3.0 too much is under way; come again later"
        except TimeoutError:
            self.counted["late"] += 1
            self._late[digest] = letter.id
            if len(self._late) > SMTP_LATE:
                del self._late[next(iter(self._late))]
            return "451 4.3.0 nobody has acknowledged it in time; come again later"
        if refusal:
            self.log.warning("refused", mail=letter.id, reason=refusal)
            return "554 5.3.0 the route does not take it"
        letter.body.discard()
        self.counted["acked"] += 1
        await self.inbox.remember(digest, letter.id)
        return ""
