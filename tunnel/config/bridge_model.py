"""What a table may say of bridges, kind by kind (docs/bridges.md). The common part is `model.Bridge`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from bridges import framing
from tunnel.config import values
from tunnel.config.fields import (
    STRING,
    Allowed,
    Connections,
    Flag,
    Idle,
    OneOrMore,
    Size,
    Span,
    TopicPrefix,
    Within,
    of_text,
    whole,
    word_of,
)
from tunnel.config.mail import MAIL
from tunnel.config.model import Bridge, Model, SpoolModel, TlsModel
from tunnel.limits import BRIDGE_PIPELINE_MOST, BRIDGE_POOL

Bytes = Annotated[bytes, PlainValidator(of_text(values.topic)), WithJsonSchema(STRING)]
"""Text, or `hex:0b1c0d`."""
TcpAddress = Annotated[
    str,
    PlainValidator(of_text(lambda text: values.local_endpoint(text, "connect"))),
    WithJsonSchema({"type": "string", "examples": ["tcp://10.0.0.7:4001"]}),
]
ListenAt = Annotated[
    str,
    PlainValidator(of_text(lambda text: values.local_endpoint(text, "bind"))),
    WithJsonSchema({"type": "string", "examples": ["tcp://10.0.0.1:4001"]}),
]


class FrameModel(Model):
    """How messages lie in the bytes: `kind`, `max_frame`, and what the kind has (docs/framing.md)."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    kind: str = "line"
    made: Any = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _make(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict):
            raise ValueError("a mapping is expected here, such as {kind: line}.")
        kind = str(value.get("kind", "line"))
        options = {key: _option(kind, key, said) for key, said in value.items() if key != "kind"}
        try:
            return {**value, "made": framing.make(kind, **options)}
        except framing.OptionError as error:
            raise Within(error.option or "kind", _small(str(error))) from None


def _small(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _option(kind: str, name: str, said: Any) -> Any:
    """Sizes and times with their units, as everywhere in a table."""
    option = framing.OPTIONS.get(kind, {}).get(name)
    try:
        if name == "max_frame":
            return values.size(said)
        if option is not None and option.type == "seconds":
            return values.duration(said)
    except ValueError as error:
        raise Within(name, str(error)) from None
    return whole(said) if option is not None and option.type == "integer" else said


class KeepAliveModel(Model):
    """What is said to a silent server."""

    every: Span
    send: Bytes


class CorrelateModel(Model):
    """The field that a request and its reply have in common."""

    offset: Annotated[int, Field(ge=0, le=65_535), BeforeValidator(whole)]
    length: Annotated[int, Field(ge=1, le=64), BeforeValidator(whole)]


class Tcp(Bridge):
    """What tcp-server and tcp-client have in common."""

    model_config = ConfigDict(extra="forbid")
    frame: FrameModel | None = None
    """How messages lie in the bytes, both ways; default: lines."""
    frame_out: FrameModel | None = None
    """... in what we write, where that is another way."""
    tls: TlsModel | None = None
    subscribe: OneOrMore[TopicPrefix] = (b"",)
    """SUB: what is wanted."""
    topic: Bytes | None = None
    """PUB: the topic of every message."""
    topic_until: Bytes | None = None
    """PUB: a frame's bytes before this are its topic."""
    meta: Flag = False
    """A frame of JSON about the connection goes before each frame of the device."""
    timeout: Span | None = None
    """How long a request waits for its reply."""
    timeout_reply: Bytes | None = None
    """What the asker gets instead."""
    pipeline: Annotated[int, Field(ge=1, le=BRIDGE_PIPELINE_MOST), BeforeValidator(whole)] | None = None
    """Requests of one connection under way at a time."""
    queue: Size | None = None
    """What may wait for a connection that does not read."""
    keepalive: Flag = True
    user_timeout: Span | None = None
    """TCP_USER_TIMEOUT."""
    idle: Idle | None = None
    """A connection without a byte for so long is closed; a time, or never."""
    lifetime: Idle | None = None
    """A connection is closed when it is so old; a time, or never."""


class TcpServer(Tcp):
    """Old devices dial us."""

    listen: OneOrMore[ListenAt]
    allow: Allowed | None = None
    """The networks that devices dial from, or any."""
    connections: Connections | None = None
    per_address: Connections | None = None
    takeover: Annotated[Literal["newest"], word_of("takeover", ("newest",))] | None = None
    """newest: at `per_address` a new connection takes the place of the oldest."""
    to: Annotated[Literal["all", "one"], word_of("choice for to", ("all", "one"))] | None = None
    """SUB, PULL: a message goes to all connections, or to one after the other."""
    accept: Annotated[
        Literal["queued", "acked", "spooled"], word_of("choice for accept", ("queued", "acked", "spooled"))
    ] = "queued"
    """When the device is told `ack`: its frame is handed to the 0MQ socket, was answered, or is on this box's disk."""
    spool: SpoolModel | None = None
    """accept: spooled: how much may lie on disk, and for how long."""
    ack: Bytes | None = None
    nak: Bytes | None = None
    """What it is told when that failed."""
    DUMMY: ClassVar[dict[str, Any]] = {**Bridge.DUMMY, "listen": ()}
    HOLES: ClassVar[dict[str, Any]] = {**Bridge.HOLES, "listen": ()}


class TcpClient(Tcp):
    """We dial an old server."""

    connect: OneOrMore[TcpAddress]
    pool: Annotated[int, Field(ge=1, le=BRIDGE_POOL), BeforeValidator(whole)] | None = None
    """Connections at a time."""
    start: Annotated[Literal["now", "lazy"], word_of("choice for start", ("now", "lazy"))] = "now"
    """lazy: connections are made when there is something to say."""
    on_connect: Bytes | None = None
    """Said first on every connection, as it is."""
    keep_alive: KeepAliveModel | None = None
    correlate: CorrelateModel | None = None
    """Replies bear the field of their request; left out, they come in the order of the requests."""
    DUMMY: ClassVar[dict[str, Any]] = {**Bridge.DUMMY, "connect": ()}
    HOLES: ClassVar[dict[str, Any]] = {**Bridge.HOLES, "connect": ()}


KINDS: Final[dict[str, type[Bridge]]] = {
    "tcp-server": TcpServer,
    "tcp-client": TcpClient,
    **{kind: mail.model for kind, mail in MAIL.items()},
}
"""kind → what the table may say of it."""
