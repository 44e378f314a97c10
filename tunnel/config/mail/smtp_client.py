"""`kind: smtp-client`: what a table may say of it, what must make sense together, and what its process is told."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from bridges.mail.addresses import AddressError, Pattern, checked
from bridges.mail.fill import Filling
from bridges.mail.limits import MAIL_BYTES, SEND_CONNECTIONS_MOST, SEND_RATE_MOST, SEND_RECIPIENTS_MOST
from bridges.mail.retry import Schedule
from tunnel.config import values
from tunnel.config.fields import (
    NEVER,
    STRING,
    Expiry,
    Flag,
    OneOrMore,
    Size,
    Span,
    Text,
    TopicPrefix,
    of_text,
    whole,
    word_of,
)
from tunnel.config.mail.kind import MailKind, Reach
from tunnel.config.mail.smtp_client_plan import RETRY, LoginPlan, SmtpClientPlan, TemplatePlan
from tunnel.config.model import Bridge, Model, SecretRef, SpoolModel, TlsModel
from tunnel.config.values import listing

if TYPE_CHECKING:
    from tunnel.config.checking import Checking
    from tunnel.config.model import Defaults
    from tunnel.config.nodes import Path
    from tunnel.config.planning import Planner

SOCKETS: Final = ("PULL", "SUB", "REP")
TLS_MODES: Final = ("none", "offered", "starttls", "implicit")


def _relay(text: str) -> str:
    found = values.local_endpoint(text, "connect")
    if not found.startswith("tcp://"):
        raise ValueError(f"{text!r}: a mail server is dialled at tcp://HOST:PORT.")
    return found


def _schedule(text: str) -> Schedule:
    """`1m,5m*2,1h*12`."""
    steps: list[tuple[float, int]] = []
    for step in text.replace(" ", "").split(","):
        pause, _, times = step.partition("*")
        if times and not re.fullmatch(r"[1-9][0-9]{0,3}", times):
            raise ValueError(f"{step!r}: after the '*' comes how many times, such as 5m*2.")
        pause_s = values.duration(pause)
        if not 1 <= pause_s <= 86400:
            raise ValueError("a pause between attempts is from 1s to 1d.")
        steps.append((pause_s, int(times or 1)))
    return Schedule(tuple(steps))


def _rate(text: str) -> tuple[int, float]:
    """`100/1m`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5}) ?/ ?([0-9.]+ ?[a-zA-Z]+)", text)
    if match is None:
        raise ValueError(f"{text!r} is no rate; write for example 100/1m.")
    period_s = values.duration(match[2])
    if not 1 <= period_s <= 86400 or int(match[1]) > SEND_RATE_MOST:
        raise ValueError(f"a rate is at most {SEND_RATE_MOST} mails in 1s to 1d.")
    return int(match[1]), period_s


def _address(text: str) -> str:
    try:
        return checked(text)
    except AddressError as error:
        raise ValueError(f"{error}.") from None


def _recipient(text: str) -> Pattern | Literal["any"]:
    return "any" if text == "any" else Pattern(text)


def _hostname(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Za-z:.]+\]", text):
        raise ValueError(f"{text!r} is no host name; write the one that this box has in the DNS.")
    return text


def _filling(text: str) -> Filling:
    return Filling(text)


Template = Annotated[Filling, PlainValidator(of_text(_filling)), WithJsonSchema(STRING)]


class MailTlsModel(TlsModel):
    """TLS towards the mail server."""

    mode: Annotated[Literal["none", "offered", "starttls", "implicit"], word_of("mode", TLS_MODES)] | None = None
    """offered: STARTTLS where the server has it; starttls: not without; implicit: from the first byte."""


class LoginModel(Model):
    """Who we are for the mail server."""

    user: Text
    password: SecretRef


class TemplateModel(Model):
    """How a JSON frame becomes a mail: `{field}` and `{a.b}` stand for its values."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    subject: Template
    text: Template | None = None
    html: Template | None = None
    to: OneOrMore[Template] = ()
    """Default: the JSON's `to`."""
    from_: Template | None = Field(default=None, alias="from")
    """Default: the bridge's `from`."""
    attachments: Annotated[Literal["frames"], word_of("choice for attachments", ("frames",))] | None = None
    """frames: those after the JSON are attached."""


