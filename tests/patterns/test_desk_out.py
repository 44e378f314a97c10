"""The desk where messages leave, with a socket and a channel of its own and no device around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from tests.waiting import until
from tunnel import pump
from tunnel.limits import DESK_KNOCKS, DESK_TAKERS, MESSAGE_FRAMES
from tunnel.link.inbound import Inbound
from tunnel.link.spooled import SpooledInbound
from tunnel.link.wire import Data
from tunnel.patterns.base import Port, Tally
from tunnel.patterns.desk_out import DeskOut
from tunnel.receipts import ANEW, CREDIT, DONE, HERE, MESSAGE, TAKE, THERE

WINDOW = 1 << 20


class Rig:
    """A DeskOut of ports that the test fills, its takers, and what it asked of its pattern."""

    def __init__(self, ports: int = 1, spool: str = "", max_age_s: float | None = None) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.now = 100.0
        self.later: list[Callable[[], object]] = []
        self.finished: list[int] = []
        self.breaches: list[object] = []
        self.ports = [self._port(side, spool) for side in range(ports)]
        self.seqs = [0] * ports
        self.pulls = 0
        hub = SimpleNamespace(
            now=lambda: self.now,
            settle=lambda: None,
            touch=lambda peer: None,
            breach=lambda peer, error: self.breaches.append(error),
            call_later=lambda delay_s, fn: self.later.append(fn),
        )
        self.pattern: Any = SimpleNamespace(
            plan=SimpleNamespace(name="r", max_age_s=max_age_s),
            hub=hub,
            tap=None,
            tally=Tally(),
            dropped=Counter(),
            ports=self.ports,
            end=SimpleNamespace(peers=0),
            disarm=lambda: None,
            want=lambda: None,
            finish=self._finish,
        )
        self.desk = DeskOut(self.pattern)
        self.pattern.push = lambda: self.desk.deal() if self.desk.in_charge else self.desk.hand_back()
        router = self.context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.SNDHWM, 0)
        router.bind("inproc://desk")
        watch = SimpleNamespace(poke=lambda: None, want=lambda events: None)
        self.desk.attach(SimpleNamespace(socket=router, has_socket=True, watch=watch, peers=0))  # type: ignore[arg-type]

    def _port(self, side: int, spool: str) -> Any:
        inbound: Inbound = Inbound(1, "r", WINDOW, WINDOW)
        if spool:
            inbound = SpooledInbound(1, "r", WINDOW, WINDOW)
            inbound.meet(spool)
        peer = SimpleNamespace(side=f"s{side}", catch_up=lambda: None)
        return Port(peer, SimpleNamespace(inbound=inbound))  # type: ignore[arg-type]

    def _finish(self, port: Any, run: Any, now: float) -> None:
        self.finished.append(run.last_seq)
        port.channel.inbound.done(run)

    def come(self, *messages: Sequence[bytes], port: int = 0, unit: int = 0, segment: int = 0) -> None:
        """A run of these messages has come. `segment`: cut into stretches of so many bytes."""
        run = b"".join(bytes(part) for frames in messages for piece in pump.pack(frames) for part in piece.segments)
        segments = [run[at : at + segment] for at in range(0, len(run), segment)] if segment else [run]
        self.seqs[port] += 1
        header = Data(1, self.seqs[port], 0, len(messages), False, None, unit)
        self.ports[port].channel.inbound.accept(header, segments, len(run), self.now)
        self.pattern.push()

    def taker(self, credit: int = 10) -> zmq.Socket[bytes]:
        dealer = self.context.socket(zmq.DEALER)
        dealer.connect("inproc://desk")
        if credit:
            self.says(dealer, TAKE, CREDIT.pack(credit))
        return dealer

    def says(self, dealer: zmq.Socket[bytes], *word: bytes) -> None:
        dealer.send_multipart(word)
        self.desk.on_ready(zmq.POLLIN)

    def goes(self, dealer: zmq.Socket[bytes]) -> None:
        """A taker goes; libzmq's own thread takes a moment to notice."""
        left = len(self.desk._takers) - 1
        dealer.close()

        def noticed() -> bool:
            self.desk.on_doubt()
            return len(self.desk._takers) == left

        until(noticed, 5, lambda: self.desk)

    def run_later(self) -> None:
        later, self.later = self.later, []
        for fn in later:
            fn()

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def heard(dealer: zmq.Socket[bytes]) -> list[list[bytes]]:
    """The words that are there."""
    words = []
    while dealer.poll(0):
        words.append(dealer.recv_multipart())
    return words


def given(dealer: zmq.Socket[bytes]) -> dict[bytes, list[bytes]]:
    """Number → frames, of the messages that are there."""
    words = heard(dealer)
    assert all(word[0] == MESSAGE for word in words), words
    return {word[1]: word[2:] for word in words}


