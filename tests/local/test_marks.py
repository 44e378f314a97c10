"""Why high-water marks are never changed once somebody is connected: what libzmq does then (4.3.5), over real sockets.

Should one of these fail with a newer libzmq, marks could follow the size of messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.waiting import elapse, until


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """A PUSH with a mark of 64 and a PULL that holds next to nothing by itself, connected over TCP."""
    context = zmq.Context[Any]()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    push.sndhwm = 64
    pull.rcvhwm, pull.rcvbuf = 1, 4096
    pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")
    assert push.poll(5000, zmq.POLLOUT)
    yield push, pull
    context.destroy(0)


def fill(push: Any) -> int:
    """Sends until the socket takes no more for half a second; how many went."""
    sent = 0
    while push.poll(500, zmq.POLLOUT):
        push.send(b"x" * 20_000, zmq.NOBLOCK)
        sent += 1
    return sent


def empty(pull: Any) -> int:
    received = 0
    while pull.poll(1000):
        pull.recv()
        received += 1
    return received


@pytest.mark.parametrize(("mark", "goes_on"), [(None, True), (1000, False)])
def test_a_full_connection_whose_mark_is_widened_never_goes_on(
    pair: tuple[Any, Any], mark: int | None, goes_on: bool
) -> None:
    push, pull = pair
    sent = fill(push)
    if mark is not None:
        push.sndhwm = mark
        elapse(0.1)  # the other thread takes the new mark
    assert empty(pull) == sent
    assert bool(push.poll(1000, zmq.POLLOUT)) is goes_on, "the consumer has read everything"


@pytest.mark.parametrize("mark", [None, 10])
def test_a_connection_whose_mark_is_narrowed_stops(pair: tuple[Any, Any], mark: int | None) -> None:
    push, pull = pair
    push.setsockopt(zmq.SNDHWM, 1000)
    elapse(0.1)
    for _ in range(300):
        push.send(b"x")
    until(lambda: pull.poll(0), 5, "the first arrives")
    assert empty(pull) == 300
    if mark is not None:
        push.setsockopt(zmq.SNDHWM, mark)
        elapse(0.1)
    took = 0
    while took < 200 and push.poll(1000, zmq.POLLOUT):
        push.send(b"y", zmq.NOBLOCK)
        took += 1
        pull.recv()
    assert (took == 200) is (mark is None)
