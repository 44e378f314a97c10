"""Listening TCP sockets of an address as the table writes it: of the link, of streams, of bridges.

`tcp://192.0.2.10:5555`, `tcp://[2001:db8::1]:5555`, `tcp://eth0:5555` (the interface's first IPv4 address, as libzmq
has it), `tcp://*:5555` (every address, IPv6 and IPv4). Asks no name server.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import socket as sockets
import struct
from typing import Final

from tunnel.errors import LocalError

_SIOCGIFADDR: Final = 0x8915
"""linux/sockios.h"""


def listening(address: str, backlog: int) -> sockets.socket:
    """A listening socket that does not block; port 0 or `*` is a free one.

    Raises OSError, or LocalError where the address is none of this machine's.
    """
    port = bound(address)
    try:
        port.listen(backlog)
    except OSError:
        port.close()
        raise
    return port


def bound(address: str) -> sockets.socket:
    """The same before it listens: nobody is let in."""
    host, _, port_text = address.removeprefix("tcp://").rpartition(":")
    port = 0 if port_text == "*" else int(port_text)
    if host == "*":
        return _everywhere(port)
    numeric = _numeric(host)
    family = sockets.AF_INET6 if ":" in numeric else sockets.AF_INET
    # getaddrinfo of a numeric address asks nobody; it turns a %zone into the number that bind wants
    name = sockets.getaddrinfo(numeric, port, family, sockets.SOCK_STREAM, 0, sockets.AI_NUMERICHOST)[0][4]
    return _bound(family, name, only_six=True)


def _everywhere(port: int) -> sockets.socket:
    if sockets.has_ipv6:
        try:
            return _bound(sockets.AF_INET6, ("::", port), only_six=False)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # IPv6 is switched off
                raise
    return _bound(sockets.AF_INET, ("0.0.0.0", port), only_six=True)


def _bound(family: int, name: tuple[object, ...], *, only_six: bool) -> sockets.socket:
    port = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        port.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        if family == sockets.AF_INET6:
            port.setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY, int(only_six))
        port.setblocking(False)
        port.bind(name)
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