def test_a_run_counts_as_delivered_when_all_of_it_and_all_before_it_is_done(rig: Rig) -> None:
    rig.come([b"a", b""], [b"b"])
    rig.come([b"c"])
    taker = rig.taker()
    numbers = {frames[0]: number for number, frames in given(taker).items()}
    assert list(numbers) == [b"a", b"b", b"c"]
    rig.says(taker, DONE, numbers[b"c"])
    assert rig.finished == []
    rig.says(taker, DONE, numbers[b"b"])
    assert rig.finished == []
    rig.says(taker, DONE, numbers[b"a"], numbers[b"a"])
    assert rig.finished == [1, 2]
    assert (rig.desk.done, rig.pattern.tally.messages_out) == (3, 3)


def test_credit_bounds_what_is_unanswered_and_grows_with_further_words(rig: Rig) -> None:
    rig.come(*([b"%d" % n] for n in range(9)))
    taker = rig.taker(2)
    first = given(taker)
    assert [frames[0] for frames in first.values()] == [b"0", b"1"]
    rig.says(taker, TAKE, CREDIT.pack(1))
    assert len(given(taker)) == 1
    rig.says(taker, DONE, next(iter(first)))
    assert len(given(taker)) == 1
    rig.says(taker, TAKE, CREDIT.pack(0xFFFF_FFFF))
    assert len(given(taker)) == 5


def test_sides_take_turns_and_so_do_takers() -> None:
    rig = Rig(ports=2)
    for n in range(3):
        rig.come([b"%d" % n], port=0)
        rig.come([b"%d" % (10 + n)], port=1)
    one = rig.taker(6)
    assert [int(frames[0]) for frames in given(one).values()] == [0, 10, 1, 11, 2, 12]
    rig.says(one, TAKE, CREDIT.pack(6))
    two = rig.taker(6)
    for n in range(4):
        rig.come([b"%d" % n])
    assert [[int(frames[0]) for frames in given(taker).values()] for taker in (one, two)] == [[0, 2], [1, 3]]
    rig.close()


def test_what_a_taker_that_went_had_goes_to_the_next_under_the_same_numbers(rig: Rig) -> None:
    rig.come([b"a"], [b"b"], [b"c"])
    one = rig.taker(2)
    before = given(one)
    rig.goes(one)
    assert rig.desk.in_charge, "it waits for the next taker"
    two = rig.taker()
    after = given(two)
    assert list(after.items())[:2] == list(before.items())
    assert [frames[0] for frames in after.values()] == [b"a", b"b", b"c"]
    assert rig.desk.may_repeat == 2
    rig.says(two, DONE, *after)
    assert rig.finished == [1]


def test_what_a_taker_said_before_it_went_is_heard(rig: Rig) -> None:
    rig.come(*([b"%d" % n] for n in range(300)))
    taker = rig.taker(300)
    for _ in range(5):
        rig.run_later()
    numbers = list(given(taker))
    assert len(numbers) == 300
    for number in numbers[:299]:
        taker.send_multipart([DONE, number])
    rig.goes(taker)
    assert (rig.desk.done, rig.desk.may_repeat) == (299, 1)


def test_who_is_gone_is_noticed_when_something_is_given(rig: Rig) -> None:
    gone, stays = rig.taker(50), rig.taker(50)
    gone.close()
    sent = 0

    def noticed() -> bool:
        nonlocal sent
        rig.come([b"%d" % sent])
        sent += 1
        rig.run_later()
        return len(rig.desk._takers) == 1

    until(noticed, 5, lambda: rig.desk)
    assert {int(frames[0]) for frames in given(stays).values()} == set(range(sent))


def test_takers_are_knocked_at_and_one_that_never_answers_is_given_up(rig: Rig) -> None:
    answers, silent = rig.taker(), rig.taker()
    for _ in range(DESK_KNOCKS):
        rig.desk.on_doubt()
        rig.says(answers, HERE)
    assert len(rig.desk._takers) == 2
    rig.desk.on_doubt()
    assert len(rig.desk._takers) == 1
    assert heard(silent) == [[THERE]] * DESK_KNOCKS
    rig.says(silent, HERE)
    assert heard(silent) == [[ANEW]]


def test_one_taker_too_many_is_told_to_come_again(rig: Rig) -> None:
    takers = [rig.taker() for _ in range(DESK_TAKERS)]
    last = rig.taker()
    assert heard(last) == [[ANEW]]
    rig.goes(takers[0])
    rig.says(last, TAKE, CREDIT.pack(1))
    assert len(rig.desk._takers) == DESK_TAKERS


def test_the_rest_goes_back_to_the_routes_own_socket(rig: Rig) -> None:
    rig.come([b"a"], [b"b"], [b"c"], [b"d"], [b"e"])
    rig.come([b"f"])
    taker = rig.taker(4)
    numbers = {frames[0]: number for number, frames in given(taker).items()}
    rig.says(taker, DONE, numbers[b"b"], numbers[b"c"])
    rest = {**numbers, **{frames[0]: number for number, frames in given(taker).items()}}
    assert set(rest) == set(b"a b c d e f".split())
    rig.says(taker, DONE, rest[b"f"])
    rig.goes(taker)
    rig.pattern.end.peers = 1
    assert not rig.desk.in_charge
    assert rig.desk.hand_back()
    assert not rig.desk.hand_back()
    runs = rig.ports[0].channel.inbound.runs
    assert [b"".join(map(bytes, run.segments)) for run in runs] == [packed(b"a", b"d", b"e"), b""]
    assert [(run.position, run.messages - run.fed) for run in runs] == [(0, 3), (0, 0)]


