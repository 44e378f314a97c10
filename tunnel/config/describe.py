"""A table in sentences and as a firewall matrix: what a person reads to see whether it says what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from tunnel.config.addresses import WEB, bracketed, opened, scheme, ssh
from tunnel.config.bridge_model import Tcp, TcpClient, TcpServer
from tunnel.config.bridge_parts import allowed
from tunnel.config.mail import MAIL
from tunnel.config.model import Dial, End, Link, Route
from tunnel.config.plan import Allow
from tunnel.config.render import duration_text, size_text
from tunnel.config.table import APPLICATIONS, Settings, Table, dialler_of, end_allow, link_allow, sides_of
from tunnel.config.values import listing


def route_sentence(table: Table, name: str) -> str:
    """`ticks: PUB applications at plant → SUB applications at dmz, confirmed, drop-oldest, dialled by plant`."""
    route = table.routes[name]
    settings = table.settings(name)
    froms, tos = sides_of(route, "from"), sides_of(route, "to")
    dialled = {dialler_of(table.links, one, other) for one in froms for other in tos}
    diallers = [side for side in table.sides if side in dialled]
    dialled_by = f"dialled by {listing(diallers, 'and')}"
    if route.pattern == "stream":
        return f"{name}: {_clients(route)} → {_services(route)}, {dialled_by}"
    near, far = (words[0] for words in APPLICATIONS[route.pattern])
    parts = [
        f"{name}: {near} applications at {listing(froms, 'and')} → {far} applications at {listing(tos, 'and')}",
        settings.delivery if settings.delivery != "spooled" else _spooled(settings),
        settings.overflow,
        *([] if settings.max_age_s is None else [f"at most {duration_text(settings.max_age_s)} old"]),
        dialled_by,
    ]
    return ", ".join(parts)


def _spooled(settings: Settings) -> str:
    """`spooled (up to 2GiB, 7d)`."""
    expire_s = settings.spool_expire_s
    kept = "for ever" if expire_s is None else duration_text(expire_s)
    return f"spooled (up to {size_text(settings.spool_bytes)}, {kept})"


def bridge_sentence(table: Table, name: str) -> str:
    """`scales: devices that dial tcp://10.0.0.1:4001 → PUSH to route weights, framing line, at plant`."""
    bridge = table.model.bridges[name]
    if bridge.kind in MAIL:
        return f"{name}: {MAIL[bridge.kind].sentence(bridge)}, at {bridge.side}"
    if not isinstance(bridge, Tcp):  # a kind that `check` refuses, and nobody describes
        return f"{name}: {bridge.kind} at {bridge.side}"
    parts = [
        f"{name}: {_bridged(bridge)}",
        _framing(bridge),
        *(["TLS"] if bridge.tls is not None else []),
        *([] if not isinstance(bridge, TcpServer) or bridge.ack is None else [_TOLD[bridge.accept]]),
        f"at {bridge.side}",
    ]
    return ", ".join(parts)


_TOLD: Final = {
    "queued": "told when it is handed to 0MQ",
    "acked": "told when it was answered",
    "spooled": "told when it is on disk",
}


def _bridged(bridge: Tcp) -> str:
    """Where messages come from → where they go; the device or server, and the 0MQ socket."""
    said = bridge.zmq
    socket = said.socket
    place = f"route {said.route}" if said.route else listing(said.endpoints, "and")
    sink, source = (
        f"{socket} {'to' if said.route else 'at'} {place}",
        f"{socket} {'of' if said.route else 'at'} {place}",
    )
    if isinstance(bridge, TcpServer):
        devices = f"devices that dial {listing(bridge.listen, 'or')}"
        if socket in ("SUB", "PULL"):
            return f"{source} → {'one of the' if bridge.to == 'one' else 'all'} {devices}"
        if socket in ("REQ", "DEALER"):
            return f"requests of {devices} → {sink}"
        return f"{devices} {'↔' if socket == 'ROUTER' else '→'} {sink}"
    server = f"the server at {listing(bridge.connect)}" if isinstance(bridge, TcpClient) else "?"
    if socket in ("PUSH", "PUB"):
        return f"{server} → {sink}"
    return f"{source} {'↔' if socket == 'DEALER' else '→'} {'requests to ' if socket == 'REP' else ''}{server}"


def _framing(bridge: Tcp) -> str:
    kind = bridge.frame.kind if bridge.frame is not None else "line"
    return f"framing {kind}" + (f" (out: {bridge.frame_out.kind})" if bridge.frame_out is not None else "")


def _clients(route: Route) -> str:
    """`TCP clients at dmz`: who connects to a stream."""
    unix = all(opened(address).startswith("ipc://") for end in route.from_ for address in end.bind)
    bare = any(end.bare for end in route.from_)
    kind = "unix socket clients" if unix and not bare else "TCP clients"
    return f"{kind} at {listing(sides_of(route, 'from'), 'and')}"


def _services(route: Route) -> str:
    """`10.0.0.5:80 at plant`: where a stream's connections end."""
    return listing([f"{_targets(end)} at {end.side}" for end in route.to], "and")


def _targets(end: End) -> str:
    shown = [opened(address).removeprefix("tcp://").removeprefix("ipc://") for address in end.connect]
    return listing(shown) if shown else "a service"


@dataclass(frozen=True, slots=True)
class Opening:
    """An address that a side opens."""

    side: str
    address: str
    purpose: str
    let_in: str
    proven_by: str
    """How those who connect prove who they are; empty: not at all."""


