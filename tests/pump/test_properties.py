"""Any messages come through drain, any cutting up and feed unchanged; any bytes at all are read without harm."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pump.conftest import connected, drain_all, implementations, receive
from tests.pump.runs import at_borders, contents, decode, encode, joined, readable
from tunnel.limits import BATCH_BYTES, FRAGMENT_BYTES, REFERENCE_BYTES
from tunnel.pump import BAD, DENY, DONE, RunError

BOTH = pytest.mark.parametrize("pump", implementations(), ids=lambda module: module.__name__.rpartition(".")[2])
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SIZES = [
    0,
    1,
    3,
    4,
    5,
    33,
    34,
    1000,
    REFERENCE_BYTES - 1,
    REFERENCE_BYTES,
    BATCH_BYTES - 4,
    BATCH_BYTES,
    BATCH_BYTES * 2,
    FRAGMENT_BYTES,
    FRAGMENT_BYTES * 2,
]
FRAME = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda size, fill: bytes([fill]) * size, st.sampled_from(SIZES), st.integers(0, 255)),
)
MESSAGES = st.lists(st.lists(FRAME, min_size=1, max_size=5), max_size=12)
CUTS = st.lists(st.integers(0, 1 << 24), max_size=12)

Sockets = tuple[zmq.Socket[bytes], zmq.Socket[bytes]]


@pytest.fixture(scope="module")
def sockets() -> Iterator[Sockets]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield connected(context, "inproc", zmq.PUSH, zmq.PULL)
    context.destroy(linger=0)


@BOTH
@QUICK
@given(messages=MESSAGES, cuts=CUTS)
def test_through_drain_and_feed(
    pump: ModuleType, sockets: Sockets, messages: list[list[bytes]], cuts: list[int]
) -> None:
    push, pull = sockets
    for message in messages:
        push.send_multipart(message)
    pieces = drain_all(pump, pull, len(messages)).pieces
    assert contents(pieces) == messages
    assert all(piece.size <= (BATCH_BYTES if piece.messages > 1 else FRAGMENT_BYTES) for piece in pieces)
    run = joined(segment for piece in pieces for segment in piece.segments)
    for segments in (
        [segment for piece in pieces for segment in piece.segments],
        at_borders(run, cuts),
        [pump.Chunk(part) for part in at_borders(run, cuts)],
    ):
        fed = pump.feed(push, segments)
        assert (fed.status, fed.messages, fed.position) == (DONE, len(messages), len(run))
        assert receive(pull, len(messages)) == messages


@BOTH
@QUICK
@given(messages=MESSAGES, cuts=CUTS, shares=st.integers(1, 5))
def test_sorted_messages_lose_nothing(
    pump: ModuleType, sockets: Sockets, messages: list[list[bytes]], cuts: list[int], shares: int
) -> None:
    segments = at_borders(encode(messages), cuts)
    newest = {message[0]: number for number, message in enumerate(messages)}
    pieces, dropped = pump.keep_latest([segments[:2], segments[2:]])
    assert contents(pieces) == [message for number, message in enumerate(messages) if newest[message[0]] == number]
    assert dropped == len(messages) - len(newest)

    topics = pump.Topics()
    topics.add(0, b"")
    topics.add(1, b"\x00")
    topics.add(2, b"\x00" * 300)
    result = pump.split(segments, topics, 3)
    assert [contents(side.pieces) for side in result] == [
        [message for message in messages if message[0].startswith(prefix)] for prefix in (b"", b"\x00", b"\x00" * 300)
    ]

    push, pull = sockets
    for message in messages:
        push.send_multipart(message)
    taken: list[list[list[bytes]]] = []
    while sum(map(len, taken)) < len(messages):
        parts = [contents(share.pieces) for share in pump.drain_shares(pull, 1 << 26, shares)]
        done = sum(map(len, taken))
        count = sum(map(len, parts))
        assert parts == [messages[done + i : done + count : shares] for i in range(shares)]
        taken.append([message for part in parts for message in part])


@BOTH
@QUICK
@given(messages=st.lists(st.tuples(st.sampled_from([b"", b"a", b"tag-two"]), st.lists(FRAME, max_size=3)), max_size=12))
def test_tags(pump: ModuleType, sockets: Sockets, messages: list[tuple[bytes, list[bytes]]]) -> None:
    push, pull = sockets
    for tag, message in messages:
        push.send_multipart([tag, *message])
    got: list[tuple[bytes, list[bytes]]] = []
    untagged = 0
    while len(got) + untagged < len(messages):
        tagged = pump.drain_tagged(pull, 1 << 26)
        untagged += tagged.untagged
        got += [(tag, message) for tag, drained in tagged for message in contents(drained.pieces)]
    assert got == [(tag, message) for tag, message in messages if message]


NEARLY = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda messages, place, junk: (
            (run := encode(messages))[: place % (len(run) + 1)] + junk + run[place % (len(run) + 1) :]
        ),
        st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=4), max_size=5),
        st.integers(0, 1 << 16),
        st.binary(max_size=6),
    ),
)


@BOTH
@settings(QUICK, max_examples=400)
@given(run=NEARLY, cuts=CUTS)
def test_any_bytes(pump: ModuleType, sockets: Sockets, run: bytes, cuts: list[int]) -> None:
    """feed sends exactly the whole messages at the front; the others read them or raise RunError."""
    push, pull = sockets
    segments = at_borders(run, cuts)
    messages, stop = readable(run)
    fed = pump.feed(push, segments)
    assert (fed.messages, fed.position, fed.status) == (len(messages), stop, DONE if stop == len(run) else BAD)
    assert receive(pull, len(messages)) == messages
    assert not pull.poll(0)

    position = 0
    for message in messages:
        assert pump.first_frame(segments, position) == message[0]
        alone, position = pump.cut(segments, position)
        assert decode(joined(alone)) == [message]
    assert position == stop
    topics = pump.Topics()
    topics.add(0, b"\x00")
    topics.add(DENY, b"\x00\x01")
    if stop == len(run):
        assert sum(len(contents(side.pieces)) for side in pump.split(segments, topics, 1)) <= len(messages)
        assert len(contents(pump.keep_latest([segments])[0])) == len({message[0] for message in messages})
        return
    for call in (
        lambda: pump.cut(segments, stop),
        lambda: pump.first_frame(segments, stop),
        lambda: pump.keep_latest([segments]),
        lambda: pump.split(segments, topics, 1),
    ):
        with pytest.raises(RunError):
            call()
