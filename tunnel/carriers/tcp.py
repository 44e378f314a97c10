"""The link over TCP: `tcp://host:port`, CURVE by libzmq. Knows addresses; the sockets are in `tunnel.carriers.zmtp`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import socket as sockets
import struct
from typing import Final

from tunnel.carriers.base import DialEvents, ListenEvents, Who
from tunnel.carriers.zmtp import ZmtpDialled, ZmtpListener
from tunnel.config.plan import KeyPair, ListenPlan
from tunnel.errors import LocalError
from tunnel.limits import LISTEN_BACKLOG
from tunnel.reactor import Reactor
from tunnel.zap import Zap

_SIOCGIFADDR: Final = 0x8915


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
    """A listening socket. `*` is every address, IPv6 and IPv4; port 0 or `*` is a free one.

    Raises OSError, or LocalError where the address is none of this machine's.
    """
    host, _, port_text = address.removeprefix("tcp://").rpartition(":")
    port = 0 if port_text == "*" else int(port_text)
    if host == "*":
        return _listen_everywhere(port)
    numeric = _numeric(host)
    family = sockets.AF_INET6 if ":" in numeric else sockets.AF_INET
    # getaddrinfo of a numeric address asks nobody; it turns a %zone into the number that bind wants
    name = sockets.getaddrinfo(numeric, port, family, sockets.SOCK_STREAM, 0, sockets.AI_NUMERICHOST)[0][4]
    return _listen(family, name, only_six=True)


def _listen_everywhere(port: int) -> sockets.socket:
    if sockets.has_ipv6:
        try:
            return _listen(sockets.AF_INET6, ("::", port), only_six=False)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # IPv6 is switched off
                raise
    return _listen(sockets.AF_INET, ("0.0.0.0", port), only_six=True)


def _listen(family: int, name: tuple[object, ...], *, only_six: bool) -> sockets.socket:
    port = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        port.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            port.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, int(only_six))
        port.setblocking(False)
        port.bind(name)
        port.listen(LISTEN_BACKLOG)
    except OSError:
        port.close()
        raise
    return port


def _numeric(host: str) -> str:
    """A numeric address as it is, an interface's name as its (first IPv4) address."""
    bare = host.removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(bare)
        return bare
    request = struct.pack("256s", host.encode()[:15])
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
        try:
            return sockets.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24])
        except OSError:
            raise LocalError(
                f"{host} is neither a numeric address nor an interface of this machine with an IPv4 address"
            ) from None


def _from_source(address: str, source: str | None) -> str:
    """`tcp://SOURCE:0;HOST:PORT`, as zmq_tcp(7) has it."""
    if source is None:
        return address
    host = f"[{source}]" if ":" in source and not source.startswith("[") else source
    return f"tcp://{host}:0;{address.removeprefix('tcp://')}"