class SmtpClient(Bridge):
    """Messages become mail."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    relay: OneOrMore[
        Annotated[
            str,
            PlainValidator(of_text(_relay)),
            WithJsonSchema({"type": "string", "examples": ["tcp://mail.example.com:587"]}),
        ]
    ] = ()
    """The mail server that takes everything; a list is tried in turn."""
    direct: Flag = False
    """Mail goes to the servers of each recipient's domain, which the DNS names."""
    tls: MailTlsModel | None = None
    login: LoginModel | None = None
    hostname: Annotated[str, PlainValidator(of_text(_hostname)), WithJsonSchema(STRING)] | None = None
    """What we call ourselves."""
    from_: Annotated[str, PlainValidator(of_text(_address)), WithJsonSchema(STRING)] | None = Field(
        default=None, alias="from"
    )
    """The sender where a message names none."""
    allow_to: OneOrMore[
        Annotated[
            Pattern | Literal["any"],
            PlainValidator(of_text(_recipient)),
            WithJsonSchema({"type": "string", "examples": ["*@example.com", "any"]}),
        ]
    ]
    """To whom mail may go: patterns, or any."""
    max_recipients: Annotated[int, Field(ge=1, le=SEND_RECIPIENTS_MOST), BeforeValidator(whole)] | None = None
    """Of one mail, at most."""
    subscribe: OneOrMore[TopicPrefix] = (b"",)
    """SUB: what is wanted."""
    retry: Annotated[
        Schedule,
        PlainValidator(of_text(_schedule)),
        WithJsonSchema({"type": "string", "examples": ["1m,5m*2,1h*12"]}),
    ] = RETRY
    """Pauses between attempts."""
    expire: Expiry | None = None
    """So long a mail is tried."""
    rate: (
        Annotated[
            tuple[int, float],
            PlainValidator(of_text(_rate)),
            WithJsonSchema({"type": "string", "examples": ["100/1m"]}),
        ]
        | None
    ) = None
    """Mails to one destination, at most."""
    connections: Annotated[int, Field(ge=1, le=SEND_CONNECTIONS_MOST), BeforeValidator(whole)] | None = None
    """To one destination at a time."""
    timeout: Span | None = None
    """Each step of a conversation may take so long."""
    max_message: Size | None = None
    """Of one mail."""
    bare_newlines: Annotated[
        Literal["refuse", "normalise"], word_of("choice for bare_newlines", ("refuse", "normalise"))
    ] = "refuse"
    """What is done with CR and LF that stand alone in a raw mail."""
    trace: Flag = False
    """Raw mails get an X-Ztunnel-Hop header too."""
    reply: Annotated[Literal["queued", "result"], word_of("choice for reply", ("queued", "result"))] | None = None
    """REP: when the reply comes."""
    remember: Expiry | None = None
    """An id that comes again within this time is not sent again."""
    spool: SpoolModel | None = None
    template: TemplateModel | None = None
    """Messages are JSON, and become mail by this."""
    DUMMY: ClassVar[dict[str, Any]] = {**Bridge.DUMMY, "allow_to": "any"}
    HOLES: ClassVar[dict[str, Any]] = {**Bridge.HOLES, "allow_to": ()}


def check(c: Checking, bridge: SmtpClient, path: Path, broken: frozenset[str]) -> None:
    socket_type = bridge.zmq.socket if bridge.zmq is not None else None
    if socket_type is not None and socket_type not in SOCKETS:
        c.tell((*path, "zmq"), f"an smtp-client has no {socket_type}; its sockets are {listing(SOCKETS)}.")
    if not bridge.relay and not bridge.direct and not {"relay", "direct"} & broken:
        c.tell(path, "'relay:' is missing here: the mail server that takes the mail (or direct: true).", key=True)
    if bridge.relay and bridge.direct:
        c.tell((*path, "direct"), "direct: true asks the DNS for each domain's servers; take out relay:.", key=True)
    if not bridge.allow_to and "allow_to" not in broken:
        c.tell((*path, "allow_to"), "this list is empty, so no mail could go anywhere; name whom it may go to, or any.")
    if "any" in bridge.allow_to and len(bridge.allow_to) > 1:
        c.tell((*path, "allow_to"), "'any' is anybody; take out the other patterns, or take out 'any'.")
    if "subscribe" in bridge.model_fields_set and socket_type not in ("SUB", None):
        c.tell((*path, "subscribe"), f"subscribe: is for a SUB; this is a {socket_type}.", key=True)
    if bridge.reply is not None and socket_type not in ("REP", None):
        c.tell((*path, "reply"), f"reply: is for a REP; a {socket_type} answers nobody.", key=True)
    if bridge.max_message is not None and bridge.max_message > MAIL_BYTES:
        c.tell((*path, "max_message"), f"a mail has at most {MAIL_BYTES >> 20}MiB here.")
    _tls(c, bridge, path)
    if bridge.template is not None:
        _template(c, bridge, path, broken)


