"""The judgement of `probe`, on facts as the device gives them (tests/interop/test_probe.py has real ones)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tunnel.cli.steps import LOSSES, Step, steps_of

ROOT = Path(__file__).parents[2]
DROPS = re.compile(r'(?:dropped\[|_drop_oldest\(|drop_all\(|_lose_flight_after\(\w+, )"(\w+)"')


def facts(**changed: Any) -> dict[str, Any]:
    """A tasks route at `dmz` where all is well."""
    return {
        "route": "tasks",
        "end": "from",
        "state": "ready",
        "endpoints": [endpoint()],
        "partners": "a PUSH socket",
        "dropped": {},
        "dropping": {},
        "outlet": None,
        "settled": True,
        "links": [link()],
    } | changed


def endpoint(**changed: Any) -> dict[str, Any]:
    return {
        "address": "tcp://10.0.0.1:5555",
        "method": "bind",
        "state": "bound",
        "peers": 1,
        "reason": "",
        "turned_away": 0,
    } | changed


def link(**changed: Any) -> dict[str, Any]:
    return {
        "peer": "plant",
        "state": "up",
        "reason": "",
        "role": "listen",
        "address": "tcp://10.0.0.1:9440",
        "rtt_ms": 1.25,
        "silent": [],
        "met": True,
        "refused": None,
        "remote": 2,
        "outbound": outbound(),
        "topics": None,
    } | changed


def outbound(**changed: Any) -> dict[str, Any]:
    return {"unacked_bytes": 1, "window_bytes": 4096, "overflow": "block", "full": False, "moved": False} | changed


def wrong(given: dict[str, Any]) -> list[Step]:
    steps = steps_of(given)
    assert all(bool(step.todo) != bool(step.ok) for step in steps), "what to do, exactly where it is not ok"
    return [step for step in steps if not step.ok]


def test_all_is_well() -> None:
    assert [(step.step, step.found) for step in steps_of(facts())] == [
        ("local socket", "bind tcp://10.0.0.1:5555: bound"),
        ("applications here", "1 connected"),
        ("link with plant", "up and answering, round trip 1.2 ms"),
        ("route agreed with plant", "both tables say the same"),
        ("applications at plant", "2 connected"),
        ("room towards plant", "1 of 4 KiB unacknowledged"),
        ("losses", "none"),
    ]
    assert wrong(facts()) == []


@pytest.mark.parametrize(
    ("given", "step", "found"),
    [
        (
            facts(endpoints=[endpoint(state="down", reason="in use.")]),
            "local socket",
            "bind tcp://10.0.0.1:5555: in use",
        ),
        (
            facts(endpoints=[endpoint(peers=0, turned_away=3, reason="10.9.9.9 is not let in.")]),
            "applications here",
            "none connected, 3 turned away: 10.9.9.9 is not let in",
        ),
        (
            facts(outlet={"messages": 1, "moved": False}),
            "handed on here",
            "1 message arrived and wait, none was taken for 3 s",
        ),
        (
            facts(links=[link(silent=["data"])]),
            "link with plant",
            "up, but nothing came back on its data lane just now",
        ),
        (facts(links=[link(refused="no such route")]), "route agreed with plant", "no such route"),
        (facts(links=[link(remote=0)]), "applications at plant", "none connected"),
        (
            facts(links=[link(outbound=outbound(unacked_bytes=4096, full=True))]),
            "room towards plant",
            "full (4 of 4 KiB unacknowledged) and not moving for 3 s: nothing more is read here",
        ),
        (
            facts(links=[link(outbound=outbound(unacked_bytes=4096, full=True, overflow="drop-oldest"))]),
            "room towards plant",
            "full (4 of 4 KiB unacknowledged) and not moving for 3 s: drop-oldest drops here",
        ),
        (facts(links=[link(topics=0)]), "topics wanted by plant", "none"),
        (
            facts(end="to", links=[link(topics=0)]),
            "topics told to plant",
            "no application here subscribes to anything",
        ),
        (
            facts(end="to", settled=False, links=[link(topics=1)]),
            "topics told to plant",
            "1 topic wanted here, not taken over there yet",
        ),
        (facts(dropping={"overflow": 7}), "losses", "dropping now: 7 overflow"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_thing_is_wrong(given: dict[str, Any], step: str, found: str) -> None:
    first = wrong(given)[0]
    assert (first.step, first.ok, first.found) == (step, False, found)


def test_what_stands_behind_another_fault_is_unknown() -> None:
    down = link(state="down", met=False, reason="nobody has dialled in yet", silent=["control", "data"], topics=0)
    told = {step.step: step.word for step in wrong(facts(links=[down]))}
    assert told == {
        "link with plant": "NOT OK",
        "route agreed with plant": "unknown",
        "applications at plant": "unknown",
        "topics wanted by plant": "unknown",
    }


def test_full_and_moving_is_ok() -> None:
    moving = link(outbound=outbound(full=True, moved=True))
    assert wrong(facts(links=[moving], outlet={"messages": 5, "moved": True})) == []


def test_a_full_window_behind_a_link_that_is_down_sends_to_the_link() -> None:
    steps = wrong(facts(links=[link(state="down", outbound=outbound(full=True))]))
    assert steps[-1].todo == "mend the link: then it empties by itself"


def test_the_dialling_side_is_sent_to_its_doctor() -> None:
    for role, words in (("dial", "what `ztunnel doctor` says of the dial"), ("listen", "`ztunnel doctor` there")):
        assert words in wrong(facts(links=[link(state="down", role=role)]))[0].todo


def test_every_reason_to_drop_is_explained() -> None:
    sources = sorted((ROOT / "tunnel").rglob("*.py"))
    reasons = {reason for source in sources for reason in DROPS.findall(source.read_text())}
    assert {"overflow", "link_cut", "peer_restart", "expired"} <= reasons
    assert reasons <= LOSSES.keys()
