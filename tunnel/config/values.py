"""The small languages inside a table's values: names, sizes, times, endpoints, networks, topics, and the short forms.

Every function takes the text and returns what it means, or raises ValueError with a sentence for the user.
Knows neither files nor positions.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, NamedTuple

from tunnel.config.plan import Network
from tunnel.limits import IPC_PATH_BYTES, NAME_CHARACTERS, TOPIC_BYTES

Method = Literal["bind", "connect"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*", re.ASCII)
Z85: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", re.ASCII)
_SIZES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TIMES: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_AMOUNT: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-zµ]*)", re.ASCII)

CARRIED_SCHEMES: Final = ("ssh", "http", "https")
LOCAL_SCHEMES: Final = ("tcp", "ipc")
OTHER_SCHEMES: Final = ("inproc", "udp", "pgm", "epgm", "norm", "ws", "wss", "tipc", "vmci")


def suggest(word: str, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing when no choice is near."""
    near = nearest(word, choices)
    return f" Did you mean {near!r}?" if near else ""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(word.lower(), list(choices), n=1, cutoff=0.6)
    return near[0] if near else None


def those_there_are(words: Iterable[str]) -> str:
    """` There are a and b.`"""
    items = list(words)
    return f" There {'is only' if len(items) == 1 else 'are'} {listing(items, 'and')}." if items else ""


def listing(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def name(text: str) -> str:
    if len(text) > NAME_CHARACTERS:
        raise ValueError(f"a name has at most {NAME_CHARACTERS} characters.")
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name: a name begins with a-z or 0-9 and goes on with those, '_', '.' and '-'."
        )
    return text


def size(value: object) -> int:
    """`4MiB` → bytes."""
    number, unit = _amount(value, "size", "4MiB or 64KiB")
    if unit not in _SIZES:
        hint = nearest(unit, _SIZES) or {"k": "KiB", "m": "MiB", "g": "GiB"}.get(unit[:1].lower(), "MiB")
        raise ValueError(
            f"{unit!r} is no unit of size; write B, KiB, MiB or GiB, such as {number.normalize():f}{hint}."
        )
    return int(number * _SIZES[unit])


def duration(value: object) -> float:
    """`200ms` → seconds."""
    number, unit = _amount(value, "time", "5s or 200ms")
    if unit not in _TIMES:
        raise ValueError(f"{unit!r} is no unit of time; write ms, s, m, h or d, such as {number.normalize():f}s.")
    return float(number * _TIMES[unit])


def _amount(value: object, what: str, example: str) -> tuple[Decimal, str]:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"this is no {what}; write a number and its unit, such as {example}.")
    match = _AMOUNT.fullmatch(str(value))
    if not match:
        raise ValueError(f"{value!r} is no {what}; write a number and its unit, such as {example}.")
    if not match[2]:
        raise ValueError(f"{value} has no unit; write for example {example}.")
    try:
        return Decimal(match[1]), match[2]
    except InvalidOperation:  # pragma: no cover - the expression above lets only digits through
        raise ValueError(f"{value!r} is no {what}.") from None


def network(text: str) -> Network | Literal["any"]:
    """One entry of an `allow` list."""
    if text == "any":
        return "any"
    if text.lower() in ("*", "all", "everyone", "everybody", "0", "anyone"):
        raise ValueError(f"{text!r} is no network; to let in everybody, say 'any'.")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wider = ip_network(text, strict=False)
    except ValueError:
        if "," in text:
            raise ValueError(f"{text!r} is no network; give several as a list, one '- network' a line.") from None
        raise ValueError(
            f"{text!r} is no network; write an address or a network such as 192.0.2.0/24, or 'any'. Host names are not"
            " understood here, because what they stand for can change."
        ) from None
    bits = wider.max_prefixlen
    one = text.split("/")[0]
    raise ValueError(
        f"{text!r} has bits set beyond its prefix; write {wider} for the network or {one}/{bits} for the one address."
    )


def topic(text: str) -> bytes:
    """A topic prefix: text, or bytes as `hex:00ff`."""
    if text.startswith("hex:"):
        digits = text.removeprefix("hex:")
        if not re.fullmatch(r"([0-9a-fA-F]{2})+", digits, re.ASCII):
            raise ValueError(f"{text!r}: after 'hex:' comes an even number of the digits 0-9 and a-f.")
        found = bytes.fromhex(digits)
    else:
        found = text.encode()
    if len(found) > TOPIC_BYTES:
        raise ValueError(f"a topic has at most {TOPIC_BYTES} bytes; this one has {len(found)}.")
    return found


def routing_id(text: str) -> bytes:
    found = topic(text)
    if not 1 <= len(found) <= 255:
        raise ValueError("a routing id has 1 to 255 bytes.")
    if found[0] == 0:
        raise ValueError("a routing id cannot begin with a zero byte; 0MQ keeps those for itself.")
    return found