def _tls(c: Checking, bridge: SmtpClient, path: Path) -> None:
    tls, mode = bridge.tls, bridge.tls.mode if bridge.tls is not None else None
    if bridge.direct and bridge.login is not None:
        c.tell((*path, "login"), "login: is for a relay; direct: true speaks with the servers of strangers.", key=True)
        return
    if tls is not None:
        where = (*path, "tls")
        if tls.pin:
            c.tell((*where, "pin"), "pin: is for links; a bridge trusts ca:, or the system's authorities.", key=True)
        if (tls.cert is None) != (tls.key is None):
            c.tell(where, "cert: and key: of our own go together.", key=True)
        if mode == "none" and tls.model_fields_set - {"mode"}:
            c.tell((*where, "mode"), "mode: none is without TLS; take out the other keys of tls:, or this one.")
        if bridge.direct and (mode == "implicit" or tls.server_name is not None):
            key = "mode" if mode == "implicit" else "server_name"
            c.tell((*where, key), "this is for a relay; servers of other domains are spoken to at port 25.")
    far = [address for address in bridge.relay if not values.tcp(address).loopback]
    if bridge.login is not None and (mode == "offered" or (mode == "none" and far)):
        c.tell(
            (*path, "tls", "mode"),
            "with login: a password would go to whoever answers; say starttls or implicit.",
        )


def _template(c: Checking, bridge: SmtpClient, path: Path, broken: frozenset[str]) -> None:
    template = bridge.template
    assert template is not None
    where = (*path, "template")
    if template.text is None and template.html is None:
        c.tell(where, "'text:' is missing here (or html:): what the mail says.", key=True)
    if template.from_ is None and bridge.from_ is None and "from" not in broken:
        c.tell(where, "who sends it? Say from: here or beside it.", key=True)
    if "bare_newlines" in bridge.model_fields_set:
        c.tell((*path, "bare_newlines"), "bare_newlines: is for raw mails; a template's are made right.", key=True)


def plan(planner: Planner, name: str, bridge: SmtpClient) -> SmtpClientPlan:
    path: Path = ("bridges", name)
    from tunnel.config.bridge_parts import spool_plan

    anybody = "any" in bridge.allow_to
    tls = bridge.tls
    known = SmtpClientPlan(hostname="", state=spool_plan(planner, name, bridge.spool))
    return SmtpClientPlan(
        hostname=bridge.hostname or _own_name(),
        state=known.state,
        relay=tuple(planner.address(text, (*path, "relay")) for text in bridge.relay),
        allow_to=None if anybody else tuple(one.text for one in bridge.allow_to if isinstance(one, Pattern)),
        sender=bridge.from_,
        tls=planner.carriers.tls(tls, (*path, "tls")) if tls and tls.model_fields_set - {"mode"} else None,
        tls_mode=tls.mode if tls is not None else None,
        login=_login(planner, bridge.login, (*path, "login")) if bridge.login is not None else None,
        recipients=bridge.max_recipients or known.recipients,
        retry=bridge.retry,
        expire_s=known.expire_s if bridge.expire is None else _ever(bridge.expire),
        rate=bridge.rate,
        connections=bridge.connections or known.connections,
        timeout_s=bridge.timeout or known.timeout_s,
        max_bytes=bridge.max_message or known.max_bytes,
        normalise=bridge.bare_newlines == "normalise",
        trace=bridge.trace,
        result=bridge.reply == "result",
        remember_s=known.remember_s if bridge.remember is None else _ever(bridge.remember),
        template=_template_plan(bridge.template) if bridge.template is not None else None,
    )


def _ever(seconds: float) -> float | None:
    return None if seconds == NEVER else seconds


def _login(planner: Planner, said: LoginModel, path: Path) -> LoginPlan:
    return LoginPlan(said.user, planner.secret(said.password, (*path, "password")))


def _template_plan(said: TemplateModel) -> TemplatePlan:
    return TemplatePlan(said.subject, said.text, said.html, said.to, said.from_, said.attachments is not None)


def _own_name() -> str:
    """This box's name, if it may stand in EHLO."""
    try:
        return _hostname(socket.gethostname())  # and not getfqdn, which waits for a name server
    except ValueError:
        return "localhost"


def sentence(bridge: SmtpClient) -> str:
    """`PULL of route mails → mail by tcp://mail.example.com:587, to *@example.com`."""
    said = bridge.zmq
    place = f"of route {said.route}" if said.route else f"at {listing(said.endpoints, 'and')}"
    by = f"mail by {listing(bridge.relay)}" if bridge.relay else "mail to each domain's own servers"
    to = listing([one if isinstance(one, str) else one.text for one in bridge.allow_to])
    made = ", JSON by a template" if bridge.template is not None else ""
    return f"{said.socket} {place} → {by}, to {'anybody' if to == 'any' else to}{made}"


def reach(name: str, bridge: SmtpClient, _defaults: Defaults) -> Iterator[Reach]:
    for address in bridge.relay:
        yield Reach(address, False, f"mail server of {name}")
    if bridge.direct:
        yield Reach("tcp://*:25", False, f"mail servers of the recipients of {name}")


KIND: Final = MailKind(SmtpClient, plan, check, sentence, reach, (("login", "password", "file"),))
