"""tcp-server on real sockets, on each loop: what frames mean to each 0MQ socket; how a connection begins and ends."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket as sockets
import ssl
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest
import trustme
import zmq

from bridges.framing import KINDS, Message, make
from tests.bridges.rig import run, served
from tests.loops import LOOPS
from tunnel.config.plan import Allow, TlsPlan
from tunnel.limits import KEEPALIVE_COUNT, KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S
from tunnel.reactor import Reactor

both_loops = pytest.mark.parametrize("loop", LOOPS)


async def said(reader: asyncio.StreamReader, size: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(size), 10)


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    """What was written to the device until it was hung up on, in whichever way."""
    got = b""
    try:
        while data := await asyncio.wait_for(reader.read(1 << 16), 10):
            got += data
    except ConnectionResetError:
        pass
    return got


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# --- PUSH, PUB -------------------------------------------------------------------------------------------------------


@both_loops
def test_lines_become_messages_in_order_however_they_come(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH") as rig:
            _, writer = await rig.dial()
            for byte in b"12.5 kg\n\n13":
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            writer.write(b" kg\n")
            assert await rig.recvs(3) == [[b"12.5 kg"], [b""], [b"13 kg"]]
            status = rig.status()
            assert (status["frames_in"], status["bytes_in"], status["connections"]) == (3, 15, 1)
            assert status["zmq"]["messages_in"] == 3

    run(body, loop)


SAMPLES: dict[str, tuple[dict[str, Any], list[Message]]] = {
    "line": ({"delimiter": b"\r\n"}, [b"a", b"", b"bc"]),
    "length": ({"width": 2}, [b"a", b"", b"b\n"]),
    "fixed": ({"size": 3, "pad": b" ", "strip": True}, [b"abc", b"d"]),
    "stx-etx": ({"check": "lrc"}, [b"R1", b"R2"]),
    "mllp": ({}, [b"MSH|^~\\&", b"x"]),
    "netstring": ({}, [b"hello world!", b""]),
    "octet-count": ({}, [b"<165>1 - x"]),
    "slip": ({"lead": False}, [b"a\xc0", b"b"]),
    "idle": ({"pause": 0.02}, [b"all of it"]),
    "raw": ({}, [b"bytes"]),
    "multipart": ({}, [[b"id", b"abc"], [b"", b"", b"x"]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_framing_there_and_back(kind: str) -> None:
    """A device's frames are the service's requests; it answers with the same."""
    options, messages = SAMPLES[kind]
    framing = make(kind, **options)

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", framing) as rig:
            reader, writer = await rig.dial()
            sent = b"".join(framing.encode(message) for message in messages)
            writer.write(sent)
            for message in messages:
                peer, number, empty, *frames = await rig.recv()
                assert frames == (message if isinstance(message, list) else [message])
                rig.send(peer, number, empty, *frames)
            assert await said(reader, len(sent)) == sent

    assert set(SAMPLES) == set(KINDS)
    run(body)


@both_loops
def test_acks_follow_what_the_socket_has(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", ack=b"OK\r\n") as rig:
            reader, writer = await rig.dial()
            writer.write(b"1\n2\n3\n4")
            assert await said(reader, 12) == b"OK\r\nOK\r\nOK\r\n"
            writer.write(b"\n")
            assert await said(reader, 4) == b"OK\r\n"
            assert await rig.recvs(4) == [[b"1"], [b"2"], [b"3"], [b"4"]]
            assert rig.status()["frames_out"] == 4

    run(body, loop)


@both_loops
def test_no_ack_while_nobody_is_there_and_one_for_each_after_a_half_close(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", ack=b"+", bound=False, hwm=1) as rig:
            reader, writer = await rig.dialled()
            writer.write(b"1\n2\n3\n")
            writer.write_eof()
            await rig.until(lambda: rig.status()["zmq"]["blocked"])
            assert rig.status()["frames_out"] == 0
            app = reactor.context.socket(zmq.PULL)
            app.bind(rig.server.zmq._plan.endpoints[0].address)
            assert await to_the_end(reader) == b"+++"
            await rig.until(lambda: app.poll(0))
            assert [app.recv() for _ in range(3)] == [b"1", b"2", b"3"]
            app.close(linger=0)

    run(body, loop)


@pytest.mark.parametrize(
    ("more", "line", "message"),
    [
        ({"topic": b"weights"}, b"12 kg", [b"weights", b"12 kg"]),
        ({"topic_until": b","}, b"w1,12,kg", [b"w1", b"12,kg"]),
        ({"topic_until": b","}, b"alone", [b"alone", b""]),
        ({"topic_until": b","}, b",x", [b"", b"x"]),
        ({}, b"12 kg", [b"12 kg"]),
    ],
)
def test_topics_of_a_pub(more: dict[str, Any], line: bytes, message: list[bytes]) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUB", **more) as rig:
            _, writer = await rig.dial()
            while not rig.app.poll(0):  # until the subscription has arrived
                writer.write(line + b"\n")
                await asyncio.sleep(0.01)
            assert await rig.recv() == message

    run(body)


def test_the_meta_frame_tells_of_the_connection() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUB", topic=b"t", meta=True) as rig:
            _, writer = await rig.dial()
            while not rig.app.poll(0):
                writer.write(b"x\n")
                await asyncio.sleep(0.01)
            topic, meta, frame = await rig.recv()
            told = json.loads(meta)
            assert (topic, frame, told["peer"]) == (b"t", b"x", "127.0.0.1")
            assert told["connection"] in rig.server.connections
            assert told.keys() == {"peer", "connection", "time"}

    run(body)


# --- SUB, PULL -------------------------------------------------------------------------------------------------------


@both_loops
def test_to_all(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PULL", to="all") as rig:
            rig.send(b"waits for a device")
            first, _ = await rig.dialled()
            assert await said(first, 19) == b"waits for a device\n"
            second, _ = await rig.dialled()
            rig.send(b"two")
            assert [await said(one, 4) for one in (first, second)] == [b"two\n", b"two\n"]
            assert rig.status()["frames_out"] == 3

    run(body, loop)


@both_loops
def test_to_one_after_the_other(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PULL", to="one") as rig:
            devices = [await rig.dialled() for _ in range(3)]
            for number in range(6):
                rig.send(b"%d" % number)
            got = sorted([await said(reader, 4) for reader, _ in devices])
            assert got == [b"0\n3\n", b"1\n4\n", b"2\n5\n"]
            devices[0][1].write_eof()  # it may just as well be gone: no work for it any more
            await rig.until(lambda: len(rig.server.connections) == 2)
            for _ in range(4):
                rig.send(b"x")
            assert [await said(reader, 4) for reader, _ in devices[1:]] == [b"x\nx\n"] * 2

    run(body, loop)


def test_a_sub_drops_its_topic_and_counts_what_nobody_hears_or_no_frame_can_say() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "SUB") as rig:
            while not rig.status()["dropped"].get("nobody"):
                rig.send(b"topic", b"unheard")
                await asyncio.sleep(0.01)
            reader, writer = await rig.dialled()
            rig.send(b"topic", b"heard")
            rig.send(b"a", b"b", b"c")
            rig.send(b"topic", b"with\ndelimiter")
            rig.send(b"alone")
            assert await to_lines(reader, 2) == [b"heard\n", b"alone\n"]
            writer.write(b"unasked\n")
            await rig.until(lambda: rig.status()["dropped"].get("unasked"))
            dropped = rig.status()["dropped"]
            assert (dropped["frames"], dropped["framing"], dropped["unasked"]) == (1, 1, 1)
            assert "delimiter" in rig.status()["reason"]

    run(body)


async def to_lines(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        line = await asyncio.wait_for(reader.readline(), 10)
        if line != b"unheard\n":
            found.append(line)
    return found


# --- REQ, DEALER -----------------------------------------------------------------------------------------------------


@both_loops
def test_replies_go_back_in_the_order_of_the_requests(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", meta=True) as rig:
            one, two = await rig.dial(), await rig.dial()
            one[1].write(b"1a\n1b\n1c\n")
            asked = await rig.recvs(3)
            two[1].write(b"2a\n")
            asked += await rig.recvs(1)
            assert [json.loads(message[3])["peer"] for message in asked] == ["127.0.0.1"] * 4
            for peer, number, empty, _, frame in reversed(asked):
                rig.send(peer, number, empty, frame.upper())
            assert await said(one[0], 9) == b"1A\n1B\n1C\n"
            assert await said(two[0], 3) == b"2A\n"

    run(body, loop)


@both_loops
def test_no_more_requests_under_way_than_the_table_allows(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", pipeline=2) as rig:
            reader, writer = await rig.dial()
            lines = [b"%d" % number for number in range(50)]
            writer.write(b"\n".join(lines) + b"\n")
            writer.write_eof()
            for at in range(0, 50, 2):
                asked = await rig.recvs(2)
                assert [message[-1] for message in asked] == lines[at : at + 2]
                assert not rig.app.poll(0)
                assert rig.status()["detail"]["under_way"] == 2
                for message in asked:
                    rig.send(*message)
            assert await to_the_end(reader) == b"\n".join(lines) + b"\n"
            await rig.until(lambda: not rig.server.connections)
            assert rig.status()["ended"] == {}

    run(body, loop)


@both_loops
def test_a_request_in_vain_gets_the_reply_of_the_table_and_its_late_answer_is_counted(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "REQ", timeout_s=1.0, timeout_reply=b"ERR", pipeline=3) as rig:
            reader, writer = await rig.dial()
            writer.write(b"slow\nquick\n")
            slow, quick = await rig.recvs(2)
            rig.send(*quick)
            assert await said(reader, 10) == b"ERR\nquick\n"
            rig.send(*slow)
            await rig.until(lambda: rig.status()["detail"]["late"])
            detail = rig.status()["detail"]
            assert (detail["timeouts"], detail["late"], detail["under_way"]) == (1, 1, 0)
            writer.write(b"again\n")
            rig.send(*await rig.recv())
            assert await said(reader, 6) == b"again\n"

    run(body, loop)


def test_without_a_reply_for_it_a_timeout_ends_the_connection() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "REQ", timeout_s=0.1) as rig:
            reader, writer = await rig.dial()
            writer.write(b"slow\n")
            assert await to_the_end(reader) == b""
            await rig.until(lambda: not rig.server.connections)
            assert rig.status()["ended"] == {"timeout": 1}
            assert rig.status()["detail"]["under_way"] == 0

    run(body)


def test_alien_replies_are_counted_and_hurt_nobody() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER") as rig:
            reader, writer = await rig.dial()
            writer.write(b"x\n")
            peer, number, empty, _ = await rig.recv()
            connection, asked = struct.unpack("!II", number)
            rig.send(peer, b"no number", empty, b"1")
            rig.send(peer, number, b"not empty", b"2")
            rig.send(peer, number)
            for alien in ((connection, asked + 1), (connection, 0xFFFF_FFFF), (connection ^ 1, asked)):
                rig.send(peer, struct.pack("!II", *alien), empty, b"3")
            rig.send(peer, number, empty, b"right")
            rig.send(peer, number, empty, b"twice")
            assert await said(reader, 6) == b"right\n"
            await rig.until(lambda: rig.status()["detail"]["late"] == 4)
            assert rig.status()["dropped"] == {"reply": 3}

    run(body)


def test_a_reply_that_no_frame_can_say_is_the_timeouts_reply() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", timeout_reply=b"ERR") as rig:
            reader, writer = await rig.dial()
            writer.write(b"1\n2\n3\n")
            for frames in ([b"a", b"b"], [b"a\nb"], [b"good"]):
                peer, number, empty, _ = await rig.recv()
                rig.send(peer, number, empty, *frames)
            assert await said(reader, 13) == b"ERR\nERR\ngood\n"
            assert rig.status()["dropped"] == {"frames": 1, "framing": 1}

    run(body)


@both_loops
def test_accept_acked_tells_whether_it_was_taken(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "REQ", accept="acked", ack=b"\x06", nak=b"\x15", timeout_s=1.0, pipeline=2) as rig:
            reader, writer = await rig.dial()
            writer.write(b"1\n2\n")
            first, _ = await rig.recvs(2)
            rig.send(*first[:3], b"whatever", b"it says")
            assert await said(reader, 2) == b"\x06\x15"

    run(body, loop)


def test_a_device_that_goes_leaves_no_request_behind() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER") as rig:
            _, writer = await rig.dial()
            writer.write(b"x\n")
            asked = await rig.recv()
            reset(writer)
            await rig.until(lambda: not rig.server.connections)
            assert rig.status()["detail"]["under_way"] == 0
            assert rig.status()["ended"] == {"reset": 1}
            rig.send(*asked)
            await rig.until(lambda: rig.status()["detail"]["late"] == 1)

    run(body)


# --- ROUTER ----------------------------------------------------------------------------------------------------------


@both_loops
def test_an_application_speaks_with_single_connections(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "ROUTER") as rig:
            reader, writer = await rig.dialled()
            writer.write(b"before anybody was there\n")
            await rig.until(lambda: rig.status()["detail"]["waiting"] == 1)
            rig.send(b"hello")
            opened = await rig.recv()
            assert opened[0] == b"open"
            number = opened[1]
            assert json.loads(opened[2])["connection"] == struct.unpack("!I", number)[0]
            assert await rig.recv() == [b"data", number, b"before anybody was there"]
            rig.send(b"data", number, b"to the device")
            assert await said(reader, 14) == b"to the device\n"
            writer.write_eof()
            assert await rig.recv() == [b"end", number]
            rig.send(b"data", number, b"after its end")
            rig.send(b"close", number)
            assert await to_the_end(reader) == b"after its end\n"
            assert await rig.recv() == [b"close", number, b"application"]
            rig.send(b"data", number, b"to nobody")
            rig.send(b"what", number)
            await rig.until(lambda: rig.status()["dropped"] == {"gone": 1, "words": 1})

    run(body, loop)


@both_loops
def test_applications_take_turns_and_one_that_is_gone_gets_nobody(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        endpoint = f"ipc://@zt-{uuid.uuid4().hex}"
        async with served(reactor, "ROUTER", bind=True, at=endpoint) as rig:
            apps = [reactor.context.socket(zmq.DEALER) for _ in range(2)]
            for app in apps:
                app.connect(endpoint)
                app.send(b"hello")
            await rig.until(lambda: rig.status()["detail"]["applications"] == 2)
            devices = [await rig.dialled() for _ in range(4)]
            await rig.until(lambda: all(app.poll(0) for app in apps))
            opened = [[app.recv_multipart()[0] for _ in range(2)] for app in apps]
            assert opened == [[b"open", b"open"]] * 2
            apps[0].close(linger=0)
            readers = [reader for reader, _ in devices]
            gone = [asyncio.create_task(to_the_end(reader)) for reader in readers]
            while len(rig.server.connections) > 2:
                for _, writer in devices:
                    writer.write(b"x\n")
                await asyncio.sleep(0.02)
            status = rig.status()
            assert status["ended"] == {"application_gone": 2}
            assert (status["detail"]["applications"], status["detail"]["applications_gone"]) == (1, 1)
            assert status["dropped"]["unreachable"] >= 1
            assert sum(task.done() for task in gone) <= 2
            _, writer = await rig.dialled()
            writer.write(b"next dial\n")
            heard: list[list[bytes]] = []
            while not heard or heard[-1][2:] != [b"next dial"]:
                await rig.until(lambda: apps[1].poll(0))
                heard.append(apps[1].recv_multipart())
            apps[1].close(linger=0)
            for task in gone:
                task.cancel()

    run(body, loop)


def test_an_application_of_another_has_no_say() -> None:
    async def body(reactor: Reactor) -> None:
        endpoint = f"ipc://@zt-{uuid.uuid4().hex}"
        async with served(reactor, "ROUTER", bind=True, at=endpoint) as rig:
            apps = []
            for _ in range(2):
                app = reactor.context.socket(zmq.DEALER)
                app.connect(endpoint)
                app.send(b"hello")
                apps.append(app)
            await rig.until(lambda: rig.status()["detail"]["applications"] == 2)
            readers = [(await rig.dialled())[0] for _ in range(2)]
            await rig.until(lambda: all(app.poll(0) for app in apps))
            numbers = [app.recv_multipart()[1] for app in apps]
            assert numbers[0] != numbers[1]
            apps[0].send_multipart([b"data", numbers[1], b"not yours"])
            await rig.until(lambda: rig.status()["dropped"] == {"gone": 1})
            for app, number in zip(apps, numbers, strict=True):
                app.send_multipart([b"data", number, b"mine"])
            assert [await said(reader, 5) for reader in readers] == [b"mine\n"] * 2
            for app in apps:
                app.close(linger=0)

    run(body)


# --- who comes in ----------------------------------------------------------------------------------------------------


@both_loops
def test_sockets_options_of_a_connection(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH") as rig:
            await rig.dialled()
            (connection,) = rig.server.connections.values()
            assert connection.transport is not None
            socket = connection.transport.get_extra_info("socket")
            tcp = sockets.IPPROTO_TCP
            assert socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE) == 1
            assert socket.getsockopt(tcp, sockets.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
            assert socket.getsockopt(tcp, sockets.TCP_KEEPINTVL) == KEEPALIVE_INTERVAL_S
            assert socket.getsockopt(tcp, sockets.TCP_KEEPCNT) == KEEPALIVE_COUNT
            assert socket.getsockopt(tcp, sockets.TCP_USER_TIMEOUT) == 30_000
            assert socket.getsockopt(tcp, sockets.TCP_NODELAY) == 1

    run(body, loop)


def test_keepalive_off() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", keepalive=False, user_timeout_s=5.0) as rig:
            await rig.dialled()
            (connection,) = rig.server.connections.values()
            assert connection.transport is not None
            socket = connection.transport.get_extra_info("socket")
            assert socket.getsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE) == 0
            assert socket.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT) == 5000

    run(body)


@pytest.mark.parametrize(
    ("more", "word", "hint"),
    [
        ({"connections": 2}, "limit", "connections already"),
        ({"per_address": 2}, "per_address", "127.0.0.1"),
    ],
)
def test_limits_refuse_the_third(more: dict[str, Any], word: str, hint: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", **more) as rig:
            _, first = await rig.dialled()
            await rig.dialled()
            assert await to_the_end((await rig.dial())[0]) == b""
            assert rig.status()["refused"] == {word: 1}
            assert hint in rig.status()["reason"]
            first.write_eof()
            await rig.until(lambda: len(rig.server.connections) == 1)
            await rig.dialled()

    run(body)


@both_loops
def test_takeover_of_the_newest_also_of_many_at_once(loop: str) -> None:
    """At the limit of all, too: the newest takes the place of its own address's oldest."""

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", per_address=1, connections=1, takeover=True) as rig:
            old = await rig.dialled()
            many = await asyncio.gather(*(rig.dial() for _ in range(20)))
            assert await to_the_end(old[0]) == b""
            await rig.until(lambda: rig.status()["ended"] == {"takeover": 20})
            assert len(rig.server.connections) == 1
            for _, writer in many:
                writer.write(b"x\n")
            assert await rig.recv() == [b"x"]
            await asyncio.sleep(0)
            assert not rig.app.poll(50)
            assert rig.status()["refused"] == {}

    run(body, loop)


