"""kind: imap, as the table says it: a mailbox becomes messages (docs/mail.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from bridges.mail.limits import (
    GIVE_AGAIN_S,
    IMAP_ATTEMPTS,
    IMAP_COMMAND_S,
    IMAP_FOLDERS,
    IMAP_POLL_S,
    MAIL_BYTES,
    MAIL_DEFAULT_BYTES,
)
from tunnel.config import values
from tunnel.config.fields import (
    STRING,
    ConnectEndpoint,
    Expanded,
    Flag,
    OneOrMore,
    Size,
    Span,
    Text,
    TopicPrefix,
    of_text,
    word_of,
)
from tunnel.config.mail.kind import MailKind, Reach
from tunnel.config.model import Bridge, Model, SecretRef, TlsModel
from tunnel.config.nodes import Path
from tunnel.config.plan import TlsPlan
from tunnel.config.values import listing, suggest
from tunnel.keys import Secret

if TYPE_CHECKING:
    from tunnel.config.checking import Checking
    from tunnel.config.model import Defaults
    from tunnel.config.planning import Planner

SOCKETS: Final = ("PUSH", "PUB", "REQ", "DEALER")
Mode = Literal["implicit", "starttls", "none"]
After = Literal["seen", "keyword", "move", "delete", "none"]
Rebaseline = Literal["skip", "reprocess", "stop"]
MODES: Final = ("implicit", "starttls", "none")
_AFTER: Final = ("seen", "delete", "none")
_AFTER_FORMS: Final = "seen, delete, none, {keyword: NAME} or {move: FOLDER}"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9$!#&'+,./:;<=>?@^_`|~-]{1,64}", re.ASCII)
"""An atom of RFC 9051 without what stands for something else; a flag of the system begins with a backslash."""


@dataclass(frozen=True, slots=True)
class ImapPlan:
    """A mailbox and what is to become of its mails."""

    connect: tuple[str, ...]
    """tcp://HOST:PORT."""
    mode: Mode
    tls: TlsPlan | None
    """None: without TLS."""
    user: str
    password: Secret | None
    token_command: tuple[str, ...]
    """... in place of a password: a program that prints an OAuth token."""
    folders: tuple[str, ...]
    file: File
    """The database."""
    topic: bytes | None = None
    """None: the folder's name."""
    after: After = "seen"
    mark: str = ""
    """The keyword, or the folder that a mail is moved to."""
    since: Literal["now", "all"] = "now"
    rebaseline: Rebaseline = "stop"
    quarantine: str | None = None
    attempts: int = IMAP_ATTEMPTS
    again_s: float = GIVE_AGAIN_S
    poll_s: float = IMAP_POLL_S
    idle: bool = True
    max_message_bytes: int = MAIL_DEFAULT_BYTES
    command_s: float = IMAP_COMMAND_S
    listen: ClassVar[tuple[str, ...]] = ()

    @property
    def reads_only(self) -> bool:
        """Nothing is to be changed on the server."""
        return self.after == "none" and self.quarantine is None


def _word(what: str, text: str, most: int) -> str:
    """Text that goes to the server: without what could end a line of its protocol (IMAPClient #657)."""
    if _CONTROLS.search(text):
        raise ValueError(f"{what} has a control character in it, such as the end of a line.")
    if not text or len(text.encode()) > most:
        raise ValueError(f"{what} has 1 to {most} bytes.")
    return text


def _folder(text: str) -> str:
    return _word("the name of a folder", text, 255)


def _keyword(text: str) -> str:
    if not _KEYWORD.fullmatch(text):
        raise ValueError(f"{text!r} is no keyword: letters, digits, '$', '_' and '-', at most 64, such as $Done.")
    return text


def _after(value: object) -> tuple[str, str]:
    """(what is done, keyword or folder)."""
    if isinstance(value, str):
        if value not in _AFTER:
            raise ValueError(
                f"{value!r} is nothing that can be done; there are {_AFTER_FORMS}.{suggest(value, _AFTER)}"
            )
        return str(value), ""
    if isinstance(value, dict) and len(value) == 1:
        ((key, said),) = value.items()
        if key == "keyword":
            return "keyword", of_text(_keyword)(said)
        if key == "move":
            return "move", of_text(_folder)(said)
    raise ValueError(f"what is done with a mail that was taken is one of {_AFTER_FORMS}.")


def _whole(value: object) -> object:
    return int(value) if isinstance(value, Expanded) and value.isdigit() else value


