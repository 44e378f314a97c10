"""Free TCP ports on loopback, for tables that need fixed ones (the demo's and the benchmarks').

They lie below the range from which the kernel serves outgoing connections, so that nobody gets one by chance between
the choice and the bind.
"""

from __future__ import annotations

import random
import socket

FIRST, LAST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Whether the port can be bound on 127.0.0.1 just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free now; RuntimeError when this machine has none left."""
    candidates = list(range(FIRST, LAST))
    random.shuffle(candidates)
    found = [port for port in candidates[: 100 * count] if is_free(port)][:count]
    if len(found) < count:
        raise RuntimeError(f"no {count} free TCP ports between {FIRST} and {LAST} on 127.0.0.1")
    return found