# --- endpoints -------------------------------------------------------------------------------------------------------


class Tcp(NamedTuple):
    """The parts of a `tcp://host:port`; IPv6 without its brackets."""

    host: str
    port: int

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        return _numeric(self.host)

    @property
    def loopback(self) -> bool:
        if self.address is None:
            return self.host == "lo"
        mapped = getattr(self.address, "ipv4_mapped", None)
        return bool((mapped or self.address).is_loopback)

    @property
    def wildcard(self) -> bool:
        return self.host == "*" or (self.address is not None and self.address.is_unspecified)


def _numeric(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def local_endpoint(text: str, method: Method) -> str:
    """An endpoint of a local end: `tcp://host:port`, `ipc://path`, or the word `local`."""
    if text == "local":
        if method == "connect":
            raise ValueError("'local' is a socket that the route binds for this side's bridges; write 'bind local'.")
        return text
    if text.startswith("unix:"):
        return _unix(text, method)
    scheme = scheme_of(text)
    if scheme in CARRIED_SCHEMES:
        raise ValueError(f"{scheme}:// carries links; an end of a route has a tcp:// or ipc:// endpoint, or 'local'.")
    return endpoint(text, scheme, method)


def _unix(text: str, method: Method) -> str:
    """`unix:///path`, as other programs write it; the ends of stream routes may."""
    path = text.removeprefix("unix://")
    if not text.startswith("unix://") or not path.startswith("/"):
        raise ValueError(f"{text!r}: unix:// is followed by an absolute path, as in unix:///run/app.sock.")
    ipc_path(f"ipc://{path}", method)
    return text


def scheme_of(text: str) -> str:
    """The scheme of an endpoint or of a link's address; raises where it is none that there is."""
    if text.endswith(","):
        raise ValueError(f"{text!r} ends with a comma; several endpoints are separated by spaces, or form a YAML list.")
    scheme, separator, _ = text.partition("://")
    if not separator:
        raise ValueError(f"{text!r} is no endpoint; write for example tcp://127.0.0.1:5555.{suggest(text, ['local'])}")
    if scheme in CARRIED_SCHEMES or scheme in LOCAL_SCHEMES:
        return scheme
    if scheme == "inproc":
        raise ValueError("inproc:// does not leave a process; use ipc:// or 'local' for applications on this box.")
    if scheme in OTHER_SCHEMES:
        raise ValueError(f"{scheme}:// is not carried; write tcp:// or ipc://.")
    known = (*LOCAL_SCHEMES, *CARRIED_SCHEMES)
    raise ValueError(f"{scheme!r} is no scheme; write tcp:// or ipc://.{suggest(scheme, known)}")


def endpoint(text: str, scheme: str, method: Method) -> str:
    if scheme == "ipc":
        ipc_path(text, method)
    else:
        check_tcp(text, method)
    return text


def ipc_path(text: str, method: Method) -> str:
    path = text.removeprefix("ipc://")
    if path in ("", "*") or path.endswith("/"):
        raise ValueError(f"{text!r} names no socket file; write for example ipc://orders.sock.")
    if path.startswith("@") and method == "bind":
        raise ValueError("an abstract socket (ipc://@...) has no permissions to guard it; bind a file instead.")
    if "\0" in path or len(path.encode()) > IPC_PATH_BYTES:
        raise ValueError(f"the path of a socket has at most {IPC_PATH_BYTES} bytes.")
    if ".." in path.split("/"):
        raise ValueError("the path of a socket cannot contain '..'.")
    return path


def tcp(text: str) -> Tcp:
    """The parts of a `tcp://` endpoint that was checked before."""
    host, _, port = text.removeprefix("tcp://").rpartition(":")
    return Tcp(host.strip("[]"), int(port))


def check_tcp(text: str, method: Method) -> None:
    rest = text.removeprefix("tcp://")
    if "@" in rest:
        shown = "tcp://" + rest.rpartition("@")[2]
        raise ValueError(f"a user or password does not belong into an endpoint ({shown}); see curve: and plain:.")
    if "," in rest:
        raise ValueError(f"a comma between endpoints? {text!r}: separate them by spaces, or write a YAML list.")
    if ";" in rest:
        raise ValueError(f"{text!r}: a source address before ';' is not understood in an endpoint.")
    if "/" in rest:
        raise ValueError(f"{text!r}: a tcp:// endpoint has no path; it ends after the port.")
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*):([^:]*)", rest)
    if not match:
        if rest.count(":") > 1 and "[" not in rest:
            raise ValueError(f"{text!r}: an IPv6 address goes into square brackets: 'tcp://[::1]:5555'.")
        raise ValueError(f"{text!r} has no port; write for example tcp://{rest.strip('[]:') or '127.0.0.1'}:5555.")
    host, port = match.groups()
    if port in ("*", "0"):
        raise ValueError(f"{text!r}: a port chosen at random is one that nobody can find; write a number.")
    port_number(text, port)
    check_host(text, host, method)


