"""What every carrier must do, one body over all of them, frames going both ways."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.carriers.ends import DIALLER_KEYS, LISTENER_KEYS, STRANGER_KEYS, Ends, run_within, until
from tests.carriers.through import HTTP_WAYS, SSH_WAYS, Through
from tests.servers import Sshd
from tunnel.carriers import CARRIERS, Lane
from tunnel.carriers.memory import MemoryCarrier
from tunnel.limits import BATCH_BYTES, LINK_RCVHWM

SCHEMES = sorted(CARRIERS)
SHAPES = [
    [b"x"],
    [b""],
    [b"head", b"", b"tail"],
    [b"k" * 40_000],
    [b"head", b"d" * BATCH_BYTES],
    [b"head", *[bytes([n]) * 100 for n in range(60)]],
]

Body = Callable[[Ends], Awaitable[None]]


def count_before_close(ends: Ends) -> int:
    """Frames that may wait unread at a close and still arrive: see "What a carrier promises" in docs/carriers.md."""
    return LINK_RCVHWM // 2 if ends.address.startswith("ipc:") and not isinstance(ends, Through) else 100


def test_every_carrier_of_the_table_is_tried() -> None:
    assert SCHEMES == ["ipc", "memory", "tcp"]
    assert len(SSH_WAYS) == len(HTTP_WAYS) == 4


@pytest.fixture(params=[*SCHEMES, *SSH_WAYS, *HTTP_WAYS])
def over(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Body], None]:
    """Runs a body with fresh ends of each scheme."""

    async def with_ends(body: Body) -> None:
        ends = made()
        try:
            if isinstance(ends, Through):
                await ends.open()
            await body(ends)
        finally:
            ends.close()
            if isinstance(ends, Through):
                await ends.shut()

    if request.param in SSH_WAYS:
        sshd: Sshd = request.getfixturevalue("sshd")
        made: Callable[[], Ends] = lambda: SSH_WAYS[request.param](sshd, tmp_path)  # noqa: E731
    elif request.param in HTTP_WAYS:
        made = lambda: HTTP_WAYS[request.param](tmp_path)  # noqa: E731
    else:
        made = lambda: Ends(request.param, str(tmp_path / "link"))  # noqa: E731
    return lambda body: run_within(with_ends(body))


def test_both_lanes_come_up_and_frames_go_both_ways(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, spy, *conns = await ends.pair()
        assert sorted(spy.ups) == list(Lane)
        assert len(set(conns)) == 2
        ends.spy.received.clear()
        for lane in Lane:
            for shape in SHAPES:
                assert dialled.send(lane, shape)
        await until(lambda: len(ends.spy.received) == 2 * len(SHAPES))
        for lane in Lane:
            got = [(user, parts) for conn, user, parts in ends.spy.received if conn == conns[lane]]
            assert got == [("plant", shape) for shape in SHAPES]
        assert ends.listener is not None
        for lane in Lane:
            for shape in SHAPES:
                assert ends.listener.send(conns[lane], shape)
        await until(lambda: len(spy.received) == 2 * len(SHAPES))
        for lane in Lane:
            assert [parts for got, parts in spy.received if got is lane] == SHAPES
        assert spy.losses == []

    over(body)


def test_order_within_a_lane_under_a_burst(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, spy, _, _ = await ends.pair()
        ends.spy.echo = True
        count = 5000
        for number in range(count):
            assert dialled.send(Lane.DATA, [b"%d" % number])
        await until(lambda: len(spy.received) == count, 30)
        assert [int(parts[0]) for _, parts in spy.received] == list(range(count))

    over(body)


def test_frames_given_before_the_handshake_arrive(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, _ = ends.dial()
        assert dialled.send(Lane.CONTROL, [b"early"])
        await until(lambda: ends.spy.received)
        assert ends.spy.received[0][1:] == ("plant", [b"early"])

    over(body)


def test_several_diallers_are_told_apart(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        pairs = [await ends.pair() for _ in range(4)]
        assert len({conn for _, _, *conns in pairs for conn in conns}) == 8
        assert ends.listener is not None
        for number, (_, _, control, _) in enumerate(pairs):
            ends.listener.send(control, [b"%d" % number])
        await until(lambda: all(spy.received for _, spy, *_ in pairs))
        assert [spy.received for _, spy, *_ in pairs] == [[(Lane.CONTROL, [b"%d" % n])] for n in range(4)]
        assert ends.listener.status()["connections"] == 8
        assert ends.listener.status()["admitted"] == 8

    over(body)


def test_closing_the_dialler_is_seen_by_the_listener_and_tells_the_dialler_nothing(
    over: Callable[[Body], None],
) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, spy, control, data = await ends.pair()
        dialled.close()
        assert ends.listener is not None
        listener = ends.listener
        await until(lambda: not listener.send(control, [b"x"]) and not listener.send(data, [b"x"]))
        assert not dialled.send(Lane.CONTROL, [b"x"])
        assert (spy.received, spy.losses) == ([], [])
        await until(lambda: listener.status()["connections"] == 0)

    over(body)


def test_closing_the_listener_loses_both_lanes_with_a_reason(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        dialled, spy, control, _ = await ends.pair()
        listener.close()
        await until(lambda: len(spy.losses) == 2)
        assert {lane for lane, _ in spy.losses} == set(Lane)
        assert all("closed" in reason for _, reason in spy.losses)
        assert not dialled.send(Lane.CONTROL, [b"x"])
        assert not listener.send(control, [b"x"])
        assert listener.status()["state"] == "closed"

    over(body)


def test_a_port_can_be_opened_again_after_close(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        await ends.pair()
        listener.close()
        ends.listen()
        await until(lambda: ends.listener is not None and ends.listener.status()["state"] == "listening")
        await ends.pair()

    over(body)


def test_an_unknown_key_is_refused_counted_and_told(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        good, good_spy, control, _ = await ends.pair()
        dialled, spy = ends.dial(own=STRANGER_KEYS)
        dialled.send(Lane.CONTROL, [b"let me in"])
        await until(lambda: len(spy.losses) == 2)
        assert all("refused by the listener" in reason for _, reason in spy.losses)
        assert spy.ups == []
        assert listener.status()["refused"]["key"] == 2
        assert STRANGER_KEYS.public in listener.status()["last_refusal"]
        assert listener.send(control, [b"still there"])
        await until(lambda: good_spy.received)
        assert good.send(Lane.CONTROL, [b"me too"])
        await until(lambda: ends.spy.received[-1][2] == [b"me too"])
        assert all(parts != [b"let me in"] for _, _, parts in ends.spy.received)

    over(body)


def test_a_listener_with_another_key_is_not_trusted(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        ends.listen(own=STRANGER_KEYS)
        _, spy = ends.dial(server=LISTENER_KEYS.public)
        await until(lambda: len(spy.losses) == 2)
        assert all("key" in reason for _, reason in spy.losses)
        assert (spy.ups, ends.spy.received) == ([], [])

    over(body)


def test_nobody_listens(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        listener = ends.listen()
        listener.close()
        while True:  # libzmq closes the port a moment later
            _, spy = ends.dial()
            await until(lambda spy=spy: len(spy.losses) == 2)  # type: ignore[misc]
            assert spy.ups == []
            # behind a carrier of its own process something always listens: it takes the connection and ends it
            if isinstance(ends, Through) or all("connection refused" in reason for _, reason in spy.losses):
                return

    over(body)


def test_an_address_held_by_another_is_said_and_taken_over_later(over: Callable[[Body], None], tmp_path: Path) -> None:
    async def body(ends: Ends) -> None:
        if isinstance(ends.carrier, MemoryCarrier):
            pytest.skip("a world has one listener an address; nothing is retried in it")
        if isinstance(ends, Through):
            pytest.skip("the address is the inner listener's, which is tried as ipc")
        first = ends.listen()
        scheme = ends.address.partition(":")[0]
        other = Ends(scheme, str(tmp_path / "link"))
        try:
            other.address = ends.address
            second = other.listen()
            assert second.status()["state"] == "retrying"
            assert "another program listens there" in second.status()["reason"]
            first.close()
            await until(lambda: second.status()["state"] == "listening")
            assert second.status()["reason"] == ""
            await other.pair()
        finally:
            other.close()

    over(body)


def test_dialling_again_from_lost(over: Callable[[Body], None]) -> None:
    """The callback that tells of a loss may close and dial at once."""

    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, spy = ends.dial(own=STRANGER_KEYS)
        again = []
        note = spy.lost

        def lost(lane: Lane, reason: str) -> None:
            note(lane, reason)
            dialled.close()
            again.append(ends.dial(own=DIALLER_KEYS))

        spy.lost = lost  # type: ignore[method-assign]
        await until(lambda: again and again[0][1].is_up)
        assert len(spy.losses) == 1

    over(body)


def test_what_was_given_before_an_orderly_close_of_the_dialler_arrives(over: Callable[[Body], None]) -> None:
    async def body(ends: Ends) -> None:
        ends.listen()
        dialled, _, control, _ = await ends.pair()
        ends.spy.received.clear()
        count = count_before_close(ends)
        for number in range(count):
            dialled.send(Lane.CONTROL, [b"%d" % number, bytes(10_000)])
        dialled.close(linger_s=5)
        await until(lambda: len(ends.spy.received) == count, 5, lambda: len(ends.spy.received))
        assert [int(parts[0]) for conn, _, parts in ends.spy.received if conn == control] == list(range(count))

    over(body)


@pytest.mark.parametrize("busy_s", [0, 0.3])
@pytest.mark.parametrize("read_before", [0, LINK_RCVHWM // 2 - 1], ids=["none read before", "some read before"])
def test_what_was_given_before_an_orderly_close_of_the_listener_arrives(
    over: Callable[[Body], None], read_before: int, busy_s: float
) -> None:
    """libzmq learns of frames that were read half a queue late: with `read_before` it has the least room."""

    async def body(ends: Ends) -> None:
        listener = ends.listen()
        _, spy, control, _ = await ends.pair()
        for _ in range(read_before):
            listener.send(control, [b"before"])
        await until(lambda: len(spy.received) == read_before)
        spy.received.clear()
        count = count_before_close(ends)
        for number in range(count):
            listener.send(control, [b"%d" % number, bytes(10_000)])
        listener.close(linger_s=15)
        time.sleep(busy_s)  # the dialler's loop is busy: frames and the hanging up are there when it looks
        await until(lambda: len(spy.losses) == 2, 15)
        assert [int(parts[0]) for _, parts in spy.received] == list(range(count))

    over(body)
