"""Shortcut: what goes ahead of its bookkeeping is exactly what was foreseen, and the journal says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import zmq

from tests.pump.conftest import SECONDS, connected, receive
from tests.pump.runs import encode
from tests.waiting import until
from tunnel.limits import BATCH_COST_BYTES, INLINE_BYTES, JOURNAL
from tunnel.link import wire
from tunnel.link.wire import Ack, Data
from tunnel.pump import AGAIN, DONE, Drained, LinkMessage

Socket = zmq.Socket[bytes]
OUT, IN = 7, 9
"""Our channel, and the peer's."""
NOTHING_OWED = (0, 0, False)


class Bench:
    """A local pair and a link pair of sockets around one Shortcut; `inner` ends are the device's."""

    def __init__(self, pump: ModuleType, context: zmq.Context[Socket], local: tuple[int, int], router: bool) -> None:
        self.pump = pump
        self.local, self.application = connected(context, "tcp", *local)
        assert self.local.poll(SECONDS * 1000, zmq.POLLOUT)  # else what is fed at once meets EAGAIN
        if router:
            self.link, self.far = connected(context, "tcp", zmq.ROUTER, zmq.DEALER, IDENTITY=b"\x01lane")
            self.far.send(b"hello")
            self.id = self.link.recv_multipart()[0]
        else:
            self.far, self.link = connected(context, "tcp", zmq.DEALER, zmq.DEALER)
            self.id = b""
        self.router = router
        self.stirred: list[tuple[bool, bool, bool]] = []
        self.shortcut = pump.Shortcut(lambda *how: self.stirred.append(how))

    def arm(
        self,
        departs: tuple[int, int, int] | None = (OUT, 5, 1 << 20),
        enters: tuple[int, int, bytes | None, int, int] | None = (IN, 3, None, -1, 0),
        owed: tuple[int, int, bool] = NOTHING_OWED,
        user_id: bytes = b"",
    ) -> None:
        self.shortcut.arm(self.local, self.link, self.id, user_id, departs, enters, owed)

    def drain(self) -> Drained | None:
        assert self.local.poll(SECONDS * 1000)
        drained: Drained | None = self.pump.drain(self.local, 1 << 20, False, self.shortcut)
        return drained

    def recv(self) -> LinkMessage | None:
        assert self.link.poll(SECONDS * 1000)
        message: LinkMessage | None = self.pump.recv(self.link, self.router, self.shortcut)
        return message

    def came(self) -> tuple[Data, bytes]:
        (frame,) = receive(self.far, 1)[0]
        header, run = wire.decode_data(frame)
        return header, bytes(run)


@pytest.fixture(params=["dealer", "router"])
def bench(pump: ModuleType, context: zmq.Context[Socket], request: pytest.FixtureRequest) -> Bench:
    return Bench(pump, context, (zmq.PAIR, zmq.PAIR), request.param == "router")


def frame(
    seq: int, run: bytes, *, channel: int = IN, more: bool = False, ack: Ack | None = None, born: int = 0
) -> bytes:
    return wire.encode_data(Data(channel, seq, born, 1, more, ack)) + run


def now_us() -> int:
    return time.monotonic_ns() // 1000


# --- local to link ---------------------------------------------------------------------------------------------------


def test_a_batch_leaves_as_the_link_would_send_it(bench: Bench) -> None:
    bench.arm()
    before = now_us()
    for number in range(3):
        bench.application.send_multipart([b"to", b"", b"%d" % number])
        assert bench.drain() is None
        header, run = bench.came()
        assert (header.channel, header.seq, header.messages, header.more, header.ack) == (
            OUT,
            5 + number,
            1,
            False,
            None,
        )
        assert before <= header.born_us <= now_us()
        assert run == encode([[b"to", b"", b"%d" % number]])
    journal = bench.shortcut.take()
    assert [(entered, seq) for entered, seq, *_ in journal] == [(False, 5), (False, 6), (False, 7)]
    for number, (_, _, at, piece, header_bytes) in enumerate(journal):
        assert b"".join(map(bytes, piece.segments)) == encode([[b"to", b"", b"%d" % number]])
        assert (piece.messages, piece.more, header_bytes) == (
            1,
            False,
            len(wire.encode_data(Data(0, 0, 0, 0, False, None))),
        )
        assert before <= at <= now_us()
    assert bench.stirred == [(True, False, False)]
    assert bench.shortcut.take() == []


