"""kind: imap, as the table says it: a mailbox becomes messages (docs/mail.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, ClassVar, Final, Literal

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
from tunnel.config.mail.imap_model import After, Imap, ImapLogin, Mode, Rebaseline
from tunnel.config.mail.kind import MailKind, Reach
from tunnel.config.model import TlsModel
from tunnel.config.nodes import Path
from tunnel.config.plan import TlsPlan
from tunnel.config.values import listing
from tunnel.keys import Secret

if TYPE_CHECKING:
    from tunnel.config.checking import Checking
    from tunnel.config.model import Defaults
    from tunnel.config.planning import Planner

SOCKETS: Final = ("PUSH", "PUB", "REQ", "DEALER")


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
    parse: bool = False
    """Headers and text go along in the meta frame, attachments as frames after the mail."""
    command_s: float = IMAP_COMMAND_S
    listen: ClassVar[tuple[str, ...]] = ()

    @property
    def reads_only(self) -> bool:
        """Nothing is to be changed on the server."""
        return self.after == "none" and self.quarantine is None


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
        parse=bridge.parse,
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


KIND: Final = MailKind(Imap, plan, check, sentence, reach, (("login", "password", "file"),))
