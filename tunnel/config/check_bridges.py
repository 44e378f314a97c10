"""Rules on bridges: side, route and socket must fit, and what a kind has must make sense together."""

from __future__ import annotations

from typing import Final

from tunnel.config.addresses import is_open
from tunnel.config.bridge_model import KINDS, Tcp, TcpClient, TcpServer
from tunnel.config.check_ends import tell_open
from tunnel.config.checking import Checking
from tunnel.config.mail import MAIL
from tunnel.config.mail.smtp_server import SmtpServer
from tunnel.config.model import Bridge, BridgeSocket
from tunnel.config.nodes import Path
from tunnel.config.table import APPLICATIONS, sides_of
from tunnel.config.values import listing, suggest, those_there_are

SERVER_SOCKETS: Final = ("PUSH", "PUB", "SUB", "PULL", "REQ", "DEALER", "ROUTER")
CLIENT_SOCKETS: Final = ("REP", "PULL", "SUB", "PUB", "PUSH", "DEALER")
ASKING: Final = ("REQ", "DEALER")
"""Sockets of a tcp-server with which a frame is a request."""


def check(c: Checking) -> None:
    for name, part in c.draft.bridges.items():
        if part is None:
            continue
        path: Path = ("bridges", name)
        bridge = part.value
        side_known = bridge.side is not None and c.side(bridge.side, (*path, "side"))
        for said, place in ((bridge.zmq, (*path, "zmq")), *_more_sockets(bridge, path)):
            if said is not None and said.route is not None:
                _route(c, bridge, said, place, side_known)
            if said is not None and said.method == "bind":
                _private(c, said, place)
        if bridge.kind is not None and bridge.kind not in KINDS:
            hint = suggest(bridge.kind, KINDS) or f" There are {listing(KINDS, 'and')}."
            c.tell((*path, "kind"), f"{bridge.kind!r} is no kind of bridge.{hint}")
        elif isinstance(bridge, Tcp):
            _tcp(c, bridge, path, part.broken)
        elif bridge.kind is not None and isinstance(bridge, MAIL[bridge.kind].model):
            MAIL[bridge.kind].check(c, bridge, path, part.broken)


def _more_sockets(bridge: Bridge, path: Path) -> list[tuple[BridgeSocket, Path]]:
    """0MQ sockets beside `zmq:`, with their places: those of an smtp-server's rules."""
    rules = bridge.recipients if isinstance(bridge, SmtpServer) else {}
    return [(rule.zmq, (*path, "recipients", name, "zmq")) for name, rule in rules.items() if rule.zmq is not None]


def _private(c: Checking, said: BridgeSocket, path: Path) -> None:
    for address in said.endpoints:
        if is_open(address):
            c.tell(
                path,
                f"{address} could be reached from beyond this box, and a bridge asks nobody who they are; "
                "let a route bind it, or bind 127.0.0.1 or ipc://.",
            )


def _route(c: Checking, bridge: Bridge, said: BridgeSocket, path: Path, side_known: bool) -> None:
    """A socket and the route that it connects to; `path` is where it stands."""
    name = str(said.route)
    if name not in c.draft.routes:
        if not c.unsure("routes"):
            hint = suggest(name, c.draft.routes) or those_there_are(c.draft.routes)
            c.tell(path, f"{name!r} is no route of this table.{hint}")
        return
    part = c.draft.routes[name]
    if part is None or not side_known:
        return
    route = part.value
    for number, where in enumerate(("from", "to")):
        sides = sides_of(route, "from" if where == "from" else "to")
        if bridge.side not in sides:
            continue
        end = route.ends(where)[sides.index(bridge.side)]
        if end.connect:
            c.tell(
                path,
                f"the end of {name} at {bridge.side} connects, so there is nothing to connect to; let it 'bind local'.",
            )
        elif end.bind and "local" not in end.bind:
            c.tell(
                path,
                f"the end of {name} at {bridge.side} has no private socket; let it 'bind local {' '.join(end.bind)}'.",
            )
        if route.pattern is not None and said.socket not in APPLICATIONS[route.pattern][number]:
            fit = listing(APPLICATIONS[route.pattern][number])
            c.tell(
                path,
                f"a {said.socket} cannot talk to {name} at {bridge.side}: "
                f"its '{where}' end of {route.pattern} wants {fit}.",
            )
        return
    if not {"from", "to"} & part.broken:
        c.tell(path, f"the route {name} has no end at {bridge.side}.")


