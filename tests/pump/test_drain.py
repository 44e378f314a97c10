"""drain and its relatives: 0MQ messages of any shape become runs."""

from __future__ import annotations

from types import ModuleType

import pytest
import zmq

from tests.pump.conftest import Connect, connected, count, drain_all
from tests.pump.runs import contents, joined
from tunnel.limits import BATCH_BYTES, FRAGMENT_BYTES, MESSAGE_FRAMES, REFERENCE_BYTES

SHAPES: list[list[bytes]] = [
    [b""],
    [b"x"],
    [b"", b""],
    [b"", b"", b""],
    [b"id", b"", b"body"],
    [b"a" * 33, b"b" * 34, b"c" * 255, b"d" * 256],
    [b"e" * (REFERENCE_BYTES - 1)],
    [b"f" * REFERENCE_BYTES],
    [b"g" * REFERENCE_BYTES, b"", b"h" * (REFERENCE_BYTES + 1), b"tail"],
    [bytes([i % 256]) * (i % 70) for i in range(1000)],
    [b"last"],
]


def test_messages_of_every_shape(pump: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    for message in SHAPES:
        push.send_multipart(message)
    drained = drain_all(pump, pull, len(SHAPES))
    assert contents(drained.pieces) == SHAPES
    assert (drained.too_large, drained.probes) == (0, 0)


def test_nothing_to_read(pump: ModuleType, connect: Connect) -> None:
    _, pull = connect(zmq.PUSH, zmq.PULL)
    drained = pump.drain(pull, 1000)
    assert (drained.pieces, drained.too_large, drained.probes) == ([], 0, 0)
    assert drained.emptied


@pytest.mark.parametrize(("near", "far"), [(zmq.PAIR, zmq.PAIR), (zmq.DEALER, zmq.DEALER), (zmq.PULL, zmq.PUSH)])
def test_other_sockets(pump: ModuleType, connect: Connect, near: int, far: int) -> None:
    reads, writes = connect(near, far)
    writes.send_multipart([b"", b"one"])
    assert contents(drain_all(pump, reads, 1).pieces) == [[b"", b"one"]]


def test_a_router_gives_the_id_as_first_frame(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"client")
    dealer.send_multipart([b"", b"question"])
    assert contents(drain_all(pump, router, 1).pieces) == [[b"client", b"", b"question"]]


def test_published_messages_and_subscriptions(pump: ModuleType, connect: Connect) -> None:
    xpub, xsub = connect(zmq.XPUB, zmq.XSUB)
    xsub.send(b"\x01weather")
    assert contents(drain_all(pump, xpub, 1).pieces) == [[b"\x01weather"]]
    xpub.send_multipart([b"weather.oslo", b"rain"])
    assert contents(drain_all(pump, xsub, 1).pieces) == [[b"weather.oslo", b"rain"]]


def test_small_frames_are_copied_together_and_large_ones_referenced(pump: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    push.send_multipart([b"a", b"B" * REFERENCE_BYTES, b"c"])
    push.send(b"d")
    drained = drain_all(pump, pull, 2)
    segments = [segment for piece in drained.pieces for segment in piece.segments]
    sizes = [len(segment) for segment in segments]
    assert REFERENCE_BYTES in sizes, "the payload is a segment of its own"
    large = segments[sizes.index(REFERENCE_BYTES)]
    assert isinstance(large, pump.Chunk)
    assert memoryview(large).readonly


def test_a_batch_is_full_and_the_rest_waits(pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    sent = [[b"%d" % i, b"x" * 1000] for i in range(1000)]
    for message in sent:
        push.send_multipart(message)
    first = pump.drain(pull, 1 << 26)
    assert not first.emptied
    assert 1 <= len(first.pieces) <= 2
    assert 0.9 * BATCH_BYTES < first.pieces[0].size <= BATCH_BYTES
    assert 0 < count(first.pieces) < 1000
    rest = drain_all(pump, pull, 1000 - count(first.pieces))
    assert contents(first.pieces + rest.pieces) == sent


def test_a_message_that_does_not_fit_opens_a_second_piece(
    pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    push.send(b"s" * 100)
    push.send(b"L" * (BATCH_BYTES - 50))
    push.send(b"after")
    drained = pump.drain(pull, 1 << 26)
    assert [piece.size for piece in drained.pieces] == [104, BATCH_BYTES - 46]
    assert [piece.messages for piece in drained.pieces] == [1, 1]
    assert contents(pump.drain(pull, 1 << 26).pieces) == [[b"after"]]


def test_a_message_larger_than_a_batch_travels_alone_and_a_longer_one_in_fragments(
    pump: ModuleType, connect: Connect
) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    for size in (BATCH_BYTES, BATCH_BYTES + 1, FRAGMENT_BYTES):
        push.send(b"before")
        push.send(b"x" * (size - 4))
        push.send(b"after")
        sizes = [(piece.size, piece.messages, piece.more) for piece in drain_all(pump, pull, 3).pieces]
        assert sizes[1] == (size, 1, False)
        assert len(sizes) == 3
    push.send(b"x" * (FRAGMENT_BYTES - 3))
    first, last = drain_all(pump, pull, 1).pieces
    assert (first.size, first.messages, first.more) == (FRAGMENT_BYTES, 0, True)
    assert (last.size, last.messages, last.more) == (1, 1, False)


@pytest.mark.parametrize("size", [2 << 20, 10 << 20])
def test_a_large_message_becomes_fragments_by_reference(pump: ModuleType, connect: Connect, size: int) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    payload = bytes(range(256)) * (size // 256)
    push.send(b"before")
    push.send_multipart([b"head", payload, b"tail"])
    drained = drain_all(pump, pull, 2)
    assert contents(drained.pieces) == [[b"before"], [b"head", payload, b"tail"]]
    fragments = [piece for piece in drained.pieces if piece.more]
    assert len(fragments) == size // FRAGMENT_BYTES
    for piece in fragments:
        assert piece.size == FRAGMENT_BYTES
        referenced = sum(len(segment) for segment in piece.segments if isinstance(segment, pump.Chunk))
        assert referenced >= FRAGMENT_BYTES - 100


def test_a_large_message_of_many_small_frames(pump: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    message = [bytes([i % 256]) * 5000 for i in range(300)]
    push.send_multipart(message)
    drained = drain_all(pump, pull, 1)
    assert contents(drained.pieces) == [message]
    assert [piece.size for piece in drained.pieces] == [FRAGMENT_BYTES, 300 * 5004 - FRAGMENT_BYTES]


def test_what_is_too_large_is_dropped_whole_and_counted(pump: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    limit = 40_000
    kept = [[b"x" * limit], [b"y" * 20_000, b"y" * 20_000], [b"small"]]
    for message in (
        [b"x" * (limit + 1)],
        kept[0],
        [b"y" * 20_000, b"y" * 20_001, b"y"],
        kept[1],
        [b"z" * REFERENCE_BYTES, b"z" * REFERENCE_BYTES, b"", b"z"],
        kept[2],
    ):
        push.send_multipart(message)
    drained = drain_all(pump, pull, 6, max_message=limit)
    assert contents(drained.pieces) == kept
    assert drained.too_large == 3


def test_too_many_frames_are_too_large(pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    for frames in (MESSAGE_FRAMES, MESSAGE_FRAMES + 1):
        for _ in range(frames - 1):
            push.send(b"", zmq.SNDMORE)
        push.send(b"")
    push.send(b"after")
    drained = drain_all(pump, pull, 3)
    assert [len(message) for message in contents(drained.pieces)] == [MESSAGE_FRAMES, 1]
    assert drained.too_large == 1


def test_a_flood_of_too_large_messages_does_not_hold_the_loop(
    pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    for _ in range(1000):
        push.send(b"x" * 1000)
    drained = pump.drain(pull, 999)
    assert 0 < drained.too_large < 1000
    assert drain_all(pump, pull, 1000 - drained.too_large, max_message=999).pieces == []


def test_probes_are_dropped_only_when_asked(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"client")
    sent: list[list[bytes]] = [[b""], [b"", b""], [b"", b"x"], [b""], [b"x"]]
    for message in sent + sent:
        dealer.send_multipart(message)
    with_id = [[b"client", *message] for message in sent]
    kept = drain_all(pump, router, 5, skip_probe=False)
    assert contents(kept.pieces)[:5] == with_id
    rest = 10 - count(kept.pieces)
    if rest == 5:
        skipped = drain_all(pump, router, 5, skip_probe=True)
        assert contents(skipped.pieces) == [message for message in with_id if len(message) > 2 or message[-1]]
        assert skipped.probes == 2


def test_a_probing_router_is_seen(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, PROBE_ROUTER=1, IDENTITY=b"client")
    dealer.send(b"request")
    drained = drain_all(pump, router, 2, skip_probe=True)
    assert contents(drained.pieces) == [[b"client", b"request"]]
    assert drained.probes == 1


def test_shares_are_dealt_out_one_by_one(pump: ModuleType, connect: Connect) -> None:
    push, pull = connect(zmq.PUSH, zmq.PULL)
    sent = [[b"%d" % i, b"y" * (i * 97 % 3000), b"Z" * (REFERENCE_BYTES if i % 5 == 0 else 1)] for i in range(60)]
    for message in sent:
        push.send_multipart(message)
    push.send(b"x" * 100_000)
    left, too_large = sent, 0
    while left or not too_large:
        assert pull.poll(10_000)
        shares = pump.drain_shares(pull, 99_000, 3)
        assert len(shares) == 3
        got = [contents(share.pieces) for share in shares]
        taken = sum(map(len, got))
        assert got == [left[i:taken:3] for i in range(3)]
        left = left[taken:]
        too_large += sum(share.too_large for share in shares)
    assert too_large == 1
    with pytest.raises(ValueError, match="at least one"):
        pump.drain_shares(pull, 1000, 0)


def test_probes_take_nobody_s_turn(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, PROBE_ROUTER=1, IDENTITY=b"client")
    for message in ([b"1"], [b""], [b"2"], [b"", b""], [b""], [b"3"]):
        dealer.send_multipart(message)
    turns: list[list[list[bytes]]] = [[], []]
    probes = 0
    while sum(map(len, turns)) + probes < 7:
        assert router.poll(10_000)
        shares = pump.drain_shares(router, 1000, 2, True)
        order = turns[::-1] if sum(map(len, turns)) % 2 else turns
        for turn, share in zip(order, shares, strict=True):
            turn += contents(share.pieces)
        assert shares[1].probes == 0
        probes += shares[0].probes
    assert turns == [[[b"client", b"1"], [b"client", b"", b""]], [[b"client", b"2"], [b"client", b"3"]]]
    assert probes == 3


def test_shares_keep_probes_unless_told(pump: ModuleType, connect: Connect) -> None:
    router, _ = connect(zmq.ROUTER, zmq.DEALER, PROBE_ROUTER=1, IDENTITY=b"client")
    assert router.poll(10_000)
    shares = pump.drain_shares(router, 1000, 2)
    assert [contents(share.pieces) for share in shares] == [[[b"client", b""]], []]
    assert shares[0].probes == 0


def test_tags_are_taken_off_and_group_messages(pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    big = b"x" * (REFERENCE_BYTES * 2)
    for message in (
        [b"a", b"1"],
        [b"a", b"2", b""],
        [b"b", b"3"],
        [b"alone"],
        [b"b", b"4"],
        [b"", b"5"],
        [b"a", big],
        [b"a", big, big],
    ):
        push.send_multipart(message)
    tagged = pump.drain_tagged(pull, 100_000)
    assert [(tag, contents(drained.pieces), drained.too_large) for tag, drained in tagged] == [
        (b"a", [[b"1"], [b"2", b""]], 0),
        (b"b", [[b"3"], [b"4"]], 0),
        (b"", [[b"5"]], 0),
        (b"a", [[big]], 1),
    ]
    assert tagged.untagged == 1
    nothing = pump.drain_tagged(pull, 100_000)
    assert (nothing, nothing.untagged, nothing.emptied) == ([], 0, True)


def test_changing_tags_end_a_drain_before_they_cost_too_much(
    pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    for i in range(1000):
        push.send_multipart([b"%d" % (i % 2), b"%d" % i])
    got: list[tuple[bytes, list[list[bytes]]]] = []
    calls = 0
    while len(got) < 1000:
        tagged = pump.drain_tagged(pull, 1000)
        assert 0 < len(tagged) <= 257
        assert tagged.emptied is (len(tagged) < 257)
        got += [(tag, contents(drained.pieces)) for tag, drained in tagged]
        calls += 1
    assert got == [(b"%d" % (i % 2), [[b"%d" % i]]) for i in range(1000)]
    assert calls == 4


def test_many_messages_of_one_tag_fill_a_batch(pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    for i in range(10_000):
        push.send_multipart([b"tag", b"%d" % i, b"x" * 60])
    got: list[list[bytes]] = []
    while len(got) < 10_000:
        ((tag, drained),) = pump.drain_tagged(pull, 1000)
        assert tag == b"tag"
        assert all(piece.size <= BATCH_BYTES for piece in drained.pieces)
        got += contents(drained.pieces)
    assert [int(number) for number, _ in got] == list(range(10_000))


@pytest.mark.parametrize("function", ["drain", "drain_tagged", "drain_shares"])
def test_a_closed_socket_raises_like_pyzmq(
    pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]], function: str
) -> None:
    socket = context.socket(zmq.PULL)
    socket.close()
    arguments = (1000, 2) if function == "drain_shares" else (1000,)
    with pytest.raises(zmq.ZMQError) as caught:
        getattr(pump, function)(socket, *arguments)
    assert caught.value.errno == zmq.ENOTSOCK


def test_a_socket_that_cannot_receive_raises(pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pytest.raises(zmq.ZMQError) as caught:
        pump.drain(context.socket(zmq.PUSH), 1000)
    assert caught.value.errno == zmq.ENOTSUP


def test_segments_survive_their_socket(pump: ModuleType, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push, pull = connected(context, "tcp", zmq.PUSH, zmq.PULL)
    push.send_multipart([b"k", b"V" * 200_000])
    drained = drain_all(pump, pull, 1)
    context.destroy(linger=0)
    assert joined(drained.pieces[0].segments)[-200_000:] == b"V" * 200_000
