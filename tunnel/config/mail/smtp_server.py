"""What a table may say of an smtp-server, what must make sense together, and what its process is told."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from bridges.mail.addresses import FIELDS, Pattern
from bridges.mail.limits import (
    MAIL_BYTES,
    MAIL_DEFAULT_BYTES,
    RECIPIENTS,
    SMTP_ANSWER_S,
    SMTP_COMMAND_S,
    SMTP_CONNECTIONS,
    SMTP_DATA_S,
    SMTP_DUPLICATES_S,
    SMTP_PER_ADDRESS,
)
from tunnel.config import values
from tunnel.config.addresses import is_open
from tunnel.config.bridge_parts import allowed, spool_plan, zmq_plan
from tunnel.config.fields import (
    STRING,
    Allowed,
    Connections,
    Flag,
    OneOrMore,
    Size,
    Span,
    Text,
    Words,
    of_text,
    whole,
    word_of,
)
from tunnel.config.mail.kind import MailKind, Reach
from tunnel.config.mail.smtp_server_plan import Duplicates, RulePlan, SmtpServerPlan
from tunnel.config.model import Bridge, BridgeSocket, Model, SpoolModel, TlsModel, bridge_socket
from tunnel.config.values import listing

if TYPE_CHECKING:
    from tunnel.config.checking import Checking
    from tunnel.config.model import Defaults
    from tunnel.config.nodes import Path
    from tunnel.config.planning import Planner

SOCKETS: Final = ("PUSH", "PUB", "REQ", "DEALER")
_FIELD: Final = re.compile(r"\{([^{}]*)\}|[{}]")


def _pattern(text: str) -> str:
    return Pattern(text).text


def _topic(text: str) -> str:
    for found in _FIELD.finditer(text):
        if found[1] not in FIELDS:
            known = listing([f"{{{field}}}" for field in FIELDS], "and")
            raise ValueError(f"{found[0]!r} is no part of an address; there are {known}.")
    return text


def _duplicates(value: object) -> object:
    """`never`, or a time; the default, `unanswered`, may be said aloud."""
    return value if value in ("unanswered", "never") else values.duration(value)


def _accept(value: object) -> object:
    if value == "queued":
        raise ValueError(
            "a mail that is only queued in memory can be lost after its sender was told that it was taken; "
            "say accept: spooled, or accept: acked."
        )
    return value


AddressPattern = Annotated[
    str, PlainValidator(of_text(_pattern)), WithJsonSchema({"type": "string", "examples": ["ups@*", "*@example.com"]})
]
ListenAt = Annotated[
    str,
    PlainValidator(of_text(lambda text: values.local_endpoint(text, "bind"))),
    WithJsonSchema({"type": "string", "examples": ["tcp://10.0.0.1:25"]}),
]


class RecipientModel(Model):
    """Mail for these addresses goes there."""

    match: OneOrMore[AddressPattern]
    """Addresses: `*` and `?` stand for anything but @."""
    topic: Annotated[str, PlainValidator(of_text(_topic)), WithJsonSchema(STRING)] | None = None
    """The first frame; {local}, {tag} and {domain} are parts of the address. Default: the rule's name."""
    zmq: Annotated[BridgeSocket, PlainValidator(of_text(bridge_socket)), WithJsonSchema(STRING)] | None = None
    """Where to, if not where the bridge's own `zmq` says."""
    known: Text | None = None
    """A file of addresses, one a line: others are unknown."""


