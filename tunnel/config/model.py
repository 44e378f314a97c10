"""What a table may say, as frozen pydantic models: the words, their types, their short forms.

Rules that look at more than one value are in `check.py`; what follows from a table for one side is in `planning.py`.
Every value with a small language of its own is read by a function of `values.py`. The JSON schema comes from here too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from tunnel.config import values
from tunnel.config.plan import Delivery, Network, Overflow, Pattern, Priority
from tunnel.config.values import Method, listing, nearest, suggest

T = TypeVar("T")
NEVER: Final = float("inf")
"""`max_age: never`."""


class Expanded(str):
    """Text that a `${VARIABLE}` took part in; number fields accept it."""

    __slots__ = ()


# --- types of values -------------------------------------------------------------------------------------------------


class _OneOrMore:
    """A list, or one item in place of a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_as_tuple, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _number(value: object) -> object:
    if isinstance(value, Expanded) and re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
        return int(value)
    return value


def _flag(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, Expanded) else value


def _text(value: object) -> str:
    if isinstance(value, bool):
        raise ValueError(f"this is {str(value).lower()}, not text; put it in quotes if it is meant as text.")
    if isinstance(value, int | float):
        raise ValueError(f"{value} is a number here, not text; put it in quotes.")
    if value is None:
        raise ValueError("a value is missing here.")
    if not isinstance(value, str):
        raise ValueError(f"text is expected here, not {'a list' if isinstance(value, list) else 'a mapping'}.")
    return value


def _of_text(read: Callable[[str], T]) -> Callable[[object], T]:
    return lambda value: read(_text(value))


def _pick(what: str, choices: tuple[str, ...], later: dict[str, str], nicknames: dict[str, str]) -> BeforeValidator:
    def pick(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"a {what} is expected here: {listing(choices)}.")
        if value in choices:
            return str(value)
        if value in later:
            raise ValueError(f"the {what} {value!r} is not in this version yet; {later[value]}.")
        hint = nicknames.get(value.lower())
        hint = f" Did you mean {hint!r}?" if hint else suggest(value, (*choices, *later))
        raise ValueError(f"{value!r} is no {what}; there are {listing(choices, 'and')}.{hint}")

    return BeforeValidator(pick)


def _age(value: object) -> float:
    if value == "never":
        return NEVER
    seconds = values.duration(value)
    if seconds < 0.001:
        raise ValueError("max_age is at least 1ms, or 'never'.")
    return seconds


def _span(value: object) -> float:
    seconds = values.duration(value)
    if not 0.1 <= seconds <= 86400:
        raise ValueError("this time is from 100ms to 1d.")
    return seconds


