"""One connection to an IMAP server: IMAPClient, with what it lacks. Blocking; for a thread of its own.

What is added, and why:

    a guard        every argument of every command is looked at for what could end a line (IMAPClient #657, open)
    numbers        messages are named by UIDs, whole numbers, and by nothing else
    time           every answer has a deadline; TCP keepalive, and TCP_USER_TIMEOUT, tell of a peer that vanished
    memory         a literal that is longer than what was asked for is not read
    IDLE           any word of the server ends it, so that no answer is ever half read
    TLS            the name in the certificate may be another than the address's
    silence        nothing that was said is logged: imaplib keeps and prints commands, passwords included
"""

from __future__ import annotations

import contextlib
import imaplib
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from imapclient import IMAPClient
from imapclient.response_parser import parse_fetch_response

from bridges.mail.imap_wire import CONTROLS, ControlError, Imap, No, Refused, select_on, shown
from bridges.mail.limits import IMAP_LINE_BYTES, IMAP_LIST_MOST, IMAP_LIST_UIDS
from bridges.tls import client_context
from tunnel.config.mail.imap import ImapPlan
from tunnel.config.values import tcp
from tunnel.keys import Secret

_TRANSIENT: Final = re.compile(r"\[(?:UNAVAILABLE|INUSE|LIMIT|SERVERBUG|CONTACTADMIN)\]", re.IGNORECASE)
"""RFC 5530: the login was not judged."""
UID_MOST: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Selected:
    """A folder, opened."""

    uidvalidity: int
    uidnext: int
    """0: the server did not say."""


