"""Rules on routes: sides and links, what a pattern can do, what an end may say, open binds, addresses bound twice."""

from __future__ import annotations

from dataclasses import dataclass

from tunnel.config.checking import Checking
from tunnel.config.model import End, Route
from tunnel.config.nodes import Path
from tunnel.config.plan import Where
from tunnel.config.table import open_binds, sides_of
from tunnel.config.values import tcp

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
                _end(c, route, where, end, (*path, where, index), broken)
    _bound_twice(c)


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


# --- ends ------------------------------------------------------------------------------------------------------------


def _end(c: Checking, route: Route, where: Where, end: End, path: Path, broken: frozenset[str]) -> None:
    if end.bare:
        for key in sorted(end.model_fields_set - {"side"}):
            c.tell((*path, key), f"{key}: needs an endpoint beside it; say bind: or connect:.", key=True)
        return
    _endpoints(c, end, path)
    _only_where_it_counts(c, route, where, end, path)
    _security(c, end, path)
    if open_binds(end) and not end.curve and not end.plain:
        _open(c, route, end, path, broken)


def _endpoints(c: Checking, end: End, path: Path) -> None:
    seen: set[str] = set()
    for method in ("bind", "connect"):
        for index, endpoint in enumerate(getattr(end, method)):
            if endpoint in seen:
                c.tell((*path, method, index), f"{endpoint} is here twice.")
            seen.add(endpoint)


def _only_where_it_counts(c: Checking, route: Route, where: Where, end: End, path: Path) -> None:
    ipc = any(bind.startswith("ipc://") for bind in end.bind)
    for key in ("mode", "group"):
        if getattr(end, key) is not None and not ipc:
            c.tell((*path, key), f"{key}: is for ends that bind ipc:// endpoints.", key=True)
    if end.allow is not None and not any(bind.startswith("tcp://") for bind in end.bind):
        c.tell((*path, "allow"), "allow: is for ends that bind tcp:// endpoints; this one binds none.", key=True)
    if route.pattern is None:
        return
    if end.routing_id is not None and (route.pattern, where) != ("reqrep", "to"):
        c.tell(
            (*path, "routing_id"), "routing_id: is for the 'to' end of a reqrep route, where services see it.", key=True
        )
    if end.handover and (route.pattern, where) != ("reqrep", "from"):
        c.tell(
            (*path, "handover"), "handover: is for the 'from' end of a reqrep route, where clients have ids.", key=True
        )


def _security(c: Checking, end: End, path: Path) -> None:
    if end.curve is None and end.plain is None:
        return
    word = "curve" if end.curve else "plain"
    if end.curve and end.plain:
        c.tell((*path, "plain"), "an end has CURVE or PLAIN, not both; take one out.", key=True)
    if end.bind and end.connect:
        c.tell(
            (*path, word),
            f"with {word}: an end binds or connects, not both: a socket is the server or the client.",
            key=True,
        )
        return
    if end.curve:
        if end.connect and end.curve.server is None:
            c.tell(
                (*path, "curve"),
                "'server:' is missing here: the public certificate of the server that we connect to.",
                key=True,
            )
        if end.connect and end.curve.clients is not None:
            c.tell(
                (*path, "curve", "clients"),
                "clients: is for ends that bind; this one connects, and needs server:.",
                key=True,
            )
        if end.bind and end.curve.server is not None:
            c.tell(
                (*path, "curve", "server"),
                "server: is for ends that connect; this one binds, and may have clients:.",
                key=True,
            )
    if end.plain:
        _plain(c, end, path)


def _plain(c: Checking, end: End, path: Path) -> None:
    plain = end.plain
    assert plain is not None
    if end.bind:
        if not plain.users:
            c.tell((*path, "plain"), "'users:' is missing here: the names let in, each with its password.", key=True)
        for key in ("username", "password"):
            if getattr(plain, key) is not None:
                c.tell(
                    (*path, "plain", key), f"{key}: is for ends that connect; this one binds, and has users:.", key=True
                )
        return
    if plain.users:
        c.tell(
            (*path, "plain", "users"),
            "users: is for ends that bind; this one connects, and has username: and password:.",
            key=True,
        )
    elif plain.username is None or plain.password is None:
        c.tell((*path, "plain"), "an end that connects needs username: and password: here.", key=True)


def _open(c: Checking, route: Route, end: End, path: Path, broken: frozenset[str]) -> None:
    allow = next((allow for allow in (end.allow, route.allow, c.defaults.allow) if allow is not None), None)
    if allow is None:
        if "allow" in broken or "defaults" in c.draft.head.broken:
            return
        c.tell(
            path,
            f"{open_binds(end)[0]} can be reached from beyond this box, and nothing says by whom; "
            "add allow: with networks such as 192.0.2.0/24, or allow: any.",
        )
    elif not allow:
        c.tell(
            (*path, "allow") if end.allow is not None else (path[0], path[1], "allow"),
            "this list is empty; name networks, or say any.",
        )


# --- one address, one owner ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bind:
    side: str
    address: str
    owner: str
    path: Path


def _bound_twice(c: Checking) -> None:
    binds = _all_binds(c)
    for index, bind in enumerate(binds):
        for earlier in binds[:index]:
            if bind.side == earlier.side and bind.owner != earlier.owner and _clash(bind.address, earlier.address):
                where = c.where(earlier.path)
                c.tell(
                    bind.path,
                    f"{bind.side} binds {earlier.address} already for {earlier.owner} ({where}); "
                    "take another port or path.",
                )
                break


def _all_binds(c: Checking) -> list[_Bind]:
    found = [
        _Bind(part.value.listen.side, str(part.value.listen.address), "the link", ("links", index, "listen"))
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


def _clash(one: str, other: str) -> bool:
    if one == "local" or other == "local":
        return False
    if one.startswith("ipc://") or other.startswith("ipc://"):
        return one == other
    a, b = tcp(one), tcp(other)
    if a.port != b.port:
        return False
    return a.host == b.host or (a.address is not None and a.address == b.address) or a.wildcard or b.wildcard
