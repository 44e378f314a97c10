"""What a table may say, as frozen pydantic models: the words, their types, their short forms.

Rules that look at more than one value are in `check.py`; what follows from a table for one side is in `planning.py`.
Every value with a small language of its own is read by a function of `values.py`. The JSON schema comes from here too.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tunnel.config import values
from tunnel.config.fields import (
    STRING,
    Age,
    Allowed,
    BackendWord,
    BindEndpoint,
    ConnectEndpoint,
    Connections,
    DeliveryWord,
    DialAddress,
    Expiry,
    Flag,
    Hwm,
    Idle,
    ListenAddress,
    Name,
    OneOrMore,
    OverflowWord,
    PatternWord,
    Permissions,
    Pin,
    PriorityWord,
    ProxyUrl,
    RestartWord,
    RoutingId,
    SessionSize,
    Size,
    Span,
    SpoolSize,
    Text,
    TopicPrefix,
    Version,
    Window,
    Words,
    of_text,
)
from tunnel.config.values import Method, listing, nearest, suggest


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
    proxy_protocol: Flag = False
    """stream, `to`: tell the target who connected, by PROXY protocol v2."""

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


class SpoolModel(Model):
    """Bounds of what a spooled route keeps on disk, towards each side."""

    max: SpoolSize | None = None
    """Bytes; when they are used up no more is read from applications."""
    expire: Expiry | None = None
    """A message that lay there longer is dropped, counted; a time, or never."""


class Route(Model):
    """One route: requests, tasks and published messages enter at `from` and leave at `to`."""

    pattern: PatternWord
    from_: OneOrMore[End] = Field(alias="from")
    to: OneOrMore[End]
    allow: Allowed | None = None
    """Who may connect to what its ends bind: networks, or any."""
    delivery: DeliveryWord | None = None
    overflow: OverflowWord | None = None
    window: Window | None = None
    """Unacknowledged bytes it may hold."""
    priority: PriorityWord | None = None
    max_message: Size | None = None
    max_age: Age | None = None
    """A message older than this is not delivered any more; a time, or never. reqrep and pair must say it."""
    on_restart: RestartWord | None = None
    spool: SpoolModel | None = None
    topics: Topics | None = None
    subscribe: OneOrMore[TopicPrefix] | None = None
    """Standing subscriptions (pubsub)."""
    connections: Connections | None = None
    """stream: connections at a time, at each half."""
    idle: Idle | None = None
    """stream: a connection without a byte either way for so long is closed; a time, or never."""
    connect: Span | None = None
    """stream: how long the target may take to answer, and a client may wait for the link."""
    DUMMY = {"pattern": "pair", "from": "x", "to": "x"}
    HOLES = {"pattern": None, "from": (), "to": ()}

    def ends(self, where: str) -> tuple[End, ...]:
        return self.from_ if where == "from" else self.to


class SshModel(Model):
    """How an ssh:// link gets through an sshd."""

    backend: BackendWord = "paramiko"
    """paramiko, built in; or openssh, the system's ssh with its own configuration."""
    identity: OneOrMore[Text] = ()
    """Private key files; none: the agent's keys, then ~/.ssh/id_*."""
    passphrase: SecretRef | None = None
    agent: Flag = True
    """Whether keys of the agent are offered."""
    known_hosts: OneOrMore[Text] = ()
    """Files with the host keys that are trusted; none: those of the user and of the system."""
    config: Text | None = None
    """openssh: its configuration file, in place of the user's and the system's."""


class TlsModel(Model):
    """TLS of an https:// link."""

    cert: Text | None = None
    """listen: the certificate with its chain; dial: the client's own."""
    key: Text | None = None
    """The key that belongs to cert."""
    ca: Text | None = None
    """dial: trust these certificate authorities only; listen: ask for client certificates signed by them."""
    pin: OneOrMore[Pin] = ()
    """dial: SHA-256 of the server's certificate; any of them will do, and no authority is asked then."""
    server_name: Words | None = None
    """dial: the name in the server's certificate, where the address has another."""


class ProxyModel(Shorthand):
    """An HTTP proxy on the way: `http://host:port`, or `none`: not even one that the environment names."""

    url: ProxyUrl
    username: Text | None = None
    password: SecretRef | None = None

    @classmethod
    def short(cls, text: str) -> dict[str, object]:
        return {"url": text}


class Listen(Shorthand):
    """Who opens the one port."""

    side: Words
    address: ListenAddress | None = None
    allow: Allowed | None = None
    mode: Permissions | None = None
    group: Text | None = None
    tls: TlsModel | None = None
    ssh: SshModel | None = None

    @classmethod
    def short(cls, text: str) -> dict[str, object]:
        return values.short_listen(text)


class Dial(Shorthand):
    """Who dials it."""

    side: Words
    address: OneOrMore[DialAddress] = ()
    source: Words | None = None
    """Local address to dial from."""
    tls: TlsModel | None = None
    ssh: SshModel | None = None
    proxy: ProxyModel | None = None

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


class BridgeSocket(Model):
    """`SOCKET bind|connect ENDPOINT ...`, or `SOCKET connect route:NAME`, read."""

    socket: str
    method: Method
    endpoints: tuple[str, ...]
    route: str | None = None


def bridge_socket(text: str) -> BridgeSocket:
    """Read one; ValueError says what is wrong with it."""
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
    """A program that turns something else into messages. Each kind brings keys of its own: `bridge_model.KINDS`."""

    model_config = ConfigDict(extra="allow")
    side: Words
    kind: Text
    zmq: Annotated[BridgeSocket, PlainValidator(of_text(bridge_socket)), WithJsonSchema(STRING)]
    hwm: Hwm | None = None
    """High-water mark of its 0MQ socket, in messages."""
    DUMMY = {"side": "", "kind": "", "zmq": "PAIR connect route:"}
    HOLES = {"side": None, "kind": None, "zmq": None}


class Defaults(Model):
    """What routes say when they do not say it themselves; `allow` also serves links."""

    allow: Allowed | None = None
    delivery: DeliveryWord | None = None
    overflow: OverflowWord | None = None
    window: Window | None = None
    priority: PriorityWord | None = None
    max_message: Size | None = None
    max_age: Age | None = None
    on_restart: RestartWord | None = None
    spool: SpoolModel | None = None
    hwm: Hwm | None = None
    sndbuf: Size | None = None
    heartbeat: Span | None = None
    keepalive: Flag | None = None


class TableModel(Model):
    """A ztunnel route table: the whole tunnel, for both sides."""

    version: Version
    name: Name | None = None
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