def test_who_is_not_allowed_is_turned_away() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", allow=Allow(networks=(ipaddress.ip_network("192.0.2.0/24"),))) as rig:
            assert await to_the_end((await rig.dial())[0]) == b""
            assert rig.status()["refused"] == {"address": 1}
            assert rig.status()["reason"] == "127.0.0.1: it is in no network of allow"
            assert rig.status()["detail"]["accepted"] == 0

    run(body)


@both_loops
def test_idle_and_lifetime_end_a_connection(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", idle_s=0.7, lifetime_s=1.5) as rig:
            idle, _ = await rig.dialled()
            busy, writer = await rig.dialled()

            async def talk() -> None:
                while not busy.at_eof():
                    writer.write(b"x\n")
                    await asyncio.sleep(0.02)

            talking = asyncio.create_task(talk())
            assert await to_the_end(idle) == b""
            assert rig.status()["ended"] == {"idle": 1}
            assert await to_the_end(busy) == b""
            await rig.until(lambda: rig.status()["ended"] == {"idle": 1, "lifetime": 1})
            talking.cancel()

    run(body, loop)


@both_loops
def test_a_breach_ends_the_connection_and_what_came_before_is_delivered(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", make("length", width=4, max_frame=1000)) as rig:
            reader, writer = await rig.dialled()
            writer.write(b"\x00\x00\x00\x02ok" + b"GET / HTTP/1.1\r\n")
            assert await to_the_end(reader) == b""
            assert await rig.recv() == [b"ok"]
            status = rig.status()
            assert (status["dropped"], status["ended"]) == ({"framing": 1}, {"framing": 1})
            assert "max_frame" in status["reason"]

    run(body, loop)


@both_loops
def test_frames_that_do_not_end_share_a_bound(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.tcp_server.BRIDGE_GATHERED_BYTES", 1000)

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH") as rig:
            devices = [await rig.dialled() for _ in range(3)]
            for _, writer in devices[:2]:
                writer.write(b"x" * 450)
            await rig.until(lambda: rig.status()["bytes_in"] == 900)
            devices[2][1].write(b"one too much" * 10)
            assert await to_the_end(devices[2][0]) == b""
            await rig.until(lambda: rig.status()["ended"] == {"memory": 1})
            assert "do not end" in rig.status()["reason"]
            for _, writer in devices[:2]:
                writer.write(b"\n")
            assert await rig.recvs(2) == [[b"x" * 450]] * 2
            assert rig.server._gathered == 0

    run(body, loop)


@both_loops
def test_an_end_within_a_frame_is_a_breach(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH") as rig:
            _, writer = await rig.dialled()
            writer.write(b"whole\nhal")
            writer.write_eof()
            await rig.until(lambda: rig.status()["ended"] == {"framing": 1})
            assert await rig.recv() == [b"whole"]

    run(body, loop)


@both_loops
def test_a_reset_within_a_frame_takes_that_frame_along_and_no_other(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH") as rig:
            _, writer = await rig.dialled()
            writer.write(b"whole\nhal")
            assert await rig.recv() == [b"whole"]
            reset(writer)
            await rig.until(lambda: not rig.server.connections)
            assert not rig.app.poll(0)

    run(body, loop)


def test_numbers_of_connections_begin_anew_where_they_end() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH") as rig:
            rig.server._number = 0xFFFF_FFFE
            for _ in range(2):
                await rig.dialled()
            rig.server._number = 0xFFFF_FFFE
            await rig.dialled()
            assert list(rig.server.connections) == [0xFFFF_FFFF, 1, 2]

    run(body)


# --- TLS -------------------------------------------------------------------------------------------------------------


class Authority:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def plan(self, clients: bool) -> TlsPlan:
        certificate = self.ca.issue_cert("localhost")
        key, cert = self._folder / "key.pem", self._folder / "cert.pem"
        certificate.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        return TlsPlan(cert=cert, key=key, ca=self.ca_file if clients else None)

    def client(self, name: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if name:
            self.ca.issue_cert("device.example", common_name=name).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@both_loops
def test_tls_with_a_certificate_of_the_server(loop: str, authority: Authority) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER", tls=authority.plan(clients=False)) as rig:
            reader, writer = await rig.dial(ssl=authority.client(), server_hostname="localhost")
            lines = b"".join(b"%d %s\n" % (number, b"x" * number * 50) for number in range(200))
            writer.write(lines)
            for _ in range(200):
                rig.send(*await rig.recv())
            assert await said(reader, len(lines)) == lines
            plain, writer = await rig.dial()
            writer.write(b"no TLS at all\n" * 10)
            await to_the_end(plain)
            await rig.until(lambda: rig.status()["refused"] == {"tls": 1})
            assert "TLS handshake failed" in rig.status()["reason"]
            assert len(rig.server.connections) == 1

    run(body, loop)


@both_loops
def test_tls_asks_devices_for_their_certificates(loop: str, authority: Authority) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", tls=authority.plan(clients=True), meta=True) as rig:
            _, writer = await rig.dial(ssl=authority.client("scale 7"), server_hostname="localhost")
            writer.write(b"x\n")
            meta, _ = await rig.recv()
            assert "commonName=scale 7" in json.loads(meta)["tls"]

            async def without() -> None:
                reader, _ = await rig.dial(ssl=authority.client(), server_hostname="localhost")
                await asyncio.wait_for(reader.readexactly(1), 10)  # with TLS 1.3 the client learns it when it reads

            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                await without()
            await rig.until(lambda: rig.status()["refused"] == {"tls": 1})

    run(body, loop)


@both_loops
def test_a_handshake_that_never_ends_holds_its_place_only_for_a_while(
    loop: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridges.tcp_server.HANDSHAKE_S", 1.0)

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", tls=authority.plan(clients=False), connections=1) as rig:
            silent, _ = await rig.dialled()
            await to_the_end(silent)
            await rig.until(lambda: rig.status()["refused"] == {"tls": 1})
            _, writer = await rig.dial(ssl=authority.client(), server_hostname="localhost")
            writer.write(b"x\n")
            assert await rig.recv() == [b"x"]

    run(body, loop)


@both_loops
def test_takeover_of_one_whose_handshake_is_not_over(loop: str, authority: Authority) -> None:
    async def body(reactor: Reactor) -> None:
        more: dict[str, Any] = {"per_address": 1, "takeover": True}
        async with served(reactor, "PUSH", tls=authority.plan(clients=False), **more) as rig:
            await rig.dialled()
            _, writer = await rig.dial(ssl=authority.client(), server_hostname="localhost")
            writer.write(b"x\n")
            assert await rig.recv() == [b"x"]
            assert len(rig.server.connections) == 1

    run(body, loop)


# --- an orderly stop -------------------------------------------------------------------------------------------------


@both_loops
def test_stop_hands_over_what_was_taken_and_writes_the_acks(loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "PUSH", ack=b"+", bound=False, hwm=1) as rig:
            reader, writer = await rig.dialled()
            writer.write(b"1\n2\nhalf")
            await rig.until(lambda: rig.status()["zmq"]["blocked"])
            stopping = asyncio.create_task(rig.server.close())
            await asyncio.sleep(0)
            app = reactor.context.socket(zmq.PULL)
            app.bind(rig.server.zmq._plan.endpoints[0].address)
            assert await to_the_end(reader) == b"++"
            await stopping
            await rig.until(lambda: app.poll(0))
            assert [app.recv(), app.recv()] == [b"1", b"2"]
            app.close(linger=0)

    run(body, loop)


def test_stop_waits_for_replies_under_way() -> None:
    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER") as rig:
            reader, writer = await rig.dial()
            writer.write(b"x\n")
            asked = await rig.recv()
            stopping = asyncio.create_task(rig.server.close())
            await asyncio.sleep(0)
            rig.send(*asked)
            assert await to_the_end(reader) == b"x\n"
            await stopping

    run(body)


def test_stop_ends_in_time_when_nobody_takes_or_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridges.tcp_server.BRIDGE_STOP_S", 0.1)

    async def body(reactor: Reactor) -> None:
        async with served(reactor, "DEALER") as rig:
            reader, writer = await rig.dial()
            writer.write(b"x\n")
            await rig.recv()
            await asyncio.wait_for(rig.server.close(), 5)
            assert await to_the_end(reader) == b""

    run(body)
