"""A table that was read and found right, with where each value stands; and the questions that everybody asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from tunnel.config.addresses import is_open
from tunnel.config.fields import NEVER
from tunnel.config.load import Tree
from tunnel.config.model import Defaults, End, Link, Route, TableModel
from tunnel.config.plan import Allow, Delivery, Overflow, Pattern, Priority, Socket, Where
from tunnel.config.values import networks_of
from tunnel.errors import Problem
from tunnel.limits import MAX_MESSAGE_BYTES, SPOOL_BYTES, SPOOL_EXPIRE_S, WINDOW_BYTES

T = TypeVar("T")
SOCKETS: Final[Mapping[Pattern, tuple[Socket, Socket]]] = {
    "reqrep": ("ROUTER", "DEALER"),
    "pubsub": ("XSUB", "XPUB"),
    "pipeline": ("PULL", "PUSH"),
    "pair": ("PAIR", "PAIR"),
    "stream": ("TCP", "TCP"),
}
"""pattern → our socket at `from` and at `to`."""
APPLICATIONS: Final[Mapping[Pattern, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "reqrep": (("REQ", "DEALER"), ("REP", "DEALER", "ROUTER")),
    "pubsub": (("PUB", "XPUB"), ("SUB", "XSUB")),
    "pipeline": (("PUSH",), ("PULL",)),
    "pair": (("PAIR",), ("PAIR",)),
    "stream": (("any TCP client",), ("any TCP server",)),
}
"""pattern → the sockets that applications use at `from` and at `to`."""


@dataclass(frozen=True, slots=True)
class SideKey:
    """One public key of a side, and the file that it came from."""

    public: str
    file: Path | None = None


@dataclass(frozen=True)
class Table:
    """A checked table. `load_table` is the only way to one."""

    path: Path
    name: str
    model: TableModel
    keys: dict[str, tuple[SideKey, ...]]
    warnings: tuple[Problem, ...] = ()
    tree: Tree = field(repr=False, compare=False, kw_only=True)

    @property
    def sides(self) -> tuple[str, ...]:
        return tuple(self.model.sides)

    @property
    def routes(self) -> dict[str, Route]:
        return self.model.routes

    @property
    def links(self) -> tuple[Link, ...]:
        return self.model.links

    def settings(self, route: str) -> Settings:
        return settle(self.model.routes[route], self.model.defaults)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a route says, or the defaults say for it."""

    delivery: Delivery
    overflow: Overflow
    window_bytes: int
    priority: Priority
    max_message_bytes: int
    max_age_s: float | None
    """None: never."""
    drop_on_restart: bool
    spool_bytes: int = SPOOL_BYTES
    spool_expire_s: float | None = SPOOL_EXPIRE_S
    """None: never."""


def settle(route: Route, defaults: Defaults) -> Settings:
    if route.pattern == "stream":
        return _settle_stream(route, defaults)
    delivery = route.delivery or defaults.delivery or "confirmed"
    overflow = route.overflow or defaults.overflow or ("drop-oldest" if route.pattern == "pubsub" else "block")
    if delivery == "spooled" and route.overflow is None:
        overflow = "block"  # what defaults say is for routes that can drop
    age = route.max_age or defaults.max_age
    spools = [part for part in (route.spool, defaults.spool) if part is not None]
    expire = _first(part.expire for part in spools) or SPOOL_EXPIRE_S
    restart = route.on_restart or defaults.on_restart or ("drop" if route.pattern == "reqrep" else "resend")
    return Settings(
        delivery=delivery,
        overflow=overflow,
        window_bytes=route.window or defaults.window or WINDOW_BYTES,
        priority=route.priority or defaults.priority or "normal",
        max_message_bytes=route.max_message or defaults.max_message or MAX_MESSAGE_BYTES,
        max_age_s=None if age is None or age == NEVER else age,
        drop_on_restart=restart == "drop",
        spool_bytes=_first(part.max for part in spools) or SPOOL_BYTES,
        spool_expire_s=None if expire == NEVER else expire,
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def _settle_stream(route: Route, defaults: Defaults) -> Settings:
    """Bytes can neither grow old nor be left out: what defaults say about that is not for streams."""
    return Settings(
        delivery="confirmed",
        overflow="block",
        window_bytes=route.window or defaults.window or WINDOW_BYTES,
        priority=route.priority or defaults.priority or "normal",
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_age_s=None,
        drop_on_restart=True,
    )


def open_binds(end: End) -> tuple[str, ...]:
    """The TCP binds of an end that others than this box can reach."""
    return tuple(bind for bind in end.bind if is_open(bind))


def end_allow(end: End, route: Route, defaults: Defaults) -> Allow:
    """Who may connect to what the end binds. What a route or the defaults allow concerns binds beyond loopback only."""
    if end.allow is not None:
        return Allow(*networks_of(end.allow))
    if not open_binds(end):
        return Allow()
    inherited = route.allow if route.allow is not None else defaults.allow
    if inherited is not None:
        return Allow(*networks_of(inherited))
    return Allow(anyone=end.curve is not None or end.plain is not None)


def link_allow(link: Link, defaults: Defaults) -> Allow:
    """Who may dial in."""
    for allow in (link.listen.allow, link.allow):
        if allow is not None:
            return Allow(*networks_of(allow))
    address = link.listen.address
    if address is None or not is_open(address) or defaults.allow is None:
        return Allow()
    return Allow(*networks_of(defaults.allow))


def sides_of(route: Route, where: Where) -> tuple[str, ...]:
    return tuple(end.side for end in route.ends(where))


def dialler_of(links: tuple[Link, ...], one: str, other: str) -> str | None:
    """Which of two sides dials the link between them."""
    for link in links:
        for dial in link.dial:
            if {link.listen.side, dial.side} == {one, other}:
                return dial.side
    return None