def _tcp(c: Checking, bridge: Tcp, path: Path, broken: frozenset[str]) -> None:
    socket = bridge.zmq.socket if bridge.zmq is not None else None
    known = SERVER_SOCKETS if isinstance(bridge, TcpServer) else CLIENT_SOCKETS
    if socket is not None and socket not in known:
        c.tell((*path, "zmq"), f"a {bridge.kind} has no {socket}; its sockets are {listing(known)}.")
        return
    for key in ("topic", "topic_until"):
        if getattr(bridge, key) is not None and socket not in ("PUB", None):
            c.tell((*path, key), f"{key}: is for a PUB, whose messages have topics; this is a {socket}.", key=True)
    if bridge.topic is not None and bridge.topic_until is not None:
        c.tell((*path, "topic_until"), "topic: gives every message one topic already; take one out.", key=True)
    if "subscribe" in bridge.model_fields_set and socket not in ("SUB", None):
        c.tell((*path, "subscribe"), f"subscribe: is for a SUB; this is a {socket}.", key=True)
    if bridge.meta and socket in ("SUB", "PULL", "REP"):
        c.tell((*path, "meta"), f"meta: goes before frames that become messages; those of a {socket} do not.", key=True)
    if bridge.tls is not None and bridge.tls.pin:
        c.tell((*path, "tls", "pin"), "pin: is for links; a bridge trusts ca:, or the system's authorities.", key=True)
    if isinstance(bridge, TcpServer):
        _server(c, bridge, path, broken, socket)
    elif isinstance(bridge, TcpClient):
        _client(c, bridge, path, broken, socket)


def _server(c: Checking, bridge: TcpServer, path: Path, broken: frozenset[str], socket: str | None) -> None:
    if not bridge.listen and "listen" not in broken:
        c.tell((*path, "listen"), "this list is empty; name the address that devices dial.")
    if "local" in bridge.listen:
        c.tell((*path, "listen"), "'local' is for 0MQ; devices dial tcp:// (or ipc://).")
    allow = bridge.allow if bridge.allow is not None else c.defaults.allow
    opened = next((address for address in bridge.listen if is_open(address)), None)
    if opened is not None and not {"allow", "listen"} & broken and "defaults" not in c.draft.head.broken:
        tell_open(c, opened, allow, (*path, "listen"), (*path, "allow"))
    asking = socket in ASKING
    for key in ("timeout", "timeout_reply", "pipeline"):
        if key in bridge.model_fields_set and not asking and socket is not None:
            c.tell((*path, key), f"{key}: is for a REQ or DEALER, where frames are requests.", key=True)
    if bridge.accept != "queued" and not asking and socket is not None:
        c.tell((*path, "accept"), f"only a REQ or DEALER hears that a frame was taken; a {socket} has accept: queued.")
    if bridge.accept != "queued" and bridge.ack is None and "ack" not in broken:
        c.tell((*path, "accept"), "'ack:' is missing: what the device is told when its frame was taken.")
    if bridge.spool is not None and bridge.accept != "spooled":
        c.tell((*path, "spool"), "spool: is for accept: spooled.", key=True)
    if bridge.ack is not None and asking and bridge.accept == "queued":
        c.tell((*path, "ack"), "with a REQ or DEALER the reply goes back; say accept: acked to send this instead.")
    if bridge.ack is not None and socket in ("SUB", "PULL", "ROUTER"):
        c.tell((*path, "ack"), f"ack: is for frames that are handed on; a {socket} does not tell by itself.", key=True)
    if bridge.nak is not None and bridge.accept != "acked":
        c.tell((*path, "nak"), "nak: is for accept: acked.", key=True)
    if bridge.to is not None and socket not in ("SUB", "PULL", None):
        c.tell((*path, "to"), f"to: is for a SUB or PULL, whose messages go to devices; this is a {socket}.", key=True)
    if bridge.takeover is not None and bridge.per_address is None:
        c.tell((*path, "takeover"), "takeover: needs per_address:, the limit at which it takes place.", key=True)
    if bridge.tls is not None and (bridge.tls.cert is None or bridge.tls.key is None):
        c.tell((*path, "tls"), "a server needs cert: and key: here.", key=True)


def _client(c: Checking, bridge: TcpClient, path: Path, broken: frozenset[str], socket: str | None) -> None:
    if not bridge.connect and "connect" not in broken:
        c.tell((*path, "connect"), "this list is empty; name the address of the server.")
    for key in ("timeout", "timeout_reply", "pipeline", "correlate"):
        if key in bridge.model_fields_set and socket not in ("REP", None):
            c.tell((*path, key), f"{key}: is for a REP, whose requests are answered by the server.", key=True)
    if bridge.tls is not None and (bridge.tls.cert is None) != (bridge.tls.key is None):
        c.tell((*path, "tls"), "cert: and key: of our own go together.", key=True)
    if bridge.tls is not None and bridge.connect and all(address.startswith("ipc://") for address in bridge.connect):
        c.tell((*path, "tls"), "tls: is for tcp://; a server at a unix socket is on this box.", key=True)