def _bounded_size(least: int, most: int, words: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        found = values.size(value)
        if not least <= found <= most:
            raise ValueError(f"this size is from {words}.")
        return found

    return read


def _mode(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f'without quotes {value} is a number, not permission bits; write mode: "0660".')
    text = _text(value)
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise ValueError(f'{text!r} are no permission bits; write for example mode: "0660".')
    return int(text, 8)


_STRING: Final = {"type": "string"}
OneOrMore = Annotated[tuple[T, ...], _OneOrMore()]
Text = Annotated[str, PlainValidator(_text), WithJsonSchema(_STRING)]
Words = Annotated[str, PlainValidator(_of_text(str.strip)), WithJsonSchema(_STRING)]
Size = Annotated[
    int,
    PlainValidator(_bounded_size(1, (1 << 31) - 1, "1B to 2147483647B")),
    WithJsonSchema({"type": "string", "examples": ["4MiB", "64KiB"]}),
]
Window = Annotated[
    int,
    PlainValidator(_bounded_size(4 << 10, 1 << 30, "4KiB to 1GiB")),
    WithJsonSchema({"type": "string", "examples": ["4MiB"]}),
]
SessionSize = Annotated[
    int,
    PlainValidator(_bounded_size(1 << 20, 1 << 40, "1MiB to 1024GiB")),
    WithJsonSchema({"type": "string", "examples": ["1GiB"]}),
]
Span = Annotated[float, PlainValidator(_span), WithJsonSchema({"type": "string", "examples": ["5s", "200ms"]})]
Age = Annotated[float, PlainValidator(_age), WithJsonSchema({"type": "string", "examples": ["5s", "never"]})]
Hwm = Annotated[int, BeforeValidator(_number), Field(ge=1, le=1_000_000)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Permissions = Annotated[int, PlainValidator(_mode), WithJsonSchema({"type": "string", "examples": ["0660"]})]
AllowItem = Annotated[
    Network | Literal["any"],
    PlainValidator(_of_text(values.network)),
    WithJsonSchema({"type": "string", "examples": ["any", "192.0.2.0/24"]}),
]
Allowed = OneOrMore[AllowItem]
TopicPrefix = Annotated[bytes, PlainValidator(_of_text(values.topic)), WithJsonSchema(_STRING)]
RoutingId = Annotated[bytes, PlainValidator(_of_text(values.routing_id)), WithJsonSchema(_STRING)]


def _endpoint(read: Callable[[str, Method], str], method: Method) -> PlainValidator:
    return PlainValidator(_of_text(lambda text: read(text, method)))


_ENDPOINT: Final = WithJsonSchema({"type": "string", "examples": ["tcp://127.0.0.1:5555"]})
BindEndpoint = Annotated[str, _endpoint(values.local_endpoint, "bind"), _ENDPOINT]
ConnectEndpoint = Annotated[str, _endpoint(values.local_endpoint, "connect"), _ENDPOINT]
ListenAddress = Annotated[str, _endpoint(values.link_address, "bind"), _ENDPOINT]
DialAddress = Annotated[str, _endpoint(values.link_address, "connect"), _ENDPOINT]

PATTERNS: Final = ("reqrep", "pubsub", "pipeline", "pair")
_PatternWord = Annotated[
    Pattern,
    _pick(
        "pattern",
        PATTERNS,
        {"stream": "carry 0MQ applications with reqrep, pubsub, pipeline or pair"},
        {
            "request-reply": "reqrep",
            "req": "reqrep",
            "rep": "reqrep",
            "router": "reqrep",
            "dealer": "reqrep",
            "rpc": "reqrep",
            "pub": "pubsub",
            "sub": "pubsub",
            "publish-subscribe": "pubsub",
            "push": "pipeline",
            "pull": "pipeline",
            "pushpull": "pipeline",
            "push-pull": "pipeline",
            "exclusive": "pair",
            "tcp": "stream",
        },
    ),
]
_DeliveryWord = Annotated[
    Delivery,
    _pick(
        "delivery",
        ("live", "confirmed"),
        {"spooled": "use confirmed, which outlives a cut link but not a crash"},
        {"at-most-once": "live", "at-least-once": "confirmed", "exactly-once": "confirmed", "durable": "spooled"},
    ),
]
_OverflowWord = Annotated[
    Overflow,
    _pick(
        "overflow",
        ("block", "drop-newest", "drop-oldest", "keep-latest"),
        {},
        {"conflate": "keep-latest", "latest": "keep-latest", "drop": "drop-newest", "wait": "block"},
    ),
]
_PriorityWord = Annotated[
    Priority, _pick("priority", ("high", "normal", "bulk"), {}, {"low": "bulk", "urgent": "high"})
]
_RestartWord = Annotated[Literal["drop", "resend"], _pick("choice for on_restart", ("drop", "resend"), {}, {})]


# --- the parts of a table --------------------------------------------------------------------------------------------


class Model(BaseModel):
    """What all parts have in common. `DUMMY` lets a part with a broken required key still be read for its other keys;
    `HOLES` is what such a key then holds, so that the cross checks see that it is unknown."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True, serialize_by_alias=True
    )
    DUMMY: ClassVar[dict[str, Any]] = {}
    HOLES: ClassVar[dict[str, Any]] = {}


class Shorthand(Model):
    """A part that has a short form: one string."""

    @classmethod
    def short(cls, text: str) -> dict[str, object]:
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _lengthen(cls, value: Any) -> Any:
        return cls.short(value) if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class SecretRef(Model):
    """Where a secret is: a file, an environment variable, or a systemd credential."""

    file: Text | None = None
    env: Text | None = None
    credential: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(
                "a secret is never written into a table; say where it is: "
                "{file: PATH}, {env: NAME} or {credential: NAME}."
            )
        if isinstance(value, dict) and len(value) != 1:
            raise ValueError("a secret has one source: file, env or credential.")
        return value


class Side(Model):
    """One who takes part."""

    key: OneOrMore[Text]
    """The public key: a zmq certificate file, or its 40 characters; two while they rotate."""
    secret: SecretRef | None = None
    """Where the secret half is, if not beside the key file."""
    DUMMY = {"key": "-"}
    HOLES = {"key": ()}


class CurveModel(Model):
    """CURVE on a local end."""

    own: Text
    """The secret certificate file of this end."""
    server: Text | None = None
    """connect: the public certificate file of the server."""
    clients: Text | None = None
    """bind: a folder with the public certificates (*.key) of those let in; left out, any key."""


class PlainModel(Model):
    """PLAIN on a local end: `username` and `password` where we connect, `users` where we bind."""

    username: Text | None = None
    password: SecretRef | None = None
    users: dict[str, SecretRef] = {}


class End(Shorthand):
    """One end of a route at one side. A side alone: configured there, not told here."""

    side: Words
    bind: OneOrMore[BindEndpoint] = ()
    connect: OneOrMore[ConnectEndpoint] = ()
    hwm: Hwm | None = None
    """High-water mark in messages."""
    sndbuf: Size | None = None
    """The kernel's send buffer."""
    routing_id: RoutingId | None = None
    handover: Flag = False
    """ROUTER_HANDOVER: a client that comes back with its routing id takes over from its old connection."""
    heartbeat: Span | None = None
    """Interval of ZMTP heartbeats."""
    keepalive: Flag | None = None
    """TCP keepalive (default: on)."""
    curve: CurveModel | None = None
    plain: PlainModel | None = None
    allow: Allowed | None = None
    """Who may connect to what this end binds."""
    mode: Permissions | None = None
    """Permission bits of ipc:// binds, in quotes."""
    group: Text | None = None
    """Group of ipc:// binds."""

    @classmethod
    def short(cls, text: str) -> dict[str, object]:
        return values.short_end(text)

    @property
    def bare(self) -> bool:
        return not self.bind and not self.connect


class Topics(Model):
    """Which topics cross: byte prefixes, as text or `hex:00ff`."""

    allow: OneOrMore[TopicPrefix] = (b"",)
    deny: OneOrMore[TopicPrefix] = ()


class Route(Model):
    """One route: requests, tasks and published messages enter at `from` and leave at `to`."""

    pattern: _PatternWord
    from_: OneOrMore[End] = Field(alias="from")
    to: OneOrMore[End]
    allow: Allowed | None = None
    """Who may connect to what its ends bind: networks, or any."""
    delivery: _DeliveryWord | None = None
    overflow: _OverflowWord | None = None
    window: Window | None = None
    """Unacknowledged bytes it may hold."""
    priority: _PriorityWord | None = None
    max_message: Size | None = None
    max_age: Age | None = None
    """A message older than this is not delivered any more; a time, or never. reqrep and pair must say it."""
    on_restart: _RestartWord | None = None
    topics: Topics | None = None
    subscribe: OneOrMore[TopicPrefix] | None = None
    """Standing subscriptions (pubsub)."""
    DUMMY = {"pattern": "pair", "from": "x", "to": "x"}
    HOLES = {"pattern": None, "from": (), "to": ()}

    def ends(self, where: str) -> tuple[End, ...]:
        return self.from_ if where == "from" else self.to


def _later(sentence: str) -> PlainValidator:
    def refuse(_: object) -> None:
        raise ValueError(sentence)

    return PlainValidator(refuse)


_NOTHING: Final = WithJsonSchema({"not": {}})


_Tls = Annotated[
    None,
    _later(
        "tls: is for links over https://, which are not in this version yet; tcp:// links are encrypted with CURVE."
    ),
    _NOTHING,
]
_Proxy = Annotated[None, _later("links through a proxy are not in this version yet; dial tcp:// directly."), _NOTHING]


class Listen(Shorthand):
    """Who opens the one port."""

    side: Words
    address: ListenAddress | None = None
    allow: Allowed | None = None
    mode: Permissions | None = None
    group: Text | None = None
    tls: _Tls = None

    @classmethod
    def short(cls, text: str) -> dict[str, object]:
        return values.short_listen(text)


class Dial(Shorthand):
    """Who dials it."""

    side: Words
    address: OneOrMore[DialAddress] = ()
    source: Words | None = None
    """Local address to dial from."""
    tls: _Tls = None
    proxy: _Proxy = None

    @classmethod
    def short(cls, text: str) -> dict[str, object]:
        return values.short_dial(text)


class Link(Model):
    """One port, and those who dial it."""

    listen: Listen
    dial: OneOrMore[Dial]
    allow: Allowed | None = None
    """The networks that the diallers come from, or any."""
    DUMMY = {"listen": "x", "dial": "x"}
    HOLES = {"listen": None, "dial": ()}


SOCKETS: Final = ("REQ", "REP", "DEALER", "ROUTER", "PUB", "SUB", "XPUB", "XSUB", "PUSH", "PULL", "PAIR")
LATER_KINDS: Final = {
    "tcp-server": "let the devices' own program talk 0MQ to the route",
    "tcp-client": "let a program of yours talk to the device and 0MQ to the route",
    "smtp-server": "let a program of yours take the mail and push it to the route",
    "smtp-client": "let a program of yours pull from the route and send the mail",
    "imap": "let a program of yours fetch the mail and push it to the route",
}


class BridgeSocket(Model):
    """`SOCKET bind|connect ENDPOINT ...`, or `SOCKET connect route:NAME`, read."""

    socket: str
    method: Method
    endpoints: tuple[str, ...]
    route: str | None = None


def _bridge_socket(text: str) -> BridgeSocket:
    form = "PUSH connect route:NAME"
    words = text.split()
    if len(words) < 3:
        raise ValueError(f"a bridge's socket is written '{form}', or with an endpoint in place of route:NAME.")
    socket, method, *targets = words
    if socket not in SOCKETS:
        hint = nearest(socket, [known.lower() for known in SOCKETS])
        asked = f" Did you mean {hint.upper()!r}?" if hint else f" There are {listing(SOCKETS, 'and')}."
        raise ValueError(f"{socket!r} is no socket type.{asked}")
    if method not in ("bind", "connect"):
        raise ValueError(f"{method!r} is neither bind nor connect.{suggest(method, ['bind', 'connect'])}")
    routes = [target for target in targets if target.startswith("route:")]
    if routes:
        if method == "bind":
            raise ValueError(f"the route binds its own socket; write '{socket} connect {routes[0]}'.")
        if len(targets) > 1:
            raise ValueError("a bridge's socket goes to one route, or to endpoints, not to both.")
        return BridgeSocket(socket=socket, method="connect", endpoints=(), route=routes[0].removeprefix("route:"))
    checked = tuple(values.local_endpoint(target, "bind" if method == "bind" else "connect") for target in targets)
    return BridgeSocket(socket=socket, method="bind" if method == "bind" else "connect", endpoints=checked)


class Bridge(Model):
    """A program that turns something else into messages; every kind comes in a later version."""

    model_config = ConfigDict(extra="allow")  # each kind will bring its own keys
    side: Words
    kind: Text
    zmq: Annotated[BridgeSocket, PlainValidator(_of_text(_bridge_socket)), WithJsonSchema(_STRING)]
    DUMMY = {"side": "", "kind": "", "zmq": "PAIR connect route:"}
    HOLES = {"side": None, "kind": None, "zmq": None}


class Defaults(Model):
    """What routes say when they do not say it themselves; `allow` also serves links."""

    allow: Allowed | None = None
    delivery: _DeliveryWord | None = None
    overflow: _OverflowWord | None = None
    window: Window | None = None
    priority: _PriorityWord | None = None
    max_message: Size | None = None
    max_age: Age | None = None
    on_restart: _RestartWord | None = None
    hwm: Hwm | None = None
    sndbuf: Size | None = None
    heartbeat: Span | None = None
    keepalive: Flag | None = None


def _version(value: object) -> object:
    value = _number(value)
    if value != 1 or isinstance(value, bool):
        raise ValueError("this ztunnel reads tables of version 1; write version: 1.")
    return value


class TableModel(Model):
    """A ztunnel route table: the whole tunnel, for both sides."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    name: Annotated[str, PlainValidator(_of_text(values.name)), WithJsonSchema(_STRING)] | None = None
    """Default: the file's name without .yaml."""
    include: OneOrMore[Text] = ()
    """More files with sides, links, routes and bridges."""
    session: SessionSize | None = None
    """Bytes that all routes to one peer may hold together."""
    ipc_dir: Text | None = None
    """Where relative ipc:// sockets of applications live."""
    defaults: Defaults = Defaults()
    sides: dict[str, Side]
    links: OneOrMore[Link]
    routes: dict[str, Route] = {}
    bridges: dict[str, Bridge] = {}
    DUMMY = {"version": 1}
    HOLES = {"version": 1}
