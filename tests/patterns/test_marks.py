"""High-water marks follow sizes, and never stop a connection: over real sockets, for libzmq's bookkeeping decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.waiting import elapse
from tunnel.limits import EXIT_HWM, LOCAL_HWM
from tunnel.patterns.marks import Marks, entry_mark, exit_mark

SMALL, LARGE = b"s" * 60, b"l" * 500_000


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """A PUSH and a PULL, connected over TCP, with the marks of birth."""
    context = zmq.Context[Any]()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.sndhwm, push.rcvhwm, pull.rcvhwm = EXIT_HWM, LOCAL_HWM, LOCAL_HWM
    pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")
    assert push.poll(5000, zmq.POLLOUT)
    yield push, pull
    context.destroy(0)


def carry(push: Any, pull: Any, message: bytes, count: int) -> int:
    """Sends one by one and receives each; how many arrived before nothing did any more."""
    for number in range(count):
        if not push.poll(1000, zmq.POLLOUT):
            return number
        push.send(message, zmq.NOBLOCK)
        if not pull.poll(1000):
            return number
        pull.recv()
    return count


def test_marks_by_size() -> None:
    assert [exit_mark(size) for size in (20, 64, 1024, 65_536, 1 << 20, 1 << 26)] == [1000, 1000, 64, 64, 4, 2]
    assert [entry_mark(size) for size in (20, 1024, 65_536, 1 << 20, 1 << 26)] == [1000, 1000, 128, 8, 4]


@pytest.mark.parametrize("smalls", [0, 1, 31, 56, 100, 300, 499, 700])
def test_large_messages_cross_after_any_number_of_small_ones(pair: tuple[Any, Any], smalls: int) -> None:
    push, pull = pair
    leaving, entering = Marks(fixed=False), Marks(fixed=False)
    for message, count in ((SMALL, smalls), (LARGE, 40), (SMALL, 200), (LARGE, 40)):
        for _ in range(count):
            leaving.leaving(push, len(message), 1)
            assert carry(push, pull, message, 1) == 1, f"stuck at {leaving.exit}, {entering.entry}"
            entering.entered(pull, len(message), 1)


@pytest.mark.parametrize(("socket", "option"), [(0, zmq.SNDHWM), (1, zmq.RCVHWM)])
def test_a_narrowed_mark_stops_a_connection(pair: tuple[Any, Any], socket: int, option: int) -> None:
    """The control, and the fact that Marks is built on (libzmq 4.3.5): what a narrowing after small messages does."""
    pair[socket].setsockopt(option, 1000)
    elapse(0.1)  # the other thread takes the new mark
    assert carry(*pair, SMALL, 300) == 300
    pair[socket].setsockopt(option, 10)
    elapse(0.1)
    assert carry(*pair, LARGE, 100) < 100


def test_a_first_large_message_narrows_and_many_small_ones_widen(pair: tuple[Any, Any]) -> None:
    push, pull = pair
    marks = Marks(fixed=False)
    marks.leaving(push, 1 << 20, 1)
    marks.entered(pull, 1 << 20, 1)
    assert (push.sndhwm, pull.rcvhwm) == (4, 8)
    marks.leaving(push, 60, 1)
    assert push.sndhwm == 4, "one small message says little"
    for _ in range(200):
        marks.leaving(push, 60, 1)
        marks.entered(pull, 60, 1)
    assert (push.sndhwm, pull.rcvhwm) == (marks.exit, marks.entry)
    assert marks.exit > 500
    assert marks.entry > 500
    marks.leaving(push, 1 << 20, 1)
    marks.entered(pull, 1 << 20, 1)
    assert push.sndhwm > 500, "never narrowed again"
    assert pull.rcvhwm > 500


def test_a_mark_of_the_table_is_not_touched(pair: tuple[Any, Any]) -> None:
    push, pull = pair
    marks = Marks(fixed=True)
    marks.leaving(push, 1 << 20, 1)
    marks.entered(pull, 1 << 20, 1)
    assert (push.sndhwm, pull.rcvhwm) == (EXIT_HWM, LOCAL_HWM)


def test_many_small_messages_read_at_once_leave_the_first_mark_alone(pair: tuple[Any, Any]) -> None:
    marks = Marks(fixed=False)
    marks.entered(pair[1], 60 * 400, 400)
    assert pair[1].rcvhwm == LOCAL_HWM
