"""kill -9 of an smtp-client around the moment when the server has taken a mail: nothing that was answered for is lost,
and what comes twice is the same mail, and was counted."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import zmq

from tests.bridges.mail_rig import RAW
from tests.bridges.mail_sink import Sink
from tests.bridges.rig import BridgeProcess, process, run
from tests.faults.rig import FULL
from tests.loops import until
from tunnel.reactor import Reactor

ROUNDS = 50 if FULL else 5
MAILS = 6


class Killer:
    """Kills the bridge at one of the next mails: before the server's answer leaves, with it, or shortly after it."""

    def __init__(self, bridge: BridgeProcess, chance: random.Random) -> None:
        self.bridge = bridge
        self.chance = chance
        self.left = 0
        self.killed = False

    def load(self) -> None:
        self.left, self.killed = self.chance.randrange(1, MAILS + 1), False

    async def at_dot(self) -> None:
        self.left -= 1
        if self.left == 0:
            way = self.chance.randrange(3)
            if way == 0:
                self.kill()
            else:
                asyncio.get_running_loop().call_later(0 if way == 1 else self.chance.random() * 0.02, self.kill)

    def kill(self) -> None:
        self.bridge.kill()
        self.killed = True


def test_killed_between_the_answer_and_the_delete(tmp_path: Path) -> None:
    endpoint = f"ipc://@zt-{uuid.uuid4().hex}"
    seed = random.randrange(1 << 32)
    print("seed", seed)

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        table = {
            "kind": "smtp-client",
            "zmq": f"REP connect {endpoint}",
            "relay": f"tcp://127.0.0.1:{sink.port}",
            "allow_to": "*@example.com",
            "connections": 3,
            "retry": "1s",
        }
        answered: set[str] = set()
        may_repeat = 0
        app = reactor.context.socket(zmq.DEALER)
        app.linger = 0
        app.bind(endpoint)
        with process(tmp_path, table) as bridge:
            killer = Killer(bridge, random.Random(seed))
            for number in range(ROUNDS):
                sink.at_dot.clear()
                sink.at_dot.extend([killer.at_dot] * MAILS)
                killer.load()
                for mail in range(MAILS):
                    mail_id = f"{number}.{mail}"
                    meta = {"from": "a@example.com", "to": "b@example.com", "id": mail_id}
                    app.send_multipart([b"", json.dumps(meta).encode(), RAW + mail_id.encode() + b"\r\n"])
                await until(lambda: killer.killed, 20)
                answered |= replies(app)
                bridge.start()
                await until(lambda: bridge.status()["detail"], 10)
                may_repeat += bridge.status()["detail"]["may_repeat"]
            answered |= replies(app)
            await until(lambda: bridge.status()["detail"]["queue"] == 0, 30, bridge.status)
            answered |= replies(app)
        came = Counter(mail.content for mail in sink.mails)
        lost = [one for one in answered if RAW + one.encode() + b"\r\n" not in came]
        repeats = sum(came.values()) - len(came)
        print(f"answered {len(answered)} lost {len(lost)} repeats {repeats} may_repeat {may_repeat}")
        assert lost == []
        assert len(answered) >= ROUNDS
        assert repeats <= may_repeat
        app.close()
        await sink.stop()

    run(body, within_s=110 if not FULL else 600)


def test_an_orderly_stop_lets_a_mail_end_and_tells_of_one_that_does_not(tmp_path: Path) -> None:
    endpoint = f"ipc://@zt-{uuid.uuid4().hex}"

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        held = asyncio.Event()
        app = reactor.context.socket(zmq.DEALER)
        app.linger = 0
        app.bind(endpoint)
        table = {
            "kind": "smtp-client",
            "zmq": f"REP connect {endpoint}",
            "relay": f"tcp://127.0.0.1:{sink.port}",
            "allow_to": "any",
            "trace": True,
        }
        sink.do_at_dot(held.wait, held.wait)
        with process(tmp_path, table) as bridge:
            for ends in (True, False):
                held.clear()
                before = len(sink.at_dot)
                app.send_multipart([b"", b'{"from": "a@example.com", "to": "b@example.com"}', RAW])
                await until(lambda n=before: len(sink.at_dot) < n, 10)
                stopped = asyncio.ensure_future(asyncio.to_thread(bridge.stop))
                if ends:
                    held.set()
                assert await stopped == 0
                bridge.start()
                await until(lambda: bridge.status()["detail"], 10)
                assert bridge.status()["detail"]["may_repeat"] == int(not ends)
                held.set()
            await until(lambda: bridge.status()["detail"]["queue"] == 0, 20, bridge.status)
        assert len(sink.mails) == 2  # the second was counted, for nobody could know that it was not taken
        assert {mail.content for mail in sink.mails} == {b"X-Ztunnel-Hop: t\r\n" + RAW}
        app.close()
        await sink.stop()

    run(body, within_s=100)


def replies(app: Any) -> set[str]:
    found = set()
    while app.poll(0):
        told = json.loads(app.recv_multipart()[-1])
        assert told["state"] == "queued"
        found.add(told["id"])
    return found