class SmtpServer(Bridge):
    """Mail comes in, and becomes messages."""

    model_config = Model.model_config
    listen: OneOrMore[ListenAt] = ()
    """Where clients dial, and may say STARTTLS."""
    listen_tls: OneOrMore[ListenAt] = ()
    """... and where TLS is there from the first byte."""
    allow: Allowed | None = None
    """The networks that clients dial from, or any."""
    hostname: Words | None = None
    """What it calls itself; default: this box's name."""
    tls: TlsModel | None = None
    require_tls: Flag = False
    """Nothing is taken in the clear."""
    users: Text | None = None
    """A file of names and bcrypt hashes (htpasswd -B): who may log in, over TLS only."""
    require_login: Flag = False
    recipients: dict[str, RecipientModel]
    """Rules by name, in order: for whom mail is taken, and where it goes."""
    accept: Annotated[
        Literal["spooled", "acked"], word_of("choice for accept", ("spooled", "acked")), BeforeValidator(_accept)
    ] = "spooled"
    """When a client is told that its mail is taken: it is on this box's disk, or was acknowledged."""
    spool: SpoolModel | None = None
    """How much may lie on disk, and for how long."""
    max_message: Size | None = None
    max_recipients: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(whole)] | None = None
    connections: Connections | None = None
    per_address: Connections | None = None
    timeout: Span | None = None
    """A client may be silent for so long."""
    data_timeout: Span | None = None
    """... and need so long for one mail."""
    answer_timeout: Span | None = None
    """A mail that is not safe after so long is answered with 451."""
    duplicates: Annotated[
        float | Literal["unanswered", "never"],
        PlainValidator(_duplicates),
        WithJsonSchema({"type": "string", "examples": ["unanswered", "10m", "never"]}),
    ] = "unanswered"
    """Mails that came before, byte for byte: known again when their client may not have heard of it; a time: always."""
    compat: Annotated[Literal["device"], word_of("choice for compat", ("device",))] | None = None
    """device: a lone CR or LF is made a line end, instead of the mail being refused."""
    parse: Flag = False
    """Headers, text and attachments go along as well."""
    DUMMY: ClassVar[dict[str, Any]] = {**Bridge.DUMMY, "recipients": {"-": {"match": "a@b"}}}
    HOLES: ClassVar[dict[str, Any]] = {**Bridge.HOLES, "recipients": {}}


def check(c: Checking, bridge: SmtpServer, path: Path, broken: frozenset[str]) -> None:
    """What must make sense together."""
    from tunnel.config.check_ends import tell_open

    sockets = [(bridge.zmq, (*path, "zmq"))]
    sockets += [(rule.zmq, (*path, "recipients", name, "zmq")) for name, rule in bridge.recipients.items() if rule.zmq]
    for said, place in sockets:
        if said is None:
            continue
        if said.socket not in SOCKETS:
            c.tell(place, f"an smtp-server has no {said.socket}; its sockets are {listing(SOCKETS)}.")
        elif bridge.accept == "acked" and said.socket in ("PUSH", "PUB") and said.route is None:
            c.tell(
                place, f"accept: acked needs somebody who answers: a route, or a REQ or DEALER; not this {said.socket}."
            )
    if not bridge.recipients and "recipients" not in broken:
        c.tell((*path, "recipients"), "nobody is named; say for whom mail is taken, such as {all: {match: '*@*'}}.")
    if not bridge.listen and not bridge.listen_tls and not {"listen", "listen_tls"} & broken:
        c.tell(
            (*path, "listen"), "nothing is listened to; name the address that clients dial in listen: or listen_tls:."
        )
    allow = bridge.allow if bridge.allow is not None else c.defaults.allow
    for word, addresses in (("listen", bridge.listen), ("listen_tls", bridge.listen_tls)):
        if "local" in addresses:
            c.tell((*path, word), "'local' is for 0MQ; mail clients dial tcp:// (or ipc://).")
        opened = next((address for address in addresses if is_open(address)), None)
        if opened is not None and not {"allow", word} & broken and "defaults" not in c.draft.head.broken:
            tell_open(c, opened, allow, (*path, word), (*path, "allow"))
    if bridge.tls is None:
        for key in ("listen_tls", "require_tls", "users"):
            if getattr(bridge, key) and "tls" not in broken:
                c.tell((*path, key), f"{key}: needs tls: with cert: and key:.", key=True)
    elif bridge.tls.cert is None or bridge.tls.key is None:
        c.tell((*path, "tls"), "a server needs cert: and key: here.", key=True)
    elif bridge.tls.pin:
        c.tell((*path, "tls", "pin"), "pin: is for links.", key=True)
    if bridge.require_login and bridge.users is None and "users" not in broken:
        c.tell((*path, "require_login"), "require_login: needs users:, the file of those who may.", key=True)
    if bridge.max_message is not None and bridge.max_message > MAIL_BYTES:
        c.tell((*path, "max_message"), f"a mail is one frame of a message; {MAIL_BYTES >> 20}MiB is the most.")


