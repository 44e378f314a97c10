"""Rules on links inside SSH and HTTP: what belongs to which scheme, who is let in, whether the two ends fit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from tunnel.config.addresses import CARRIED, WEB, is_open, scheme, ssh
from tunnel.config.checking import Checking
from tunnel.config.model import Dial, Link, Listen, ProxyModel, SshModel, TlsModel
from tunnel.config.nodes import Path
from tunnel.config.table import link_allow
from tunnel.config.values import listing, tcp

_FIT: Final[dict[str, tuple[str, ...]]] = {"tls": ("https",), "ssh": ("ssh",), "proxy": WEB}
"""key of a link's end → the schemes that it is for."""


def check_listen(c: Checking, link: Link, path: Path) -> None:
    listen = link.listen
    schemes = set() if listen.address is None else {scheme(listen.address)}
    _only_where_it_fits(c, listen, schemes, path)
    if listen.ssh is not None:
        _ssh(c, listen.ssh, (*path, "ssh"))
    if listen.tls is not None:
        _listen_tls(c, listen.tls, (*path, "tls"))
    elif schemes == {"https"}:
        c.tell(
            path,
            f"{listen.address} needs a certificate; add tls: with cert: and key:, or listen at http:// on this box "
            "behind a server that ends TLS.",
        )
    if schemes == {"ssh"}:
        _remote_port(c, link, path)
    elif schemes & set(WEB) and not is_open(str(listen.address)):
        networks = link_allow(link, c.defaults).networks
        if networks and not any(network.is_loopback for network in networks):
            c.warn(
                path,
                f"{listen.address} is reached from this box only, and allow: leaves this box out; behind nginx or "
                "HAProxy connections come from there, so take allow: out.",
            )


def check_dial(c: Checking, dial: Dial, path: Path) -> None:
    _only_where_it_fits(c, dial, {scheme(address) for address in dial.address}, path)
    for index, address in enumerate(dial.address):
        if address in dial.address[:index]:
            c.tell((*path, "address", index), f"{address} is here twice.")
    if dial.ssh is not None:
        _ssh(c, dial.ssh, (*path, "ssh"))
    if dial.tls is not None:
        _dial_tls(c, dial.tls, (*path, "tls"))
    if dial.proxy is not None:
        _proxy(c, dial.proxy, (*path, "proxy"))


def check_apart(c: Checking) -> None:
    """One address is dialled for one peer: behind it is one listener, which has one key."""
    first: dict[tuple[str, str], tuple[str, Path]] = {}
    for index, part in enumerate(c.draft.links):
        if part is None or part.value.listen is None:
            continue
        peer = part.value.listen.side
        for place, dial in enumerate(part.value.dial):
            path: Path = ("links", index, "dial", place)
            for address in dial.address:
                other, where = first.setdefault((dial.side, address), (peer, path))
                if scheme(address) in CARRIED and where != path and other != peer:
                    c.tell(
                        path,
                        f"{dial.side} dials {address} already for {other} ({c.where(where)}); "
                        "behind one address there is one listener.",
                    )


def check_fit(c: Checking, listen: Listen, dial: Dial, path: Path) -> None:
    """HTTP reaches an HTTP listener only; another port is right behind a port forward, and a slip everywhere else."""
    if listen.address is None:
        return
    for address in dial.address:
        if (scheme(address) in WEB) != (scheme(listen.address) in WEB):
            c.warn(
                path,
                f"{dial.side} dials {address}, but {listen.side} listens at {listen.address}; "
                "a link inside HTTP needs an http:// or https:// address at both ends.",
            )
        elif (found := _arrives(address)) is None or not listen.address.startswith("tcp://"):
            continue
        elif not found.startswith("tcp://"):
            c.warn(path, f"{dial.side} dials {address}, but {listen.side} listens at {listen.address}.")
        elif tcp(found).port != tcp(listen.address).port:
            c.warn(
                path,
                f"{dial.side} dials port {tcp(found).port}, "
                f"but {listen.side} listens at port {tcp(listen.address).port}.",
            )


