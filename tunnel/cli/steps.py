"""What `ztunnel probe` concludes: the way of a message, step by step, from what the device found (tunnel/probe.py).

Pure: facts in, steps out. Each step says what was found and, where it is not well, what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from tunnel.limits import PROBE_STILL_S

Facts = dict[str, Any]

LOSSES: Final = {
    "client_full": "a client does not read its replies",
    "denied": "`topics: deny` keeps them back",
    "expired": "they were older than `max_age`",
    "frames": "they have more frames than a bridge can be given",
    "link_cut": "the link was cut, and the route is `live`",
    "malformed": "the other side sent a broken batch",
    "overflow": "the other side takes less than comes, and the route's `overflow` drops",
    "peer_restart": "the other side was restarted",
    "probe": "they were PROBE_ROUTER greetings, not messages",
    "side_away": "the side that asked is away, and its window is full",
    "stale_reply": "they answered requests of a half that was restarted since",
    "stalled_subscriber_up_to": "a subscriber does not read",
    "subscription": "an application subscribed to more, or longer, topics than are taken",
    "too_large": "they were larger than `max_message`",
    "unreachable": "the client that asked is gone",
    "untagged": "a service answers without the envelope of the request",
    "upstream": "an XSUB application sends upstream, where nobody hears it",
    "words": "a bridge said something else at the route's desk than docs/receipts.md knows",
}
"""Why messages are dropped, as `dropped` in the status names it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One condition. `ok` None: it cannot be known before an earlier step is well."""

    step: str
    ok: bool | None
    found: str
    todo: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def word(self) -> str:
        return {True: "ok", False: "NOT OK", None: "unknown"}[self.ok]


def steps_of(facts: Facts) -> list[Step]:
    """Every condition for a message of this route to cross now, in the order of its way."""
    steps = [*_local_sockets(facts), _applications_here(facts)]
    if facts["outlet"] is not None:
        steps.append(_handed_on(facts))
    for link in facts["links"]:
        steps += [_link(link), _agreed(link, facts)]
        steps.append(_applications_there(link, facts))
        if link["outbound"] is not None:
            steps.append(_room(link))
        if link["topics"] is not None:
            steps.append(_topics(link, facts))
    return [*steps, _losses(facts)]


def _local_sockets(facts: Facts) -> Iterator[Step]:
    for end in facts["endpoints"]:
        what = f"{end['method']} {end['address']}"
        if end["method"] == "bind" and end["state"] != "bound":
            todo = "free the address (`ss -lnptx` shows who has it), or change the table and `ztunnel reload`"
            yield Step("local socket", False, f"{what}: {_reason(end) or end['state']}", todo)
        elif facts["state"] == "down" and end["method"] == "connect" and end["reason"]:
            yield Step("local socket", False, f"{what}: {_reason(end)}", "mend the name or the address")
        else:
            yield Step(
                "local socket", True, f"{what}: {end['state']}" if end["peers"] or end["method"] == "bind" else what
            )


def _applications_here(facts: Facts) -> Step:
    name = "applications here"
    count = sum(end["peers"] for end in facts["endpoints"])
    reasons = "; ".join(filter(None, map(_reason, facts["endpoints"])))
    if count:
        return Step(name, True, f"{count} connected" + (f" ({reasons})" if reasons else ""))
    turned_away = sum(end.get("turned_away", 0) for end in facts["endpoints"])
    found = "none connected" + (f", {turned_away} turned away" if turned_away else "")
    if turned_away:
        todo = f"let in those who should come (`allow`, keys, passwords), and see that each is {facts['partners']}"
    else:
        todo = " or ".join(
            f"start {facts['partners']} that {_other(end['method'])} {end['address']}" for end in facts["endpoints"]
        )
    return Step(name, False, found + (f": {reasons}" if reasons else ""), todo)


def _other(method: str) -> str:
    return "connects to" if method == "bind" else "is bound to"


def _handed_on(facts: Facts) -> Step:
    waiting, moved = facts["outlet"]["messages"], facts["outlet"]["moved"]
    name = "handed on here"
    if waiting and not moved:
        todo = "see why the applications here do not read: the route goes on as soon as they do"
        return Step(name, False, f"{_messages(waiting)} arrived and wait, none was taken for {PROBE_STILL_S:g} s", todo)
    return Step(name, True, f"{_messages(waiting)} wait and are being taken" if waiting else "nothing waits")


def _link(link: Facts) -> Step:
    name = f"link with {link['peer']}"
    if link["state"] != "up":
        found = f"down ({link['address']}){': ' + link['reason'] if link['reason'] else ''}"
        if link["role"] == "listen":
            todo = f"see that {link['peer']} runs and can reach {link['address']}: `ztunnel doctor` there dials it"
        else:
            todo = f"see that {link['peer']} runs, and what `ztunnel doctor` says of the dial"
        return Step(name, False, found, todo)
    if link["silent"]:
        lanes = " and ".join(link["silent"])
        todo = "wait: a dead link is noticed within 15 s and dialled anew; if it stays so, look at the network between"
        return Step(name, False, f"up, but nothing came back on its {lanes} lane just now", todo)
    rtt = "" if link["rtt_ms"] is None else f", round trip {link['rtt_ms']:.1f} ms"
    return Step(name, True, f"up and answering{rtt}")


def _agreed(link: Facts, facts: Facts) -> Step:
    name = f"route agreed with {link['peer']}"
    if not link["met"]:
        return Step(name, None, "not known: the two sides have not met yet", "mend the link first")
    if link["refused"]:
        todo = f"make route {facts['route']} the same in both tables, then `ztunnel reload` on both sides"
        return Step(name, False, link["refused"], todo)
    return Step(name, True, "both tables say the same")


def _applications_there(link: Facts, facts: Facts) -> Step:
    name = f"applications at {link['peer']}"
    if link["state"] != "up":
        return Step(name, None, "not known while the link is down", "mend the link first")
    if link["refused"]:
        return Step(name, None, "not known: the route is not agreed", "make the tables agree first")
    if link["remote"]:
        return Step(name, True, f"{link['remote']} connected")
    return Step(
        name, False, "none connected", f"start one; `ztunnel probe {facts['route']}` at {link['peer']} tells more"
    )


def _room(link: Facts) -> Step:
    name, outbound = f"room towards {link['peer']}", link["outbound"]
    used = f"{_kib(outbound['unacked_bytes'])} of {_kib(outbound['window_bytes'])} KiB unacknowledged"
    if not outbound["full"]:
        return Step(name, True, used)
    if outbound["moved"]:
        return Step(name, True, f"full ({used}), but moving: the other side takes less than comes")
    meanwhile = "nothing more is read here" if outbound["overflow"] == "block" else f"{outbound['overflow']} drops here"
    if link["state"] != "up":
        return Step(name, False, f"full ({used}): {meanwhile}", "mend the link: then it empties by itself")
    todo = f"see why the applications at {link['peer']} do not read: then it empties by itself"
    return Step(name, False, f"full ({used}) and not moving for {PROBE_STILL_S:g} s: {meanwhile}", todo)


def _topics(link: Facts, facts: Facts) -> Step:
    peer, count = link["peer"], link["topics"]
    many = "1 topic" if count == 1 else f"{count} topics"
    if facts["end"] == "from":
        name = f"topics wanted by {peer}"
        if not link["met"]:
            return Step(name, None, "not known: the two sides have not met yet", "mend the link first")
        todo = f"subscribe at {peer}, or set `subscribe` on the route: until then nothing crosses"
        return Step(name, bool(count), many if count else "none", "" if count else todo)
    name = f"topics told to {peer}"
    if not count:
        return Step(name, False, "no application here subscribes to anything", "subscribe: until then nothing crosses")
    if link["state"] != "up":
        return Step(name, None, f"{many} wanted here; told when the link is up", "mend the link first")
    if not facts["settled"]:
        return Step(name, False, f"{many} wanted here, not taken over there yet", "try again in a moment")
    return Step(name, True, many)


def _losses(facts: Facts) -> Step:
    dropping: dict[str, int] = facts["dropping"]
    if dropping:
        found = "dropping now: " + ", ".join(f"{n} {reason}" for reason, n in dropping.items())
        return Step("losses", False, found, "; ".join(f"{reason}: {_why(reason)}" for reason in dropping))
    so_far = ", ".join(f"{n} {reason} ({_why(reason)})" for reason, n in facts["dropped"].items())
    return Step("losses", True, f"none now; since the start: {so_far}" if so_far else "none")


def _why(reason: str) -> str:
    return LOSSES.get(reason, "see docs/guarantees.md")


def _reason(end: Facts) -> str:
    return str(end["reason"] or "").rstrip(".")


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _kib(size: int) -> str:
    return f"{-(-size // 1024)}"
