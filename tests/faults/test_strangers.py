"""Strangers at the link's port are refused and counted, and the good peer notices nothing, during each attack."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.apps import App
from tests.faults import strangers
from tests.faults.rig import QUICK, Rig
from tests.waiting import until
from tunnel.limits import HANDSHAKE_S
from tunnel.link import wire
from tunnel.link.wire import Kind

SLOWEST_US = 1_500_000
"""A round trip beside an attack; these machines are shared."""


def start(rig: Rig, each: dict[str, dict[str, Any]] | None = None, **how: Any) -> App:
    """One route with a client that asks all the time. `how` both halves are started, and `each` of them besides."""
    rig.write_routes(f"""
orders:
  pattern: reqrep
  from: dmz bind {rig.ipc("orders")}
  to: plant connect {rig.ipc("service")}
  max_age: never
""")
    for side, half in rig.halves.items():
        half.start(**how, **(each or {}).get(side, {}))
    rig.up()
    rig.apps.start("rep", f"bind {rig.ipc('service')}")
    client = rig.apps.start("req", f"connect {rig.ipc('orders')}", name="c", rate=300, started=True)
    until(lambda: client.received() > 20, 20, "requests are answered")
    return client


def refused(rig: Rig) -> Counter[str]:
    """What the listener says it refused, by reason."""
    counts: Counter[str] = Counter()
    for port in rig.dmz.status()["ports"]:
        counts.update(port["refused"])
    return counts


@contextmanager
def undisturbed(rig: Rig, client: App) -> Iterator[None]:
    """During this the good peer's requests are answered in time, on the same connection."""
    before, redials = client.received(), rig.plant.link()["redials"]
    yield
    until(lambda: client.received() > before + 100, 20, "the client's requests went on")
    assert max(client.journal.of("L")["c.0"][before:]) < SLOWEST_US
    assert rig.plant.link()["redials"] == redials
    assert rig.plant.link_is("up")


def is_refused(rig: Rig, before: Counter[str]) -> None:
    until(lambda: refused(rig).total() > before.total(), 10, lambda: f"counted: {refused(rig)} after {before}")


@pytest.mark.parametrize("who", strangers.STRANGERS)
def test_a_stranger_gets_no_answer_and_is_counted(rig: Rig, who: str) -> None:
    client = start(rig)
    before = refused(rig)
    with undisturbed(rig, client):
        visitor = strangers.STRANGERS[who](rig)
        visitor.say(*strangers.greeting())
        is_refused(rig, before)
        assert visitor.answer(0.5) is None
        visitor.close()


def test_an_unknown_key_is_answered_when_nobody_asks_for_keys(rig: Rig) -> None:
    start(rig, without=["keys"])
    visitor = strangers.unknown_key(rig)
    visitor.say(*strangers.greeting())
    answer = visitor.answer(10)
    visitor.close()
    assert answer is not None, "the control shows nothing"
    assert answer[0][0] == Kind.WELCOME


@pytest.mark.parametrize("checked", [True, False])
def test_another_protocol_version_is_refused_in_words(rig: Rig, checked: bool) -> None:
    """`checked` False is the control: without the check it is welcomed."""
    client = start(rig, without=[] if checked else ["version"])
    before = refused(rig)
    visitor = strangers.right_key(rig)
    if not checked:
        visitor.say(*strangers.greeting(version=99))
        answer = visitor.answer(10)
        visitor.close()
        assert answer is not None
        assert answer[0][0] == Kind.WELCOME, "the control shows nothing"
        return
    with undisturbed(rig, client):
        visitor.say(*strangers.greeting(version=99))
        answer = visitor.answer(10)
        visitor.close()
        assert answer is not None
        assert answer[0][0] == Kind.REFUSE
        refusal = json.loads(answer[0][1:])
        assert refusal["code"] == "version"
        assert "99" in refusal["text"]
        is_refused(rig, before)


