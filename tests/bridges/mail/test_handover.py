"""A mail on its way to 0MQ: kept until somebody has answered for it, given again when nobody does."""

from __future__ import annotations

import struct
import uuid

import zmq

from bridges.mail import handover
from bridges.mail.handover import HandOver
from tests.bridges.rig import run
from tests.loops import until
from tests.waiting import free_port
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.plan import Endpoint
from tunnel.reactor import Reactor

NUMBER = struct.Struct("!Q")


def plan(socket: str, endpoint: str, receipts: str | None = None) -> ZmqPlan:
    return ZmqPlan(socket, (Endpoint("connect", endpoint),), receipts=receipts)


def address() -> str:
    return f"ipc://@zt-{uuid.uuid4().hex}"


async def received(socket: zmq.Socket[bytes]) -> list[bytes]:
    await until(lambda: socket.poll(0), 20)
    return socket.recv_multipart()


def test_a_reply_is_the_answer() -> None:
    async def body(reactor: Reactor) -> None:
        at, answers = address(), list[tuple[int, str]]()
        application = reactor.context.socket(zmq.ROUTER)
        application.bind(at)
        made = HandOver(reactor, plan("REQ", at), lambda: None)
        for number in (1, 2):
            made.give(number, [b"topic", b"raw"], lambda refusal, number=number: answers.append((number, refusal)))  # type: ignore[misc]
        first, second = await received(application), await received(application)
        assert first[1:] == [NUMBER.pack(1), b"", b"topic", b"raw"]
        assert not answers
        application.send_multipart([*second[:3], b"anything"])
        await until(lambda: answers == [(2, "")])
        application.send_multipart(second[:3])  # once more: nobody waits
        application.send_multipart(first[:3])
        await until(lambda: answers == [(2, ""), (1, "")])
        assert (made.under_way, made.may_repeat) == (0, 0)
        made.close()
        application.close(0)

    run(body)


def test_what_is_not_answered_in_time_is_given_again() -> None:
    async def body(reactor: Reactor) -> None:
        at = address()
        application = reactor.context.socket(zmq.ROUTER)
        application.bind(at)
        made = HandOver(reactor, plan("DEALER", at), lambda: None, again_s=0.2)
        done: list[str] = []
        made.give(7, [b"raw"], done.append)
        first, again = await received(application), await received(application)
        assert first == again
        assert made.may_repeat >= 1
        application.send_multipart(again[:3])
        await until(lambda: done == [""])
        made.close()
        application.close(0)

    run(body)


def test_what_an_application_had_with_it_when_it_went_is_given_to_the_next_at_once() -> None:
    async def body(reactor: Reactor) -> None:
        at = f"tcp://127.0.0.1:{free_port()}"
        application = reactor.context.socket(zmq.ROUTER)
        application.bind(at)
        made = HandOver(reactor, plan("DEALER", at), lambda: None, again_s=600)
        done: list[str] = []
        made.give(7, [b"raw"], done.append)
        await received(application)
        application.close(0)
        following = reactor.context.socket(zmq.ROUTER)

        def bound() -> bool:
            try:
                following.bind(at)
            except zmq.ZMQError:
                return False
            return True

        await until(bound)
        told = await received(following)
        following.send_multipart(told[:3])
        await until(lambda: done == [""])
        assert made.may_repeat == 1
        made.close()
        following.close(0)

    run(body)


def test_nothing_goes_before_somebody_is_there_and_what_is_under_way_is_bounded() -> None:
    async def body(reactor: Reactor) -> None:
        at, room = address(), list[int]()
        made = HandOver(reactor, plan("DEALER", at), lambda: room.append(1))
        number = 0
        while made.has_room:
            number += 1
            made.give(number, [b"x" * 1_000_000], lambda refusal: None)
        assert number == handover.GIVEN_BYTES // 1_000_000 + 1
        application = reactor.context.socket(zmq.ROUTER)
        application.bind(at)
        for _ in range(number):
            told = await received(application)
            application.send_multipart(told[:3])
        await until(lambda: made.under_way == 0)
        assert room == [1]
        assert made.may_repeat == 0
        made.close()
        application.close(0)

    run(body)


def test_one_mail_goes_however_large_it_is() -> None:
    async def body(reactor: Reactor) -> None:
        at = address()
        application = reactor.context.socket(zmq.PULL)
        application.bind(at)
        made = HandOver(reactor, plan("PUSH", at), lambda: None)
        done: list[str] = []
        made.give(1, [b"t", b"x" * (handover.GIVEN_BYTES + 1)], done.append)
        assert (await received(application))[0] == b"t"
        await until(lambda: done == [""])
        made.close()
        application.close(0)

    run(body)


def test_a_half_gives_receipts_and_refusals() -> None:
    async def body(reactor: Reactor) -> None:
        at, desk_at = address(), address()
        desk = reactor.context.socket(zmq.ROUTER)
        desk.bind(desk_at)
        made = HandOver(reactor, plan("PUSH", at, desk_at), lambda: None)
        answers: dict[int, str] = {}
        for number in (1, 2, 3):
            made.give(number, [b"t", b"raw"], lambda refusal, number=number: answers.update({number: refusal}))  # type: ignore[misc]
        first, second = await received(desk), await received(desk)
        assert first[1:] == [b"put", NUMBER.pack(1), b"t", b"raw"]
        third = await received(desk)
        desk.send_multipart([first[0], b"taken", first[2], third[2]])
        desk.send_multipart([second[0], b"refused", second[2], b"too large"])
        await until(lambda: answers == {1: "", 3: "", 2: "too large"})
        assert made.status()["answered_by"] == "the half"
        made.close()
        desk.close(0)

    run(body)