@dataclass(frozen=True, slots=True)
class Call:
    """A connection that a side makes."""

    side: str
    to: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Ports:
    """Who listens where, who dials, who is let in."""

    opens: tuple[Opening, ...]
    calls: tuple[Call, ...]
    untold: tuple[str, ...]
    """Ends that are configured at their own side only."""

    def as_json(self) -> dict[str, Any]:
        return {
            "opens": [asdict(opening) for opening in self.opens],
            "calls": [asdict(call) for call in self.calls],
            "untold": list(self.untold),
        }


def ports(table: Table) -> Ports:
    """The firewall matrix of a table."""
    opens, calls, untold = [], [], []
    for item in (*_of_links(table), *_of_routes(table), *_of_bridges(table)):
        if isinstance(item, Opening):
            opens.append(item)
        elif isinstance(item, Call):
            calls.append(item)
        else:
            untold.append(item)
    return Ports(tuple(opens), tuple(calls), tuple(dict.fromkeys(untold)))


def _of_links(table: Table) -> Iterator[Opening | Call | str]:
    for link in table.links:
        listen, diallers = link.listen, [dial.side for dial in link.dial]
        if listen.address is None:
            yield f"where {listen.side} listens for {listing(diallers, 'and')}"
        else:
            yield from _of_listen(table, link, listen.address, diallers)
        for dial in link.dial:
            if not dial.address:
                yield f"where {dial.side} dials {listen.side}"
            for address in dial.address:
                yield from _of_dial(dial, address, f"link with {listen.side}")


def _of_listen(table: Table, link: Link, address: str, diallers: list[str]) -> Iterator[Opening | Call]:
    side, purpose = link.listen.side, f"link with {listing(diallers, 'and')}"
    proof = f"CURVE key of {listing(diallers, 'or')}"
    if scheme(address) != "ssh":
        allow = link_allow(link, table.model.defaults)
        yield Opening(side, address, purpose, _let_in(allow, address), proof)
        return
    way = ssh(address)
    yield Call(side, f"tcp://{bracketed(way.host)}:{way.port}", f"sshd that opens {way.target} for the {purpose}")
    yield Opening(f"sshd at {way.host}", f"tcp://{way.target}", purpose, "its box" if way.loopback else "any", proof)


def _of_dial(dial: Dial, address: str, purpose: str) -> Iterator[Call]:
    if scheme(address) == "ssh":
        way = ssh(address)
        yield Call(dial.side, f"tcp://{bracketed(way.host)}:{way.port}", f"sshd of the {purpose}")
        target = f"ipc://{way.target}" if way.endpoint is None else f"tcp://{way.target}"
        yield Call(f"sshd at {way.host}", target, purpose)
    elif scheme(address) in WEB and dial.proxy is not None and dial.proxy.url:
        yield Call(dial.side, dial.proxy.url, f"proxy of the {purpose}")
        yield Call(f"proxy {dial.proxy.url.removeprefix('http://')}", address, purpose)
    else:
        yield Call(dial.side, address, purpose)


def _of_routes(table: Table) -> Iterator[Opening | Call | str]:
    for name, route in table.routes.items():
        for number, ends in enumerate((route.from_, route.to)):
            for end in ends:
                if end.bare:
                    yield f"the end of {name} at {end.side}"
                yield from _of_end(table, name, route, end, number)


def _of_bridges(table: Table) -> Iterator[Opening | Call | str]:
    for name, bridge in table.model.bridges.items():
        if isinstance(bridge, TcpServer):
            allow = allowed(bridge.allow, bridge.listen, table.model.defaults)
            proof = "TLS certificate" if bridge.tls is not None and bridge.tls.ca else ""
            for address in bridge.listen:
                yield Opening(bridge.side, address, f"devices of {name}", _let_in(allow, address), proof)
        elif isinstance(bridge, TcpClient):
            for address in bridge.connect:
                yield Call(bridge.side, address, f"server of {name}")
        elif bridge.kind in MAIL:
            for way in MAIL[bridge.kind].reach(name, bridge, table.model.defaults):
                if way.opens:
                    let_in = _let_in(
                        allowed(getattr(bridge, "allow", None), [way.address], table.model.defaults), way.address
                    )
                    yield Opening(bridge.side, way.address, way.who, let_in, way.proof)
                else:
                    yield Call(bridge.side, way.address, way.who)
        for address in bridge.zmq.endpoints:
            if bridge.zmq.method == "bind":
                yield Opening(bridge.side, address, f"0MQ applications of {name}", "this box", "")
            else:
                yield Call(bridge.side, address, f"0MQ application of {name}")


def _of_end(table: Table, name: str, route: Route, end: End, number: int) -> Iterator[Opening | Call]:
    applications = APPLICATIONS[route.pattern][number][0]
    them, it = f"{applications} applications of {name}", f"{applications} application of {name}"
    if route.pattern == "stream":
        them, it = f"clients of {name}", f"service of {name}"
    for address in end.bind:
        let_in = _let_in(end_allow(end, route, table.model.defaults), address)
        proof = "CURVE" if end.curve else "PLAIN password" if end.plain else ""
        yield Opening(end.side, address, them, let_in, proof)
    for address in end.connect:
        yield Call(end.side, address, it)


def _let_in(allow: Allow, address: str) -> str:
    if not opened(address).startswith("tcp://"):
        return "this box"
    if allow.anyone:
        return "any"
    return ", ".join(map(str, allow.networks)) or "this box"
