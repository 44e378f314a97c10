"""REP of a tcp-client: a request becomes a frame to the server, and the frame that answers it the reply.

Which frame answers which request: the one that bears the same field, where the table names one; else the next, for the
server answers in order. Then a reply that does not come in time ends its connection: what came later would be taken for
the reply to something else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bridges.framing import Message
from bridges.line import Line
from bridges.messages import run_of
from bridges.outlet import Outlet
from tunnel.limits import BRIDGE_LANE_RUNS, BRIDGE_TICK_S

if TYPE_CHECKING:
    from bridges.tcp_client import TcpClient


@dataclass(slots=True, eq=False)
class _Request:
    """One question of a 0MQ client."""

    envelope: list[bytes]
    data: bytes
    key: bytes
    deadline: float
    line: Line | None = None
    over: bool = False


class _Talk:
    """Questions under way on one connection, by their field; all under b"" where there is none."""

    __slots__ = ("asked", "count")

    def __init__(self) -> None:
        self.asked: dict[bytes, deque[_Request]] = {}
        self.count = 0

    def ask(self, request: _Request) -> None:
        self.asked.setdefault(request.key, deque()).append(request)
        self.count += 1

    def answered(self, key: bytes) -> _Request | None:
        """The oldest question with this field."""
        waiting = self.asked.get(key)
        if waiting is None:
            return None
        request = waiting.popleft()
        self.count -= 1
        if not waiting:
            del self.asked[key]
        return request


class Serving:
    """See the module."""

    def __init__(self, client: TcpClient) -> None:
        self._client = client
        self._core = client.core
        self._plan = client.plan
        self._waiting: deque[_Request] = deque()
        """Not sent yet."""
        self._under_way: deque[_Request] = deque()
        """All that are not over, by deadline."""
        self._lanes: dict[bytes, Outlet] = {}
        """0MQ clients that do not take their replies: they hold up nobody else."""
        self._timer: asyncio.TimerHandle | None = None
        self._timeouts = self._failed = 0
        for line in client.lines:
            line.mode = _Talk()

    def heard(self, messages: list[list[bytes]]) -> None:
        deadline = self._client.loop.time() + self._plan.timeout_s
        failed: list[_Request] = []
        for message in messages:
            at = message.index(b"", 1) if b"" in message[1:] else 0
            envelope, body = message[: at + 1], message[at + 1 :]
            data = self._core.frame_of(body)
            request = _Request(envelope, data or b"", self._key(body[-1] if body else b""), deadline)
            if data is None:
                failed.append(request)
            else:
                self._waiting.append(request)
                self._under_way.append(request)
        self._fail(failed)
        self._send()
        if self._timer is None and self._under_way:
            self._timer = self._client.loop.call_later(BRIDGE_TICK_S, self._on_time)

    def _key(self, frame: bytes) -> bytes:
        field = self._plan.correlate
        return b"" if field is None else frame[field.offset : field.offset + field.length]

    def _send(self) -> None:
        """What waits goes to the connections with the fewest questions; while there is no room nothing is read."""
        batches: dict[Line, list[_Request]] = {}
        while self._waiting:
            if self._waiting[0].over:
                self._waiting.popleft()
                continue
            line = self._free(self._waiting[0].key)
            if line is None:
                break
            request = self._waiting.popleft()
            request.line = line
            self._talk(line).ask(request)
            batches.setdefault(line, []).append(request)
        for line, requests in batches.items():
            if line.connection is not None:
                self._core.write(line.connection, b"".join(request.data for request in requests), len(requests))
            for request in requests:
                request.data = b""
        self._core.zmq.read(not self._waiting)
        if self._waiting:
            self._client.dial()

    def _free(self, key: bytes) -> Line | None:
        """The least busy connection that may have one more question; two with the same field cannot be told apart."""
        best, least = None, self._plan.pipeline
        for line in self._client.lines:
            talk = self._talk(line)
            if talk.count < least and line.room is not None and not (key and key in talk.asked):
                best, least = line, talk.count
        return best

    def _talk(self, line: Line) -> _Talk:
        talk: _Talk = line.mode
        return talk

    def came(self, line: Line, messages: list[Message]) -> None:
        replies: list[list[bytes]] = []
        talk = self._talk(line)
        for message in messages:
            frames = [message] if isinstance(message, bytes) else message
            request = talk.answered(self._key(frames[-1]))
            if request is None:
                self._core.dropped["unasked"] += 1
                self._core.reason = "the server sent a frame that answers nothing"
                continue
            request.over = True
            replies.append([*request.envelope, *frames])
        if replies:
            self._reply(replies)
        while self._under_way and self._under_way[0].over:
            self._under_way.popleft()
        self._send()

    def _reply(self, replies: list[list[bytes]]) -> None:
        """Each to its client (the first frame)."""
        by_client: dict[bytes, list[Message]] = {}
        for reply in replies:
            by_client.setdefault(reply[0], []).append(reply)
        for client, theirs in by_client.items():
            lane = self._lanes.get(client)
            if lane is None:
                changed = partial(self._on_lane, client)
                lane = self._lanes[client] = self._core.zmq.lane(client, changed, partial(self._on_lane, client, True))
            if lane.waiting < BRIDGE_LANE_RUNS:
                lane.put(run_of(theirs))
                self._on_lane(client)
            else:
                self._core.dropped["slow"] += len(theirs)
        self._core.zmq.poke()

    def _on_lane(self, client: bytes, gone: bool = False) -> None:
        """Nothing waits for this client any more, or it is not there any more."""
        lane = self._lanes.get(client)
        if lane is not None and (gone or not lane.blocked):
            del self._lanes[client]
            self._core.zmq.forget(client)

    def ready(self, line: Line) -> None:
        self._send()

    def writable(self, line: Line) -> None:
        self._send()

    def lost(self, line: Line) -> None:
        """Nobody knows whether what was asked was done: it is not asked again."""
        failed = [request for waiting in self._talk(line).asked.values() for request in waiting]
        line.mode = _Talk()
        self._fail(failed)
        self._send()

    def waits(self) -> bool:
        return bool(self._waiting)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def status(self) -> dict[str, Any]:
        under_way = sum(not request.over for request in self._under_way)
        return {"waiting": len(self._waiting), "under_way": under_way, "timeouts": self._timeouts}

    def _fail(self, requests: list[_Request]) -> None:
        """They get no reply: the table's in its place, or none, counted."""
        for request in requests:
            request.over = True
        told = self._plan.timeout_reply
        if told is None:
            if requests:
                self._core.dropped["unanswered"] += len(requests)
        elif requests:
            self._reply([[*request.envelope, told] for request in requests])

    def _on_time(self) -> None:
        self._timer = None
        now = self._client.loop.time()
        late: list[_Request] = []
        while self._under_way and (self._under_way[0].over or self._under_way[0].deadline <= now):
            request = self._under_way.popleft()
            if not request.over:
                late.append(request)
        self._expire(late)
        if self._under_way:
            self._timer = self._client.loop.call_later(BRIDGE_TICK_S, self._on_time)

    def _expire(self, late: list[_Request]) -> None:
        self._timeouts += len(late)
        in_order = self._plan.correlate is None
        broken = {request.line for request in late if request.line is not None} if in_order else set()
        for line in broken:
            if line.connection is not None:
                line.connection.abort("timeout")  # `lost` follows, and fails all that it was asked
        if not in_order:
            for request in late:
                if request.line is not None:  # the only one with this field
                    self._talk(request.line).answered(request.key)
        self._fail([request for request in late if request.line not in broken])
        self._send()
