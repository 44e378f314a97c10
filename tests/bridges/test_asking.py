"""Asking: bounds on what is under way, for one connection and for all, and that nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from bridges.framing import make
from tests.bridges.rig import run, served
from tests.loops import LOOPS
from tunnel.reactor import Reactor

both_loops = pytest.mark.parametrize("loop", LOOPS)


@both_loops
def test_connections_share_the_requests_of_all_and_none_starves(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.asking.BRIDGE_REQUESTS", 5)

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", pipeline=4) as rig:
            devices = [await rig.dialled() for _ in range(6)]
            for _, writer in devices:
                writer.write(b"".join(b"%d\n" % number for number in range(10)))
            served_most = 0
            for _ in range(60):
                peer, number, empty, frame = await rig.recv()
                served_most = max(served_most, rig.status()["detail"]["under_way"])
                rig.send(peer, number, empty, frame)
            assert served_most <= 5
            for reader, _ in devices:
                assert await asyncio.wait_for(reader.readexactly(20), 10) == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
            await rig.until(lambda: rig.status()["detail"]["under_way"] == 0)

    run(body, loop)


@both_loops
def test_one_that_goes_makes_room_for_those_that_found_none(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.asking.BRIDGE_REQUESTS", 2)

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER") as rig:
            _, greedy = await rig.dialled()
            greedy.write(b"1\n2\n3\n")
            await rig.recvs(2)
            reader, writer = await rig.dialled()
            writer.write(b"mine\n")
            await rig.until(lambda: rig.server._mode._stalled)  # type: ignore[attr-defined]
            assert not rig.app.poll(0)
            (first, _) = rig.server.connections.values()
            first.abort("test")
            asked = await rig.recv()
            assert asked[-1] == b"mine"
            rig.send(*asked)
            assert await asyncio.wait_for(reader.readline(), 10) == b"mine\n"

    run(body, loop)


def test_each_timeout_in_a_row_is_told_in_its_turn() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", timeout_s=1.0, timeout_reply=b"no") as rig:
            reader, writer = await rig.dial()
            writer.write(b"1\n2\n3\n4\n")
            asked = await rig.recvs(4)
            rig.send(*asked[2])
            assert await asyncio.wait_for(reader.readexactly(11), 10) == b"no\nno\n3\nno\n"
            assert rig.status()["detail"]["timeouts"] == 3

    run(body)


def test_replies_of_several_frames_are_said_by_multipart() -> None:
    framing = make("multipart")

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", framing) as rig:
            reader, writer = await rig.dial()
            writer.write(framing.encode([b"a", b"b"]))
            peer, number, empty, *frames = await rig.recv()
            assert frames == [b"a", b"b"]
            rig.send(peer, number, empty, b"x", b"", b"y")
            expected = framing.encode([b"x", b"", b"y"])
            assert await asyncio.wait_for(reader.readexactly(len(expected)), 10) == expected

    run(body)