def _arrives(address: str) -> str | None:
    """The endpoint that a dialled address reaches in the end, as far as the table can tell."""
    if scheme(address) in WEB:
        return None
    if scheme(address) == "ssh":
        target = ssh(address).target
        return f"ipc://{target}" if target.startswith("/") else f"tcp://{target}"
    return address


def _only_where_it_fits(c: Checking, end: Listen | Dial, schemes: Collection[str], path: Path) -> None:
    for key, fit in _FIT.items():
        if getattr(end, key, None) is None or set(fit) & set(schemes):
            continue
        if schemes:
            fits = listing([f"{one}://" for one in fit], "and")
            c.tell((*path, key), f"{key}: is for {fits} addresses; there is none here.", key=True)
        else:
            c.tell((*path, key), f"{key}: needs an address beside it.", key=True)


def _ssh(c: Checking, said: SshModel, path: Path) -> None:
    if said.config is not None and said.backend != "openssh":
        c.tell((*path, "config"), "config: is for backend: openssh; paramiko reads no configuration file.", key=True)
    if said.backend == "paramiko" and not said.agent and said.passphrase is not None and not said.identity:
        c.tell((*path, "passphrase"), "passphrase: opens identity: files; name one, or take it out.", key=True)


def _remote_port(c: Checking, link: Link, path: Path) -> None:
    """At an sshd's port we see no addresses: who gets there is for the sshd's box to say."""
    address = str(link.listen.address)
    way = ssh(address)
    allow = link.listen.allow if link.listen.allow is not None else link.allow
    if allow is not None and set(allow) != {"any"}:
        c.tell(
            (*path, "allow") if link.listen.allow is not None else (path[0], path[1], "allow"),
            "the port is opened by the sshd, and ztunnel does not see from where one comes there; "
            "let a firewall beside the sshd choose, and say allow: any.",
        )
    elif not way.loopback and not link_allow(link, c.defaults).anyone and "defaults" not in c.draft.head.broken:
        port = way.endpoint.port if way.endpoint else ""
        c.tell(
            path,
            f"{way.target} at {way.host} can be reached from beyond that box, and nothing says by whom; "
            f"say allow: any, or write {address.rpartition('/')[0]}/{port} for its loopback only.",
        )


def _listen_tls(c: Checking, tls: TlsModel, path: Path) -> None:
    for word in ("cert", "key"):
        if getattr(tls, word) is None:
            c.tell(path, f"'{word}:' is missing here; a listener has a certificate and its key.", key=True)
    for word in ("pin", "server_name"):
        if getattr(tls, word):
            c.tell((*path, word), f"{word}: is for the side that dials.", key=True)


def _dial_tls(c: Checking, tls: TlsModel, path: Path) -> None:
    if (tls.cert is None) != (tls.key is None):
        missing = "key" if tls.key is None else "cert"
        c.tell(path, f"'{missing}:' is missing here; a client's certificate and its key go together.", key=True)
    if tls.pin and tls.ca is not None:
        c.tell(
            (*path, "pin"), "with pin: no authority is asked, so ca: would do nothing; take one of them out.", key=True
        )


def _proxy(c: Checking, proxy: ProxyModel, path: Path) -> None:
    for one, other in (("username", "password"), ("password", "username")):
        if getattr(proxy, one) is not None and getattr(proxy, other) is None:
            c.tell(path, f"'{other}:' is missing here; {one}: says half of it only.", key=True)
    if proxy.url == "" and (proxy.username is not None or proxy.password is not None):
        c.tell((*path, "url"), "without a proxy there is nobody to tell a username; take it out.")
    if proxy.username is not None and (":" in proxy.username or not 1 <= len(proxy.username.encode()) <= 255):
        c.tell((*path, "username"), "a user's name for a proxy has 1 to 255 bytes and no ':'.")