def test_a_right_key_that_breaks_the_protocol_changes_nothing(rig: Rig) -> None:
    """Frames of a connection that was never opened, a nonce that was never given, another side's name."""
    client = start(rig)
    before = refused(rig)
    with undisturbed(rig, client):
        visitor = strangers.right_key(rig)
        visitor.say(wire.encode_data(wire.Data(1, 1, 0, 1, False, None)), b"\x05\0\0\0hello")
        visitor.say(bytes([Kind.BYE]) + b'{"text":"bye"}')
        visitor.say(*map(bytes, wire.encode_open(os.urandom(16))))
        visitor.say(*strangers.greeting(side="dmz"))
        visitor.say(bytes([Kind.HELLO]) + b"{" * 5000)
        for _ in range(50):
            visitor.say(os.urandom(40), os.urandom(3))
        answers = []
        while (answer := visitor.answer(1)) is not None:
            answers.append(answer[0][0])
        assert set(answers) <= {Kind.REFUSE}
        is_refused(rig, before)
        visitor.close()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
        pytest.param(bytes(range(256)) * 400, id="garbage"),
        pytest.param(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(16) + b"\1" + bytes(31), id="NULL by hand"),
    ],
)
def test_a_garbage_talker_is_counted(rig: Rig, text: bytes) -> None:
    client = start(rig)
    before = refused(rig)
    with undisturbed(rig, client):
        strangers.talk(rig, text)
        is_refused(rig, before)


@pytest.mark.parametrize("patient", [False, True])
def test_200_silent_connections(rig: Rig, patient: bool) -> None:
    """They are closed when their handshake takes too long; `patient` is the control, in which they stay."""
    client = start(rig, limits=[*QUICK, *(["HANDSHAKE_S=1000"] if patient else [])])
    with undisturbed(rig, client):
        crowd = strangers.silent(rig, 200)
    began = rig.plant.link()["resumes"]
    rig.relay.cut()
    until(lambda: rig.plant.link()["resumes"] > began, 10, "the good peer gets in again beside them")

    def gone() -> int:
        return sum(map(strangers.closed_by_peer, crowd))

    if patient:
        with pytest.raises(AssertionError, match="all closed"):
            until(lambda: gone() == 200, HANDSHAKE_S + 2, "all closed")
    else:
        until(lambda: gone() == 200, HANDSHAKE_S + 5, lambda: f"all closed: {gone()}")
    for one in crowd:
        one.close()


NOFILE = 256
BUSY = 0.5
"""Share of a core above which a thread of the listener spins."""


@pytest.mark.serial
@pytest.mark.parametrize("guarded", [True, False])
def test_5000_silent_connections_at_a_low_descriptor_limit(rig: Rig, guarded: bool) -> None:
    """`guarded` False is the control: the listener's thread spins, or nobody gets in, or the process ends."""
    client = start(rig, {"dmz": {"nofile": NOFILE, "without": [] if guarded else ["guard"]}}, limits=QUICK)
    redials = rig.plant.link()["redials"]
    attack = strangers.flood(rig, 5000)
    try:
        until(lambda: open_descriptors(rig) > NOFILE * 3 // 4, 20, lambda: f"the attack comes: {open_descriptors(rig)}")
        if not guarded:
            busy = rig.dmz.cpu_share(4)
            assert busy > BUSY, f"the control shows nothing: {busy:.2f} of a core"
            return
        with undisturbed(rig, client):
            busy = rig.dmz.cpu_share(4)
            assert busy < BUSY, f"{busy:.2f} of a core"
    finally:
        attack.kill()
        attack.wait()
    rig.relay.cut()
    until(lambda: rig.plant.link()["redials"] > redials and rig.plant.link_is("up"), 30, "a new dial gets in")


def open_descriptors(rig: Rig) -> int:
    return len(os.listdir(f"/proc/{rig.dmz.pid}/fd"))
