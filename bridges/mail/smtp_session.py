"""One connection of an smtp-server: aiosmtpd's commands, with everything about them that could lose a mail or a server
made anew.

What aiosmtpd 1.4.6 does by itself, and why it is not left to it (tests/bridges/mail/test_plain_aiosmtpd.py shows each):
a line without an end is buffered whole past the size limit; a bare CR or LF in a mail goes on to others; the text of an
exception is sent to the client, as a permanent error; a client that closes its half after the final dot ends the
hand-over in the middle; a slow hand-over is cut off without a reply; a returned 421 closes nothing; the banner tells
the version. So: the loop over commands, DATA, AUTH and STARTTLS are ours.

The replies are those of docs/mail.md. What becomes of a mail is the server's to say (`Post`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket as sockets
import ssl
import struct
import termios
from typing import Any, Final

from aiosmtpd.smtp import SMTP

from bridges.mail.addresses import AddressError, checked, shown
from bridges.mail.limits import (
    META_BYTES,
    READ_BYTES,
    SMTP_ERRORS,
    SMTP_LOGIN_S,
    SMTP_LOGINS,
)
from bridges.mail.meta import frame_of
from bridges.mail.rules import Destination
from bridges.mail.smtp_login import MECHANISMS, LoginError, said
from bridges.mail.smtp_post import Answer, Letter, Post
from bridges.mail.smtp_reading import CutError, Reading
from tunnel.limits import HANDSHAKE_S

logging.getLogger("mail.log").disabled = True  # it would log addresses and what clients say; our log is another

_WORDS: Final = {"HELO", "EHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "STARTTLS", "AUTH"}
_OTHER_PROTOCOLS: Final = {"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS"}
_CODES: Final = {"500": "5.5.2", "501": "5.5.4", "503": "5.5.1", "555": "5.5.4"}
"""For what aiosmtpd says without an enhanced code (RFC 3463)."""
_TO_BYTES: Final = META_BYTES - 4096
"""Recipients of one mail, in its meta frame; the rest is room for everything else there."""


class Session(SMTP):
    """From the banner to the end. `secure`: TLS is there from the first byte."""

    transport: Any
    session: Any
    envelope: Any
    _reader: Any
    _writer: Any

    line_length_limit = READ_BYTES  # which is aiosmtpd's name for the bound of the reader

    def __init__(self, post: Post, address: str, *, secure: bool, tls: ssl.SSLContext | None) -> None:
        super().__init__(
            self,
            data_size_limit=post.plan.max_bytes,
            enable_SMTPUTF8=True,
            hostname=post.plan.hostname,
            ident="ESMTP",
            tls_context=None,
            timeout=post.plan.command_s,
            auth_require_tls=False,
            loop=post.loop,
        )
        self.address = address
        self.began = post.loop.time()
        self.idle = False
        """It waits for a command."""
        self._post = post
        self._tls = tls
        self._secure = secure
        self._user: str | None = None
        self._destination: Destination | None = None
        self._to_bytes = 0
        """What the recipients come to in a meta frame."""
        self._errors = self._logins = 0
        self._owed: bytes | None = None
        """The digest of a mail whose 250 went out, and nothing yet shows that it came in."""
        self._reason = ""

    def __repr__(self) -> str:
        return f"<Session {self.address}{' idle' if self.idle else ''}>"

    # --- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._timeout_handle is not None
        self._timeout_handle.cancel()  # each step here has a deadline of its own

    def _reset_timeout(self, duration: float | None = None) -> None:
        """aiosmtpd's only timer, which closes without a word; ours are in the loop below."""
        if self._timeout_handle is None:
            self._timeout_handle = self.loop.call_later(0, lambda: None)

    def eof_received(self) -> bool:
        """The client says no more, and may still listen: what it said is answered."""
        self._reader.feed_eof()
        return not self._is_tls

    def connection_lost(self, error: Exception | None) -> None:
        self._heard(told=False)
        super().connection_lost(error)
        self._post.ended(self, self._reason or ("reset" if error is not None else ""))

    @property
    def _is_tls(self) -> bool:
        return self.transport is not None and self.transport.get_extra_info("ssl_object") is not None

    async def close(self, text: str) -> None:
        """Tell it (`421 ...`), and really close."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self.push(text)

    def abort(self) -> None:
        """Now, and without a word."""
        self._reason = "broken"
        if self.transport is not None:
            self.transport.abort()

    async def push(self, status: str | bytes) -> None:
        text = status.decode() if isinstance(status, bytes) else status
        code, rest = text[:3], text[4:]
        if text == "250 OK":
            text = "250 2.0.0 ok"
        elif code in _CODES and not rest[:1].isdigit():
            text = f"{code} {_CODES[code]} {rest.removeprefix('Error: ')}"
        if code == "552" and not rest.startswith("5."):
            self._post.count("too_large")
            text = f"552 5.3.4 a mail has at most {self._post.plan.max_bytes} bytes here"
        await self._write(text.encode("utf-8", "replace"))
        if code == "421" and self.transport is not None:
            self.transport.close()

    async def _write(self, line: bytes) -> None:
        """ConnectionError: the client does not read."""
        self._writer.write(line + b"\r\n")
        try:
            async with asyncio.timeout(self._post.plan.command_s):
                await self._writer.drain()
        except TimeoutError:
            self._reason = "idle"
            if self.transport is not None:
                self.transport.abort()
            raise ConnectionAbortedError("replies are not read") from None

    # --- the loop over commands --------------------------------------------------------------------------------------

    async def _handle_client(self) -> None:
        try:
            await self.push(f"220 {self.hostname} ESMTP")
            while self.transport is not None and not self.transport.is_closing():
                await self._next()
        except (ConnectionError, asyncio.CancelledError):
            pass  # it is gone; what it had handed over goes its own way
        except Exception as error:
            self._post.failed(error)
        finally:
            if self.transport is not None:
                self.transport.close()

    async def _next(self) -> None:
        """One command."""
        if self._post.closing:
            await self.push("421 4.3.2 closing; come again later")
            return
        line = await self._line()
        if line is None:
            return
        word, _, argument = line.partition(" ")
        word = word.upper()
        if word in _OTHER_PROTOCOLS:
            self._reason = "protocol"
            await self.push("421 4.7.0 this is a mail server")
        elif word in _WORDS:
            await self._obey(word, argument.strip() or None)
        else:
            known = word in ("VRFY", "EXPN", "HELP", "TURN", "ETRN", "BDAT")
            await self._wrong("502 5.5.1 not here" if known else "500 5.5.1 there is no such command")

    async def _obey(self, word: str, argument: str | None) -> None:
        try:
            await getattr(self, f"smtp_{word}")(argument)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            await self.push(f"451 4.3.0 local error {self._post.failed(error)}")

    async def _line(self) -> str | None:
        """A command; None: there is none, and either an answer was given or the connection is at its end."""
        self.idle = True
        try:
            async with asyncio.timeout(self._post.plan.command_s):
                line = await self._reader.readuntil()
        except TimeoutError:
            self._reason = "idle"
            await self.push("421 4.4.2 nothing was said for too long")
            return None
        except asyncio.IncompleteReadError:
            self._at_end()
            return None
        except asyncio.LimitOverrunError:
            self._reason = "too_long"
            await self.push("421 4.7.0 a command has no end")
            return None
        finally:
            self.idle = False
        if self._owed is not None:
            self._heard()
        if len(line) > self.command_size_limit + 64:
            await self._wrong("500 5.5.2 a command is at most 512 bytes")
            return None
        text: str = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
        if not text or any(letter < " " or "\ud800" <= letter <= "\udfff" for letter in text):
            await self._wrong("500 5.5.2 no control characters here, and UTF-8 only")
            return None
        return text

    def _at_end(self) -> None:
        """The client closed its half. It has heard the last reply if its machine acknowledged every byte."""
        if self._owed is not None and not self._unacknowledged():
            self._heard()
        if self.transport is not None:
            self.transport.close()

    def _unacknowledged(self) -> int:
        """Bytes that we wrote and its machine has not acknowledged (SIOCOUTQ, tcp(7)); unix sockets have none."""
        assert self.transport is not None
        socket = self.transport.get_extra_info("socket")
        if socket is None or socket.family == sockets.AF_UNIX:
            return 0
        with contextlib.suppress(OSError):
            return int(struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
        return 1

    def _heard(self, *, told: bool = True) -> None:
        owed, self._owed = self._owed, None
        if owed is not None:
            self._post.settled(owed, told=told)

    async def _wrong(self, text: str) -> None:
        self._errors += 1
        if self._errors >= SMTP_ERRORS:
            self._reason = "errors"
            text = "421 4.7.0 too many errors"
        await self.push(text)

    # --- commands ----------------------------------------------------------------------------------------------------

    async def handle_EHLO(self, _server: Any, session: Any, _envelope: Any, name: str, told: list[str]) -> list[str]:
        session.host_name = name
        offers = ["PIPELINING", "ENHANCEDSTATUSCODES"]
        if self._tls is not None and not self._is_tls:
            offers.append("STARTTLS")
        if self._post.plan.users is not None and self._is_tls:
            offers.append("AUTH PLAIN LOGIN")
        kept = [line for line in told if not line.startswith(("250 HELP", "250-AUTH", "250-STARTTLS"))]
        kept += [f"250-{offer}" for offer in offers]
        return [*kept[:-1], kept[-1].replace("250-", "250 ", 1)]

    def _lacks(self) -> str:
        """What must come before a mail."""
        plan = self._post.plan
        if plan.require_tls and not self._is_tls:
            return "530 5.7.0 say STARTTLS first"
        if plan.require_login and self._user is None:
            return "530 5.7.0 log in first" if self._is_tls else "530 5.7.0 say STARTTLS, then log in"
        return ""

    async def smtp_MAIL(self, arg: str | None) -> None:
        if lacks := self._lacks():
            self._post.count("login")
            await self.push(lacks)
            return
        try:
            await super().smtp_MAIL(arg)
        except ValueError:  # aiosmtpd takes any digit of Unicode for one of SIZE's
            await self._wrong("501 5.5.4 Syntax: MAIL FROM: <address>")

    async def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, options: list[str]) -> str:
        sender = "" if address == "<>" else address
        try:
            if sender:
                checked(sender)
        except AddressError as error:
            return f"501 5.1.7 {error}"
        if not sender.isascii() and not envelope.smtp_utf8:
            return "553 5.6.7 such an address needs SMTPUTF8"
        announced = next((word.partition("=")[2] for word in options if word.startswith("SIZE=")), "0")
        if trouble := self._post.room(int(announced) if announced.isdigit() else 0):
            self._post.count("full")
            return f"452 4.3.1 {trouble}"
        envelope.mail_from = sender or "<>"
        return "250 2.1.0 ok"

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:
        if "@" not in address:  # every server has a postmaster (RFC 5321, 4.5.1)
            address = f"{address}@{self.hostname}"
        try:
            checked(address)
        except AddressError as error:
            return f"501 5.1.3 {error}"
        if not address.isascii() and not envelope.smtp_utf8:
            return "553 5.6.7 such an address needs SMTPUTF8"
        size = len(frame_of({"": address}))
        if len(envelope.rcpt_tos) >= self._post.plan.max_recipients or self._to_bytes + size > _TO_BYTES:
            self._post.count("recipients")
            return "452 4.5.3 too many recipients"
        found = self._post.find(address)
        if isinstance(found, str):
            return found
        if self._destination is not None and found != self._destination:
            self._post.count("other_route")
            return "452 4.5.3 this one goes elsewhere: send it in a mail of its own"
        self._destination = found
        self._to_bytes += size
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    def _set_post_data_state(self) -> None:
        """aiosmtpd's, wherever a transaction ends: where it goes belongs to the same one as whom it is for."""
        super()._set_post_data_state()  # type: ignore[no-untyped-call]
        self._destination = None
        self._to_bytes = 0

    async def smtp_QUIT(self, arg: str | None) -> None:
        await self.push(f"221 2.0.0 {self.hostname} closes")
        if self.transport is not None:
            self.transport.close()

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        if self._tls is None or self._is_tls:
            await self._wrong("503 5.5.1 no TLS here" if self._tls is None else "503 5.5.1 it is there already")
            return
        if arg:
            await self.push("501 5.5.4 STARTTLS has no argument")
            return
        plain = self.transport
        assert plain is not None
        plain.pause_reading()
        self._reader._buffer.clear()  # what a client said beforehand was said in the clear (RFC 3207, 4.2)
        self._reader._paused = False
        plain.write(b"220 2.0.0 go on\r\n")
        try:
            secure = await self.loop.start_tls(
                plain, self, self._tls, server_side=True, ssl_handshake_timeout=HANDSHAKE_S
            )
        except (OSError, ssl.SSLError):
            self._reason = "tls"
            plain.abort()
            return
        assert secure is not None
        self.transport = self._reader._transport = self._writer._transport = secure
        self._over_ssl = True
        self._set_rset_state()  # type: ignore[no-untyped-call]
        self.session = self._create_session()
        self.session.peer = secure.get_extra_info("peername")
        self._user = None

    async def smtp_AUTH(self, arg: str | None) -> None:
        plan = self._post.plan
        mechanism, _, initial = (arg or "").partition(" ")
        if not self.session.host_name or not self.session.extended_smtp:
            await self._wrong("503 5.5.1 say EHLO first")
        elif plan.users is None:
            await self._wrong("502 5.5.1 nobody logs in here")
        elif not self._is_tls:
            self._post.count("login")
            await self.push("538 5.7.11 say STARTTLS first")
        elif self._user is not None:
            await self._wrong("503 5.5.1 you have logged in")
        elif mechanism.upper() not in MECHANISMS:
            await self._wrong("504 5.5.4 there are PLAIN and LOGIN")
        else:
            await self._login(mechanism.upper(), initial.strip())

    async def _login(self, mechanism: str, initial: str) -> None:
        try:
            user, password = await said(mechanism, initial, self._ask)
        except LoginError:
            await self._wrong("501 5.5.2 this is no login")
            return
        right = await self._post.login(user, password)
        if right:
            self._user = user
            await self.push("235 2.7.0 ok")
            return
        if right is None:
            await self.push("454 4.7.0 nobody can look that up at the moment")
            return
        self._post.count("login")
        self._logins += 1
        await asyncio.sleep(SMTP_LOGIN_S)
        if self._logins >= SMTP_LOGINS:
            self._reason = "logins"
            await self.push("421 4.7.0 too many wrong logins")
        else:
            await self.push("535 5.7.8 wrong name or password")

    async def _ask(self, challenge: bytes) -> str | None:
        await self._write(challenge)
        return await self._line()

    # --- the mail ----------------------------------------------------------------------------------------------------

    async def smtp_DATA(self, arg: str | None) -> None:
        destination = self._destination
        if lacks := self._lacks():
            await self.push(lacks)
        elif arg:
            await self.push("501 5.5.4 DATA has no argument")
        elif destination is None or not self.envelope.rcpt_tos:
            await self.push("503 5.5.1 nobody was named whom a mail is for")
        else:
            await self.push("354 end with CRLF . CRLF")
            answer = await self._mail(destination)
            self._set_post_data_state()
            if answer is not None:
                self._owed = answer.digest
                if self._reader._buffer:  # what follows was said before this was heard
                    self._heard(told=False)
                await self.push(answer.text)

    async def _mail(self, destination: Destination) -> Answer | None:
        """Read it to its end, then hand it over; None: there was no end."""
        reading = Reading(self._post)
        try:
            answer = await reading.read(self._reader)
        except CutError:
            self._reason = "cut"
            if self.transport is not None:
                self.transport.close()
            return None
        if answer is not None:
            if answer.text.startswith("421"):
                self._reason = "idle"
            return answer
        # a task of its own: a client that goes away does not end it
        handing_over = self.loop.create_task(self._post.take(self._letter(reading, destination)))
        try:
            await asyncio.wait({handing_over}, timeout=self._post.plan.answer_s)
        finally:
            if not handing_over.done():
                handing_over.add_done_callback(self._unheard)
        if handing_over.done():
            return handing_over.result()
        self._post.count("late")
        return Answer("451 4.3.0 it takes too long; come again later")

    def _letter(self, reading: Reading, destination: Destination) -> Letter:
        envelope = self.envelope
        return Letter(
            id=reading.id,
            sender="" if envelope.mail_from == "<>" else envelope.mail_from,
            to=tuple(dict.fromkeys(envelope.rcpt_tos)),
            client=self.address,
            helo=shown(str(self.session.host_name), 255).strip("'"),
            tls=self._cipher(),
            user=self._user,
            utf8=bool(envelope.smtp_utf8),
            destination=destination,
            body=reading.body,
            header=reading.header,
            bare=reading.data.bare and not self._post.plan.compat,
        )

    def _unheard(self, handing_over: asyncio.Task[Answer]) -> None:
        """It was taken, or not, and the client does not hear of it."""
        if not handing_over.cancelled() and handing_over.exception() is None:
            digest = handing_over.result().digest
            if digest is not None:
                self._post.settled(digest, told=False)

    def _cipher(self) -> str | None:
        if not self._is_tls or self.transport is None:
            return None
        layer = self.transport.get_extra_info("ssl_object")
        return f"{layer.version()} {layer.cipher()[0]}"
