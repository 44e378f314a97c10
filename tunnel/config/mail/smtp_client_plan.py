"""What one smtp-client runs, decided: frozen records for its process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bridges.mail.fill import Filling
from bridges.mail.limits import (
    MAIL_DEFAULT_BYTES,
    RECIPIENTS,
    SEND_CONNECTIONS,
    SEND_EXPIRE_S,
    SEND_REMEMBER_S,
    SEND_STEP_S,
)
from bridges.mail.retry import Schedule
from tunnel.config.plan import Secret, SpoolPlan, TlsPlan

TlsMode = Literal["none", "offered", "starttls", "implicit"]
SMTPS_PORT: Final = 465
"""Where TLS begins with the first byte (RFC 8314), unless the table says otherwise."""
RETRY: Final = Schedule(((60.0, 1), (300.0, 2), (900.0, 4), (3600.0, 12)))
RETRY_TEXT: Final = "1m,5m*2,15m*4,1h*12"


@dataclass(frozen=True, slots=True)
class LoginPlan:
    user: str
    password: Secret


@dataclass(frozen=True, slots=True)
class TemplatePlan:
    """How a JSON frame becomes a mail."""

    subject: Filling
    text: Filling | None = None
    html: Filling | None = None
    to: tuple[Filling, ...] = ()
    """None: the JSON's `to`."""
    sender: Filling | None = None
    """None: the bridge's `from`."""
    attachments: bool = False
    """The frames after the JSON are attached."""


@dataclass(frozen=True, slots=True)
class SmtpClientPlan:
    """See docs/mail.md for what each is."""

    hostname: str
    """Who we are, for EHLO and in the Message-IDs that we make."""
    state: SpoolPlan
    """Where its database is, how large it may become, and how long failed mails stay there."""
    relay: tuple[str, ...] = ()
    """tcp:// addresses, tried in turn; none: each domain's own servers."""
    allow_to: tuple[str, ...] | None = None
    """Patterns; None: anybody."""
    sender: str | None = None
    tls: TlsPlan | None = None
    """Its certificates, where the table names any, or a server's name."""
    tls_mode: TlsMode | None = None
    """None: as the port and the login want."""
    login: LoginPlan | None = None
    recipients: int = RECIPIENTS
    retry: Schedule = RETRY
    expire_s: float | None = SEND_EXPIRE_S
    rate: tuple[int, float] | None = None
    """So many mails in so many seconds to one destination."""
    connections: int = SEND_CONNECTIONS
    """To one destination."""
    timeout_s: float = SEND_STEP_S
    """Of each step of a conversation."""
    max_bytes: int = MAIL_DEFAULT_BYTES
    """Of one mail."""
    normalise: bool = False
    """Bare CR and LF of raw mails become CRLF; else such a mail is refused."""
    trace: bool = False
    result: bool = False
    """REP: the reply tells what became of the first attempt."""
    remember_s: float | None = SEND_REMEMBER_S
    template: TemplatePlan | None = None
    direct_port: int = 25

    @property
    def listen(self) -> tuple[str, ...]:
        return ()

    @property
    def connect(self) -> tuple[str, ...]:
        return self.relay

    def mode_at(self, port: int) -> TlsMode:
        """How the server at this port is spoken to."""
        if self.tls_mode is not None:
            return self.tls_mode
        if port == SMTPS_PORT and self.relay:
            return "implicit"
        return "starttls" if self.login is not None else "offered"
