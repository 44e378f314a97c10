"""feed: runs become 0MQ messages again, whatever the socket answers."""

from __future__ import annotations

import threading
from types import ModuleType

import pytest
import zmq

from tests.pump.conftest import SECONDS, Connect, connected, drain_all, implementations, receive
from tests.pump.runs import at_borders, encode
from tests.pump.test_drain import SHAPES
from tests.waiting import until
from tunnel.limits import REFERENCE_BYTES
from tunnel.pump import AGAIN, BAD, DONE, LIMIT, RunError, twin

Context = zmq.Context[zmq.Socket[bytes]]


def test_messages_of_every_shape(pump: ModuleType, connect: Connect) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    run = encode(SHAPES)
    fed = pump.feed(push, (run,))
    assert (fed.status, fed.messages, fed.position, fed.unreachable) == (DONE, len(SHAPES), len(run), 0)
    assert receive(pull, len(SHAPES)) == SHAPES


@pytest.mark.parametrize(("near", "far"), [(zmq.PAIR, zmq.PAIR), (zmq.DEALER, zmq.DEALER)])
def test_other_sockets(pump: ModuleType, connect: Connect, near: int, far: int) -> None:
    reads, writes = connect(near, far)
    assert pump.feed(writes, (encode(SHAPES),)).status is DONE
    assert receive(reads, len(SHAPES)) == SHAPES


def test_a_published_run(pump: ModuleType, connect: Connect) -> None:
    xpub, xsub = connect(zmq.XPUB, zmq.XSUB)
    xsub.send(b"\x01a")
    assert receive(xpub, 1) == [[b"\x01a"]]
    fed = pump.feed(xpub, (encode([[b"a", b"1"], [b"b", b"2"], [b"ab", b"", b"3"]]),))
    assert (fed.status, fed.messages) == (DONE, 3)
    assert receive(xsub, 2) == [[b"a", b"1"], [b"ab", b"", b"3"]]


def test_subscriptions_go_up(pump: ModuleType, connect: Connect) -> None:
    xpub, xsub = connect(zmq.XPUB, zmq.XSUB)
    topics = [[b"\x01topic-%d" % i] for i in range(2000)]
    assert pump.feed(xsub, (encode(topics),)).messages == 2000
    assert sorted(receive(xpub, 2000)) == sorted(topics)


def test_a_router_sends_to_the_id_in_the_first_frame(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"client", ROUTER_MANDATORY=1)
    dealer.send(b"hello")
    assert receive(router, 1) == [[b"client", b"hello"]]
    fed = pump.feed(router, (encode([[b"client", b"", b"x"], [b"client", b"y" * 100_000]]),))
    assert (fed.status, fed.messages) == (DONE, 2)
    assert receive(dealer, 2) == [[b"", b"x"], [b"y" * 100_000]]


def test_unreachable_peers_are_skipped_and_counted(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"client", ROUTER_MANDATORY=1)
    dealer.send(b"hello")
    receive(router, 1)
    run = encode([[b"gone", b"1"], [b"client", b"2"], [b"gone", b"", b"3"], [b"gone", b"4"], [b"client", b"5"]])
    fed = pump.feed(router, at_borders(run, [7, 8, 30]))
    assert (fed.status, fed.messages, fed.unreachable, fed.position) == (DONE, 2, 3, len(run))
    assert receive(dealer, 2) == [[b"2"], [b"5"]]


def test_a_full_client_is_parked_and_the_others_go_on(pump: ModuleType, context: Context) -> None:
    router = context.socket(zmq.ROUTER)
    router.hwm, router.router_mandatory, router.linger = 1, 1, 0
    router.sndbuf = 4096
    router.bind("inproc://parked")
    clients = {}
    for name in (b"reads", b"stands"):
        clients[name] = context.socket(zmq.DEALER)
        clients[name].identity, clients[name].rcvhwm = name, 1
        clients[name].connect("inproc://parked")
        clients[name].send(b"hello")
        receive(router, 1)
    run = (encode([[b"stands", b"%d" % i] for i in range(10)] + [[b"reads", b"answer"]]),)
    position, parked, passed = 0, [], 0
    while (fed := pump.feed(router, run, position)).status is AGAIN:
        passed += fed.messages
        assert pump.first_frame(run, fed.position) == b"stands"
        aside, position = pump.cut(run, fed.position)
        parked.append(aside)
    assert passed + len(parked) == 10
    assert len(parked) >= 1
    assert receive(clients[b"reads"], 1) == [[b"answer"]]
    got = receive(clients[b"stands"], passed)
    for aside in parked:
        until(lambda aside=aside: pump.feed(router, aside).status is DONE, SECONDS, "room for a parked reply")
        got += receive(clients[b"stands"], 1)
    assert got == [[b"%d" % i] for i in range(10)]


