"""What may go ahead of the bookkeeping: foreseen exactly, accounted for like anything else, before anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.link.ends import piece, route
from tests.link.test_peer import cross, met, put, take
from tunnel.errors import LocalMisuseError
from tunnel.limits import ACK_DELAY_S
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.channel import Foresight
from tunnel.link.hello import Hello
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer
from tunnel.link.wire import Ack, Data, Lane

KIB = 1024


class Noted:
    """Somebody who lets batches go ahead: knows whether it was told to catch up."""

    def __init__(self, peer: Peer) -> None:
        self.told = 0
        peer.ahead = self

    def catch_up(self) -> None:
        self.told += 1


def foresee(peer: Peer, name: str = "r") -> Foresight:
    foreseen = peer.foresee(peer.channels[name])
    assert foreseen is not None
    return foreseen


def settled(*routes: Any) -> tuple[Peer, Peer]:
    """Two peers at rest: nothing is owed."""
    a, z = met(*routes)
    for peer, other in ((a, z), (z, a)):
        cross(peer, other, 1.0)
    return a, z


def ask_and_take(a: Peer, z: Peer) -> None:
    """A question has come to z and was handed on, so that z owes an acknowledgement."""
    put(a, b"question")
    cross(a, z, 2.0)
    take(z, 2.0)


def test_what_is_foreseen_is_what_express_sends() -> None:
    a, z = settled()
    ask_and_take(a, z)
    (number, seq, room), _, (lane_bytes, ack_at, owed_here) = foreseen = foresee(z)
    assert foreseen.departs is not None
    assert room == 64 * KIB
    assert (ack_at, owed_here) == (2.0 + ACK_DELAY_S, True)
    assert foreseen.enters is not None
    ack = Ack(lane_bytes, [(foreseen.enters[0], foreseen.enters[1] - 1)])
    expected = wire.encode_data(Data(number, seq, 2_000_000, 1, False, ack))
    parts = z.express(z.channels["r"], piece(b"answer"), 2.0)
    assert parts is not None
    assert b"".join(map(bytes, parts)) == expected + b"answer"


def test_what_departed_is_accounted_for_as_if_express_had_sent_it() -> None:
    states = []
    for ahead in (False, True):
        a, z = settled()
        ask_and_take(a, z)
        channel = z.channels["r"]
        assert channel.outbound is not None
        if ahead:
            departs, enters, (lane_bytes, _, _) = foresee(z)
            assert departs is not None
            assert enters is not None
            header = wire.encode_data(
                Data(departs[0], departs[1], 2_000_000, 1, False, Ack(lane_bytes, [(enters[0], enters[1] - 1)]))
            )
            z.departed(channel, piece(b"answer"), departs[1], len(header), 2.0)
        else:
            assert z.express(channel, piece(b"answer"), 2.0) is not None
        states.append((repr(channel.outbound), z.credit.outstanding, z.ack_at, foresee(z)))
    assert states[0] == states[1]
    assert states[0][2] == FOREVER


def test_what_is_due_is_what_comes() -> None:
    a, z = settled()
    ask_and_take(a, z)
    enters = foresee(z).enters
    assert enters is not None
    put(a, b"next")
    ((_, parts),) = a.transmit(2.1)
    header, _ = wire.decode_data(parts[0])
    assert (header.channel, header.seq) == enters[:2]


def test_nothing_departs_that_would_have_to_wait() -> None:
    a, _ = settled(route(), route("s"))
    assert foresee(a).departs is not None
    put(a, b"waits", name="s")
    assert foresee(a).departs is None
    a.transmit(3.0)
    assert foresee(a).departs is not None
    a.credit.sent += a.credit.credit_bytes
    assert foresee(a).departs is None


@pytest.mark.parametrize(("overflow", "room"), [("block", 54 * KIB), ("drop-oldest", 22 * KIB)])
def test_room_is_what_the_window_leaves(overflow: Any, room: int) -> None:
    a, _ = settled(route(terms=Terms(64 * KIB, overflow=overflow)))
    put(a, bytes(10 * KIB))
    a.transmit(3.0)
    departs = foresee(a).departs
    assert departs is not None
    assert departs[2] == room


def test_nothing_enters_past_what_waits_or_goes_on() -> None:
    a, z = settled()
    assert foresee(z).enters is not None
    put(a, b"waits for the local socket")
    cross(a, z, 3.0)
    assert foresee(z).enters is None
    take(z, 3.0)
    assert foresee(z).enters is not None
    out = a.channels["r"].outbound
    assert out is not None
    out.put([piece(b"x" * 10, messages=0, more=True)], 3.0)
    a.wake(a.channels["r"])
    cross(a, z, 3.0)
    assert foresee(z).enters is None


def test_what_is_owed_for_other_channels_is_not_left_to_a_shortcut() -> None:
    a, z = settled(route(), route("s"))
    put(a, b"x", name="s")
    cross(a, z, 2.0)
    take(z, 2.0, name="s")
    assert foresee(z, "s").departs is not None
    assert foresee(z, "r").departs is None


def test_nothing_is_foreseen_without_a_link_or_an_agreement_or_twice() -> None:
    a, _ = settled(route(), route("s"))
    a.channels["s"].refused = "they differ"
    assert a.foresee(a.channels["s"]) is None
    Noted(a)
    assert a.foresee(a.channels["r"]) is None
    a.catch_up()
    assert a.foresee(a.channels["r"]) is not None
    a.closed()
    assert a.foresee(a.channels["r"]) is None


CALLS: dict[str, Callable[[Peer], object]] = {
    "announce": lambda peer: peer.announce(),
    "numbers": lambda peer: peer.numbers(),
    "begin": lambda peer: peer.begin(Hello("z", b"s" * 16, 1, peer.session, 0, ()), resume=False, now=1.0),
    "open": lambda peer: peer.open({}, 1.0),
    "renew": lambda peer: peer.renew(b"t" * 16),
    "closed": lambda peer: peer.closed(),
    "wake": lambda peer: peer.wake(peer.channels["r"]),
    "delivered": lambda peer: peer.delivered(peer.channels["r"], 1, 1.0),
    "sweep": lambda peer: peer.sweep(1.0),
    "drained": lambda peer: peer.drained,
    "transmit": lambda peer: peer.transmit(1.0),
    "express": lambda peer: peer.express(peer.channels["r"], piece(), 1.0),
    "receive": lambda peer: peer.receive(Lane.CONTROL, [b"".join(map(bytes, wire.encode_ping(1)))], 1.0),
    "remove": lambda peer: peer.remove("r"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_whatever_happens_the_bookkeeping_is_done_first(call: Callable[[Peer], object]) -> None:
    a, _ = settled()
    noted = Noted(a)
    call(a)
    assert noted.told == 1
    assert a.ahead is None


def test_who_goes_ahead_sees_to_acknowledgements() -> None:
    a, z = settled()
    ask_and_take(a, z)
    assert z.deadline() == 2.0 + ACK_DELAY_S
    noted = Noted(z)
    assert z.deadline() > 2.0 + ACK_DELAY_S
    assert z.tick(2.0 + ACK_DELAY_S) is None
    assert noted.told == 0


def test_a_batch_out_of_order_is_our_own_fault() -> None:
    a, _ = settled()
    departs = foresee(a).departs
    assert departs is not None
    with pytest.raises(LocalMisuseError, match="went ahead of"):
        a.departed(a.channels["r"], piece(), departs[1] + 1, 28, 1.0)
