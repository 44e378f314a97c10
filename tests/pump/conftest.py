"""Every test of the pump runs over both of them, and over real sockets."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import zmq

from tunnel.pump import Drained, Piece, twin

SECONDS = 10.0
_names = itertools.count()


def implementations() -> list[ModuleType]:
    """The twin, and the compiled pump where it was built (test_both.py sees to it that it is, where it can be)."""
    try:
        return [importlib.import_module("tunnel.pump._pump"), twin]
    except ImportError:
        return [twin]


@pytest.fixture(params=implementations(), ids=lambda module: module.__name__.rpartition(".")[2])
def pump(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.linger = 0
    yield context
    context.destroy(linger=0)


Pair = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
Connect = Callable[..., Pair]


@pytest.fixture(params=["inproc", "tcp"])
def connect(request: pytest.FixtureRequest, context: zmq.Context[zmq.Socket[bytes]]) -> Connect:
    """connect(kind that binds, kind that connects, hwm=0) → two connected sockets."""

    def make(binds: int, connects: int, hwm: int = 0, **options: object) -> Pair:
        return connected(context, request.param, binds, connects, hwm, **options)

    return make


def connected(
    context: zmq.Context[zmq.Socket[bytes]], transport: str, binds: int, connects: int, hwm: int = 0, **options: object
) -> Pair:
    near, far = context.socket(binds), context.socket(connects)
    for socket in (near, far):
        socket.hwm = hwm
        socket.linger = 0
        for name, value in options.items():
            if name != "ROUTER_MANDATORY" or socket.type == zmq.ROUTER:
                socket.setsockopt(getattr(zmq, name), value)  # type: ignore[arg-type]
    near.bind("tcp://127.0.0.1:*" if transport == "tcp" else f"inproc://pump-{next(_names)}")
    far.connect(near.last_endpoint.decode())
    return near, far


def drain_all(
    pump: ModuleType, socket: zmq.Socket[bytes], messages: int, max_message: int = 1 << 26, skip_probe: bool = False
) -> Drained:
    """Drains until so many messages came or were dropped, with a deadline."""
    everything = Drained([])
    deadline = time.monotonic() + SECONDS
    while count(everything.pieces) + everything.too_large + everything.probes < messages:
        assert socket.poll(max(0.0, deadline - time.monotonic()) * 1000), f"only {everything} came"
        drained = pump.drain(socket, max_message, skip_probe)
        everything.pieces += drained.pieces
        everything.too_large += drained.too_large
        everything.probes += drained.probes
    return everything


def count(pieces: list[Piece]) -> int:
    return sum(piece.messages for piece in pieces)


def receive(socket: zmq.Socket[bytes], messages: int) -> list[list[bytes]]:
    """So many messages, with a deadline, by pyzmq's own means."""
    received = []
    for _ in range(messages):
        assert socket.poll(SECONDS * 1000), f"only {len(received)} of {messages} came"
        received.append(socket.recv_multipart())
    return received
