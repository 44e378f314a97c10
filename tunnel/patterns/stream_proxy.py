"""PROXY protocol, version 2: what a target that asks for it is told before the client's first byte.

(https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2.) Pure.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from tunnel.patterns.stream_records import Origin

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY: Final = 0x21
"""Version 2, and the connection is made for somebody else."""
_FAMILY: Final = {4: 0x11, 6: 0x21}
"""TCP over IPv4, over IPv6."""


def proxy_header(origin: Origin) -> bytes:
    """Version 2's header. A client of a unix socket has no address that one could tell: UNSPEC."""
    if origin.source is None or origin.destination is None:
        return _SIGNATURE + struct.pack(">BBH", _PROXY, 0, 0)
    source, destination = (ipaddress.ip_address(name) for name, _ in (origin.source, origin.destination))
    body = source.packed + destination.packed + struct.pack(">HH", origin.source[1], origin.destination[1])
    return _SIGNATURE + struct.pack(">BBH", _PROXY, _FAMILY[source.version], len(body)) + body
