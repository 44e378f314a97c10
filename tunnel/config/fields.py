"""The types of a table's values, for pydantic: each reads one small language (`values.py`) and knows its JSON schema.

What is wrong with a value is raised as ValueError with a sentence; `read.py` tells it at its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from tunnel.config import addresses, values
from tunnel.config.plan import Delivery, Network, Overflow, Pattern, Priority
from tunnel.config.values import Method, listing, suggest

T = TypeVar("T")
NEVER: Final = float("inf")
"""`max_age: never`."""


class Expanded(str):
    """Text that a `${VARIABLE}` took part in; number fields accept it."""

    __slots__ = ()


class Within(ValueError):
    """What is wrong lies at this key of the value."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


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


def whole(value: object) -> object:
    """A number that a `${VARIABLE}` took part in."""
    return int(value) if isinstance(value, Expanded) and value.isdigit() else value


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


def of_text(read: Callable[[str], T]) -> Callable[[object], T]:
    return lambda value: read(_text(value))


def word_of(what: str, choices: tuple[str, ...], later: dict[str, str] | None = None) -> BeforeValidator:
    """One of these words. `later`: words that will come, and what to do until then."""
    return _pick(what, choices, later or {}, {})


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


def _span_or_never(least: float, sentence: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        if value == "never":
            return NEVER
        seconds = values.duration(value)
        if seconds < least:
            raise ValueError(sentence)
        return seconds

    return read


def _span(value: object) -> float:
    seconds = values.duration(value)
    if not 0.1 <= seconds <= 86400:
        raise ValueError("this time is from 100ms to 1d.")
    return seconds


def _idle(value: object) -> float:
    return NEVER if value == "never" else _span(value)


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


STRING: Final = {"type": "string"}
OneOrMore = Annotated[tuple[T, ...], _OneOrMore()]
Text = Annotated[str, PlainValidator(_text), WithJsonSchema(STRING)]
Words = Annotated[str, PlainValidator(of_text(str.strip)), WithJsonSchema(STRING)]
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
SpoolSize = Annotated[
    int,
    PlainValidator(_bounded_size(1 << 20, 1 << 44, "1MiB to 16384GiB")),
    WithJsonSchema({"type": "string", "examples": ["2GiB"]}),
]
Expiry = Annotated[
    float,
    PlainValidator(_span_or_never(1, "expire is at least 1s, or 'never'.")),
    WithJsonSchema({"type": "string", "examples": ["7d", "never"]}),
]
Span = Annotated[float, PlainValidator(_span), WithJsonSchema({"type": "string", "examples": ["5s", "200ms"]})]
Idle = Annotated[float, PlainValidator(_idle), WithJsonSchema({"type": "string", "examples": ["1h", "never"]})]
Age = Annotated[
    float,
    PlainValidator(_span_or_never(0.001, "max_age is at least 1ms, or 'never'.")),
    WithJsonSchema({"type": "string", "examples": ["5s", "never"]}),
]
Hwm = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_number)]
Connections = Annotated[int, Field(ge=1, le=100_000), BeforeValidator(_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Permissions = Annotated[int, PlainValidator(_mode), WithJsonSchema({"type": "string", "examples": ["0660"]})]
AllowItem = Annotated[
    Network | Literal["any"],
    PlainValidator(of_text(values.network)),
    WithJsonSchema({"type": "string", "examples": ["any", "192.0.2.0/24"]}),
]
Allowed = OneOrMore[AllowItem]
Name = Annotated[str, PlainValidator(of_text(values.name)), WithJsonSchema(STRING)]
TopicPrefix = Annotated[bytes, PlainValidator(of_text(values.topic)), WithJsonSchema(STRING)]
RoutingId = Annotated[bytes, PlainValidator(of_text(values.routing_id)), WithJsonSchema(STRING)]


def _endpoint(read: Callable[[str, Method], str], method: Method) -> PlainValidator:
    return PlainValidator(of_text(lambda text: read(text, method)))


_ENDPOINT: Final = WithJsonSchema({"type": "string", "examples": ["tcp://127.0.0.1:5555"]})
BindEndpoint = Annotated[str, _endpoint(values.local_endpoint, "bind"), _ENDPOINT]
ConnectEndpoint = Annotated[str, _endpoint(values.local_endpoint, "connect"), _ENDPOINT]
_ADDRESS: Final = WithJsonSchema(
    {"type": "string", "examples": ["tcp://192.0.2.10:9440", "ssh://user@host/9440", "https://host/link"]}
)
ListenAddress = Annotated[str, _endpoint(addresses.link_address, "bind"), _ADDRESS]
DialAddress = Annotated[str, _endpoint(addresses.link_address, "connect"), _ADDRESS]

PATTERNS: Final = ("reqrep", "pubsub", "pipeline", "pair", "stream")
PatternWord = Annotated[
    Pattern,
    _pick(
        "pattern",
        PATTERNS,
        {},
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
DeliveryWord = Annotated[
    Delivery,
    _pick(
        "delivery",
        ("live", "confirmed", "spooled"),
        {},
        {"at-most-once": "live", "at-least-once": "confirmed", "exactly-once": "confirmed", "durable": "spooled"},
    ),
]
OverflowWord = Annotated[
    Overflow,
    _pick(
        "overflow",
        ("block", "drop-newest", "drop-oldest", "keep-latest"),
        {},
        {"conflate": "keep-latest", "latest": "keep-latest", "drop": "drop-newest", "wait": "block"},
    ),
]
PriorityWord = Annotated[Priority, _pick("priority", ("high", "normal", "bulk"), {}, {"low": "bulk", "urgent": "high"})]
BackendWord = Annotated[
    Literal["paramiko", "openssh"],
    _pick("backend", ("paramiko", "openssh"), {}, {"ssh": "openssh", "system": "openssh", "libssh": "paramiko"}),
]
Pin = Annotated[str, PlainValidator(of_text(addresses.pin)), WithJsonSchema(STRING)]
ProxyUrl = Annotated[
    str,
    PlainValidator(of_text(addresses.proxy_url)),
    WithJsonSchema({"type": "string", "examples": ["http://proxy.example.com:3128", "none"]}),
]
RestartWord = Annotated[Literal["drop", "resend"], _pick("choice for on_restart", ("drop", "resend"), {}, {})]


def _version(value: object) -> object:
    value = _number(value)
    if value != 1 or isinstance(value, bool):
        raise ValueError("this ztunnel reads tables of version 1; write version: 1.")
    return value


Version = Annotated[Literal[1], BeforeValidator(_version)]
