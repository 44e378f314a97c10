"""What `ztunnel doctor` looks at on the way to the peers: names, ports, SSH keys, certificates. Nothing is changed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tunnel.cli.findings import Finding
from tunnel.config.addresses import http
from tunnel.config.values import tcp

if TYPE_CHECKING:
    from tunnel.config.plan import CarrierPlan, Plan, SshPlan

_LOOKUP_SLOW_S: Final = 1.0
_DIAL_S: Final = 2.0
_EXPIRES_SOON_DAYS: Final = 14
_REMEDY: Final = "is the other side up, and the port open in the firewall?"


def examine(plan: Plan) -> Iterator[Finding]:
    """Every link that this side dials, and every carrier with a process of its own."""
    for dial in plan.dials:
        for address in dial.addresses:
            if address.startswith("tcp://"):
                yield reach(f"dial {dial.peer}", address, *tcp(address))
    for carrier in plan.carriers:
        yield from _carrier(carrier)


def reach(what: str, address: str, host: str, port: int, remedy: str = _REMEDY) -> Finding:
    """Does the name resolve, and does somebody answer at the port?"""
    began = time.monotonic()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding("bad", what, f"{host} does not resolve: {error.strerror}", "mend the name, DNS or /etc/hosts")
    if time.monotonic() - began > _LOOKUP_SLOW_S:
        return Finding(
            "warn", what, f"{host} took {time.monotonic() - began:.1f} s to resolve", "look at /etc/resolv.conf"
        )
    numeric: Any = found[0][4][0]
    try:
        socket.create_connection((host, port), timeout=_DIAL_S).close()
    except OSError as error:
        reason = error.strerror or "no answer"
        return Finding("warn", what, f"{address} ({numeric}) is not reached: {reason}", remedy)
    return Finding("ok", what, f"{address} ({numeric}) takes connections")


def _carrier(carrier: CarrierPlan) -> Iterator[Finding]:
    what = f"carrier {carrier.name}"
    if carrier.ssh is not None:
        yield reach(what, f"sshd {carrier.ssh.host}:{carrier.ssh.port}", carrier.ssh.host, carrier.ssh.port)
        yield from _ssh(what, carrier.ssh)
    elif carrier.role == "dial":
        proxy = carrier.proxy.url if carrier.proxy else ""
        yield reach(what, "the proxy" if proxy else carrier.address, *http(proxy or carrier.address).tcp)
    if carrier.tls is not None:
        for file in (carrier.tls.cert, carrier.tls.ca):
            if file is not None:
                yield certificate(what, file)


def _ssh(what: str, ssh: SshPlan) -> Iterator[Finding]:
    for identity in ssh.identity:
        if not os.access(identity, os.R_OK):
            yield Finding("bad", what, f"the SSH key {identity} cannot be read", "mend the path or its permissions")
        elif identity.stat().st_mode & 0o077:
            yield Finding("bad", what, f"others may read the SSH key {identity}", f"chmod 600 {identity}")
    if ssh.known_hosts and not any(file.is_file() for file in ssh.known_hosts):
        names = ", ".join(map(str, ssh.known_hosts))
        yield Finding("bad", what, f"there is no {names}", "write the host key of the sshd into it (ssh-keyscan helps)")


def certificate(what: str, file: Path) -> Finding:
    """Is it one, and how long is it valid?"""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM certificate"
        return Finding("bad", what, f"{file} cannot be read: {reason}", "mend the path or the file")
    left = found.not_valid_after_utc - datetime.now(UTC)
    if left.total_seconds() < 0:
        return Finding("bad", what, f"{file} has expired on {found.not_valid_after_utc:%Y-%m-%d}", "renew it")
    if left.days < _EXPIRES_SOON_DAYS:
        return Finding("warn", what, f"{file} expires in {left.days} days", "renew it; it is read again by itself")
    return Finding("ok", what, f"{file} is valid until {found.not_valid_after_utc:%Y-%m-%d}")