Folder = Annotated[str, PlainValidator(of_text(_folder)), WithJsonSchema(STRING)]
User = Annotated[str, PlainValidator(of_text(lambda text: _word("a user", text, 255))), WithJsonSchema(STRING)]
AfterSaid = Annotated[
    tuple[str, str],
    PlainValidator(_after),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_AFTER)},
                *(
                    {
                        "type": "object",
                        "properties": {word: STRING},
                        "required": [word],
                        "additionalProperties": False,
                    }
                    for word in ("keyword", "move")
                ),
            ]
        }
    ),
]


class ImapTls(Model):
    """How the connection is protected."""

    mode: Annotated[Mode, word_of("mode", MODES)] | None = None
    """Left out: starttls at port 143, else implicit."""
    ca: Text | None = None
    """Trust these certificate authorities only."""
    server_name: Text | None = None
    """The name in the server's certificate, where the address has another."""
    insecure: Flag = False
    """mode: none, beyond this box: who listens on the way reads password and mails."""


class ImapLogin(Model):
    """Who we are there."""

    user: User
    password: SecretRef | None = None
    token_command: OneOrMore[Text] = ()
    """A program and its arguments, run without a shell; it prints an OAuth access token."""


class Imap(Bridge):
    """A mailbox becomes messages."""

    model_config = ConfigDict(extra="forbid")
    connect: ConnectEndpoint
    """The server: tcp://HOST:993."""
    tls: ImapTls = ImapTls()
    login: ImapLogin
    folder: OneOrMore[Folder] = ("INBOX",)
    topic: TopicPrefix | None = None
    """The first frame of every message; left out, the folder's name."""
    after: AfterSaid = ("seen", "")
    """What is done on the server with a mail that was taken."""
    since: Annotated[Literal["now", "all"], word_of("choice for since", ("now", "all"))] = "now"
    """First start: the mails that come from now on, or all that lie there."""
    rebaseline: Annotated[Rebaseline, word_of("choice for rebaseline", ("skip", "reprocess", "stop"))] = "stop"
    """When the server numbers a folder anew (UIDVALIDITY)."""
    quarantine: Folder | None = None
    """The folder for mails that fail, or are too large."""
    attempts: Annotated[int, Field(ge=1, le=1000), BeforeValidator(_whole)] | None = None
    """A mail that fails so often is put aside."""
    timeout: Span | None = None
    """A mail that nobody answers for so long is given again."""
    poll: Span | None = None
    """We look for new mails so often, whatever the server says."""
    idle: Flag = True
    """Let the server tell of new mails (IDLE)."""
    max_message: Size | None = None
    """A larger mail is not fetched."""
    DUMMY: ClassVar[dict[str, Any]] = {**Bridge.DUMMY, "connect": "tcp://127.0.0.1:993", "login": {"user": "x"}}
    HOLES: ClassVar[dict[str, Any]] = {**Bridge.HOLES, "connect": "", "login": None}


# --- what must make sense together -----------------------------------------------------------------------------------


def check(c: Checking, bridge: Imap, path: Path, broken: frozenset[str]) -> None:
    socket = bridge.zmq.socket if bridge.zmq is not None else None
    if socket is not None and socket not in SOCKETS:
        c.tell((*path, "zmq"), f"an imap has no {socket}; its sockets are {listing(SOCKETS)}.")
    if bridge.login is not None and "login" not in broken:
        _login(c, bridge.login, (*path, "login"))
    if bridge.connect and "connect" not in broken:
        _way(c, bridge, path, broken)
    if "folder" not in broken:
        _folders(c, bridge, path)
    if (bridge.max_message or 0) > MAIL_BYTES:
        c.tell((*path, "max_message"), f"a mail has at most {MAIL_BYTES >> 20}MiB here.")
    if socket == "PUB" and bridge.after[0] in ("move", "delete"):
        c.warn(
            (*path, "after"),
            "a PUB is answered by nobody: a mail that no subscriber hears is done with all the same.",
            key=True,
        )


def _login(c: Checking, login: ImapLogin, path: Path) -> None:
    if login.password is None and not login.token_command:
        c.tell(path, "'password:' or 'token_command:' is missing here.")
    elif login.password is not None and login.token_command:
        c.tell((*path, "token_command"), "a login has a password or a token, not both; take one out.", key=True)
    elif login.token_command and "/" in login.token_command[0] and not login.token_command[0].startswith("/"):
        c.tell((*path, "token_command"), "the program is named by its absolute path, or by a name that PATH knows.")


