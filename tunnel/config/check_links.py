"""Rules on links: known sides, one link between two, every side reached, one listener an address, nothing open."""

from __future__ import annotations

from ipaddress import ip_address

from tunnel.config import check_carriers
from tunnel.config.addresses import is_open, scheme
from tunnel.config.checking import Checking
from tunnel.config.model import Dial, Link, Listen
from tunnel.config.nodes import Path
from tunnel.config.table import link_allow


def check(c: Checking) -> None:
    first: dict[frozenset[str], int] = {}
    for index, part in enumerate(c.draft.links):
        if part is None:
            continue
        link = part.value
        path: Path = ("links", index)
        if "listen" not in part.broken:
            _listen(c, link, path, part.broken)
        for place, dial in enumerate(link.dial):
            _dial(c, link.listen, dial, (*path, "dial", place), index, first)
        if not link.dial and "dial" not in part.broken:
            c.tell((*path, "dial"), "nobody dials this link; write 'dial: SIDE tcp://...'.")
    c.linked = set(first)
    _reached(c)
    _shared(c)
    check_carriers.check_apart(c)


def _listen(c: Checking, link: Link, path: Path, broken: frozenset[str]) -> None:
    listen = link.listen
    c.side(listen.side, (*path, "listen", "side"))
    address = listen.address
    for key in ("mode", "group"):
        if getattr(listen, key) is not None and (address is None or not address.startswith("ipc://")):
            c.tell((*path, "listen", key), f"{key}: is for ipc:// addresses only.")
    check_carriers.check_listen(c, link, (*path, "listen"))
    if address is None or not is_open(address) or scheme(address) == "ssh":
        return
    if "allow" in broken or "defaults" in c.draft.head.broken:
        return
    allow = link_allow(link, c.defaults)
    if not allow.anyone and not allow.networks:
        c.tell(
            (*path, "listen"),
            f"{address} can be reached from beyond this box, and nothing says by whom; "
            "add allow: with the networks that the diallers come from, or allow: any.",
        )


def _dial(
    c: Checking, listen: Listen | None, dial: Dial, path: Path, index: int, first: dict[frozenset[str], int]
) -> None:
    known = c.side(dial.side, (*path, "side"))
    if dial.source is not None:
        _source(c, dial.source, (*path, "source"))
    check_carriers.check_dial(c, dial, path)
    if listen is None or listen.side not in c.draft.sides or not known:
        return
    if dial.side == listen.side:
        c.tell(path, f"{dial.side} cannot dial itself; a link joins two sides.")
        return
    pair = frozenset((dial.side, listen.side))
    if pair in first:
        where = c.where(("links", first[pair]))
        c.tell(
            path,
            f"{dial.side} and {listen.side} are linked already ({where}); "
            "for a second way give that link's dial several addresses.",
        )
        return
    first[pair] = index
    check_carriers.check_fit(c, listen, dial, path)


def _source(c: Checking, source: str, path: Path) -> None:
    try:
        ip_address(source.strip("[]"))
    except ValueError:
        c.tell(path, f"{source!r} is no address; source: is a numeric address of this box.")


def _reached(c: Checking) -> None:
    if c.unsure("links") or not c.draft.links or len(c.draft.sides) < 2:
        return
    if any(part is not None and ({"listen", "dial"} & part.broken) for part in c.draft.links):
        return
    named = {part.value.listen.side for part in c.draft.links if part} | {
        d.side for part in c.draft.links if part for d in part.value.dial
    }
    if not named <= set(c.draft.sides):  # a misspelt side is told where it stands
        return
    for side in c.draft.sides:
        if side not in named:
            c.tell(("sides", side), f"no link reaches {side}; add one under links:, or take the side out.", key=True)


def _shared(c: Checking) -> None:
    """Links that listen at one address share one listener, so they must let in the same."""
    first: dict[tuple[str, str], int] = {}
    for index, part in enumerate(c.draft.links):
        if part is None or part.value.listen is None or part.value.listen.address is None:
            continue
        listen = part.value.listen
        other_index = first.setdefault((listen.side, str(listen.address)), index)
        if other_index == index:
            continue
        other = c.draft.links[other_index]
        assert other is not None
        same = link_allow(part.value, c.defaults) == link_allow(other.value, c.defaults)
        if not same or _opening(listen) != _opening(other.value.listen):
            where = c.where(("links", other_index))
            c.tell(
                ("links", index, "listen"),
                f"this listener is shared with the link in {where}; "
                "both must say the same allow:, mode:, group:, tls: and ssh:.",
            )


def _opening(listen: Listen) -> tuple[object, ...]:
    return listen.mode, listen.group, listen.tls, listen.ssh
