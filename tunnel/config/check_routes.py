"""Rules on routes: sides and links, what a pattern can do, addresses bound twice; likely mistakes are warnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tunnel.config import check_spooled, check_stream
from tunnel.config.addresses import opened
from tunnel.config.check_ends import check_end
from tunnel.config.checking import Checking
from tunnel.config.model import Route
from tunnel.config.nodes import Path
from tunnel.config.plan import Where
from tunnel.config.table import APPLICATIONS, sides_of
from tunnel.config.values import Tcp, listing, tcp

_LINK: Final = "the link"
WHERE: tuple[Where, Where] = ("from", "to")


def check(c: Checking) -> None:
    for name, part in c.draft.routes.items():
        if part is None:
            continue
        route, path, broken = part.value, ("routes", name), part.broken
        _sides(c, route, path)
        _pattern(c, route, path, broken)
        for where in WHERE:
            if not route.ends(where) and where not in broken:
                c.tell((*path, where), "this list of ends is empty.")
            for index, end in enumerate(route.ends(where)):
                check_end(c, route, where, end, (*path, where, index), broken)
    _bound_twice(c)
    _likely_mistakes(c)


def _sides(c: Checking, route: Route, path: Path) -> None:
    known: dict[Where, list[str]] = {"from": [], "to": []}
    for where in WHERE:
        for index, side in enumerate(sides_of(route, where)):
            place: Path = (*path, where, index, "side")
            if not c.side(side, place):
                continue
            if side in known[where]:
                c.tell(
                    (*path, where, index), f"{side} is here twice; one end has several endpoints, separated by spaces."
                )
            elif where == "to" and side in known["from"]:
                c.tell(
                    (*path, where, index),
                    f"{side} is at both ends; a route crosses the link, so its ends are at different sides.",
                )
            else:
                known[where].append(side)
    if c.unsure("links") or any(p is not None and {"listen", "dial"} & p.broken for p in c.draft.links):
        return
    reached = {side for pair in c.linked for side in pair}
    for one in known["from"]:
        for other in known["to"]:
            if one in reached and other in reached and frozenset((one, other)) not in c.linked:
                c.tell(path, f"no link joins {one} and {other}; messages are not passed on by a third side.", key=True)


def _pattern(c: Checking, route: Route, path: Path, broken: frozenset[str]) -> None:
    pattern = route.pattern
    unsaid = route.max_age is None and c.defaults.max_age is None and "max_age" not in broken
    if pattern in ("reqrep", "pair") and unsaid and "defaults" not in c.draft.head.broken:
        what = "a request" if pattern == "reqrep" else "a message"
        sentence = f"'max_age:' is missing; say how old {what} may be before nobody wants it any more: 5s, or never."
        c.tell(path, sentence, key=True)
    if pattern is None:
        return
    for key in ("topics", "subscribe"):
        if getattr(route, key) is not None and pattern != "pubsub":
            c.tell((*path, key), f"{key}: is for pubsub routes; {pattern} has no topics.", key=True)
    check_stream.check_route(c, route, path)
    check_spooled.check_route(c, route, path, broken)
    if pattern == "reqrep" and c.settings(route).overflow == "keep-latest":
        place: Path = (*path, "overflow") if route.overflow else ("defaults", "overflow")
        c.tell(
            place,
            "keep-latest would drop requests of other clients; a reqrep route has block, drop-newest or drop-oldest.",
        )
    if pattern == "pair":
        _pair(c, route, path)
    if route.topics is not None and pattern == "pubsub":
        _topics(c, route, path)


def _pair(c: Checking, route: Route, path: Path) -> None:
    for where in WHERE:
        ends = route.ends(where)
        if len(ends) > 1:
            c.tell((*path, where), "a PAIR has exactly one partner, so a pair route has one side at each end.")
        elif ends and len(ends[0].bind) + len(ends[0].connect) > 1:
            c.tell((*path, where), "a PAIR has exactly one partner, so an end of a pair route has one endpoint.")


def _topics(c: Checking, route: Route, path: Path) -> None:
    assert route.topics is not None
    if not route.topics.allow:
        c.tell(
            (*path, "topics", "allow"),
            "no topic is allowed, so nothing would ever cross; leave allow: out for all topics.",
        )
    for index, allowed in enumerate(route.topics.allow):
        if any(allowed.startswith(denied) for denied in route.topics.deny):
            c.tell(
                (*path, "topics", "allow", index), "deny: covers this whole prefix, so nothing of it would ever cross."
            )


# --- one address, one owner ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bind:
    side: str
    address: str
    owner: str
    path: Path


def _bound_twice(c: Checking) -> None:
    near: dict[tuple[str, object], list[_Bind]] = {}
    for bind in _all_binds(c):
        if bind.address == "local":
            continue
        place = opened(bind.address)
        of_tcp = place.startswith("tcp://")
        earlier_ones = near.setdefault((bind.side, tcp(place).port if of_tcp else place), [])
        for earlier in earlier_ones:
            if not _shared(bind, earlier) and (not of_tcp or _clash(tcp(place), tcp(opened(earlier.address)))):
                c.tell(
                    bind.path,
                    f"{bind.side} binds {earlier.address} already for {earlier.owner} ({c.where(earlier.path)}); "
                    "take another port or path.",
                )
                break
        earlier_ones.append(bind)


def _shared(one: _Bind, other: _Bind) -> bool:
    """An end's own endpoints are compared elsewhere; links may listen at one address together."""
    return one.owner == other.owner and (one.owner != _LINK or one.address == other.address)


def _clash(one: Tcp, other: Tcp) -> bool:
    """Whether two addresses with one port cannot both be bound."""
    if one.host == other.host or one.wildcard or other.wildcard:
        return True
    return one.address is not None and one.address == other.address


def _all_binds(c: Checking) -> list[_Bind]:
    found = [
        _Bind(part.value.listen.side, str(part.value.listen.address), _LINK, ("links", index, "listen"))
        for index, part in enumerate(c.draft.links)
        if part is not None and part.value.listen is not None and part.value.listen.address is not None
    ]
    for name, route in c.draft.routes.items():
        if route is None:
            continue
        for where in WHERE:
            for place, end in enumerate(route.value.ends(where)):
                for number, address in enumerate(end.bind):
                    path: Path = ("routes", name, where, place, "bind", number)
                    found.append(_Bind(end.side, address, f"the route {name}", path))
    return found


# --- likely mistakes -------------------------------------------------------------------------------------------------


def _likely_mistakes(c: Checking) -> None:
    """Two routes that connect to one endpoint with different sockets, or to what this side itself binds."""
    binds = {(bind.side, opened(bind.address)): bind for bind in _all_binds(c)}
    first: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for name, part in c.draft.routes.items():
        if part is None or part.value.pattern is None:
            continue
        for number, where in enumerate(WHERE):
            wanted = APPLICATIONS[part.value.pattern][number]
            for place, end in enumerate(part.value.ends(where)):
                for index, address in enumerate(end.connect):
                    path: Path = ("routes", name, where, place, "connect", index)
                    if bind := binds.get((end.side, opened(address))):
                        c.warn(path, f"{end.side} connects here to {address}, which it binds itself for {bind.owner}.")
                    if part.value.pattern == "stream":  # whatever is there may be reached this way too
                        continue
                    other, fit = first.setdefault((end.side, address), (name, wanted))
                    if not set(fit) & set(wanted):
                        c.warn(
                            path,
                            f"{other} expects {listing(fit)} applications at {address}, this route {listing(wanted)}; "
                            "no application is both.",
                        )