def plan(planner: Planner, name: str, bridge: SmtpServer) -> SmtpServerPlan:
    """What its process is told; its files are looked at."""
    from bridges.mail import users

    path: Path = ("bridges", name)
    accounts = planner.carriers.file(bridge.users, (*path, "users")) if bridge.users is not None else None
    if accounts is not None:
        try:
            users.read(accounts)
        except users.UsersError as error:
            if accounts.exists():  # else that was told
                planner.tell((*path, "users"), str(error))
    listens = {
        word: tuple(planner.address(text, (*path, word)) for text in getattr(bridge, word))
        for word in ("listen", "listen_tls")
    }
    which: Duplicates = "all" if isinstance(bridge.duplicates, float) else bridge.duplicates
    return SmtpServerPlan(
        rules=tuple(_rule(planner, bridge, path, rule, said) for rule, said in bridge.recipients.items()),
        spool=spool_plan(planner, name, bridge.spool),
        hostname=bridge.hostname or socket.getfqdn(),
        plain=listens["listen"],
        secure=listens["listen_tls"],
        allow=allowed(bridge.allow, (*bridge.listen, *bridge.listen_tls), planner.table.model.defaults),
        tls=planner.carriers.tls(bridge.tls, (*path, "tls")) if bridge.tls is not None else None,
        require_tls=bridge.require_tls,
        users=accounts,
        require_login=bridge.require_login,
        accept=bridge.accept,
        max_bytes=bridge.max_message or MAIL_DEFAULT_BYTES,
        max_recipients=bridge.max_recipients or RECIPIENTS,
        connections=bridge.connections or SMTP_CONNECTIONS,
        per_address=bridge.per_address or SMTP_PER_ADDRESS,
        command_s=bridge.timeout or SMTP_COMMAND_S,
        data_s=bridge.data_timeout or SMTP_DATA_S,
        answer_s=bridge.answer_timeout or SMTP_ANSWER_S,
        duplicates=which,
        duplicates_s=bridge.duplicates if isinstance(bridge.duplicates, float) else SMTP_DUPLICATES_S,
        compat=bridge.compat is not None,
        parse=bridge.parse,
    )


def _rule(planner: Planner, bridge: SmtpServer, path: Path, name: str, said: RecipientModel) -> RulePlan:
    place = (*path, "recipients", name)
    return RulePlan(
        name=name,
        match=said.match,
        topic=name if said.topic is None else said.topic,
        zmq=zmq_plan(planner, bridge, said.zmq or bridge.zmq, (*place, "zmq")),
        known=planner.carriers.file(said.known, (*place, "known")) if said.known is not None else None,
    )


def sentence(bridge: SmtpServer) -> str:
    """`mail for ups@* that comes to tcp://... → PUB to route alarms, told when it is on disk`."""
    ways: dict[str, list[str]] = {}
    for rule in bridge.recipients.values():
        said = rule.zmq or bridge.zmq
        place = f"to route {said.route}" if said.route else f"at {listing(said.endpoints, 'and')}"
        ways.setdefault(f"{said.socket} {place}", []).extend(rule.match)
    goes = "; ".join(f"mail for {listing(patterns, 'or')} → {way}" for way, patterns in ways.items())
    where = listing([*bridge.listen, *(f"{address} (TLS)" for address in bridge.listen_tls)], "and")
    told = "on disk" if bridge.accept == "spooled" else "acknowledged"
    return f"{goes}; it comes to {where}, and its sender is told when it is {told}"


def reach(name: str, bridge: SmtpServer, _defaults: Defaults) -> Iterator[Reach]:
    proof = "password over TLS" if bridge.require_login else ""
    for address in (*bridge.listen, *bridge.listen_tls):
        yield Reach(address, opens=True, who=f"mail clients of {name}", proof=proof)


KIND: Final = MailKind(SmtpServer, plan, check, sentence, reach, files=(("users",), ("recipients", "*", "known")))
