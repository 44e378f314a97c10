"""The connections of one peer: hostile and late records, a peer that began anew, a route that goes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.loops import run_with_reactor, until
from tunnel import pump
from tunnel.config.plan import EndPlan, Endpoint, RoutePlan, StreamPlan
from tunnel.errors import RemoteProtocolError
from tunnel.limits import STREAM_CREDIT_BYTES
from tunnel.link.inbound import Inbound, Run
from tunnel.link.outbound import Outbound, Terms
from tunnel.patterns.base import Port
from tunnel.patterns.stream import StreamTo
from tunnel.patterns.stream_half import Half
from tunnel.patterns.stream_records import Code, Kind, Origin, decode_reset, encode, encode_credit, encode_open
from tunnel.reactor import Reactor

WINDOW = 1 << 20


class World:
    """A half at the service's end, whose peer is the test."""

    def __init__(self, reactor: Reactor, folder: Path, target: str, **stream: Any) -> None:
        plan = RoutePlan(
            name="s",
            pattern="stream",
            where="to",
            end=EndPlan("TCP", (Endpoint("connect", target),)),
            from_sides=("a",),
            to_sides=("z",),
            peers=("a",),
            stream=StreamPlan(**stream),
        )
        self.breaches: list[str] = []
        self.now = reactor.now
        self.call_later = reactor.call_later
        self.outbound = Outbound(1, "s", Terms(WINDOW))
        self.inbound = Inbound(1, "s", WINDOW, WINDOW)
        self.channel = SimpleNamespace(
            epoch=1, outbound=self.outbound, inbound=self.inbound, refused=None, max_message_bytes=WINDOW
        )
        peer = SimpleNamespace(side="a", is_open=True, delivered=lambda *_: None, wake=lambda _: None)
        self.pattern = StreamTo(plan, cast("Any", self))
        self.pattern.make_end(reactor, folder)
        self.port = Port(cast("Any", peer), cast("Any", self.channel))
        self.pattern.attach_ports([self.port])
        self.half: Half = self.pattern.halves[self.port]

    # the hub
    def touch(self, peer: Any) -> None: ...

    def settle(self) -> None: ...

    def express(self, *_: Any) -> bool:
        return False

    def breach(self, peer: Any, error: RemoteProtocolError) -> None:
        self.breaches.append(error.code)

    def hears(self, *records: bytes) -> None:
        """These came from the peer, in one batch."""
        run = b"".join(records)
        self.inbound.runs.append(Run([run], len(run), len(records), 0.0, 1, 0))
        self.half.arrived()
        assert not self.inbound.runs

    def said(self) -> list[tuple[int, int, bytes]]:
        """What was said to the peer since the last time."""
        segments = [segment for batch in self.outbound.queue for segment in batch.segments]
        self.outbound.queue.clear()
        return [(kind, stream, bytes(body)) for kind, stream, body in pump.records(segments)]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as port:
        yield port


Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, listening: socket.socket) -> Play:
    def run(body: Callable[[World], Any], **stream: Any) -> None:
        async def main(reactor: Reactor) -> None:
            world = World(reactor, tmp_path, f"tcp://127.0.0.1:{listening.getsockname()[1]}", **stream)
            await body(world)
            await world.pattern.stream_end.close()
            assert world.pattern.count() == 0

        run_with_reactor(main, within_s=20)

    return run


async def opened(world: World, stream: int = 1) -> None:
    world.hears(encode_open(stream, Origin()))
    await until(lambda: world.half.connections[stream].socket is not None)


@pytest.mark.parametrize(
    "records",
    [
        [encode(cast("Kind", 9), 1)],
        [encode_open(1, Origin())],
        [encode(Kind.OPEN, 2, b"\x07")],
        [encode(Kind.CREDIT, 1, b"1")],
        [encode_credit(1, 0xFFFF_FFFF)],
        [b"\xff\xff\xff\xff"],
    ],
    ids=["no such kind", "open already", "no origin", "no credit", "too much credit", "no run"],
)
def test_what_breaks_the_protocol_is_told_and_ends_the_connections(play: Play, records: list[bytes]) -> None:
    async def body(world: World) -> None:
        await opened(world)
        world.hears(*records)
        assert len(world.breaches) == 1
        assert not world.half.connections
        ((kind, stream, reset),) = world.said()
        assert (kind, stream, decode_reset(reset)[0]) == (Kind.RESET, 1, Code.reset)

    play(body)


def test_more_bytes_than_granted_end_only_that_connection(play: Play) -> None:
    async def body(world: World) -> None:
        await opened(world, 1)
        await opened(world, 2)
        world.hears(encode(Kind.DATA, 1, bytes(STREAM_CREDIT_BYTES + 1)))
        assert (world.breaches, list(world.half.connections)) == ([], [2])
        assert world.half.ended == {"credit": 1}

    play(body)


def test_what_comes_for_a_stream_that_is_over_is_ignored(play: Play) -> None:
    async def body(world: World) -> None:
        late = [encode(Kind.DATA, 5, b"x"), encode(Kind.END, 5), encode_credit(5, 1), encode(Kind.RESET, 5)]
        world.hears(*late)
        assert (world.breaches, world.said()) == ([], [])

    play(body)


def test_one_more_than_the_route_allows_is_refused_with_the_reason(play: Play) -> None:
    async def body(world: World) -> None:
        await opened(world)
        world.hears(encode_open(2, Origin()))
        ((kind, stream, reset),) = world.said()
        assert (kind, stream) == (Kind.RESET, 2)
        code, text = decode_reset(reset)
        assert code is Code.limit
        assert "may have no more" in text
        assert world.pattern.told()["refused"] == {"limit": 1}

    play(body, connections=1)


def test_a_channel_that_began_anew_knows_no_connection(play: Play) -> None:
    async def body(world: World) -> None:
        await opened(world)
        world.channel.epoch += 1
        world.pattern.freed(world.port)
        assert not world.half.connections
        assert world.half.ended == {"peer_restart": 1}
        assert world.said() == []

    play(body)


def test_a_route_that_is_gone_at_the_peer_ends_its_connections(play: Play) -> None:
    async def body(world: World) -> None:
        await opened(world)
        world.channel.refused = "a has no route s"
        world.pattern.want()
        assert world.half.ended == {"route_gone": 1}

    play(body)


def test_a_peer_that_does_not_read_our_answers_breaks_the_protocol(play: Play) -> None:
    async def body(world: World) -> None:
        world.outbound.queue_bytes = 4 * WINDOW
        world.hears(encode_open(1, Origin()))
        assert world.breaches == ["window"]
        world.outbound.queue_bytes = 0

    play(body)
