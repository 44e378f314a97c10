"""send and recv: one multipart message of a link socket each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
import zmq

from tests.pump.conftest import SECONDS, Connect, receive
from tests.waiting import until
from tunnel.limits import LINK_PARTS, REFERENCE_BYTES
from tunnel.pump import AGAIN, SENT, UNREACHABLE, LinkMessage

Context = zmq.Context[zmq.Socket[bytes]]


def one(pump: ModuleType, socket: zmq.Socket[bytes], router: bool = False) -> LinkMessage:
    assert socket.poll(SECONDS * 1000)
    message = pump.recv(socket, router)
    assert isinstance(message, LinkMessage)
    return message


def test_both_ways(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"\x01lane")
    large = b"L" * REFERENCE_BYTES
    assert pump.send(dealer, [b"header", b"", bytearray(b"abc"), large, pump.Chunk(large)]) is SENT
    message = one(pump, router, router=True)
    assert (message.routing_id, message.user_id, message.overlong) == (b"\x01lane", "", False)
    assert [bytes(part) for part in message.parts] == [b"header", b"", b"abc", large, large]
    assert [type(part) for part in message.parts] == [bytes, bytes, bytes, pump.Chunk, pump.Chunk]
    assert pump.send(router, [message.routing_id, *message.parts]) is SENT
    back = one(pump, dealer)
    assert back.routing_id == b""
    assert [bytes(part) for part in back.parts] == [bytes(part) for part in message.parts]


def test_a_slice_of_a_chunk(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.DEALER, zmq.DEALER)
    chunk = pump.Chunk(bytes(range(256)) * 400)
    assert pump.send(dealer, [chunk[5:], chunk[:0], chunk[10:13], chunk[-2:]]) is SENT
    whole = bytes(range(256)) * 400
    assert receive(router, 1) == [[whole[5:], b"", whole[10:13], whole[-2:]]]


def test_nothing_there(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER)
    assert pump.recv(router, True) is None
    assert pump.recv(dealer) is None


def test_a_message_of_the_routing_id_only(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"lane")
    dealer.send(b"")
    message = one(pump, router, router=True)
    assert (message.routing_id, message.parts) == (b"lane", [b""])


def test_a_full_socket_is_again_and_a_gone_peer_unreachable(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, hwm=1, IDENTITY=b"lane", ROUTER_MANDATORY=1, SNDBUF=4096)
    assert pump.send(router, [b"gone", b"x"]) is UNREACHABLE
    dealer.send(b"hello")
    one(pump, router, router=True)
    answers = [pump.send(router, [b"lane", b"x" * 1_000_000]) for _ in range(100)]
    assert AGAIN in answers
    assert set(answers) == {SENT, AGAIN}
    assert len(receive(dealer, answers.count(SENT))[-1][0]) == 1_000_000


def test_overlong_messages_are_cut_and_the_next_is_whole(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER, IDENTITY=b"lane")
    for count in (LINK_PARTS, LINK_PARTS + 1, 1000, 1):
        dealer.send_multipart([b"%d" % i for i in range(count)])
    for count in (LINK_PARTS, LINK_PARTS + 1, 1000, 1):
        message = one(pump, router, router=True)
        assert message.parts == [b"%d" % i for i in range(min(count, LINK_PARTS))]
        assert message.overlong is (count > LINK_PARTS)


def test_events(pump: ModuleType, connect: Connect) -> None:
    router, dealer = connect(zmq.ROUTER, zmq.DEALER)
    until(lambda: pump.events(dealer) == zmq.POLLOUT, SECONDS, "room to write")
    assert not pump.events(router) & zmq.POLLIN
    dealer.send(b"x")
    until(lambda: pump.events(router) & zmq.POLLIN, SECONDS, "something to read")


@pytest.mark.parametrize("function", ["send", "recv", "events"])
def test_a_closed_socket_raises_like_pyzmq(pump: ModuleType, context: Context, function: str) -> None:
    socket = context.socket(zmq.DEALER)
    socket.close()
    arguments = ([b"x"],) if function == "send" else ()
    with pytest.raises(zmq.ZMQError) as caught:
        getattr(pump, function)(socket, *arguments)
    assert caught.value.errno == zmq.ENOTSOCK


@pytest.fixture
def authenticator(context: Context) -> Iterator[None]:
    """Lets everybody in, as the user "plant"."""
    handler = context.socket(zmq.REP)
    handler.bind("inproc://zeromq.zap.01")
    stop = threading.Event()

    def answer() -> None:
        while not stop.is_set():
            if handler.poll(20):
                version, request, *_ = handler.recv_multipart()
                handler.send_multipart([version, request, b"200", b"OK", "plänt".encode(), b""])

    thread = threading.Thread(target=answer)
    thread.start()
    yield
    stop.set()
    thread.join()
    handler.close()


def test_the_user_id_that_zap_gave(pump: ModuleType, context: Context, authenticator: None) -> None:
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.zap_domain = b"link"
    router.bind("tcp://127.0.0.1:*")
    dealer.identity = b"lane"
    dealer.connect(router.last_endpoint.decode())
    for large in (b"x", b"x" * REFERENCE_BYTES):
        dealer.send_multipart([large, b"y"])
        message = one(pump, router, router=True)
        assert (message.routing_id, message.user_id) == (b"lane", "plänt")


def test_a_connection_that_dies_in_mid_message_leaves_the_socket_usable(pump: ModuleType, context: Context) -> None:
    """The near end sends long messages while its peer goes; what it sends after that must arrive whole."""
    near, far = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    for socket in (near, far):
        socket.hwm = 0
    near.bind("inproc://dying")
    far.connect("inproc://dying")
    parts = [b"%d" % i for i in range(2000)]
    thread = threading.Thread(target=lambda: (far.poll(SECONDS * 1000), far.close(linger=0)))
    thread.start()
    until(lambda: pump.send(near, parts) is AGAIN, SECONDS, "the peer is gone")
    thread.join()
    other = context.socket(zmq.DEALER)
    other.hwm = 0
    other.connect("inproc://dying")
    until(lambda: pump.send(near, [b"after", b"it"]) is SENT, SECONDS, "another peer")
    assert receive(other, 1) == [[b"after", b"it"]]