def packed(*messages: bytes) -> bytes:
    return b"".join(bytes(part) for one in messages for piece in pump.pack([one]) for part in piece.segments)


def test_numbers_of_a_spool_tell_repeats_and_never_call_two_messages_alike() -> None:
    numbers = []
    for segment in (0, 3):
        rig = Rig(spool="0123")
        rig.come([b"same"], [b"same"], [b"x" * 9000, b"y"], unit=5, segment=segment)
        rig.come([b"same"], unit=6)
        numbers.append(list(given(rig.taker())))
        rig.close()
    assert numbers[0] == numbers[1], "another process, other stretches: the same numbers"
    assert len(set(numbers[0])) == 4
    for spool, body in (("4567", b"same"), ("0123", b"else")):
        rig = Rig(spool=spool)
        rig.come([body], unit=5)
        assert next(iter(given(rig.taker()))) not in numbers[0]
        rig.close()


def test_what_has_left_in_part_is_counted_not_placed() -> None:
    """Else the rest of a run would bear the numbers of its beginning."""
    found = []
    for fed in (0, 1):
        rig = Rig(spool="0123")
        rig.come([b"same"], [b"same"], unit=5)
        run = rig.ports[0].channel.inbound.runs[0]
        run.fed, run.position = fed, fed * 8
        found.append(set(given(rig.taker())))
        rig.close()
    assert [len(numbers) for numbers in found] == [2, 1]
    assert not found[0] & found[1]


def test_a_unit_that_came_again_and_is_empty_is_finished_in_its_turn() -> None:
    rig = Rig(spool="0123")
    rig.come([b"a"], unit=5)
    rig.come([b"a"], unit=5)
    rig.come([b"b"], unit=6)
    taker = rig.taker()
    got = given(taker)
    assert [frames[0] for frames in got.values()] == [b"a", b"b"]
    rig.says(taker, DONE, *reversed(got))
    assert rig.finished == [1, 2, 3]
    rig.close()


def test_runs_that_a_restart_of_the_peer_took_away_are_forgotten(rig: Rig) -> None:
    inbound = rig.ports[0].channel.inbound
    taker = rig.taker()
    for n in range(3):
        rig.come([b"%d" % n])
    got = given(taker)
    inbound.runs.pop()
    inbound.restart(keep=True)
    rig.seqs[0] = 0
    rig.come([b"new"])
    numbers = [*got, *given(taker)]
    assert len(numbers) == 4
    rig.says(taker, DONE, *numbers)
    assert rig.finished == [1, 2, 1]
    assert not inbound.runs


def test_what_is_too_old_when_its_turn_comes_is_dropped_and_counted() -> None:
    rig = Rig(max_age_s=5)
    taker = rig.taker()
    rig.come([b"young"])
    rig.says(taker, DONE, *given(taker))
    rig.goes(taker)
    rig.come([b"old"], [b"old"])
    rig.now += 6
    late = rig.taker()
    rig.come([b"fresh"])
    got = given(late)
    assert [frames[0] for frames in got.values()] == [b"fresh"]
    assert rig.pattern.dropped == {"expired": 2}
    rig.says(late, DONE, *got)
    assert rig.finished == [1, 2, 3]
    rig.close()


def test_a_malformed_run_breaks_the_connection_off_and_holds_up_nothing(rig: Rig) -> None:
    inbound = rig.ports[0].channel.inbound
    rig.seqs[0] += 1
    inbound.accept(Data(1, 1, 0, 2, False, None, 0), [packed(b"good") + b"\xff\xff\0\0bad"], 16, rig.now)
    taker = rig.taker()
    rig.come([b"next"])
    got = given(taker)
    assert [frames[0] for frames in got.values()] == [b"good", b"next"]
    assert len(rig.breaches) == 1
    rig.says(taker, DONE, *got)
    assert rig.finished == [1, 2]
    assert rig.pattern.dropped == {"malformed": 2}


def test_a_message_with_too_many_frames_for_three_more_is_dropped_and_counted(rig: Rig) -> None:
    taker = rig.taker()
    rig.come([b""] * MESSAGE_FRAMES)
    rig.come([b""] * (MESSAGE_FRAMES - 3))
    got = given(taker)
    assert [len(frames) for frames in got.values()] == [MESSAGE_FRAMES - 3]
    assert rig.pattern.dropped == {"frames": 1}
    rig.says(taker, DONE, *got)
    assert rig.finished == [1, 2]
