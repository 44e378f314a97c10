"""Rules on bridges: side, route and socket must fit; then each is refused by its kind, because no kind is there yet."""

from __future__ import annotations

from tunnel.config.checking import Checking
from tunnel.config.model import LATER_KINDS, Bridge
from tunnel.config.nodes import Path
from tunnel.config.table import APPLICATIONS, sides_of
from tunnel.config.values import listing, suggest, those_there_are


def check(c: Checking) -> None:
    for name, part in c.draft.bridges.items():
        if part is None:
            continue
        path: Path = ("bridges", name)
        bridge = part.value
        side_known = bridge.side is not None and c.side(bridge.side, (*path, "side"))
        if bridge.zmq is not None and bridge.zmq.route is not None:
            _route(c, bridge, path, side_known)
        if bridge.kind in LATER_KINDS:
            c.tell((*path, "kind"), f"{bridge.kind} bridges are not in this version yet; {LATER_KINDS[bridge.kind]}.")
        elif bridge.kind is not None:
            known = f" There will be {listing(LATER_KINDS, 'and')}."
            c.tell(
                (*path, "kind"), f"{bridge.kind!r} is no kind of bridge.{suggest(bridge.kind, LATER_KINDS) or known}"
            )


def _route(c: Checking, bridge: Bridge, path: Path, side_known: bool) -> None:
    name = str(bridge.zmq.route)
    if name not in c.draft.routes:
        if not c.unsure("routes"):
            hint = suggest(name, c.draft.routes) or those_there_are(c.draft.routes)
            c.tell((*path, "zmq"), f"{name!r} is no route of this table.{hint}")
        return
    part = c.draft.routes[name]
    if part is None or not side_known:
        return
    route = part.value
    for number, where in enumerate(("from", "to")):
        sides = sides_of(route, "from" if where == "from" else "to")
        if bridge.side not in sides:
            continue
        if route.ends(where)[sides.index(bridge.side)].connect:
            c.tell(
                (*path, "zmq"),
                f"the end of {name} at {bridge.side} connects, so there is nothing to connect to; let it 'bind local'.",
            )
        if route.pattern is not None and bridge.zmq.socket not in APPLICATIONS[route.pattern][number]:
            fit = listing(APPLICATIONS[route.pattern][number])
            c.tell(
                (*path, "zmq"),
                f"a {bridge.zmq.socket} cannot talk to {name} at {bridge.side}: "
                f"its '{where}' end of {route.pattern} wants {fit}.",
            )
        return
    if not {"from", "to"} & part.broken:
        c.tell((*path, "zmq"), f"the route {name} has no end at {bridge.side}.")
