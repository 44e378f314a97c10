"""The addresses of links and what is in them: tcp://, ipc://, and ssh://, http://, https://, which carry a link inside.

Every function takes the text and returns what it means, or raises ValueError with a sentence for the user, in which a
password never stands. Carriers read their own address with `ssh` and `http`. Knows neither files nor positions.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tunnel.config.values import Method, Tcp, check_host, endpoint, port_number, scheme_of, tcp
from tunnel.limits import IPC_PATH_BYTES

CARRIED: Final = ("ssh", "http", "https")
"""Schemes whose carrier has a process of its own."""
WEB: Final = ("http", "https")
HEALTH: Final = "/healthz"
"""The path that HTTP listeners answer themselves."""
_PORTS: Final = {"http": 80, "https": 443}
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\\-]*\$?", re.ASCII)
_PATH: Final = re.compile(r"/([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2}|/)*", re.ASCII)


class Ssh(NamedTuple):
    """The parts of `ssh://user@host[:22]/TARGET`; IPv6 without its brackets."""

    user: str
    host: str
    port: int
    target: str
    """`HOST:PORT` (IPv6 in brackets), or the absolute path of a unix socket."""

    @property
    def endpoint(self) -> Tcp | None:
        """The target, where it is a port."""
        return None if self.target.startswith("/") else tcp(f"tcp://{self.target}")

    @property
    def loopback(self) -> bool:
        found = self.endpoint
        return found is None or found.loopback or found.host == "localhost"


class Http(NamedTuple):
    """The parts of `http[s]://host[:port]/path`; IPv6 without its brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def tcp(self) -> Tcp:
        return Tcp(self.host, self.port)

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """As CONNECT wants it: always with the port."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def host_header(self) -> str:
        return bracketed(self.host) if self.port == _PORTS[self.scheme] else self.authority

    @property
    def text(self) -> str:
        """The address, with its port said."""
        return f"{self.scheme}://{self.authority}{self.path}"


def scheme(address: str) -> str:
    return address.partition("://")[0]


def link_address(text: str, method: Method) -> str:
    """The address of a link as the table has it, checked."""
    found = scheme_of(text)
    if found == "ssh":
        _ssh(text, method)
    elif found in WEB:
        _check_http(text, method)
    else:
        endpoint(text, found, method)
    return text


def ssh(text: str) -> Ssh:
    """The parts of an ssh:// address that was checked before."""
    try:
        return _ssh(text, "connect")
    except ValueError:
        return _ssh(text, "bind")


def http(text: str) -> Http:
    """The parts of an http:// or https:// address that was checked before (a port 0, too, which no table has)."""
    name = scheme(text)
    authority, slash, rest = text.removeprefix(f"{name}://").partition("/")
    host, port = _host_and_port(text, authority, f"{name}://host/link")
    return Http(name, host.strip("[]"), _PORTS[name] if port is None else int(port), slash + rest or "/")


def is_open(address: str) -> bool:
    """Whether what listens there can be reached from beyond its box (ssh: the sshd's box)."""
    found = scheme(address)
    if found == "tcp":
        return not tcp(address).loopback
    if found in WEB:
        return not http(address).tcp.loopback
    return found == "ssh" and not ssh(address).loopback


def opened(address: str) -> str:
    """What a listener or bind at this address occupies: a `tcp://` or `ipc://` endpoint of this box, or a port of an
    sshd, written in one way only."""
    found = scheme(address)
    if found == "unix":
        return f"ipc://{address.removeprefix('unix://')}"
    if found in WEB:
        web = http(address)
        return f"tcp://{web.authority}"
    if found == "ssh":
        way = ssh(address)
        return f"ssh://{bracketed(way.host)}:{way.port}/{way.target}"
    return address


def bracketed(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def proxy_url(text: str) -> str:
    """`http://host:port`, or "" for the word `none`."""
    if text == "none":
        return ""
    if "@" in text:
        raise ValueError("a user or password does not belong into the proxy's url; see username: and password:.")
    found, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(f"{text!r} is no proxy; write http://host:port, or none.")
    if found != "http":
        raise ValueError(f"{text!r}: a proxy is spoken to over http://; write http://host:port, or none.")
    host, port = _host_and_port(text, rest.removesuffix("/"), "http://proxy.example.com:3128")
    if port is None:
        raise ValueError(f"{text!r} has no port; write for example http://{host}:3128.")
    check_host(text, host, "connect")
    port_number(text, port)
    return text.removesuffix("/")


def pin(text: str) -> str:
    """A SHA-256 fingerprint, as 64 small hex digits; colons as openssl prints them are taken out."""
    digits = text.removeprefix("sha256:").replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits, re.ASCII):
        raise ValueError(
            "a pin is the SHA-256 of a certificate, 64 hex digits, as it is printed by: "
            "openssl x509 -noout -fingerprint -sha256 -in FILE."
        )
    return digits


