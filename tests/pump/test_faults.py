"""What libzmq answers seldom: EINTR, EAGAIN in the middle of a message, errors in between; put in by hand.

The compiled pump calls libzmq by address, so a function of ours can stand in for one of libzmq's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from errno import EINTR
from types import ModuleType

import pytest
import zmq

from tests.pump.conftest import connected, drain_all, implementations, receive
from tests.pump.runs import contents, encode
from tests.pump.test_feed import Vanishing
from tunnel.pump import AGAIN, DONE, SENT, libzmq

Context = zmq.Context[zmq.Socket[bytes]]
Call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
Errno = ctypes.CFUNCTYPE(ctypes.c_int)
GetOption = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Faults:
    """Answers `errno` at chosen calls of zmq_msg_send or zmq_msg_recv, and notes the flags of every call."""

    def __init__(self, pump: ModuleType) -> None:
        self.pump = pump
        self.real = libzmq.addresses()
        self.flags: list[int] = []
        self.error = 0
        self.kept: list[object] = []

    def put_in(self, function: str, answers: dict[int, int]) -> None:
        """`answers`: the number of a call (from 0) → the errno that it fails with."""
        real = Call(self.real[function])
        real_errno = Errno(self.real["zmq_errno"])

        def call(message: int, socket: int, flags: int) -> int:
            self.error = answers.get(len(self.flags), 0)
            self.flags.append(flags)
            if self.error:
                return -1
            result = int(real(message, socket, flags))
            self.error = real_errno() if result < 0 else 0
            return result

        self.replace(**{function: Call(call), "zmq_errno": Errno(lambda: self.error)})

    def replace(self, **functions: Callable[..., int]) -> None:
        self.kept += functions.values()
        pointers = {name: ctypes.cast(f, ctypes.c_void_p).value or 0 for name, f in functions.items()}  # type: ignore[arg-type]
        self.pump.bind_libzmq({**self.real, **pointers})


@pytest.fixture
def faults() -> Iterator[Faults]:
    both = implementations()
    if len(both) == 1:
        pytest.skip("the pump is not compiled here")
    faults = Faults(both[0])
    yield faults
    both[0].bind_libzmq(faults.real)


MESSAGE = [[b"one", b"two", b"three"]]
MORE = zmq.DONTWAIT | zmq.SNDMORE


@pytest.mark.parametrize(("near", "far"), [(zmq.PUSH, zmq.PULL), (zmq.DEALER, zmq.DEALER)])
def test_a_broken_message_is_ended_by_one_last_part(faults: Faults, context: Context, near: int, far: int) -> None:
    socket, _ = connected(context, "inproc", near, far)
    faults.put_in("zmq_msg_send", {1: zmq.EAGAIN})
    fed = faults.pump.feed(socket, (encode(MESSAGE),))
    assert (fed.status, fed.messages, fed.position) == (AGAIN, 0, 0)
    assert faults.flags == [MORE, MORE, zmq.DONTWAIT]


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.DEALER])
def test_the_last_part_needs_no_other(faults: Faults, context: Context, kind: int) -> None:
    """After the last part libzmq throws nothing away: one more would be a message of its own."""
    socket, _ = connected(context, "inproc", kind, zmq.PULL if kind == zmq.PUSH else zmq.DEALER)
    faults.put_in("zmq_msg_send", {2: zmq.EAGAIN})
    assert faults.pump.feed(socket, (encode(MESSAGE),)).status is AGAIN
    assert faults.flags == [MORE, MORE, zmq.DONTWAIT]


def test_a_pair_just_starts_again(faults: Faults, context: Context) -> None:
    socket, _ = connected(context, "inproc", zmq.PAIR, zmq.PAIR)
    faults.put_in("zmq_msg_send", {1: zmq.EAGAIN})
    assert faults.pump.feed(socket, (encode(MESSAGE),)).status is AGAIN
    assert faults.flags == [MORE, MORE]


def test_a_prefix_counts_as_the_first_part(faults: Faults, context: Context) -> None:
    socket, _ = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    faults.put_in("zmq_msg_send", {1: zmq.EAGAIN})
    assert faults.pump.feed(socket, (encode(MESSAGE),), prefix=b"tag").status is AGAIN
    assert faults.flags == [MORE, MORE, zmq.DONTWAIT]


def test_a_link_message_is_ended_too(faults: Faults, context: Context) -> None:
    socket, _ = connected(context, "inproc", zmq.DEALER, zmq.DEALER)
    faults.put_in("zmq_msg_send", {1: zmq.EAGAIN})
    assert faults.pump.send(socket, MESSAGE[0]) is AGAIN
    assert faults.flags == [MORE, MORE, zmq.DONTWAIT]


def test_control_a_vanished_peer_takes_a_message_along_when_it_is_not_ended(faults: Faults, context: Context) -> None:
    """Planted bug: the pump cannot learn the socket's kind, so it ends nothing."""
    asked: list[int] = []
    faults.replace(zmq_getsockopt=GetOption(lambda socket, option, value, size: asked.append(option) or -1))
    for _ in range(5):
        case = Vanishing(context, faults.pump, "inproc", zmq.DEALER, zmq.DEALER)
        before = case.feed_and_vanish()
        if asked:
            break
    assert asked == [zmq.TYPE], "a message was broken off in its middle"
    assert case.rest() != case.messages[before:]


def test_interrupted_calls_are_made_again(faults: Faults, context: Context) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    faults.put_in("zmq_msg_send", {0: EINTR, 2: EINTR, 3: EINTR})
    fed = faults.pump.feed(push, (encode(MESSAGE * 2),))
    assert (fed.status, fed.messages) == (DONE, 2)
    assert faults.pump.send(push, MESSAGE[0]) is SENT
    faults.flags.clear()
    faults.put_in("zmq_msg_recv", {0: EINTR, 1: EINTR, 3: EINTR, 7: EINTR})
    assert contents(faults.pump.drain(pull, 1000).pieces) == MESSAGE * 3
    push.send_multipart(MESSAGE[0])
    faults.flags.clear()
    assert faults.pump.recv(pull).parts == MESSAGE[0]


def test_what_came_before_an_error_is_not_lost(faults: Faults, context: Context) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    for _ in range(3):
        push.send_multipart(MESSAGE[0])
    faults.put_in("zmq_msg_recv", {6: zmq.ETERM, 7: zmq.ETERM})
    assert contents(faults.pump.drain(pull, 1000).pieces) == MESSAGE * 2
    with pytest.raises(zmq.ContextTerminated):
        faults.pump.drain(pull, 1000)
    assert contents(drain_all(faults.pump, pull, 1).pieces) == MESSAGE
    faults.flags.clear()
    faults.put_in("zmq_msg_send", {3: zmq.ETERM, 4: zmq.ETERM})
    fed = faults.pump.feed(push, (encode(MESSAGE * 2),))
    assert (fed.status, fed.messages, fed.position) == (AGAIN, 1, len(encode(MESSAGE)))
    with pytest.raises(zmq.ContextTerminated):
        faults.pump.feed(push, (encode(MESSAGE),))
    faults.pump.bind_libzmq(faults.real)
    assert receive(pull, 1) == MESSAGE