def test_what_is_owed_is_acknowledged_once(bench: Bench) -> None:
    bench.arm(owed=(1234, 1, True))
    acks = []
    for _ in range(2):
        bench.application.send(b"x")
        assert bench.drain() is None
        acks.append(bench.came()[0].ack)
    assert acks == [Ack(1234, [(IN, 2)]), None]
    bench.arm(owed=(99, 1, False))
    bench.application.send(b"x")
    assert bench.drain() is None
    assert bench.came()[0].ack == Ack(99, [])


def test_what_came_is_acknowledged_by_what_leaves(bench: Bench) -> None:
    bench.arm(owed=(1000, 0, False))
    sent = frame(3, encode([[b"question"]]))
    bench.far.send(sent)
    assert bench.recv() is None
    assert bench.shortcut.owed_at_us > 0
    assert receive(bench.application, 1) == [[b"question"]]
    bench.application.send(b"answer")
    assert bench.drain() is None
    assert bench.came()[0].ack == Ack(1000 + len(sent), [(IN, 3)])
    assert bench.shortcut.owed_at_us == 0


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"departs": None}, b"x"),
        ({"departs": (OUT, 5, 0)}, b"x"),
        ({}, b"x" * (INLINE_BYTES + 1)),
        ({}, b"x" * (1 << 20) + b"x"),
    ],
    ids=["not armed", "no room", "not small", "too large"],
)
def test_what_is_not_foreseen_stays(bench: Bench, arm: dict[str, Any], message: bytes) -> None:
    bench.arm(**arm)
    bench.application.send(message)
    drained = bench.drain()
    assert drained is not None
    assert (drained.too_large == 1) is (len(message) > 1 << 20)
    assert sum(piece.messages for piece in drained.pieces) == 1 - drained.too_large
    assert bench.shortcut.take() == []
    assert not bench.far.poll(50)


def test_room_is_used_up(bench: Bench) -> None:
    header = len(wire.encode_data(Data(0, 0, 0, 0, False, None)))
    bench.arm(departs=(OUT, 1, 2 * (BATCH_COST_BYTES + header)))
    went = []
    for _ in range(3):
        bench.application.send(b"x")
        went.append((bench.drain() is None, bench.shortcut.full))
    assert went == [(True, False), (True, True), (False, True)]
    assert bench.stirred == [(True, False, False), (False, False, False)]


def test_the_journal_is_bounded(bench: Bench) -> None:
    bench.arm()
    for _ in range(JOURNAL):
        bench.application.send(b"x")
        assert bench.drain() is None
    bench.application.send(b"x")
    assert bench.drain() is not None
    assert len(bench.shortcut) == JOURNAL
    bench.far.send(frame(3, encode([[b"x"]])))
    assert bench.recv() is not None
    assert not bench.shortcut.leaves