def _way(c: Checking, bridge: Imap, path: Path, broken: frozenset[str]) -> None:
    if not bridge.connect.startswith("tcp://"):
        c.tell((*path, "connect"), "a mail server is at tcp://HOST:PORT.")
        return
    if "tls" in broken:
        return
    at = values.tcp(bridge.connect)
    mode = _mode(bridge)
    if mode == "none" and not at.loopback and not bridge.tls.insecure:
        c.tell(
            (*path, "tls", "mode"),
            "without TLS whoever listens on the way reads the password and the mails; "
            "say implicit or starttls, or, if that is meant, insecure: true beside it.",
        )
    if bridge.tls.insecure and (mode != "none" or at.loopback):
        c.tell((*path, "tls", "insecure"), "insecure: is for mode: none at a server beyond this box.", key=True)
    for key in ("ca", "server_name"):
        if mode == "none" and getattr(bridge.tls, key) is not None:
            c.tell((*path, "tls", key), f"{key}: is for TLS, and mode: none has none.", key=True)


def _folders(c: Checking, bridge: Imap, path: Path) -> None:
    folders = bridge.folder
    if not folders:
        c.tell((*path, "folder"), "this list is empty; name a folder, such as INBOX.")
    elif len(folders) > IMAP_FOLDERS:
        c.tell((*path, "folder"), f"a bridge has at most {IMAP_FOLDERS} folders; let another one take the others.")
    for number, name in enumerate(folders):
        if _same(name) in map(_same, folders[:number]):
            c.tell((*path, "folder", number), f"{name!r} stands here twice.")
    known = {*map(_same, folders)}
    if bridge.quarantine is not None and _same(bridge.quarantine) in known:
        c.tell((*path, "quarantine"), "mails would be fetched from there again; name another folder.")
    if bridge.after[0] == "move" and _same(bridge.after[1]) in known:
        c.tell((*path, "after"), "mails would be fetched from there again; name another folder.")


def _same(folder: str) -> str:
    """INBOX alone is the same in small letters (RFC 9051, 5.1)."""
    return "INBOX" if folder.upper() == "INBOX" else folder


def _mode(bridge: Imap) -> Mode:
    return bridge.tls.mode or ("starttls" if values.tcp(bridge.connect).port == 143 else "implicit")


# --- what its process is told, and what a person is ------------------------------------------------------------------


def plan(planner: Planner, name: str, bridge: Imap) -> ImapPlan:
    path: Path = ("bridges", name)
    mode, login = _mode(bridge), bridge.login
    tls = TlsModel(ca=bridge.tls.ca, server_name=bridge.tls.server_name)
    return ImapPlan(
        connect=(planner.address(bridge.connect, (*path, "connect")),),
        mode=mode,
        tls=None if mode == "none" else planner.carriers.tls(tls, (*path, "tls")),
        user=login.user,
        password=None if login.password is None else planner.secret(login.password, (*path, "login", "password")),
        token_command=login.token_command,
        folders=tuple(map(_same, bridge.folder)),
        file=planner.state_dir / "spool" / f"bridge-{name}" / "mailbox.db",
        topic=bridge.topic,
        after=bridge.after[0],  # type: ignore[arg-type]  # _after gives no other
        mark=bridge.after[1],
        since=bridge.since,
        rebaseline=bridge.rebaseline,
        quarantine=bridge.quarantine,
        attempts=bridge.attempts or IMAP_ATTEMPTS,
        again_s=bridge.timeout or GIVE_AGAIN_S,
        poll_s=bridge.poll or IMAP_POLL_S,
        idle=bridge.idle,
        max_message_bytes=bridge.max_message or MAIL_DEFAULT_BYTES,
    )


def sentence(bridge: Imap) -> str:
    said = bridge.zmq
    place = f"to route {said.route}" if said.route else f"at {listing(said.endpoints, 'and')}"
    where = f"{listing(bridge.folder, 'and')} of {bridge.login.user} at {bridge.connect}"
    kind, name = bridge.after
    then = {
        "seen": "then marked as seen",
        "keyword": f"then marked with {name}",
        "move": f"then moved to {name}",
        "delete": "then deleted",
        "none": "left as they are",
    }[kind]
    return f"mail in {where} → {said.socket} {place}, {then}"


def reach(name: str, bridge: Imap, _defaults: Defaults) -> Iterable[Reach]:
    yield Reach(bridge.connect, opens=False, who=f"mailbox of {name}")


IMAP: Final = MailKind(Imap, plan, check, sentence, reach, (("login", "password", "file"),))
