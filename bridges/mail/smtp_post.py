"""What passes between a connection of an smtp-server (smtp_session.py) and the server: a mail, the answer to it, and
what else a connection asks."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from bridges.mail.addresses import parts
from bridges.mail.bodies import Body
from bridges.mail.data import Header
from bridges.mail.meta import frame_of
from bridges.mail.rules import Destination
from tunnel.config.mail.smtp_server_plan import SmtpServerPlan


@dataclass(slots=True)
class Letter:
    """A mail that a client has said to its end."""

    id: str
    sender: str
    to: tuple[str, ...]
    client: str
    helo: str
    tls: str | None
    user: str | None
    utf8: bool
    destination: Destination
    body: Body
    header: Header
    bare: bool

    @property
    def tag(self) -> str:
        return parts(self.to[0]).tag

    def digest(self, *, anyone: bool) -> bytes:
        """Of the envelope and of every byte: a Message-ID alone proves nothing. Not `anyone`: and of who sent it, as
        two devices may well say the same."""
        envelope = "\0".join([self.sender, *sorted(self.to), *([] if anyone else [self.client])]).encode()
        return hashlib.sha256(envelope + b"\0\0" + self.body.digest.digest()).digest()

    def meta(self) -> bytes:
        """Its meta frame."""
        return frame_of(
            {
                "id": self.id,
                "from": self.sender,
                "to": list(self.to),
                "size": self.body.size,
                "sha256": self.body.digest.hexdigest(),
                "received": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "rule": self.destination.rule,
                "client": self.client,
                "helo": self.helo,
                "tls": self.tls,
                "user": self.user,
                "tag": self.tag,
                "utf8": self.utf8,
            }
        )


@dataclass(slots=True, eq=False)
class Answer:
    """What a client is told, and the digest by which the server wants to know that the client has heard it."""

    text: str
    digest: bytes | None = None


class Post(Protocol):
    """What a connection asks of its server."""

    loop: asyncio.AbstractEventLoop
    plan: SmtpServerPlan
    closing: bool

    def ended(self, session: Any, reason: str) -> None: ...

    def room(self, size: int) -> str:
        """Why a mail of so many bytes cannot be taken now; "": it can."""

    def find(self, address: str) -> Destination | str:
        """Where mail for this one goes, or the reply that refuses it."""

    def new_body(self) -> tuple[str, Body]:
        """The id of a mail that begins, and where its bytes go."""

    async def take(self, letter: Letter) -> Answer:
        """The whole hand-over; runs to its end whatever becomes of the client."""

    def settled(self, digest: bytes, *, told: bool) -> None:
        """Whether a client has heard that its mail was taken; asked about one that this connection was answered for."""

    async def login(self, name: str, password: bytes) -> bool | None:
        """None: nobody can say at the moment."""

    def count(self, reason: str) -> None:
        """A refusal, for status."""

    def failed(self, error: Exception) -> str:
        """Something broke in us: log it, and give the id that the client is told."""


def new_id() -> str:
    """Of a mail: nothing else has it."""
    return secrets.token_hex(12)