def test_a_connection_that_is_gone(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    bench = Bench(pump, context, (zmq.PAIR, zmq.PAIR), router=True)
    bench.link.setsockopt(zmq.ROUTER_MANDATORY, 1)
    bench.id = b"\x01nobody"
    bench.arm()
    bench.application.send(b"x")
    drained = bench.drain()
    assert drained is not None
    assert drained.pieces[0].messages == 1
    assert bench.shortcut.take() == []
    assert not bench.shortcut.leaves


def test_tagged_batches(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    bench = Bench(pump, context, (zmq.DEALER, zmq.DEALER), router=False)
    bench.arm(enters=None)

    def drain(*messages: list[bytes]) -> Any:
        for message in messages:
            bench.application.send_multipart(message)
        assert bench.local.poll(SECONDS * 1000)
        until(lambda: bench.local.getsockopt(zmq.EVENTS) & zmq.POLLIN, SECONDS, "nothing came")
        return pump.drain_tagged(bench.local, 1 << 20, bench.shortcut, b"tag")

    assert drain([b"tag", b"id", b"x"]) is None
    assert bench.came()[1] == encode([[b"id", b"x"]])
    assert [tag for tag, _ in drain([b"gat", b"id", b"x"])] == [b"gat"]
    assert drain([b"alone"]).untagged == 1
    assert len(bench.shortcut) == 1


# --- link to local ---------------------------------------------------------------------------------------------------


def test_a_batch_enters(bench: Bench) -> None:
    bench.arm(enters=(IN, 3, b"prefix", -1, 0))
    sent = [
        frame(3, encode([[b"a", b""], [b"b"]])),
        frame(4, encode([[b"c"]]), ack=Ack(5, [(OUT, 4), (8, 1)])),
    ]
    for one in sent:
        bench.far.send(one)
    until(lambda: bench.recv() is None and len(bench.shortcut) == 2, SECONDS, "they did not enter")
    assert receive(bench.application, 3) == [[b"prefix", b"a", b""], [b"prefix", b"b"], [b"prefix", b"c"]]
    journal = bench.shortcut.take()
    assert [(entered, seq, what) for entered, seq, _, what, _ in journal] == [(True, 3, sent[0]), (True, 4, sent[1])]
    assert [(fed.messages, fed.status, fed.unreachable) for *_, fed in journal] == [(2, DONE, 0), (1, DONE, 0)]
    assert journal[0][4].position == len(encode([[b"a", b""], [b"b"]]))
    assert not bench.shortcut.enters


def test_a_reply_to_nobody_is_one_loss_and_reaches_nobody(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    """Not even the client whose routing id stands in a later frame of it."""
    router, client = connected(context, "tcp", zmq.ROUTER, zmq.DEALER, IDENTITY=b"client", ROUTER_MANDATORY=1)
    client.send(b"hello")
    receive(router, 1)
    bench = Bench(pump, context, (zmq.PAIR, zmq.PAIR), router=False)
    bench.local = router
    bench.arm()
    bench.far.send(frame(3, encode([[b"gone", b"", b"client", b"1"], [b"client", b"2"], [b"gone", b"3"]])))
    until(lambda: bench.recv() is None and len(bench.shortcut) == 1, SECONDS, "it did not enter")
    ((*_, fed),) = bench.shortcut.take()
    assert (fed.messages, fed.unreachable, fed.status) == (1, 2, DONE)
    assert receive(client, 1) == [[b"2"]]
    assert not client.poll(0)


WRONG: dict[str, Callable[[], list[bytes]]] = {
    "a later number": lambda: [frame(4, encode([[b"x"]]))],
    "an earlier number": lambda: [frame(2, encode([[b"x"]]))],
    "another channel": lambda: [frame(3, encode([[b"x"]]), channel=OUT)],
    "a fragment": lambda: [frame(3, encode([[b"x"]]), more=True)],
    "an unknown flag": lambda: [b"\x06\x04" + frame(3, encode([[b"x"]]))[2:]],
    "another kind": lambda: [b"\x07" + frame(3, encode([[b"x"]]))[1:]],
    "two parts": lambda: [frame(3, b""), encode([[b"x"]])],
    "no run": lambda: [frame(3, b"")],
    "a large one": lambda: [frame(3, encode([[b"x" * INLINE_BYTES]]))],
    "a short header": lambda: [frame(3, b"")[:20]],
    "empty": lambda: [b""],
    "an acknowledgement cut short": lambda: [frame(3, b"", ack=Ack(1, []))[:-1]],
    "an acknowledgement longer than the frame": lambda: [frame(3, b"", ack=Ack(1, [(1, 1)] * 9))[:-12]],
    "a run cut short": lambda: [frame(3, encode([[b"x"], [b"y"]])[:-1])],
    "a run that goes on": lambda: [frame(3, encode([[b"x", b"y"]])[:5])],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_only_what_is_due_enters(bench: Bench, wrong: Callable[[], list[bytes]]) -> None:
    bench.arm()
    bench.far.send_multipart(wrong())
    message = bench.recv()
    assert message is not None
    assert [bytes(part) for part in message.parts] == wrong()
    assert bench.shortcut.take() == []
    assert not bench.application.poll(50)


def test_after_a_surprise_nothing_goes_ahead(bench: Bench) -> None:
    bench.arm()
    bench.far.send(frame(4, encode([[b"x"]])))
    bench.far.send(frame(3, encode([[b"x"]])))
    assert bench.recv() is not None
    assert bench.recv() is not None
    assert (bench.shortcut.enters, bench.shortcut.leaves) == (False, False)


def test_age(bench: Bench) -> None:
    offset = 1_000_000
    bench.arm(enters=(IN, 3, None, 10_000_000, offset))
    young, old = now_us() - offset - 5_000_000, now_us() - offset - 11_000_000
    bench.far.send(frame(3, encode([[b"young"]]), born=young))
    assert bench.recv() is None
    bench.far.send(frame(4, encode([[b"old"]]), born=old))
    assert bench.recv() is not None
    assert receive(bench.application, 1) == [[b"young"]]
    assert not bench.application.poll(50)


def test_other_connections_change_nothing(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    bench = Bench(pump, context, (zmq.PAIR, zmq.PAIR), router=True)
    other = context.socket(zmq.DEALER)
    other.connect(bench.link.last_endpoint.decode())
    # without CURVE there is no User-Id, so this must not enter either
    bench.arm(user_id=b"dmz")
    for far in (other, bench.far):
        far.send(frame(3, encode([[b"x"]])))
        message = bench.recv()
        assert message is not None
        assert bench.shortcut.enters
    assert not bench.application.poll(50)


def test_a_full_socket_takes_nothing(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    bench = Bench(pump, context, (zmq.PAIR, zmq.PAIR), router=False)
    lonely = context.socket(zmq.PUSH)
    bench.shortcut.arm(lonely, bench.link, b"", b"", None, (IN, 3, None, -1, 0), NOTHING_OWED)
    bench.far.send(frame(3, encode([[b"x"]])))
    assert bench.recv() is not None
    assert bench.shortcut.take() == []


def test_a_socket_that_becomes_full(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    bench = Bench(pump, context, (zmq.PAIR, zmq.PAIR), router=False)
    local, application = connected(context, "inproc", zmq.PUSH, zmq.PULL, hwm=2)
    bench.shortcut.arm(local, bench.link, b"", b"", (OUT, 1, 1000), (IN, 3, None, -1, 0), NOTHING_OWED)
    run = encode([[b"%d" % number] for number in range(9)])
    bench.far.send(frame(3, run))
    assert bench.recv() is None
    assert (bench.shortcut.full, bench.shortcut.enters, bench.shortcut.leaves) == (True, False, False)
    (_, _, _, _, fed), *rest = bench.shortcut.take()
    assert not rest
    assert fed.status is AGAIN
    assert 0 < fed.messages < 9
    assert fed.position == len(encode([[b"%d" % number] for number in range(fed.messages)]))
    assert receive(application, fed.messages) == [[b"%d" % number] for number in range(fed.messages)]


def test_a_closed_socket(bench: Bench) -> None:
    bench.arm()
    bench.local.close()
    bench.far.send(frame(3, encode([[b"x"]])))
    assert bench.recv() is not None
    assert bench.shortcut.take() == []


def test_edges_that_sending_takes_are_told(bench: Bench) -> None:
    bench.arm()
    bench.far.send(b"something else")
    assert bench.link.poll(SECONDS * 1000)
    bench.application.send(b"x")
    assert bench.drain() is None
    assert bench.stirred == [(True, False, True)]
    bench.shortcut.take()
    bench.stirred.clear()
    bench.pump.recv(bench.link, bench.router)
    bench.arm()
    bench.application.send(b"y")
    assert bench.local.poll(SECONDS * 1000)
    bench.far.send(frame(3, encode([[b"x"]])))
    assert bench.recv() is None
    assert bench.stirred == [(True, True, False)]


# --- what must not go wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["departs", "enters", "owed"])
def test_numbers_that_do_not_fit_arm_nothing(bench: Bench, name: str) -> None:
    """The twin takes any number; what matters is that nothing is half armed."""
    wrong: dict[str, Any] = {
        "departs": (OUT, 5, 1 << 70),
        "enters": (IN, 3, None, 1, -(1 << 70)),
        "owed": (1 << 70, 1, False),
    }
    bench.arm()
    try:
        bench.arm(**{name: wrong[name]})
    except OverflowError:
        assert (bench.shortcut.leaves, bench.shortcut.enters) == (False, False)
    else:
        assert (bench.shortcut.leaves, bench.shortcut.enters) == (True, True)


def test_a_time_beyond_all_reckoning_is_left_to_the_usual_way(bench: Bench) -> None:
    bench.arm(enters=(IN, 3, None, 10_000_000, 0))
    bench.far.send(frame(3, encode([[b"x"]]), born=(1 << 64) - 1))
    assert bench.recv() is not None
    assert not bench.application.poll(50)


def test_without_the_flag_there_is_no_acknowledgement(bench: Bench) -> None:
    bench.arm(owed=(1234, 0, True))
    bench.application.send(b"x")
    assert bench.drain() is None
    header, run = bench.came()
    assert (header.ack, run) == (None, encode([[b"x"]]))


def test_a_link_socket_that_was_closed(bench: Bench) -> None:
    bench.arm()
    bench.link.close()
    bench.application.send(b"x")
    drained = bench.drain()
    assert drained is not None
    assert drained.pieces[0].messages == 1
    assert bench.shortcut.take() == []
    assert not bench.shortcut.leaves


def admit(context: zmq.Context[Socket], user_id: bytes) -> Callable[[], None]:
    """A ZAP handler; what it gives answers one connection: it is `user_id`'s."""
    handler = context.socket(zmq.REP)
    handler.bind("inproc://zeromq.zap.01")

    def answer() -> None:
        version, request, *_ = receive(handler, 1)[0]
        handler.send_multipart([version, request, b"200", b"OK", user_id, b""])

    return answer


def test_who_sent_is_told_of_each_message_anew(pump: ModuleType, context: zmq.Context[Socket]) -> None:
    """What follows a batch that went ahead is not taken for that batch's sender's."""
    answer = admit(context, b"dmz")
    router, known, unknown = context.socket(zmq.ROUTER), context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    router.setsockopt(zmq.ZAP_DOMAIN, b"link")
    router.bind("inproc://no-zap-here")
    router.bind("tcp://127.0.0.1:*")
    for name, far, address in ((b"known", known, router.last_endpoint), (b"unknown", unknown, b"inproc://no-zap-here")):
        far.setsockopt(zmq.ROUTING_ID, name)
        far.connect(address.decode())
    answer()
    bench = Bench(pump, context, (zmq.PAIR, zmq.PAIR), router=False)
    bench.shortcut.arm(bench.local, router, b"known", b"dmz", None, (IN, 3, None, -1, 0), NOTHING_OWED)
    known.send(frame(3, encode([[b"x"]])))
    assert router.poll(SECONDS * 1000)
    unknown.send(b"me too")
    message = pump.recv(router, True, bench.shortcut)
    assert len(bench.shortcut) == 1
    assert (message.routing_id, message.user_id, message.parts) == (b"unknown", "", [b"me too"])
