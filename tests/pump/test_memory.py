"""Memory comes back: blocks are counted, and the process does not grow."""

from __future__ import annotations

import gc
from pathlib import Path
from types import ModuleType

import pytest
import zmq

from tests.pump.conftest import SECONDS, Connect, connected, drain_all, implementations
from tests.waiting import until
from tunnel.limits import BATCH_BYTES, REFERENCE_BYTES
from tunnel.pump import RunError, twin

Context = zmq.Context[zmq.Socket[bytes]]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def compiled() -> ModuleType:
    both = implementations()
    if len(both) == 1:
        pytest.skip("the pump is not compiled here")
    return both[0]


def round_trip(pump: ModuleType, push: zmq.Socket[bytes], pull: zmq.Socket[bytes], messages: int) -> None:
    """Drain what is there, keep it the ways a channel keeps it, feed it, and throw away what arrives."""
    topics = pump.Topics()
    topics.add(0, b"")
    topics.add(1, b"\x00")
    pieces = drain_all(pump, pull, messages).pieces
    for piece in pieces:
        if not piece.more and pieces[0].messages:
            pump.cut(piece.segments, 0)
            pump.split(piece.segments, topics, 2)
            pump.keep_latest([piece.segments])
    pump.feed(push, [segment for piece in pieces for segment in piece.segments])
    for _ in range(messages):
        pull.recv(copy=False)
        while pull.getsockopt(zmq.RCVMORE):
            pull.recv(copy=False)


def test_many_messages_leave_no_memory_behind(pump: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)

    def some(rounds: int) -> None:
        for _ in range(rounds):
            for i in range(495):
                push.send_multipart([b"%d" % i, b"s" * 200])
            for _ in range(5):
                push.send_multipart([b"large", b"L" * REFERENCE_BYTES, b""])
            round_trip(pump, push, pull, 500)

    some(20)
    gc.collect()
    before = resident_bytes()
    some(60 if pump is twin else 300)
    gc.collect()
    assert resident_bytes() - before < 8 << 20, "grew by more than 8 MiB; the large payloads alone were 9 and 47 MiB"


def test_every_block_comes_back(compiled: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    before = compiled.blocks()
    for size in (1, REFERENCE_BYTES, BATCH_BYTES, 3 * BATCH_BYTES):
        push.send_multipart([b"x", b"y" * size, b"z" * size])
        push.send(b"too large" * size)
        drained = drain_all(compiled, pull, 2, max_message=2 * size + 1)
        assert drained.too_large == 1
        assert compiled.feed(push, [s for piece in drained.pieces for s in piece.segments]).messages == 1
        del drained
        assert pull.poll(SECONDS * 1000)
        pull.recv_multipart()
        with pytest.raises(RunError):
            compiled.keep_latest([(compiled.Chunk(b"\xff" * size),)])
        push.send_multipart([b"tag", b"y" * size])
        assert pull.poll(SECONDS * 1000)
        compiled.drain_tagged(pull, 1 << 26)
        push.send_multipart([b"tag", b"y" * size])
        assert pull.poll(SECONDS * 1000)
        compiled.drain_shares(pull, 1 << 26, 3)
        compiled.send(push, [b"x", compiled.Chunk(b"y" * size)])
        assert pull.poll(SECONDS * 1000)
        compiled.recv(pull)
    until(lambda: compiled.blocks() == before, SECONDS, lambda: f"{compiled.blocks() - before} blocks left")


def test_a_block_lives_as_long_as_anybody_uses_it(compiled: ModuleType, context: Context) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    before = compiled.blocks()
    push.send(b"y" * 100_000)
    (piece,) = drain_all(compiled, pull, 1).pieces
    assert compiled.blocks() == before + 1
    view = memoryview(piece.segments[1])[50_000:]
    compiled.feed(push, piece.segments)
    del piece
    assert compiled.blocks() == before + 1, "in a queue of libzmq, and in a view"
    arrived = pull.recv(copy=False)
    assert compiled.blocks() == before + 1
    del view
    assert bytes(arrived.buffer[:2]) == b"yy"
    assert compiled.blocks() == before + 1
    del arrived
    assert compiled.blocks() == before


def test_what_is_queued_at_the_end_comes_back_too(compiled: ModuleType) -> None:
    context: Context = zmq.Context()
    push, pull = connected(context, "tcp", zmq.PUSH, zmq.PULL)
    before = compiled.blocks()
    chunk = compiled.Chunk(b"y" * 1_000_000)
    for _ in range(50):
        compiled.send(push, [chunk])
    del chunk, pull
    context.destroy(linger=0)
    assert compiled.blocks() == before
