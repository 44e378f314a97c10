"""Host names to numbers before libzmq sees them: its own lookup would stop every socket of the context (libzmq #2961).

Each lookup runs in a thread of its own that nobody waits for at exit; a second question for a name that is being looked
up joins the first, so a dead name server costs one thread a name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Final

from tunnel.errors import LocalError
from tunnel.limits import RESOLVE_S

_Addresses = tuple[str, ...]
_pending: Final[dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Future[_Addresses]]] = {}


async def resolve(endpoint: str) -> tuple[str, ...]:
    """`tcp://name:port` → numeric endpoints in the resolver's order (IPv6 in brackets), never none.

    Numeric addresses, `*`, and schemes other than tcp pass unchanged; so does `source;` before the name. Raises
    LocalError when the name does not resolve within RESOLVE_S.
    """
    scheme, _, rest = endpoint.partition("://")
    if scheme != "tcp":
        return (endpoint,)
    source, semicolon, target = rest.rpartition(";")
    host, _, port = target.rpartition(":")
    if not host or is_numeric(host):
        return (endpoint,)
    return tuple(f"tcp://{source}{semicolon}{address}:{port}" for address in await _lookup(host))


def is_numeric(host: str) -> bool:
    """True for `192.0.2.1`, `[2001:db8::1]`, `2001:db8::1`, each also with a %zone, and for `*`."""
    if host == "*":
        return True
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


async def _lookup(host: str) -> _Addresses:
    loop = asyncio.get_running_loop()
    pending = _pending.get((loop, host))
    if pending is None:
        pending = _pending[loop, host] = loop.create_future()
        pending.add_done_callback(lambda _: _pending.pop((loop, host), None))
        threading.Thread(target=_work, args=(loop, host, pending), name=f"resolve {host}", daemon=True).start()
    try:
        return await asyncio.wait_for(asyncio.shield(pending), RESOLVE_S)
    except TimeoutError:
        raise LocalError(
            f"The host name {host} could not be resolved: the name server did not answer within {RESOLVE_S:g} s. "
            "Check the name server, or write the numeric address."
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise LocalError(
            f"The host name {host} could not be resolved: {reason}. Check the spelling, or write the numeric address."
        ) from None


def _work(loop: asyncio.AbstractEventLoop, host: str, pending: asyncio.Future[_Addresses]) -> None:
    """In the thread: look up, hand over to the loop (which may be gone by then)."""
    result: _Addresses | OSError
    try:
        result = _numbers(host)
    except OSError as error:
        result = error
    except UnicodeError:
        result = OSError("it is not a valid host name")
    try:
        loop.call_soon_threadsafe(_hand_over, pending, result)
    except RuntimeError:
        return


def _numbers(host: str) -> _Addresses:
    """Blocking. Addresses without repetition, IPv6 in brackets."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = (str(item[4][0]) for item in found)
    return tuple(dict.fromkeys(f"[{address}]" if ":" in address else address for address in addresses))


def _hand_over(pending: asyncio.Future[_Addresses], result: _Addresses | OSError) -> None:
    if pending.done():
        return
    if isinstance(result, OSError):
        pending.set_exception(result)
        pending.exception()  # whoever asked may have given up: no "never retrieved" in the log
    else:
        pending.set_result(result)