def port_number(text: str, port: str) -> int:
    """A port; `text` is what it stands in."""
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535.")
    return int(port)


def check_host(text: str, host: str, method: Method) -> None:
    """A host of an endpoint, IPv6 in its brackets."""
    if host.startswith("["):
        if not isinstance(_numeric(host[1:-1]), IPv6Address):
            raise ValueError(f"{text!r}: {host[1:-1]!r} is no IPv6 address.")
        if method == "connect" and Tcp(host[1:-1], 0).wildcard:
            raise ValueError(f"{text!r}: one cannot connect to every address; name one.")
        return
    if host == "*":
        if method == "connect":
            raise ValueError(f"{text!r}: one cannot connect to every address; name one.")
        return
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?", host, re.ASCII):
        raise ValueError(f"{text!r}: {host!r} is no host." if host else f"{text!r} names no host.")
    numeric = _numeric(host)
    if numeric is None and re.fullmatch(r"[0-9.]+", host):
        raise ValueError(f"{text!r}: {host!r} is no IPv4 address.")
    if method == "connect" and numeric is not None and numeric.is_unspecified:
        raise ValueError(f"{text!r}: one cannot connect to every address; name one.")
    if method == "bind" and numeric is None and (host == "localhost" or len(host) > 15):
        better = f"{text.partition('://')[0]}://127.0.0.1" if host == "localhost" else "its number"
        raise ValueError(
            f"{text!r}: one binds an address or an interface of this box, not a name; write {better}, or '*'."
        )


# --- short forms -----------------------------------------------------------------------------------------------------


def short_end(text: str) -> dict[str, object]:
    """`SIDE bind|connect ENDPOINT [ENDPOINT ...]`, or a bare `SIDE`, as the long form."""
    words = text.split()
    _begins_with_side(words, text, "SIDE bind tcp://...' or 'SIDE connect tcp://...")
    if len(words) == 1:
        return {"side": words[0]}
    method = words[1]
    if "://" in method or method == "local":
        raise ValueError(f"'bind' or 'connect' is missing between {words[0]!r} and {method!r}.")
    if method not in ("bind", "connect"):
        raise ValueError(f"{method!r} is neither bind nor connect.{suggest(method, ['bind', 'connect'])}")
    if len(words) == 2:
        raise ValueError(f"an endpoint is missing after {method!r}; write for example {method} tcp://127.0.0.1:5555.")
    for word in words[2:]:
        if word in ("bind", "connect"):
            raise ValueError("an end that binds and connects is written in the long form: side:, bind:, connect:.")
    return {"side": words[0], method: words[2:]}


def short_listen(text: str) -> dict[str, object]:
    """`SIDE ADDRESS`, or a bare `SIDE`."""
    words = _link_words(text)
    if len(words) > 2:
        raise ValueError("a link listens at one address; take the others out.")
    return {"side": words[0], "address": words[1]} if len(words) == 2 else {"side": words[0]}


def short_dial(text: str) -> dict[str, object]:
    """`SIDE ADDRESS [ADDRESS ...]`, or a bare `SIDE`."""
    words = _link_words(text)
    return {"side": words[0], "address": words[1:]} if len(words) > 1 else {"side": words[0]}


def _link_words(text: str) -> list[str]:
    words = text.split()
    _begins_with_side(words, text, "SIDE tcp://...")
    if len(words) > 1 and words[1] in ("bind", "connect", "listen", "dial"):
        raise ValueError(f"{words[1]!r} does not belong here; write '{words[0]} tcp://host:port'.")
    return words


def _begins_with_side(words: list[str], text: str, form: str) -> None:
    if not words:
        raise ValueError(f"this is empty; write '{form}'.")
    if "://" in words[0]:
        raise ValueError(
            f"{words[0]!r} stands where a side is expected; a comma between endpoints? "
            f"Separate them by spaces: '{form}'."
        )
    if words[0].endswith(","):
        raise ValueError(f"{text!r} has a comma after the side; separate by spaces: '{form}'.")
    if words[0] in ("bind", "connect"):
        raise ValueError(f"the side is missing before {words[0]!r}; write '{form}'.")


def networks_of(words: Iterable[Network | Literal["any"]]) -> tuple[bool, tuple[Network, ...]]:
    """An `allow` list as (anyone, networks)."""
    items = tuple(words)
    return "any" in items, tuple(item for item in items if isinstance(item, IPv4Network | IPv6Network))
