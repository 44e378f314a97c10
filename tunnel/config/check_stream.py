"""Rules on stream routes: what they have that others have not, and what means nothing where bytes cross."""

from __future__ import annotations

from typing import Final

from tunnel.config.checking import Checking
from tunnel.config.model import End, Route
from tunnel.config.nodes import Path
from tunnel.config.plan import Where

ONLY_STREAM: Final = ("connections", "idle", "connect")
_OF_MESSAGES: Final = ("max_message", "max_age", "on_restart")
_OF_SOCKETS: Final = ("hwm", "sndbuf", "heartbeat")


def check_route(c: Checking, route: Route, path: Path) -> None:
    """`route.pattern` is known."""
    if route.pattern != "stream":
        for key in ONLY_STREAM:
            if getattr(route, key) is not None:
                c.tell((*path, key), f"{key}: is for stream routes; {route.pattern} carries messages.", key=True)
        return
    for key in _OF_MESSAGES:
        if getattr(route, key) is not None:
            c.tell((*path, key), f"{key}: is for messages; a stream route carries bytes. Take it out.", key=True)
    if route.delivery not in (None, "confirmed"):
        c.tell((*path, "delivery"), "a stream can leave out no byte, so its delivery is confirmed; take this out.")
    if route.overflow not in (None, "block"):
        c.tell((*path, "overflow"), "a stream can leave out no byte, so its overflow is block; take this out.")


def check_end(c: Checking, route: Route, where: Where, end: End, path: Path) -> None:
    """`route.pattern` is known, `end` has an endpoint."""
    if end.proxy_protocol and (route.pattern, where) != ("stream", "to"):
        c.tell(
            (*path, "proxy_protocol"),
            "proxy_protocol: is for the 'to' end of a stream route, where the target is told who connected.",
            key=True,
        )
    if route.pattern != "stream":
        for method in ("bind", "connect"):
            for index, address in enumerate(getattr(end, method)):
                if address.startswith("unix://"):
                    better = address.replace("unix://", "ipc://", 1)
                    c.tell((*path, method, index), f"0MQ sockets say ipc:// for a unix socket; write {better}.")
        return
    _methods(c, where, end, path)
    for key in _OF_SOCKETS:
        if getattr(end, key) is not None:
            c.tell((*path, key), f"{key}: is for 0MQ sockets; a stream route has none. Take it out.", key=True)
    for key in ("curve", "plain"):
        if getattr(end, key) is not None:
            c.tell(
                (*path, key),
                f"{key}: is for 0MQ sockets; through a stream the applications prove themselves to each other. "
                "Take it out.",
                key=True,
            )


def _methods(c: Checking, where: Where, end: End, path: Path) -> None:
    wrong, right = ("connect", "bind") if where == "from" else ("bind", "connect")
    who = "clients connect to a stream's 'from' end" if where == "from" else "a stream's 'to' end goes to a service"
    if getattr(end, wrong):
        c.tell((*path, wrong), f"{who}, so it has '{right}', not '{wrong}'; or are from: and to: exchanged?")
    for index, address in enumerate(end.bind):
        if where == "from" and address == "local":
            c.tell((*path, "bind", index), "'local' is for bridges, which talk 0MQ; a stream binds tcp:// or ipc://.")
