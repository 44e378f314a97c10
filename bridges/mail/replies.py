"""REP of an smtp-client: who asked, and what he is told, when. The socket is a ROUTER, so that many may ask at once.

A reply is JSON: {"id", "state": "queued"} once the mail is on disk; with `reply: result` what the first attempt came
to, {"id", "state": "sent", "to": {address: {"state", "words"}}}. `repeated` is there where the id was taken before.
What is not taken is told as {"state": "refused", "error": ...}, or "failed" where the disk is the matter: try again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bridges.mail.intake import Verdict
from bridges.mail.limits import SEND_RESULT_S
from bridges.mail.outbox_records import Result
from bridges.messages import run_of
from bridges.outlet import Outlet
from bridges.zmq_side import ZmqSide
from tunnel.limits import BRIDGE_LANE_RUNS

Envelope = list[bytes]


class Replies:
    """Of one ROUTER."""

    def __init__(self, zmq: ZmqSide, on_slow: Callable[[], None]) -> None:
        """`on_slow`: a client that does not take its replies has lost one."""
        self._zmq = zmq
        self._on_slow = on_slow
        self._lanes: dict[bytes, Outlet] = {}
        self._waiting: dict[int, list[tuple[Envelope, Verdict, asyncio.TimerHandle]]] = {}
        """By mail: those who are told the result."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @staticmethod
    def split(message: list[bytes]) -> tuple[Envelope, list[bytes]]:
        """What goes back, and what was asked."""
        at = message.index(b"", 1) if b"" in message[1:] else 0
        return message[: at + 1], message[at + 1 :]

    def wait(self, envelope: Envelope, verdict: Verdict, on_late: Callable[[int], None]) -> None:
        """This one is told the result; `on_late` is called with the mail when that takes too long."""
        timer = asyncio.get_running_loop().call_later(SEND_RESULT_S, on_late, verdict.mail)
        self._waiting.setdefault(verdict.mail, []).append((envelope, verdict, timer))

    @property
    def mails(self) -> list[int]:
        """Those whose result somebody waits for."""
        return list(self._waiting)

    def result(self, mail: int, states: Mapping[str, Result]) -> None:
        """To all who wait for it."""
        for envelope, verdict, timer in self._waiting.pop(mail, ()):
            timer.cancel()
            self.tell(envelope, told(verdict, states))

    def tell(self, envelope: Envelope, reply: Mapping[str, Any]) -> None:
        client = envelope[0]
        lane = self._lanes.get(client)
        if lane is None:
            changed = partial(self._on_lane, client)
            lane = self._lanes[client] = self._zmq.lane(client, changed, partial(self._on_lane, client, True))
        if lane.waiting < BRIDGE_LANE_RUNS:
            lane.put(run_of([[*envelope, json.dumps(reply, ensure_ascii=False).encode("utf-8", "replace")]]))
            self._on_lane(client)
        else:
            self._on_slow()
        self._zmq.poke()

    def close(self) -> None:
        for waiting in self._waiting.values():
            for _, _, timer in waiting:
                timer.cancel()
        self._waiting.clear()

    def _on_lane(self, client: bytes, gone: bool = False) -> None:
        lane = self._lanes.get(client)
        if lane is not None and (gone or not lane.blocked):
            del self._lanes[client]
            self._zmq.forget(client)


def told(verdict: Verdict, states: Mapping[str, Result] | None = None) -> dict[str, Any]:
    """The reply to a message; `states` where it tells results."""
    reply: dict[str, Any] = {"id": verdict.id} if verdict.id else {}
    if verdict.state not in ("queued", "repeated"):
        return {**reply, "state": verdict.state, "error": verdict.why}
    reply["state"] = "queued" if states is None else overall(states)
    if states:
        reply["to"] = {address: {"state": result.state, "words": result.words} for address, result in states.items()}
    return {**reply, "repeated": True} if verdict.state == "repeated" else reply


def overall(states: Mapping[str, Result]) -> str:
    """One word for all recipients: theirs, where they have the same; `partly` where some have it and others not."""
    found = {result.state for result in states.values()}
    return found.pop() if len(found) == 1 else "partly" if found else "sent"