@dataclass(frozen=True, slots=True)
class Found:
    """A mail that lies in the folder."""

    uid: int
    size: int
    flags: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies behind a UID."""

    mails: tuple[Found, ...]
    upto: int
    """All up to this UID are among them, or were before."""
    behind: int
    """Mails after those."""


class Client(IMAPClient):  # type: ignore[misc]  # it has no types
    """Connected when it is made, and logged in by `enter`.

    `AbortError` and OSError: the connection is no more. No, Refused, ControlError: it is well. Anything else that is
    raised is what imaplib or IMAPClient make of words that they do not understand."""

    def __init__(self, plan: ImapPlan) -> None:
        self._plan = plan
        self._context = client_context(plan.tls) if plan.tls is not None else None
        super().__init__(tcp(plan.connect[0]).host, ssl=False, timeout=None)
        self._imap.debug = 0  # IMAPClient set it to 5: everything
        self._exists = -1

    def _create_IMAP4(self) -> Imap:  # IMAPClient's own name
        return Imap(self._plan, self._context)

    def _set_read_timeout(self) -> None:
        self._imap.sock.settimeout(self._plan.command_s)

    # --- in and out --------------------------------------------------------------------------------------------------

    def enter(self, secret: Secret) -> None:
        """TLS where it begins now, and the login. Refused: it is not let in."""
        if self._plan.mode == "starttls":
            self.starttls(self._context)
            self._set_read_timeout()
        if self._imap.state == "AUTH":  # PREAUTH: the server knows who we are
            return
        offered = set(self.capabilities())
        user = self._plan.user
        if self._plan.token_command:
            mechanism, words = _bearer(offered, user, secret)
            self._authenticate(mechanism, words)
        elif b"AUTH=PLAIN" in offered:
            self._authenticate("PLAIN", f"\0{user}\0{secret.reveal()}")
        elif b"LOGINDISABLED" in offered:
            raise Refused("the server takes no password here: without TLS, perhaps")
        else:
            self._judged(lambda: self._imap.login(self._imap._quote(user), secret.reveal()))
        self._cached_capabilities = None
        self.capabilities()

    def _authenticate(self, mechanism: str, words: str) -> None:
        said = [words.encode()]
        # a second challenge is the server's error in JSON; an empty answer lets it go on (RFC 7628, 3.2.3)
        self._judged(lambda: self._imap.authenticate(mechanism, lambda _challenge: said.pop() if said else b""))

    def _judged(self, log_in: Any) -> None:
        try:
            log_in()
        except self.AbortError:
            raise
        except (ControlError, UnicodeError) as error:
            raise Refused(f"user or password cannot be said to this server: {_kind(error)}") from None
        except imaplib.IMAP4.error as error:
            words = shown(error)
            if _TRANSIENT.search(words):
                raise self.AbortError(words) from None
            raise Refused(f"the login of {self._plan.user} is refused: {words}") from None

    def close(self, *, orderly: bool = False) -> None:
        """LOGOUT, if it is well; and the end of it."""
        with contextlib.suppress(Exception):
            if orderly:
                self._imap.sock.settimeout(1.0)
                self.logout()
                return
        with contextlib.suppress(Exception):
            self.shutdown()

    def cut(self) -> None:
        """From another thread: whatever it waits for fails at once."""
        with contextlib.suppress(OSError):
            self._imap.sock.shutdown(socket.SHUT_RDWR)

    @property
    def secured(self) -> str:
        """How the line is protected, in words."""
        version = self._imap.sock.version() if isinstance(self._imap.sock, ssl.SSLSocket) else None
        return version or "without TLS"

    @property
    def farewell(self) -> str:
        """What the server said when it hung up."""
        words = self._imap.untagged_responses.get("BYE") or [b""]
        return shown(words[-1].decode("utf-8", "replace"))

    # --- the folder --------------------------------------------------------------------------------------------------

    def open(self, folder: str, *, reads_only: bool) -> Selected:
        """No: there is no such folder, or it cannot be written."""
        self._imap.untagged_responses.clear()
        try:
            told = self.select_folder(folder, readonly=reads_only)
        except self.AbortError:
            raise
        except self.ReadOnlyError:
            raise No(f"{folder} can only be read here, and mails are to be marked: say after: none") from None
        except imaplib.IMAP4.error as error:
            raise No(f"{folder} cannot be opened: {shown(error)}") from None
        if b"READ-ONLY" in told and not reads_only:
            raise No(f"{folder} can only be read here, and mails are to be marked: say after: none")
        if not told.get(b"UIDVALIDITY"):
            raise No(f"the server has no UIDVALIDITY for {folder}, so its mails have no lasting names")
        return Selected(int(told[b"UIDVALIDITY"]), int(told.get(b"UIDNEXT") or 0))

    def highest(self) -> tuple[int, int]:
        """(UID, how many there are) of the last mail; (0, 0): there is none."""
        self._imap.untagged_responses.pop("EXISTS", None)
        found = self._fetched("*", "(UID)")
        uid, self._exists = max(((uid, int(data[b"SEQ"])) for uid, data in found.items()), default=(0, 0))
        return uid, self._exists

    def list(self, after: int, most: int) -> Listing | None:
        """The first `most` mails behind UID `after`; None: there is none."""
        top, count = self.highest()
        first, step = after + 1, IMAP_LIST_UIDS
        while first <= top:
            last = min(top, first + step - 1)
            told = self._fetched(f"{first}:{last}", "(UID RFC822.SIZE FLAGS)")
            mails = sorted((uid, data) for uid, data in told.items() if first <= uid <= last and b"RFC822.SIZE" in data)
            if mails:
                kept = mails[:most]
                upto = last if len(kept) == len(mails) else kept[-1][0]
                found = (Found(uid, int(data[b"RFC822.SIZE"]), _flags(data)) for uid, data in kept)
                return Listing(tuple(found), upto, max(0, count - int(kept[-1][1][b"SEQ"])))
            first, step = last + 1, step * 8 if count <= IMAP_LIST_MOST else min(step * 8, IMAP_LIST_MOST)
        return Listing((), top, 0) if top > after else None

    def bodies(self, uids: Sequence[int], most: int) -> dict[int, dict[bytes, Any]]:
        """BODY[]<0>, FLAGS and INTERNALDATE of these mails, as far as they are there; `most` + 1 bytes of each."""
        self._imap.literal_most = most + 1
        try:
            told = self._fetched(_set(uids), f"(UID FLAGS INTERNALDATE BODY.PEEK[]<0.{most + 1}>)")
        except self.AbortError:
            raise
        except imaplib.IMAP4.error as error:
            raise No(shown(error)) from None
        finally:
            self._imap.literal_most = IMAP_LINE_BYTES
        return {uid: told[uid] for uid in uids if uid in told and b"BODY[]<0>" in told[uid]}

    def flag(self, uids: Sequence[int], flag: str) -> None:
        """Set it. No: the server will not."""
        self._order("STORE", _set(uids), "+FLAGS.SILENT", f"({flag})")

    def put_away(self, uids: Sequence[int], folder: str) -> None:
        """Move them to another folder, which is made if it is not there. No: the server will not."""
        try:
            self._moved(uids, folder)
        except No:
            with contextlib.suppress(No):
                self._create(folder)
            self._moved(uids, folder)

    def delete(self, uids: Sequence[int]) -> None:
        """For good where the server can do that to single mails (UIDPLUS); else they are flagged, and whoever empties
        the folder does. No: the server will not."""
        self.flag(uids, "\\Deleted")
        if self.has_capability("UIDPLUS"):
            self._order("EXPUNGE", _set(uids))

    def _moved(self, uids: Sequence[int], folder: str) -> None:
        name = self._normalise_folder(folder)
        if self.has_capability("MOVE"):
            self._order("MOVE", _set(uids), name)
        else:
            self._order("COPY", _set(uids), name)
            self.delete(uids)

    def _create(self, folder: str) -> None:
        try:
            self.create_folder(folder)
        except self.AbortError:
            raise
        except imaplib.IMAP4.error as error:
            raise No(shown(error)) from None

    # --- waiting -----------------------------------------------------------------------------------------------------

    def wait(self, wake: int, within_s: float, *, idle: bool) -> None:
        """Until the server says something, `wake` can be read, or the time is over. What was said is not looked at:
        whoever waited looks into the folder."""
        if self._heard("EXISTS") > self._exists >= 0:
            return
        self._imap.untagged_responses.clear()
        if not (idle and self.has_capability("IDLE")):
            select_on([wake], within_s)
            self.noop()
            return
        tag = self._imap._command("IDLE")
        while self._imap._get_response() is not None:
            if self._imap.tagged_commands[tag]:
                typ, words = self._imap.tagged_commands.pop(tag)
                raise self.AbortError(f"IDLE: {typ} {words[-1]!r}")
        if not self._heard("EXISTS") and not self._heard_bye() and not self._has_words():
            select_on([wake, self._imap.sock.fileno()], within_s)
        self._imap.send(b"DONE\r\n")
        self._consume_until_tagged_response(tag, "IDLE")

    def _heard_bye(self) -> bool:
        return bool(self._imap.untagged_responses.get("BYE"))

    def _has_words(self) -> bool:
        """Something that was read already, with what came before it, and does not show at the descriptor any more."""
        try:
            self._imap.sock.settimeout(0)
            return bool(self._imap.file.peek(1))
        except (ssl.SSLWantReadError, BlockingIOError):
            return False
        finally:
            self._set_read_timeout()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _normalise_folder(self, folder_name: str) -> Any:  # IMAPClient's own name
        if CONTROLS.search(folder_name.encode("utf-8", "surrogatepass")):
            raise ControlError("the name of a folder has a control character in it; it was not sent")
        return super()._normalise_folder(folder_name)

    def _heard(self, word: str) -> int:
        """The last number that was told with it; 0: none."""
        numbers = self._imap.untagged_responses.get(word)
        try:
            return int(numbers[-1]) if numbers else 0
        except (TypeError, ValueError):
            return 0

    def _fetched(self, messages: str, items: str) -> dict[int, dict[bytes, Any]]:
        self._imap.untagged_responses.pop("FETCH", None)
        typ, data = self._imap.uid("FETCH", messages, items)
        if typ != "OK":
            raise self.Error(f"FETCH: {data[-1]!r}" if data else "FETCH failed")
        return dict(parse_fetch_response(data, normalise_times=False))

    def _order(self, command: str, *arguments: str | bytes) -> None:
        typ, data = self._imap.uid(command, *arguments)
        if typ != "OK":
            raise No(f"{command}: {shown((data[-1] or b'').decode('utf-8', 'replace')) if data else typ}")


def why_broken(error: BaseException, farewell: str = "") -> str:
    """Why a connection is no more; `farewell`: what the server said then."""
    if farewell:
        return f"the server hung up: {farewell}"
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    words = shown(error if not isinstance(error, OSError) else error.strerror or error)
    known = isinstance(error, (OSError, IMAPClient.Error))
    return words if known and words else f"{type(error).__name__}: {words}"


def _set(uids: Sequence[int]) -> str:
    """As commands want them: numbers, and nothing that is none."""
    if not uids or not all(type(uid) is int and 0 < uid <= UID_MOST for uid in uids):
        raise ControlError("a UID is a whole number above 0")
    return ",".join(map(str, uids))


def _bearer(offered: set[bytes], user: str, token: Secret) -> tuple[str, str]:
    """OAUTHBEARER (RFC 7628) where it is offered, else XOAUTH2."""
    words = f"auth=Bearer {token.reveal()}"
    if b"AUTH=OAUTHBEARER" in offered:
        name = user.replace("=", "=3D").replace(",", "=2C")
        return "OAUTHBEARER", f"n,a={name},\1{words}\1\1"
    return "XOAUTH2", f"user={user}\1{words}\1\1"


def _flags(data: dict[bytes, Any]) -> tuple[bytes, ...]:
    found = data.get(b"FLAGS") or ()
    return tuple(flag if isinstance(flag, bytes) else str(flag).encode() for flag in found)


def _kind(error: Exception) -> str:
    """What went wrong, without the words that did."""
    return (
        "it has a character that the server does not know" if isinstance(error, UnicodeError) else "control character"
    )
