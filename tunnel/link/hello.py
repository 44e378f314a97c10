"""What two halves tell each other before anything flows: HELLO, WELCOME and OPENED as values (docs/protocol.md).

The peer is authenticated by then, but not trusted: every field is checked. `agree` decides route by route whether the
two tables mean the same thing, and says in a sentence why not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunnel.errors import RemoteProtocolError
from tunnel.limits import ROUTES
from tunnel.link.wire import PROTOCOL, VERSION

Numbers = tuple[int, int]
"""(received, delivered): the newest batch that was accepted, and the newest that reached the local socket."""
Units = tuple[str, int]
"""(spool, unit): of a spooled channel, which disk it takes from, and the newest unit that came completely."""


@dataclass(frozen=True, slots=True)
class Announced:
    """One route as one end sees it. `number` is what that end calls its channel on the wire; sizes in bytes."""

    name: str
    pattern: str
    from_sides: tuple[str, ...]
    to_sides: tuple[str, ...]
    delivery: str
    number: int
    window_bytes: int
    max_message_bytes: int
    numbers: Numbers = (0, 0)
    peer_number: int = 0
    """The reader's channel that `numbers` speak of: a route that was taken away and came again has another."""
    spool: str = ""
    """A spooled route: the sender's own spool; from the receiver the one that it knows ..."""
    unit: int = 0
    """... and the newest unit of it that came completely."""


@dataclass(frozen=True, slots=True)
class Hello:
    """HELLO, or WELCOME when `nonce` is there. `peer_session` is the session of the reader that `numbers` speak of."""

    side: str
    session: bytes
    attempt: int
    peer_session: bytes
    clock_us: int
    routes: tuple[Announced, ...]
    nonce: bytes = b""
    resume: bool = False
    protocol: str = PROTOCOL
    version: int = VERSION

    def fields(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "protocol": self.protocol,
            "version": self.version,
            "side": self.side,
            "session": self.session.hex(),
            "attempt": self.attempt,
            "peer_session": self.peer_session.hex(),
            "clock_us": self.clock_us,
            "nonce": self.nonce.hex(),
            "resume": self.resume,
            "routes": [
                {
                    "name": route.name,
                    "pattern": route.pattern,
                    "from": list(route.from_sides),
                    "to": list(route.to_sides),
                    "delivery": route.delivery,
                    "number": route.number,
                    "window": route.window_bytes,
                    "max_message": route.max_message_bytes,
                    "received": route.numbers[0],
                    "delivered": route.numbers[1],
                    "peer_number": route.peer_number,
                    **({"spool": route.spool, "unit": route.unit} if route.delivery == "spooled" else {}),
                }
                for route in self.routes
            ],
        }


class _Fields:
    """Typed access to a peer's JSON object."""

    def __init__(self, fields: Mapping[str, Any], what: str) -> None:
        self._fields = fields
        self._what = what

    def _bad(self, key: str) -> RemoteProtocolError:
        return RemoteProtocolError("hello", f"the peer's {self._what} has no usable {key!r}")

    def text(self, key: str) -> str:
        value = self._fields.get(key)
        if not isinstance(value, str) or len(value) > 1024 or not value.isprintable():
            raise self._bad(key)
        return value

    def number(self, key: str, most: int = 2**63) -> int:
        value = self._fields.get(key)
        if type(value) is not int or not 0 <= value < most:
            raise self._bad(key)
        return value

    def token(self, key: str, *lengths: int) -> bytes:
        try:
            value = bytes.fromhex(self.text(key))
        except ValueError:
            raise self._bad(key) from None
        if len(value) not in lengths:
            raise self._bad(key)
        return value

    def names(self, key: str) -> tuple[str, ...]:
        value = self._fields.get(key)
        if not isinstance(value, list) or len(value) > ROUTES:
            raise self._bad(key)
        if not all(isinstance(name, str) and len(name) <= 1024 and name.isprintable() for name in value):
            raise self._bad(key)
        return tuple(value)

    def objects(self, key: str) -> list[dict[str, Any]]:
        value = self._fields.get(key)
        if not isinstance(value, list) or len(value) > ROUTES or not all(isinstance(item, dict) for item in value):
            raise self._bad(key)
        return value

    def flag(self, key: str) -> bool:
        return self._fields.get(key) is True


def parse_hello(raw: Mapping[str, Any]) -> Hello:
    """A peer's HELLO or WELCOME. Another protocol or version is refused by name, before anything else is read."""
    fields = _Fields(raw, "greeting")
    protocol, version = fields.text("protocol"), fields.number("version")
    if (protocol, version) != (PROTOCOL, VERSION):
        raise RemoteProtocolError(
            "version",
            f"the peer speaks {protocol!r} version {version} and this half {PROTOCOL!r} version {VERSION}; "
            "install the same release on both boxes",
        )
    return Hello(
        side=fields.text("side"),
        session=fields.token("session", 16),
        attempt=fields.number("attempt"),
        peer_session=fields.token("peer_session", 0, 16),
        clock_us=fields.number("clock_us"),
        nonce=fields.token("nonce", 0, 16),
        resume=fields.flag("resume"),
        routes=tuple(_parse_route(item) for item in fields.objects("routes")),
    )


def _parse_route(raw: Mapping[str, Any]) -> Announced:
    fields = _Fields(raw, "route")
    received, delivered = fields.number("received"), fields.number("delivered")
    spooled = fields.text("delivery") == "spooled"
    return Announced(
        name=fields.text("name"),
        pattern=fields.text("pattern"),
        from_sides=fields.names("from"),
        to_sides=fields.names("to"),
        delivery=fields.text("delivery"),
        number=fields.number("number", 2**32),
        window_bytes=fields.number("window"),
        max_message_bytes=fields.number("max_message"),
        numbers=(received, delivered),
        peer_number=fields.number("peer_number", 2**32),
        spool=fields.text("spool") if spooled else "",
        unit=fields.number("unit") if spooled else 0,
    )


def encode_numbers(numbers: Mapping[str, Numbers]) -> dict[str, Any]:
    """OPENED: what the listener has at the very moment it switched over, per route name."""
    return {"numbers": {name: list(pair) for name, pair in numbers.items()}}


def parse_numbers(raw: Mapping[str, Any]) -> dict[str, Numbers]:
    table = raw.get("numbers")
    if not isinstance(table, dict) or len(table) > ROUTES:
        raise RemoteProtocolError("hello", "the peer's OPENED has no usable 'numbers'")
    numbers: dict[str, Numbers] = {}
    for name, pair in table.items():  # a JSON object's keys are text
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int and 0 <= n < 2**63 for n in pair):
            raise RemoteProtocolError("hello", "the peer's OPENED has no usable 'numbers'")
        numbers[name] = (pair[0], pair[1])
    return numbers


def disagreement(ours: Announced, theirs: Announced, our_side: str, their_side: str) -> str | None:
    """Why the two ends do not mean the same route, in a sentence; None when they do."""
    differences = [
        (what, mine, other)
        for what, mine, other in (
            ("pattern", ours.pattern, theirs.pattern),
            ("from", ", ".join(ours.from_sides), ", ".join(theirs.from_sides)),
            ("to", ", ".join(ours.to_sides), ", ".join(theirs.to_sides)),
            ("delivery", ours.delivery, theirs.delivery),
        )
        if mine != other
    ]
    if not differences:
        return None
    said = "; ".join(f"{what} is {mine} at {our_side} and {other} at {their_side}" for what, mine, other in differences)
    return f"the two tables differ: {said}; make them the same and reload"
