"""One conversation with a mail server, over aiosmtplib: greeting, TLS, login, and one mail after the other.

What the library is not asked for: addresses are checked before they come here and written as they are (aiosmtplib
would parse and rewrite them); the body is sent in pieces, so that it is known whether the final dot has left when the
line breaks; and each step has a deadline.
"""

from __future__ import annotations

import asyncio
import re
import socket as sockets
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol

from bridges.mail.addresses import control_free
from bridges.mail.limits import SEND_CHUNK_BYTES, SEND_CONNECT_S, SEND_DOT_S, SEND_MAILS, SEND_STALE_S, SEND_WORDS
from bridges.mail.outbox_records import Result
from bridges.mail.troubles import Misconfigured, Stale, Unreachable
from bridges.tls import client_context
from tunnel.config.mail.smtp_client_plan import SmtpClientPlan, TlsMode
from tunnel.config.plan import TlsPlan
from tunnel.config.values import tcp
from tunnel.errors import LocalError
from tunnel.resolve import resolve

_DOTS: Final = re.compile(rb"(?<=\n)\.")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_LOGIN_WANTED: Final = (530, 534, 535, 538)
"""To MAIL, RCPT or DATA these speak of us, and not of the mail (RFC 4954, 6; RFC 3207, 4)."""

Marked = Callable[[], Awaitable[bool]]
"""Awaited before the final dot may leave: it is on disk that it may have. False: the mail is not to be sent."""


