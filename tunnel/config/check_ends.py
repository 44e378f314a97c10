"""Rules on one end of a route: what belongs to a bind and what to a connect, CURVE and PLAIN, nothing open unsaid."""

from __future__ import annotations

from collections.abc import Sequence

from tunnel.config import check_stream
from tunnel.config.addresses import opened
from tunnel.config.checking import Checking
from tunnel.config.model import End, Route
from tunnel.config.nodes import Path
from tunnel.config.plan import Where
from tunnel.config.table import open_binds


def check_end(c: Checking, route: Route, where: Where, end: End, path: Path, broken: frozenset[str]) -> None:
    if end.bare:
        for key in sorted(end.model_fields_set - {"side"}):
            c.tell((*path, key), f"{key}: needs an endpoint beside it; say bind: or connect:.", key=True)
        return
    _endpoints(c, end, path)
    _only_where_it_counts(c, route, where, end, path)
    if route.pattern is not None:
        check_stream.check_end(c, route, where, end, path)
    if route.pattern != "stream":
        _security(c, end, path)
    if open_binds(end) and not end.curve and not end.plain:
        _open(c, route, end, path, broken)


def _endpoints(c: Checking, end: End, path: Path) -> None:
    seen: set[str] = set()
    for method in ("bind", "connect"):
        for index, endpoint in enumerate(getattr(end, method)):
            if opened(endpoint) in seen:
                c.tell((*path, method, index), f"{endpoint} is here twice.")
            seen.add(opened(endpoint))


def _only_where_it_counts(c: Checking, route: Route, where: Where, end: End, path: Path) -> None:
    ipc = any(opened(bind).startswith("ipc://") for bind in end.bind)
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
        for user in plain.users:
            if not 1 <= len(user.encode()) <= 255:
                c.tell((*path, "plain", "users", user), "a user's name has 1 to 255 bytes.", key=True)
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
    elif plain.username is not None and not 1 <= len(plain.username.encode()) <= 255:
        c.tell((*path, "plain", "username"), "a user's name has 1 to 255 bytes.")
    elif plain.username is None or plain.password is None:
        c.tell((*path, "plain"), "an end that connects needs username: and password: here.", key=True)


def _open(c: Checking, route: Route, end: End, path: Path, broken: frozenset[str]) -> None:
    allow = next((allow for allow in (end.allow, route.allow, c.defaults.allow) if allow is not None), None)
    if allow is None and ("allow" in broken or "defaults" in c.draft.head.broken):
        return
    said_at: Path = (*path, "allow") if end.allow is not None else (path[0], path[1], "allow")
    tell_open(c, open_binds(end)[0], allow, path, said_at)


def tell_open(c: Checking, address: str, allow: Sequence[object] | None, path: Path, said_at: Path) -> None:
    """Nothing is open beyond this box unless the table says to whom. `said_at`: where `allow` stands."""
    if allow is None:
        c.tell(
            path,
            f"{address} can be reached from beyond this box, and nothing says by whom; "
            "add allow: with networks such as 192.0.2.0/24, or allow: any.",
        )
    elif not allow:
        c.tell(said_at, "this list is empty; name networks, or say any.")