@pytest.mark.parametrize("hwm", [1, 3])
def test_again_in_the_middle_goes_on_where_it_stopped(pump: ModuleType, connect: Connect, hwm: int) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH, hwm=hwm, SNDBUF=4096, RCVBUF=4096)
    messages = [[b"%d" % i, b"", b"x" * (i * 501)] for i in range(200)]
    segments = at_borders(encode(messages), range(0, 10_000_000, 9973))
    starts = {len(encode(messages[:i])) for i in range(len(messages) + 1)}
    got: list[list[bytes]] = []
    sent = position = stops = 0
    poller = zmq.Poller()
    poller.register(pull, zmq.POLLIN)
    poller.register(push, zmq.POLLOUT)
    while position < sum(map(len, segments)):
        fed = pump.feed(push, segments, position)
        assert fed.position in starts
        sent, position, stops = sent + fed.messages, fed.position, stops + (fed.status is AGAIN)
        if fed.status is AGAIN and pull in dict(poller.poll(SECONDS * 1000)):
            got.append(pull.recv_multipart())
    assert sent == 200
    assert stops > 0
    assert got + receive(pull, 200 - len(got)) == messages


def test_patience_waits_for_a_consumer_that_reads(context: Context) -> None:
    """Only the compiled pump waits; the twin takes the parameter."""
    pump = implementations()[0]
    if pump is twin:
        pytest.skip("the pump is not compiled here")
    pull, push = connected(context, "inproc", zmq.PULL, zmq.PUSH, hwm=2)
    messages = [[b"%d" % i] for i in range(2000)]
    got: list[list[bytes]] = []
    thread = threading.Thread(target=lambda: got.extend(receive(pull, len(messages))))
    thread.start()
    fed = pump.feed(push, (encode(messages),), patience_us=60_000_000)
    assert (fed.status, fed.messages) == (DONE, 2000)
    thread.join(SECONDS)
    assert got == messages


def test_patience_ends(pump: ModuleType, connect: Connect) -> None:
    _, push = connect(zmq.PULL, zmq.PUSH, hwm=1, SNDBUF=4096, RCVBUF=4096)
    run = (encode([[b"x" * 100_000]] * 100),)
    fed = pump.feed(push, run, patience_us=3000)
    until(lambda: pump.feed(push, run, fed.position, patience_us=3000).messages == 0, SECONDS, "full for good")
    fed = pump.feed(push, run, fed.position, patience_us=3000)
    assert (fed.status, fed.messages) == (AGAIN, 0)


def test_patience_is_no_endless_loop_at_a_router_with_one_full_client(pump: ModuleType, connect: Connect) -> None:
    """It says that it can be written as long as another client can."""
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, hwm=1, IDENTITY=b"full", ROUTER_MANDATORY=1, SNDBUF=4096)
    other = dealer.context.socket(zmq.DEALER)
    other.connect(router.last_endpoint.decode())
    for client in (dealer, other):
        client.send(b"hello")
        receive(router, 1)
    run = (encode([[b"full", b"x" * 1_000_000]] * 100),)
    fed = pump.feed(router, run, patience_us=3000)
    assert fed.status is AGAIN
    assert fed.messages < 100


def test_nobody_there_is_again(pump: ModuleType, context: Context) -> None:
    fed = pump.feed(context.socket(zmq.PUSH), (encode([[b"x"]]),))
    assert (fed.status, fed.messages, fed.position) == (AGAIN, 0, 0)


def test_segments_of_any_kind_and_any_border(pump: ModuleType, connect: Connect) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    messages = [[b"one", b"", b"three"], [b""], [b"z" * 10]]
    run = encode(messages)
    for i in range(len(run) + 1):
        segments = (b"", bytearray(run[:i]), memoryview(b""), memoryview(run)[i : i + 1], pump.Chunk(run[i + 1 :]), b"")
        assert pump.feed(push, segments).messages == 3
        assert receive(pull, 3) == messages
    assert pump.feed(push, [run[i : i + 1] for i in range(len(run))]).messages == 3
    assert receive(pull, 3) == messages


