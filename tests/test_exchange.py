"""Between routes and links: what happens in which order, how often, and that nothing is left lying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.link.ends import piece
from tests.link.test_peer import met
from tunnel.errors import RemoteProtocolError
from tunnel.exchange import SETTLE_ROUNDS, Exchange
from tunnel.link.peer import Peer
from tunnel.log import Log


class Loop:
    """A reactor and its loop, as far as the exchange knows them."""

    def __init__(self) -> None:
        self.loop = self
        self.soon: list[Callable[[], object]] = []

    def now(self) -> float:
        return 1.0

    def call_soon(self, fn: Callable[[], object]) -> None:
        self.soon.append(fn)


class Far:
    """A link and a route in one, that note what they are told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.on_transmit: Callable[[Peer], object] = lambda peer: None

    def transmit(self, peer: Peer) -> None:
        self.told.append("transmit")
        self.on_transmit(peer)

    def express(self, peer: Peer, parts: Any) -> None:
        self.told.append("express")

    def redial(self, *why: str) -> None:
        self.told.append(f"redial {' '.join(why)}")

    def breach(self, peer: Peer, error: RemoteProtocolError) -> None:
        self.told.append(f"breach {peer.side} {error}")

    def arrived(self, port: Any) -> None:
        self.told.append("arrived")

    def freed(self, port: Any) -> None:
        self.told.append("freed")


@pytest.fixture
def parts() -> tuple[Exchange, Peer, Far, Loop]:
    """An exchange with a dialled link of an open peer, everything noted."""
    loop, far = Loop(), Far()
    exchange = Exchange(loop, Log("test"))  # type: ignore[arg-type]
    peer, _ = met()
    peer.freed.clear()
    peer.channels["r"].owner = (far, None)
    exchange.dials[peer.side] = far  # type: ignore[assignment]
    return exchange, peer, far, loop


Parts = tuple[Exchange, Peer, Far, Loop]


def test_what_arrived_is_fed_and_windows_are_read_before_anything_is_sent(parts: Parts) -> None:
    exchange, peer, far, _ = parts
    channel = peer.channels["r"]
    peer.arrived.append(channel)
    peer.freed.append(channel)
    exchange.stir(peer)
    assert far.told == ["arrived", "freed", "transmit"]
    assert (peer.arrived, peer.freed) == ([], [])


def test_what_is_touched_while_it_settles_goes_in_the_same_callback(parts: Parts) -> None:
    exchange, peer, far, loop = parts
    times = iter(range(3))
    far.on_transmit = lambda peer: exchange.touch(peer) if next(times) < 2 else None
    exchange.touch(peer)
    assert far.told == []
    exchange.settle()
    assert far.told == ["transmit"] * 3
    assert loop.soon == []
    exchange.settle()
    assert far.told == ["transmit"] * 3


def test_a_settling_does_not_nest(parts: Parts) -> None:
    exchange, peer, far, _ = parts
    far.on_transmit = lambda peer: (exchange.stir(peer), exchange.settle()) if len(far.told) == 1 else None
    exchange.stir(peer)
    assert far.told == ["transmit"] * 2


def test_what_comes_to_no_rest_goes_on_in_the_next_turn_of_the_loop(parts: Parts) -> None:
    exchange, peer, far, loop = parts
    far.on_transmit = exchange.touch
    exchange.touch(peer)
    exchange.settle()
    assert len(far.told) == SETTLE_ROUNDS
    (go_on,) = loop.soon
    far.on_transmit = lambda peer: None
    go_on()
    assert len(far.told) == SETTLE_ROUNDS + 1


def test_a_piece_that_must_wait_is_not_expressed(parts: Parts) -> None:
    exchange, peer, far, _ = parts
    channel = peer.channels["r"]
    peer.transmit(0.0)
    assert exchange.express(peer, channel, piece(), 0.0)
    assert far.told == ["express"]
    peer.closed()
    assert not exchange.express(peer, channel, piece(), 0.0)
    assert far.told == ["express"]


def test_a_breach_breaks_that_side_off_whoever_dialled(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    exchange, peer, far, _ = parts
    exchange.breach(peer, RemoteProtocolError("batch", "a batch is malformed"))
    assert far.told == [f"breach {peer.side} a batch is malformed"]
    exchange.dials.clear()
    exchange.breach(peer, RemoteProtocolError("batch", "nobody holds a link"))
    exchange.listens = far  # type: ignore[assignment]
    exchange.breach(peer, RemoteProtocolError("batch", "again"))
    assert far.told[1:] == [f"breach {peer.side} again"]
    assert "protocol-breach" in "".join(capfd.readouterr())
    assert exchange.links == [far]
