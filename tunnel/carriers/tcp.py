"""The link over TCP: `tcp://host:port`, CURVE by libzmq. Knows addresses; the sockets are in `tunnel.carriers.zmtp`."""

from __future__ import annotations

import socket as sockets

from tunnel.carriers.base import DialEvents, ListenEvents, Who
from tunnel.carriers.zmtp import ZmtpDialled, ZmtpListener
from tunnel.config.plan import KeyPair, ListenPlan
from tunnel.limits import LISTEN_BACKLOG
from tunnel.ports import listening
from tunnel.reactor import Reactor
from tunnel.zap import Zap


class TcpCarrier:
    """`tcp://192.0.2.1:9440`, `tcp://[2001:db8::1]:9440`; to listen also `tcp://*:9440` and `tcp://eth0:9440`."""

    def dial(
        self, reactor: Reactor, address: str, own: KeyPair, server: str, source: str | None, events: DialEvents
    ) -> ZmtpDialled:
        return ZmtpDialled(reactor, _from_source(address, source), own, server, events)

    def listen(
        self, reactor: Reactor, zap: Zap, plan: ListenPlan, own: KeyPair, who: Who, events: ListenEvents
    ) -> ZmtpListener:
        return ZmtpListener(reactor, zap, plan, own, who, events, lambda: open_port(plan.address))


def open_port(address: str) -> sockets.socket:
    """The link's port, listening. Raises OSError, or LocalError where the address is none of this machine's."""
    return listening(address, LISTEN_BACKLOG)


def _from_source(address: str, source: str | None) -> str:
    """`tcp://SOURCE:0;HOST:PORT`, as zmq_tcp(7) has it."""
    if source is None:
        return address
    host = f"[{source}]" if ":" in source and not source.startswith("[") else source
    return f"tcp://{host}:0;{address.removeprefix('tcp://')}"