def test_positions(pump: ModuleType, connect: Connect) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    run = encode([[b"first"], [b"second"]])
    fed = pump.feed(push, (run,), len(encode([[b"first"]])))
    assert (fed.status, fed.messages, fed.position) == (DONE, 1, len(run))
    assert receive(pull, 1) == [[b"second"]]
    assert pump.feed(push, (run,), len(run)).status is DONE
    assert pump.feed(push, ()).status is DONE
    assert pump.feed(push, (run,), len(run) + 1).status is BAD
    for function in (pump.cut, pump.first_frame):
        with pytest.raises(RunError, match="behind the end"):
            function((run,), len(run) + 1)


def test_a_limit(pump: ModuleType, connect: Connect) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    run = (encode([[b"%d" % i] for i in range(5)]),)
    fed = pump.feed(push, run, max_messages=2)
    assert (fed.status, fed.messages) == (LIMIT, 2)
    fed = pump.feed(push, run, fed.position, max_messages=3)
    assert (fed.status, fed.messages) == (DONE, 3)
    assert receive(pull, 5) == [[b"%d" % i] for i in range(5)]


def test_a_prefix_goes_before_every_message(pump: ModuleType, connect: Connect) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    assert pump.feed(push, (encode([[b"a"], [b"", b"b"]]),), prefix=b"tag").messages == 2
    assert pump.feed(push, (encode([[b"c"]]),), prefix=b"").messages == 1
    assert receive(pull, 3) == [[b"tag", b"a"], [b"tag", b"", b"b"], [b"", b"c"]]


GOOD = encode([[b"good"]])
MALFORMED = {
    "a header of three bytes": b"\x00\x00\x00",
    "more bytes than there are": b"\x05\x00\x00\x00four",
    "the largest length": b"\xff\xff\xff\x7f",
    "the largest length and more": b"\xff\xff\xff\xff" + b"x" * 100,
    "more parts, and the run ends": b"\x01\x00\x00\x80x",
    "more parts, and a piece of a header": b"\x01\x00\x00\x80x\x00",
    "more parts, and the second is cut": b"\x01\x00\x00\x80x\x02\x00\x00\x00y",
}


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_run_is_bad_and_nothing_of_it_is_sent(pump: ModuleType, connect: Connect, bad: bytes) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    for segments in ((GOOD + bad,), (GOOD, bad), at_borders(GOOD + bad, range(100))):
        fed = pump.feed(push, segments)
        assert (fed.status, fed.messages, fed.position) == (BAD, 1, len(GOOD))
        push.send(b"next")
        assert receive(pull, 2) == [[b"good"], [b"next"]]
        for function in (pump.cut, pump.first_frame):
            with pytest.raises(RunError, match=f"at byte {len(GOOD)} of"):
                function(segments, len(GOOD))


def test_a_large_message_comes_back_together_from_its_fragments(pump: ModuleType, connect: Connect) -> None:
    pull, push = connect(zmq.PULL, zmq.PUSH)
    messages = [[b"a"], [b"head", bytes(range(256)) * 40_960, b"", b"tail"], [b"z" * (1 << 20)], [b"b"]]
    for message in messages:
        push.send_multipart(message)
    segments = [segment for piece in drain_all(pump, pull, 4).pieces for segment in piece.segments]
    assert pump.feed(push, segments).messages == 4
    assert receive(pull, 4) == messages


def test_many_frames_are_too_many_for_a_run(pump: ModuleType, connect: Connect) -> None:
    _, push = connect(zmq.PULL, zmq.PUSH)
    assert pump.feed(push, (encode([[b""] * 65_536]),)).status is DONE
    assert pump.feed(push, (b"\x00\x00\x00\x80" * 65_536 + bytes(4),)).status is BAD


def test_a_closed_socket_raises_like_pyzmq(pump: ModuleType, context: Context) -> None:
    socket = context.socket(zmq.PUSH)
    socket.close()
    with pytest.raises(zmq.ZMQError) as caught:
        pump.feed(socket, (GOOD,))
    assert caught.value.errno == zmq.ENOTSOCK


def test_a_terminated_context_raises_like_pyzmq(pump: ModuleType, context: Context) -> None:
    pull, push = connected(context, "inproc", zmq.PULL, zmq.PUSH)
    term = threading.Thread(target=context.term)
    term.start()

    def ended() -> bool:
        try:
            pump.feed(push, (GOOD,))
        except zmq.ContextTerminated:
            return True
        return False

    until(ended, SECONDS, "ContextTerminated")
    with pytest.raises(zmq.ContextTerminated):
        pump.drain(pull, 1000)
    push.close()
    pull.close()
    term.join(SECONDS)


