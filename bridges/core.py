"""What every bridge to TCP has: its 0MQ socket, its counters, the block that is read into, and how messages become
frames and frames become messages. Who connects to whom, and what a frame means, is not known here."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bridges.connection import ZMQ, Connection
from bridges.framing import FramingError, Message
from bridges.messages import run_of
from bridges.zmq_side import OnMessages, ZmqSide
from tunnel.config.bridge_plan import BridgePlan, TcpPlan
from tunnel.limits import BRIDGE_HELD_BYTES, BRIDGE_LOG_S, BRIDGE_READ_BYTES, BRIDGE_READ_LEAST_BYTES
from tunnel.log import Log
from tunnel.reactor import Reactor


class Core:
    """One bridge's belongings."""

    def __init__(
        self, plan: BridgePlan[TcpPlan], reactor: Reactor, log: Log, socket: str, on_messages: OnMessages
    ) -> None:
        """`socket`: the type of the 0MQ socket that is made, which may be another than the table's."""
        self.plan = plan.own
        self.reactor = reactor
        self.loop = reactor.loop
        self.log = log
        self.dropped: Counter[str] = Counter()
        """Frames and messages that went nowhere."""
        self.ended_by: Counter[str] = Counter()
        """Connections that broke, or were ended by us, by reason."""
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self.reason = ""
        """What was the matter last, in words."""
        self.zmq = ZmqSide(reactor, plan.zmq, socket, self.plan.writes.max_frame, on_messages, self._on_change)
        self.held: set[Connection] = set()
        """Who is not read until the 0MQ socket takes messages again."""
        self._view = memoryview(bytearray(BRIDGE_READ_BYTES))
        self._untold = 0
        """Breaches since the log told of one."""
        self._tell_at = 0.0

    def block_for(self, connections: int, *, little: bool = False) -> memoryview:
        """Where the next read goes. While the 0MQ socket takes nothing (or `little`: what is read may have to wait for
        its turn) all connections together come up with BRIDGE_HELD_BYTES."""
        if not (little or self.zmq.outlet.blocked):
            return self._view
        return self._view[: max(BRIDGE_READ_LEAST_BYTES, BRIDGE_HELD_BYTES // (connections + 1))]

    def hold_if_blocked(self, connection: Connection) -> None:
        """Who has said something while the 0MQ socket takes nothing is not read any more."""
        if self.zmq.outlet.blocked:
            connection.hold(ZMQ)
            self.held.add(connection)

    def forget(self, connection: Connection, reason: str) -> None:
        """It is gone."""
        self.held.discard(connection)
        if reason:
            self.ended_by[reason] += 1

    def put(self, run: bytes, done: Callable[[], None] | None = None) -> None:
        """Hand a run to the 0MQ socket."""
        self.zmq.outlet.put(run, done)
        self.zmq.poke()

    def write(self, connection: Connection, data: bytes, frames: int = 1) -> None:
        """Frames to the other end; whoever writes looks at `connection.full` first."""
        if connection.ending:
            return
        connection.write(data)
        self.frames_out += frames
        self.bytes_out += len(data)

    def encode(self, message: Message) -> bytes | None:
        """A frame as the other end reads it; None: it cannot be said so, counted."""
        try:
            return self.plan.writes.encode(message)
        except FramingError as error:
            self.dropped["framing"] += 1
            self.reason = str(error)
            return None

    def frame_of(self, message: list[bytes], *, topic: bool = False) -> bytes | None:
        """A whole 0MQ message as a frame. `topic`: its first frame may be one, which is for subscribers."""
        if self.plan.writes.kind == "multipart":
            return self.encode(message)
        if len(message) == 1 or (topic and len(message) == 2):
            return self.encode(message[-1])
        self.dropped["frames"] += 1
        self.reason = f"a message of {len(message)} frames: only the framing multipart can say so many"
        return None

    def run_of(self, connection: Connection, messages: list[Message]) -> bytes:
        """Frames as messages: topic, meta, frame, as the table wants."""
        plan = self.plan
        before = [] if plan.topic is None else [plan.topic]
        if plan.meta:
            before.append(self.meta(connection))
        if plan.topic_until is None:
            return run_of(messages, before)
        found: list[Message] = []
        for message in messages:
            first, rest = (message, []) if isinstance(message, bytes) else (message[0], message[1:])
            topic, _, body = first.partition(plan.topic_until)
            found.append([topic, *before, body, *rest])
        return run_of(found)

    def meta(self, connection: Connection) -> bytes:
        """JSON: peer, connection, time, and the subject of a TLS certificate."""
        told: dict[str, Any] = {"peer": connection.address, "connection": connection.number, "time": time.time()}
        if connection.subject:
            told["tls"] = connection.subject
        return json.dumps(told).encode()

    def breach(self, connection: Connection, error: FramingError) -> None:
        """Its bytes are no frames; it is being closed."""
        self.dropped["framing"] += 1
        self.reason = f"{connection.address}: {error}"
        self._untold += 1
        if self.loop.time() >= self._tell_at:  # whoever sends garbage must not fill the log as well
            self._tell_at = self.loop.time() + BRIDGE_LOG_S
            self.log.warning("framing", peer=connection.address, reason=str(error), times=self._untold)
            self._untold = 0

    def counts(self) -> dict[str, Any]:
        """For status."""
        dropped = Counter(self.dropped)
        dropped["too_large"] += self.zmq.too_large
        dropped["malformed"] += self.zmq.outlet.malformed
        dropped["unreachable"] += self.zmq.unreachable
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": dict(sorted((+dropped).items())),
            "ended": dict(sorted(self.ended_by.items())),
            "zmq": self.zmq.status() | {"messages_in": self.zmq.messages},
        }

    def _on_change(self) -> None:
        if not self.zmq.outlet.blocked:
            held, self.held = self.held, set()
            for connection in held:
                connection.go_on(ZMQ)
