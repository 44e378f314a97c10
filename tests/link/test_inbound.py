"""One direction of a channel at its receiver: order, fragments, bounds, ended sessions."""

from __future__ import annotations

import pytest

from tunnel.errors import RemoteProtocolError
from tunnel.limits import BATCH_COST_BYTES, FRAGMENT_BYTES, MESSAGE_FRAMES
from tunnel.link.inbound import Inbound
from tunnel.link.wire import Data

KIB = 1024
WINDOW = 64 * KIB
MESSAGE = 1024 * KIB


def inbound() -> Inbound:
    return Inbound(1, "r", WINDOW, MESSAGE)


def accept(into: Inbound, seq: int, body: bytes = b"x", *, more: bool = False, messages: int = 1) -> bool:
    return into.accept(Data(1, seq, 0, messages, more, None), [body] if body else [], len(body), 1.0)


def flood(into: Inbound, body: bytes, *, more: bool = False) -> None:
    for seq in range(1, 100_000):
        accept(into, seq, body, more=more)


def hand_on(into: Inbound) -> list[bytes]:
    out = []
    while into.runs:
        out.append(b"".join(bytes(memoryview(segment)) for segment in into.runs[0].segments))
        into.done(into.runs[0])
    return out


def test_batches_are_delivered_in_order_and_then_acknowledged() -> None:
    into = inbound()
    assert accept(into, 1, b"a")
    assert accept(into, 2, b"b")
    assert (into.received, into.delivered) == (2, 0)
    assert hand_on(into) == [b"a", b"b"]
    assert (into.received, into.delivered, into.held_bytes) == (2, 2, 0)


def test_what_came_before_is_dropped() -> None:
    into = inbound()
    accept(into, 1)
    assert not accept(into, 1)
    assert not accept(into, 0)
    assert (into.repeats, len(into.runs)) == (2, 1)


def test_a_gap_is_the_peers_error() -> None:
    into = inbound()
    accept(into, 1)
    with pytest.raises(RemoteProtocolError, match="batch 3 came where 2 was due") as error:
        accept(into, 3)
    assert error.value.code == "sequence"
    assert into.received == 1


def test_fragments_are_one_run_and_are_delivered_at_once() -> None:
    into = inbound()
    accept(into, 1, b"a", more=True, messages=0)
    accept(into, 2, b"b", more=True, messages=0)
    assert not into.runs
    accept(into, 3, b"c")
    assert into.delivered == 0
    assert hand_on(into) == [b"abc"]
    assert into.delivered == 3


def test_an_empty_batch_is_delivered_too() -> None:
    into = inbound()
    assert accept(into, 1, b"", messages=0)
    assert hand_on(into) == [b""]
    assert into.delivered == 1


def test_the_peer_is_held_to_its_window() -> None:
    into = inbound()
    with pytest.raises(RemoteProtocolError, match="more than its window") as error:
        flood(into, bytes(FRAGMENT_BYTES))
    assert error.value.code == "window"
    assert into.held_bytes <= WINDOW + MESSAGE + 4 * MESSAGE_FRAMES + FRAGMENT_BYTES


def test_empty_batches_do_not_pass_the_window_by() -> None:
    into = inbound()
    with pytest.raises(RemoteProtocolError, match="more than its window"):
        flood(into, b"")
    assert into.held_bytes == len(into.runs) * BATCH_COST_BYTES


def test_empty_parts_are_refused() -> None:
    into = inbound()
    with pytest.raises(RemoteProtocolError, match="empty parts"):
        into.accept(Data(1, 1, 0, 1, True, None), [b""] * 60, 0, 1.0)


def test_a_message_is_bounded_while_it_comes() -> None:
    into = Inbound(1, "r", 100 * MESSAGE, MESSAGE)
    with pytest.raises(RemoteProtocolError, match="larger than this route takes"):
        flood(into, bytes(FRAGMENT_BYTES), more=True)


def test_an_abandoned_message_does_not_count_as_received() -> None:
    into = inbound()
    accept(into, 1, b"a")
    accept(into, 2, b"b", more=True, messages=0)
    accept(into, 3, b"c", more=True, messages=0)
    into.abandon()
    assert into.received == 1
    accept(into, 2, b"d")
    assert hand_on(into) == [b"a", b"d"]
    assert into.held_bytes == 0


def test_what_an_ended_session_sent_is_still_handed_on() -> None:
    into = inbound()
    accept(into, 1, b"a")
    accept(into, 2, b"b", more=True, messages=0)
    into.restart(keep=True)
    assert (into.received, into.delivered, into.held_bytes) == (0, 0, 0)
    accept(into, 1, b"c")
    assert hand_on(into) == [b"a", b"c"]
    assert (into.delivered, into.held_bytes) == (1, 0)


def test_or_it_is_dropped_and_counted() -> None:
    into = inbound()
    accept(into, 1, b"a", messages=3)
    accept(into, 2, b"b", messages=4)
    into.runs[0].fed = 1
    late = into.runs[0]
    into.restart(keep=False)
    assert into.dropped == {"peer_restart": 6}
    into.done(late)
    accept(into, 1, b"c")
    assert hand_on(into) == [b"c"]


def test_a_peer_that_keeps_crashing_does_not_fill_us() -> None:
    into = inbound()
    held = 0
    for _ in range(50):
        for seq in (1, 2):
            accept(into, seq, bytes(FRAGMENT_BYTES))
        into.restart(keep=True)
        held = max(held, sum(run.size for run in into.runs))
    assert held <= WINDOW + MESSAGE + 4 * MESSAGE_FRAMES + FRAGMENT_BYTES
    assert into.dropped["peer_restart"] == 100 - len(into.runs)