# --- ssh -------------------------------------------------------------------------------------------------------------


def _ssh(text: str, method: Method) -> Ssh:
    authority, _, target = text.removeprefix("ssh://").partition("/")
    user, at, place = authority.rpartition("@")
    if ":" in user or "@" in target:
        raise ValueError("a password does not belong into an address; see ssh: with identity: and passphrase:.")
    if not at:
        raise ValueError(f"{text!r} names no user; write ssh://USER@{authority or 'host'}/..., whoever runs ztunnel.")
    if not _USER.fullmatch(user):
        raise ValueError(f"{text!r}: {user!r} is no user.")
    host, port = _host_and_port(text, place, "ssh://user@host/127.0.0.1:9440")
    check_host(text, host, "connect")
    number = 22 if port is None else port_number(text, port)
    return Ssh(user, host.strip("[]"), number, _target(text, target.lstrip("/"), method))


def _target(text: str, target: str, method: Method) -> str:
    form = "9440 or 127.0.0.1:9440" if method == "bind" else "127.0.0.1:9440 or run/ztunnel.sock"
    if not target:
        raise ValueError(f"{text!r} ends before it says where beyond the sshd; after the '/' comes {form}.")
    if re.fullmatch(r"[0-9]+", target, re.ASCII):
        return f"127.0.0.1:{port_number(text, target)}"
    if match := re.fullmatch(r"(\[[^\[\]/]*\]|[^\[\]:/]*):([^:/]*)", target):
        host, port = match.groups()
        if method == "connect" or (host != "*" and not Tcp(host.strip("[]"), 0).wildcard):
            check_host(text, host, "connect")
        return f"{host}:{port_number(text, port)}"
    if method == "bind":
        raise ValueError(f"{text!r}: what an sshd opens for us is a port; after the '/' comes {form}.")
    if "/" not in target:
        raise ValueError(
            f"{text!r}: {target!r} is neither HOST:PORT nor the absolute path of a socket; write for example "
            "ssh://user@host/127.0.0.1:9440, or ssh://user@host/run/ztunnel.sock."
        )
    path = f"/{target}"
    if path.endswith("/") or ":" in path or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"{text!r}: {path!r} is no path of a socket; it has no ':' and no '..', and ends with a name.")
    if len(path.encode()) > IPC_PATH_BYTES:
        raise ValueError(f"the path of a socket has at most {IPC_PATH_BYTES} bytes.")
    return path


# --- http ------------------------------------------------------------------------------------------------------------


def _check_http(text: str, method: Method) -> None:
    name = scheme(text)
    if "@" in text:
        raise ValueError("a user or password does not belong into an address; CURVE keys prove who one is.")
    authority, slash, rest = text.removeprefix(f"{name}://").partition("/")
    path = slash + rest or "/"
    if "?" in text or "#" in text:
        raise ValueError(f"{text!r}: an address ends with its path; take out what begins with '?' or '#'.")
    if not _PATH.fullmatch(path) or "//" in path or {".", ".."} & set(path.split("/")):
        raise ValueError(f"{text!r}: {path!r} is no path.")
    host, port = _host_and_port(text, authority, f"{name}://host/link")
    if method == "bind":
        _check_listener(text, host, port, path)
    else:
        check_host(text, host, "connect")
    if port is not None:
        port_number(text, port)


def _check_listener(text: str, host: str, port: str | None, path: str) -> None:
    if port is None:
        raise ValueError(f"{text!r} has no port; a listener says its own, such as {scheme(text)}://{host}:8443{path}.")
    check_host(text, host, "bind")
    if host != "*" and Tcp(host.strip("[]"), 0).address is None:
        raise ValueError(f"{text!r}: an HTTP listener has a numeric address of this box, or '*'.")
    if path == HEALTH:
        raise ValueError(f"{text!r}: {HEALTH} is answered for those who watch; take another path, such as /link.")


def _host_and_port(text: str, authority: str, example: str) -> tuple[str, str | None]:
    """IPv6 keeps its brackets here."""
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::(.*))?", authority)
    if not match or ":" in (match[2] or ""):
        if authority.count(":") > 1 and "[" not in authority:
            raise ValueError(f"{text!r}: an IPv6 address goes into square brackets, as in '[::1]'.")
        raise ValueError(f"{text!r} is not understood; write for example {example}.")
    return match[1], match[2]
