"""Which servers take the mail of a domain (RFC 5321, 5.1; RFC 7505): its MX records in their order, else itself."""

from __future__ import annotations

import random

import dns.exception
import dns.resolver
from dns.asyncresolver import Resolver
from dns.rdtypes.ANY.MX import MX

from bridges.mail.addresses import shown
from bridges.mail.limits import SEND_HOSTS, SEND_LOOKUP_S
from bridges.mail.troubles import NoMail, Unreachable


async def servers_of(domain: str) -> list[str]:
    """The hosts of a domain of a checked address. NoMail, Unreachable."""
    if domain.startswith("["):
        return [domain.strip("[]").removeprefix("IPv6:")]
    try:
        answer = await Resolver().resolve(domain.rstrip(".") + ".", "MX", lifetime=SEND_LOOKUP_S)
    except dns.resolver.NXDOMAIN:
        raise NoMail(f"there is no domain {shown(domain)}") from None
    except dns.resolver.NoAnswer:
        return [domain]
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise Unreachable(f"the mail servers of {shown(domain)} could not be looked up: {error}") from None
    return in_order([(one.preference, str(one.exchange)) for one in answer if isinstance(one, MX)], domain)


def in_order(records: list[tuple[int, str]], domain: str) -> list[str]:
    """By preference, those of equal ones in any order. NoMail: the domain says that it takes none."""
    if not records:
        return [domain]
    hosts = [(preference, host.rstrip(".")) for preference, host in records]
    if all(not host for _, host in hosts):
        raise NoMail(f"the domain {shown(domain)} takes no mail (null MX)")
    random.shuffle(hosts)
    hosts.sort(key=lambda found: found[0])
    return [host for _, host in hosts if host][:SEND_HOSTS]