class Conversation:
    """One connection. `open`, then `send` mails, then `quit`; `abort` at any time."""

    def __init__(self, plan: SmtpClientPlan, host: str, port: int) -> None:
        self.address = f"{host}:{port}"
        self.mails = 0
        """Sent, or tried, on it."""
        self._plan = plan
        self._host, self._port = host, port
        self._smtp = aiosmtplib.SMTP(local_hostname=plan.hostname, start_tls=False, timeout=plan.timeout_s)
        self._clean = True
        """The server knows of no mail begun."""
        self._used_at = 0.0

    def __repr__(self) -> str:
        return f"<Conversation {self.address} mails={self.mails}{'' if self.alive else ' closed'}>"

    @property
    def alive(self) -> bool:
        return self._smtp.is_connected

    @property
    def worn(self) -> bool:
        """It has carried as many mails as it should."""
        return self.mails >= SEND_MAILS or not self.alive

    # --- to its beginning and its end --------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect, greet, TLS, login. Unreachable, Misconfigured."""
        try:
            await self._open()
        except aiosmtplib.SMTPResponseException as error:
            self.abort()
            sentence = f"{self.address} said {_words(error.code, error.message)}"
            raise (Misconfigured if error.code // 100 == 5 else Unreachable)(sentence) from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            self.abort()
            raise Unreachable(f"{self.address}: {clean(_inner(error))}") from None
        except BaseException:
            self.abort()
            raise

    async def _open(self) -> None:
        mode = self._plan.mode_at(self._port)
        context = context_of(self._plan.tls, mode)
        name = (self._plan.tls.server_name if self._plan.tls is not None else None) or self._host
        smtp = self._smtp
        async with asyncio.timeout(min(SEND_CONNECT_S, self._plan.timeout_s)):
            sock = await connected(self._host, self._port)
        # the name is only what a certificate is compared with: the connection is there
        await smtp.connect(hostname=name, sock=sock, use_tls=mode == "implicit", tls_context=context)
        await self._hello()
        if mode in ("offered", "starttls"):
            if smtp.supports_extension("starttls"):
                await smtp.starttls(server_hostname=name, tls_context=context)
                await self._hello()
            elif mode == "starttls":
                raise Misconfigured(f"{self.address} offers no STARTTLS, and this route does not go without")
        if self._plan.login is not None:
            await self._login()

    async def _hello(self) -> None:
        """EHLO; where the server knows only HELO, that (and so no TLS and no login)."""
        try:
            await self._smtp.ehlo()
        except aiosmtplib.SMTPHeloError as error:
            if error.code not in (500, 501, 502, 504) or not self.alive:
                raise
            await self._smtp.helo()

    async def _login(self) -> None:
        login = self._plan.login
        assert login is not None
        if not self._smtp.supports_extension("auth") or not self._smtp.supported_auth_methods:
            raise Misconfigured(f"{self.address} offers no login that is known here (PLAIN, LOGIN, CRAM-MD5)")
        try:
            await self._smtp.login(login.user, login.password.reveal())
        except aiosmtplib.SMTPAuthenticationError as error:
            kind = Misconfigured if error.code // 100 == 5 else Unreachable
            raise kind(f"{self.address} refuses the login: {_words(error.code, error.message)}") from None

    async def quit(self) -> None:
        """In order, if it is still there; a few seconds at most."""
        try:
            if self.alive:
                await self._smtp.quit(timeout=2.0)
        except (aiosmtplib.SMTPException, OSError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        self._smtp.close()

    # --- mails -------------------------------------------------------------------------------------------------------

    async def send(
        self, sender: str, to: Sequence[str], raw: bytes, marked: Marked, *, utf8: bool = False
    ) -> dict[str, Result]:
        """One mail to these, all lines of which end with CRLF: what became of it, for each recipient.

        Stale: nothing was begun. Misconfigured: the server wants a login or TLS. Whatever else goes wrong is a result.
        """
        fresh, self.mails = self.mails == 0, self.mails + 1
        results: dict[str, Result] = {}
        try:
            await self._begin(sender, raw, fresh, utf8)
        except _Refused as error:
            return dict.fromkeys(to, error.result)
        except (aiosmtplib.SMTPException, OSError) as error:
            self.abort()
            if not fresh:
                raise Stale(clean(_inner(error))) from None
            return dict.fromkeys(to, self._broken(error))
        try:
            for address in to:
                try:
                    await self._say("RCPT", f"RCPT TO:<{address}>", utf8)
                except _Refused as error:
                    results[address] = error.result
            accepted = [address for address in to if address not in results]
            if accepted:
                result = await self._data(raw, marked)
                results |= dict.fromkeys(accepted, result)
        except _Refused as error:
            results |= dict.fromkeys((one for one in to if one not in results), error.result)
        except (aiosmtplib.SMTPException, OSError) as error:
            self.abort()
            results |= dict.fromkeys((one for one in to if one not in results), self._broken(error))
        return results

    async def _begin(self, sender: str, raw: bytes, fresh: bool, utf8: bool) -> None:
        loop = asyncio.get_running_loop()
        idle_s, self._used_at = loop.time() - self._used_at, loop.time()
        if not self._clean or (not fresh and idle_s > SEND_STALE_S):
            await self._smtp.rset()
            self._clean = True
        has = self._smtp.supports_extension
        options = f" SIZE={len(raw)}" if has("size") else ""
        if not raw.isascii() and has("8bitmime"):
            options += " BODY=8BITMIME"
        if utf8:
            if not has("smtputf8"):
                words = "takes no addresses beyond ASCII (it has no SMTPUTF8)"
                raise _Refused(Result("failed", f"{self.address} {words}"))
            options += " SMTPUTF8"
        self._clean = False
        try:
            await self._say("MAIL", f"MAIL FROM:<{sender}>{options}", utf8)
        except _Refused as error:
            if error.code == 421 and not fresh:  # so many mails on one connection, and no more
                self.abort()
                raise Stale(error.result.words) from None
            raise

    async def _say(self, step: str, line: str, utf8: bool) -> None:
        response = await self._smtp.execute_command(line.encode("utf-8" if utf8 else "ascii"))
        if response.code // 100 != 2:
            raise self._refusal(step, response.code, response.message)

    async def _data(self, raw: bytes, marked: Marked) -> Result:
        if not await marked():
            return Result("gone", "")
        response = await self._smtp.execute_command(b"DATA", timeout=min(self._plan.timeout_s, 120.0))
        if response.code != 354:
            raise self._refusal("DATA", response.code, response.message)
        protocol = self._smtp.protocol
        assert protocol is not None
        # the reply is waited for from the first byte on: a server may have enough before the last one
        answer = asyncio.ensure_future(protocol.read_response())
        await asyncio.sleep(0)
        whole = False
        try:
            whole = await self._pour(protocol, raw, answer)
            async with asyncio.timeout(min(SEND_DOT_S, 2 * self._plan.timeout_s)):
                reply = await answer
        except (aiosmtplib.SMTPException, OSError) as error:
            self.abort()
            when = "after the whole mail was sent" if whole else "in the middle of the mail"
            return Result("unknown" if whole else "deferred", f"{self.address}: {clean(_inner(error))} {when}")
        finally:
            if not answer.done():
                answer.cancel()
            elif not answer.cancelled():
                answer.exception()
        self._clean = whole and reply.code == 250
        if not whole or reply.code == 421:  # what it takes for the next command would be the rest of the mail
            self.abort()
        if reply.code // 100 == 2:
            words = _words(reply.code, reply.message)
            return Result("sent", words) if whole else Result("deferred", f"{words}, in the middle of the mail")
        raise self._refusal("the mail", reply.code, reply.message)

    async def _pour(self, protocol: SMTPProtocol, raw: bytes, answer: asyncio.Future[aiosmtplib.SMTPResponse]) -> bool:
        """Everything, dots doubled; False: the server has answered, or is gone, before the final dot."""
        if raw.startswith(b"."):
            protocol.write(b".")
        for at in range(0, len(raw), SEND_CHUNK_BYTES):
            # with the byte before it, for a line may begin where a piece does
            piece = _DOTS.sub(b"..", raw[max(0, at - 1) : at + SEND_CHUNK_BYTES])
            protocol.write(piece[1:] if at else piece)
            await self._drained(protocol, answer)
            if answer.done():
                return False
        protocol.write(b".\r\n")
        return True

    async def _drained(self, protocol: SMTPProtocol, answer: asyncio.Future[aiosmtplib.SMTPResponse]) -> None:
        """Until the socket has taken the most of it, or the server has answered. TimeoutError: it takes nothing."""
        drain = asyncio.ensure_future(protocol._drain_helper())  # what StreamWriter.drain calls; there is no other
        try:
            async with asyncio.timeout(min(self._plan.timeout_s, 180.0)):
                await asyncio.wait((drain, answer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not drain.done():
                drain.cancel()
            elif not drain.cancelled():
                drain.exception()

    def _refusal(self, step: str, code: int, message: str) -> _Refused:
        if code == 421:
            self.abort()
        words = _words(code, message)
        if code in _LOGIN_WANTED:
            raise Misconfigured(f"{self.address} said to {step}: {words}")
        return _Refused(Result("failed" if code // 100 == 5 else "deferred", words), code)

    def _broken(self, error: BaseException) -> Result:
        return Result("deferred", f"{self.address}: {clean(_inner(error))}")


class _Refused(Exception):
    """The server does not want this recipient, or this mail."""

    def __init__(self, result: Result, code: int = 0) -> None:
        super().__init__(result.words)
        self.result = result
        self.code = code


async def connected(host: str, port: int) -> sockets.socket:
    """A socket that is connected to the first address of this host that answers. OSError: none does."""
    try:
        endpoints = await resolve(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
    except LocalError as error:
        raise OSError(str(error)) from None
    trouble = OSError(f"{host} has no address")
    for address in map(tcp, endpoints):
        sock = sockets.socket(sockets.AF_INET6 if ":" in address.host else sockets.AF_INET, sockets.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
            async with asyncio.timeout(SEND_CONNECT_S / 3):
                await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
        except OSError as error:
            sock.close()
            trouble = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise trouble


@lru_cache(maxsize=8)
def context_of(tls: TlsPlan | None, mode: TlsMode) -> ssl.SSLContext | None:
    """`offered` without a word on certificates takes any: who could forge one could as well hide the offer."""
    if mode == "none":
        return None
    context = client_context(tls or TlsPlan())
    if mode == "offered" and (tls is None or (tls.ca is None and tls.server_name is None)):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def clean(text: str) -> str:
    """Somebody else's words, as they may stand in one line of ours."""
    return _CONTROLS.sub(" ", text if control_free(text) else text.replace("\n", " / "))[:SEND_WORDS]


def _words(code: int, message: str) -> str:
    return clean(f"{code} {message}")


def _inner(error: BaseException) -> str:
    if isinstance(error, TimeoutError | aiosmtplib.SMTPTimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiosmtplib.SMTPConnectError) and isinstance(error.__cause__, OSError):
        return _inner(error.__cause__)
    if isinstance(error, aiosmtplib.SMTPServerDisconnected):
        return "the line broke"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    strerror = getattr(error, "strerror", None)
    return str(strerror).lower() if strerror else str(error) or type(error).__name__