class ClosesPeer:
    """A socket for the twin that closes its peer when the tenth part is sent; libzmq notices in the parts after it."""

    def __init__(self, near: zmq.Socket[bytes], far: zmq.Socket[bytes]) -> None:
        self.near, self.far, self.type, self.parts = near, far, near.type, 0

    def send(self, part: bytes, flags: int = 0, copy: bool = True) -> None:
        self.parts += 1
        if self.parts == 10:
            self.far.close(linger=0)
        self.near.send(part, flags, copy=copy)


class Vanishing:
    """Feeds long messages to a peer that goes away in the middle of one, then the rest to another."""

    def __init__(self, context: Context, pump: ModuleType, transport: str, kind: int, far_kind: int) -> None:
        self.context, self.pump, self.far_kind = context, pump, far_kind
        self.near, self.far = connected(context, transport, kind, far_kind)
        messages, frames = (3, 10_000) if pump is twin else (30, 30_000)
        body = [b"%d" % i for i in range(frames)]
        self.messages = [[b"message %d" % i, *body] for i in range(messages)]
        self.run = (encode(self.messages),)
        until(lambda: self.near.poll(0, zmq.POLLOUT), SECONDS, "a peer")

    def feed_and_vanish(self) -> int:
        """How many messages (of the last time that the run was fed) were handed over before."""
        if self.pump is twin:
            self.fed = twin.feed(ClosesPeer(self.near, self.far), self.run)  # type: ignore[arg-type]
            return self.fed.messages

        def vanish() -> None:
            self.far.poll(SECONDS * 1000)
            self.far.close(linger=0)

        thread = threading.Thread(target=vanish)
        thread.start()
        while (fed := self.pump.feed(self.near, self.run)).status is DONE:
            pass
        thread.join()
        self.fed = fed
        return self.fed.messages

    def rest(self) -> list[list[bytes]]:
        """What another peer gets of the rest."""
        other = self.context.socket(self.far_kind)
        other.hwm = 0
        other.connect(self.near.last_endpoint.decode())
        got: list[list[bytes]] = []
        position = self.fed.position
        while position < len(self.run[0]):
            assert self.near.poll(SECONDS * 1000, zmq.POLLOUT)
            position = self.pump.feed(self.near, self.run, position).position
        while other.poll(SECONDS * 1000 if len(got) < len(self.messages) - self.fed.messages else 50):
            got.append(other.recv_multipart())
            if got[-1] == self.messages[-1]:
                break
        return got


@pytest.mark.parametrize("kind", [zmq.PUSH, zmq.DEALER])
@pytest.mark.parametrize("transport", ["inproc", "tcp"])
def test_a_peer_that_vanishes_in_mid_message(pump: ModuleType, context: Context, kind: int, transport: str) -> None:
    case = Vanishing(context, pump, transport, kind, zmq.PULL if kind == zmq.PUSH else zmq.DEALER)
    before = case.feed_and_vanish()
    assert case.fed.status is AGAIN
    assert case.rest() == case.messages[before:], "the message that was broken off came whole, and once"


def test_control_without_the_last_part_the_broken_message_is_lost(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted bug: what libzmq throws away is not ended, so the message that starts again is thrown away with it."""
    broken: list[int] = []
    monkeypatch.setattr(twin, "_end_broken_message", lambda socket: broken.append(socket.type))
    for _ in range(5):
        case = Vanishing(context, twin, "inproc", zmq.DEALER, zmq.DEALER)
        before = case.feed_and_vanish()
        if broken:
            break
    assert broken == [zmq.DEALER], "a message was broken off in its middle"
    assert case.rest() != case.messages[before:]


def test_a_pair_that_vanishes_in_mid_message(pump: ModuleType, context: Context) -> None:
    case = Vanishing(context, pump, "inproc", zmq.PAIR, zmq.PAIR)
    case.feed_and_vanish()
    assert case.fed.status is AGAIN
    assert case.fed.position == len(encode(case.messages[: case.fed.messages]))


def test_large_payloads_are_not_copied(pump: ModuleType, context: Context) -> None:
    """Over inproc a reference stays the same memory all the way: what the sender changes, the receiver sees."""
    push, pull = connected(context, "inproc", zmq.PUSH, zmq.PULL)
    memory = bytearray(b"A" * (4 * REFERENCE_BYTES))
    push.send(memory, copy=False, track=False)
    drained = drain_all(pump, pull, 1)
    assert pump.feed(push, drained.pieces[0].segments).status is DONE
    memory[0] = ord("B")
    assert receive(pull, 1)[0][0][:2] == b"BA"
