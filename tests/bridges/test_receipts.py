"""The bridge's side of a desk alone, against a ROUTER that the test plays: words, connecting anew, bounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from bridges.receipts import Giver, Taker
from tests.loops import run_with_reactor, until
from tunnel.limits import RECEIPTS_KNOWN
from tunnel.reactor import Reactor
from tunnel.receipts import ANEW, CREDIT, DONE, HERE, MESSAGE, NUMBER, PUT, REFUSED, TAKE, TAKEN, THERE


class Desk:
    """A ROUTER of the test's own. `open` and `close` are those of a device's process."""

    def __init__(self, reactor: Reactor, folder: str) -> None:
        self.endpoint = f"ipc://{folder}/desk"
        self._context = reactor.context
        self.socket: zmq.Socket[bytes] | None = None

    def open(self) -> None:
        self.socket = self._context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
        self.socket.bind(self.endpoint)

    def close(self) -> None:
        assert self.socket is not None
        self.socket.close(0)

    async def hears(self, within_s: float = 10) -> list[bytes]:
        """[peer, word, ...]"""
        assert self.socket is not None
        await until(lambda: self.socket is not None and self.socket.poll(0), within_s, lambda: "nothing was heard")
        return self.socket.recv_multipart()

    def says(self, peer: bytes, *word: bytes) -> None:
        assert self.socket is not None
        self.socket.send_multipart([peer, *word])

    def silent(self) -> bool:
        assert self.socket is not None
        return not self.socket.poll(100)


@contextmanager
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="zt", dir="/tmp") as made:
        yield made


def with_desk(body: Callable[[Reactor, Desk], Any]) -> None:
    with folder() as made:
        run_with_reactor(lambda reactor: body(reactor, Desk(reactor, made)))


def n(number: int) -> bytes:
    return NUMBER.pack(number)


def test_what_is_put_before_the_desk_is_there_goes_when_it_is() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        answers: list[tuple[str, str | None]] = []
        giver = Giver(reactor, desk.endpoint)
        giver.put(1, [b"a", b""], lambda why: answers.append(("a", why)))
        giver.put(2, [b"b"], lambda why: answers.append(("b", why)))
        assert (giver.up, giver.waiting, giver.bytes) == (False, 2, 2)
        desk.open()
        peer, *word = await desk.hears()
        assert word == [PUT, n(1), b"a", b""]
        assert (await desk.hears())[1:] == [PUT, n(2), b"b"]
        desk.says(peer, REFUSED, n(2), b"too large")
        desk.says(peer, TAKEN, n(1), n(7), b"short", n(1))
        await until(lambda: not giver.waiting)
        assert answers == [("b", "too large"), ("a", None)]
        assert giver.status() == {
            "up": True,
            "waiting": 0,
            "waiting_bytes": 0,
            "taken": 1,
            "refused": 1,
            "may_repeat": 0,
        }
        giver.close()
        desk.close()

    with_desk(body)


def test_a_new_desk_is_put_what_the_old_one_had_not_taken_in_order() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        answers: list[int] = []
        giver = Giver(reactor, desk.endpoint)
        desk.open()
        for number in range(1, 6):
            giver.put(number, [b"%d" % number], lambda why, number=number: answers.append(number))
        words = [await desk.hears() for _ in range(5)]
        desk.says(words[0][0], TAKEN, n(2), n(4))
        await until(lambda: answers == [2, 4])
        desk.close()
        await until(lambda: not giver.up)
        giver.put(6, [b"6"], lambda why: answers.append(6))
        desk.open()
        again = [await desk.hears() for _ in range(4)]
        assert [word[3] for word in again] == [b"1", b"3", b"5", b"6"]
        assert again[0][0] != words[0][0], "it is another connection, and nothing of the old one comes along"
        assert giver.repeated == 3
        assert desk.silent()
        desk.says(again[0][0], TAKEN, *map(n, (1, 3, 5, 6)))
        await until(lambda: not giver.waiting)
        assert giver.up
        giver.close()
        desk.close()

    with_desk(body)


def test_answers_that_were_not_read_when_the_desk_went_are_read_still() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        giver = Giver(reactor, desk.endpoint)
        desk.open()
        giver.put(1, [b"x"], lambda why: None)
        peer, *_ = await desk.hears()
        desk.says(peer, TAKEN, n(1))
        assert desk.socket is not None
        desk.socket.close(1000)
        await until(lambda: not giver.up)
        assert (giver.waiting, giver.taken) == (0, 1)
        giver.close()

    with_desk(body)


def test_a_giver_has_room_for_so_many_bytes_and_says_when_it_has_it_again() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        room: list[int] = []
        giver = Giver(reactor, desk.endpoint, on_room=lambda: room.append(giver.bytes), most_bytes=1000)
        desk.open()
        for number, size in enumerate((600, 300, 5000), 1):
            assert giver.has_room
            giver.put(number, [bytes(size)], lambda why: None)
        assert not giver.has_room
        peer, *_ = await desk.hears()
        desk.says(peer, TAKEN, n(1), n(2))
        await until(lambda: giver.waiting == 1)
        assert not giver.has_room
        assert not room
        desk.says(peer, TAKEN, n(3))
        await until(lambda: room == [0])
        giver.close()
        desk.close()

    with_desk(body)


def test_what_cannot_be_put() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        giver = Giver(reactor, desk.endpoint)
        giver.put(7, [b""], lambda why: None)
        with pytest.raises(ValueError, match="7 waits already"):
            giver.put(7, [b"x"], lambda why: None)
        with pytest.raises(ValueError, match="at least one frame"):
            giver.put(8, [], lambda why: None)
        assert giver.waiting == 1
        giver.close()
        assert giver.waiting == 0

    with_desk(body)


def test_a_desk_that_does_not_read_is_waited_for() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        giver = Giver(reactor, desk.endpoint, most_bytes=1 << 30)
        desk.open()
        await until(lambda: giver.up)
        for number in range(1, 5001):
            giver.put(number, [bytes(2000)], lambda why: None)
        for number in range(1, 5001):
            peer, *word = await desk.hears()
            assert word[1] == n(number)
            desk.says(peer, TAKEN, word[1])
        await until(lambda: not giver.waiting)
        giver.close()
        desk.close()

    with_desk(body)


def test_a_taker_says_its_credit_and_what_is_done() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        got: list[tuple[int, list[bytes]]] = []
        taker = Taker(reactor, desk.endpoint, lambda number, frames: got.append((number, frames)), credit=7)
        desk.open()
        peer, *word = await desk.hears()
        assert word == [TAKE, CREDIT.pack(7)]
        desk.says(peer, MESSAGE, n(9), b"a", b"")
        desk.says(peer, MESSAGE, n(3), b"b")
        desk.says(peer, THERE)
        assert (await desk.hears())[1:] == [HERE]
        await until(lambda: got == [(9, [b"a", b""]), (3, [b"b"])])
        assert taker.waiting == 2
        taker.done(3)
        assert (await desk.hears())[1:] == [DONE, n(3)]
        taker.done(3)
        taker.done(4)
        taker.done(9)
        assert (await desk.hears())[1:] == [DONE, n(9)]
        assert desk.silent()
        assert taker.status() == {"up": True, "waiting": 0, "messages": 2, "repeats": 0}
        taker.close()
        desk.close()

    with_desk(body)


def test_what_the_bridge_has_or_had_is_kept_from_it_and_answered() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        got: list[int] = []
        taker = Taker(reactor, desk.endpoint, lambda number, frames: got.append(number))
        desk.open()
        peer, *_ = await desk.hears()
        for number in (1, 2, 3):
            desk.says(peer, MESSAGE, n(number), b"x")
        await until(lambda: got == [1, 2, 3])
        taker.done(1)
        await desk.hears()
        desk.close()
        await until(lambda: not taker.up)
        taker.done(2)
        desk.open()
        peer, *word = await desk.hears()
        assert word[0] == TAKE
        assert desk.silent(), "of what the new connection was not given nothing is said"
        for number in (1, 2, 3, 4):
            desk.says(peer, MESSAGE, n(number), b"x")
        assert [(await desk.hears())[1:] for _ in range(2)] == [[DONE, n(1)], [DONE, n(2)]]
        await until(lambda: got == [1, 2, 3, 4])
        taker.done(3)
        assert (await desk.hears())[1:] == [DONE, n(3)]
        assert taker.repeated == 3
        taker.close()
        desk.close()

    with_desk(body)


def test_a_taker_that_is_told_to_connects_anew() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        taker = Taker(reactor, desk.endpoint, lambda number, frames: None)
        desk.open()
        first, *_ = await desk.hears()
        desk.says(first, ANEW)
        second, *word = await desk.hears()
        assert second != first
        assert word[0] == TAKE
        taker.close()
        desk.close()

    with_desk(body)


def test_a_taker_remembers_so_many() -> None:
    async def body(reactor: Reactor, desk: Desk) -> None:
        taker = Taker(reactor, desk.endpoint, lambda number, frames: taker.done(number))
        desk.open()
        peer, *_ = await desk.hears()
        for number in range(RECEIPTS_KNOWN + 10):
            desk.says(peer, MESSAGE, n(number), b"x")
            await desk.hears()
        assert len(taker._known) == RECEIPTS_KNOWN
        taker.close()
        desk.close()

    with_desk(body)
