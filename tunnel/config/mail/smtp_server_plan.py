"""What an smtp-server runs, decided. Bytes are bytes, times are seconds, paths absolute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bridges.mail.limits import (
    MAIL_DEFAULT_BYTES,
    RECIPIENTS,
    SMTP_ANSWER_S,
    SMTP_COMMAND_S,
    SMTP_CONNECTIONS,
    SMTP_DATA_S,
    SMTP_DUPLICATES_S,
    SMTP_PER_ADDRESS,
)
from tunnel.config.bridge_plan import NOBODY, ZmqPlan
from tunnel.config.plan import Allow, SpoolPlan, TlsPlan

Duplicates = Literal["unanswered", "all", "never"]


@dataclass(frozen=True, slots=True)
class RulePlan:
    """For whom mail is taken, and where it goes."""

    name: str
    match: tuple[str, ...]
    """Patterns over addresses (bridges/mail/addresses.py)."""
    topic: str
    """The first frame, with parts of the address in braces."""
    zmq: ZmqPlan
    known: Path | None = None
    """A file of addresses, one a line: no others are known."""


@dataclass(frozen=True, slots=True)
class SmtpServerPlan:
    """One smtp-server."""

    rules: tuple[RulePlan, ...]
    spool: SpoolPlan
    hostname: str
    plain: tuple[str, ...] = ()
    """Addresses where a client begins in the clear, and may say STARTTLS."""
    secure: tuple[str, ...] = ()
    """... and where TLS is there from the first byte."""
    allow: Allow = NOBODY
    tls: TlsPlan | None = None
    require_tls: bool = False
    users: Path | None = None
    require_login: bool = False
    accept: Literal["spooled", "acked"] = "spooled"
    max_bytes: int = MAIL_DEFAULT_BYTES
    max_recipients: int = RECIPIENTS
    connections: int = SMTP_CONNECTIONS
    per_address: int = SMTP_PER_ADDRESS
    command_s: float = SMTP_COMMAND_S
    data_s: float = SMTP_DATA_S
    answer_s: float = SMTP_ANSWER_S
    duplicates: Duplicates = "unanswered"
    """Which mails that came before are known again: those whose client may not have heard it, or all."""
    duplicates_s: float = SMTP_DUPLICATES_S
    compat: bool = False
    """A lone CR or LF is made a line end, instead of the mail being refused."""
    parse: bool = False

    @property
    def listen(self) -> tuple[str, ...]:
        return (*self.plain, *self.secure)

    @property
    def connect(self) -> tuple[str, ...]:
        return ()
