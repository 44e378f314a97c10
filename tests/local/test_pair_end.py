"""A bound PAIR and its peers, with real sockets: whoever comes is served in the end, and nothing readable is lost."""

from __future__ import annotations

import pytest
import zmq

from tests.local.rig import Rig, route, tcp
from tests.local.test_options import fill
from tunnel.local.pair import PairPeers, Verdict


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_a_peer_that_comes_while_messages_of_the_first_are_unread(
    r: Rig, transport: str, tmp_path: object
) -> None:
    address = tcp() if transport == "tcp" else f"ipc://{tmp_path}/s"
    end = await r.end(route("PAIR", ("bind", address)))
    first = r.app(zmq.PAIR, connect=address)
    await r.peers(end, 1)
    for number in range(5):
        first.send(b"%d" % number)
    await r.until(lambda: end.has_unread, "the messages are here")
    first.close(linger=1000)
    await r.peers(end, 0)
    second = r.app(zmq.PAIR, connect=address)
    await r.peers(end, 1)
    old = end.socket
    got = []
    while end.has_unread:
        got.append(end.socket.recv())
    assert got == [b"%d" % number for number in range(5)]
    await r.until(lambda: r.reopenings, "the socket is replaced")
    assert end.socket is not old
    await r.until(lambda: end.may_send, "the second peer is served")
    end.socket.send(b"hello")
    assert await r.receive(second) == [b"hello"]
    end.watch.want(zmq.POLLIN)
    second.send(b"answer")
    await r.until(lambda: r.received == [[b"answer"]], "its answer")


async def test_control_without_the_judge_the_second_peer_is_an_orphan_for_ever(
    r: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairPeers, "judge", lambda *_args, **_kwargs: Verdict.KEEP)
    address = tcp()
    end = await r.end(route("PAIR", ("bind", address)))
    first = r.app(zmq.PAIR, connect=address)
    await r.peers(end, 1)
    first.send(b"x")
    await r.until(lambda: end.has_unread, "the message is here")
    first.close(linger=1000)
    await r.peers(end, 0)
    second = r.app(zmq.PAIR, connect=address)
    await r.peers(end, 1)
    assert end.socket.recv() == b"x"
    second.send(b"in vain")
    with pytest.raises(AssertionError):
        await r.until(lambda: end.has_unread, "a message of the second peer", within_s=1.5)


async def test_a_second_application_waits_its_turn(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PAIR", ("bind", address)), receiving=True)
    first = r.app(zmq.PAIR, connect=address)
    await r.peers(end, 1)
    second = r.app(zmq.PAIR, connect=address)
    await r.peers(end, 2)
    assert "A second application is connected" in end.status()[0]["reason"]
    first.send(b"one")
    await r.until(lambda: r.received == [[b"one"]], "the first is served")
    assert not r.reopenings
    first.close()
    await r.until(lambda: r.reopenings, "the socket is replaced for the second")
    await r.until(lambda: end.may_send, end.status)
    second.send(b"two")
    await r.until(lambda: r.received[-1] == [b"two"], "the second is served")


async def test_a_first_peer_that_does_not_read_is_not_taken_for_an_orphan(r: Rig) -> None:
    address = tcp()
    end = await r.end(route("PAIR", ("bind", address)))
    app = r.app(zmq.PAIR, connect=address, options={zmq.RCVHWM: 1})
    await r.peers(end, 1)
    sent = fill(end.socket)
    r.app(zmq.PAIR, connect=address).close()
    with pytest.raises(AssertionError):
        await r.until(lambda: r.reopenings, "no replacement", within_s=0.7)
    for _ in range(sent):
        await r.receive(app)


async def test_a_peer_that_restarts_at_once_is_served_every_time(r: Rig) -> None:
    """35 of 50 become orphans when nothing is done about it. What an orphan sent is lost: it must say it again."""
    address = tcp()
    end = await r.end(route("PAIR", ("bind", address)), receiving=True)
    for number in range(25):
        app = r.app(zmq.PAIR, connect=address, options={zmq.SNDHWM: 10_000})
        text = b"%d" % number

        def said(app: zmq.Socket[bytes] = app, text: bytes = text) -> bool:
            app.send(text)
            return r.received[-1:] == [[text]]

        await r.until(said, end.status)
        app.close()


async def test_a_connecting_pair_keeps_its_queue_while_the_other_restarts(r: Rig) -> None:
    address = tcp()
    app = r.app(zmq.PAIR, bind=address)
    end = await r.end(route("PAIR", ("connect", address)))
    await r.peers(end, 1)
    app.close()
    await r.peers(end, 0)
    assert not end.may_send
    end.socket.send(b"kept", zmq.DONTWAIT)
    app = r.app(zmq.PAIR, bind=address)
    assert await r.receive(app) == [b"kept"]
    assert not r.reopenings
