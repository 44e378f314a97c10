"""What every bridge to TCP has: its 0MQ socket, its counters, the block that is read into, and how messages become
frames and frames become messages. Who connects to whom, and what a frame means, is not known here."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from bridges.connection import Connection
from bridges.framing import FramingError, Message
from bridges.messages import run_of
from bridges.zmq_side import OnMessages, ZmqSide
from tunnel.config.bridge_plan import BridgePlan
from tunnel.limits import BRIDGE_READ_BYTES, BRIDGE_READ_HELD_BYTES
from tunnel.log import Log
from tunnel.reactor import Reactor


class Core:
    """One bridge's belongings."""

    def __init__(self, plan: BridgePlan, reactor: Reactor, log: Log, socket: str, on_messages: OnMessages) -> None:
        """`socket`: the type of the 0MQ socket that is made, which may be another than the table's."""
        self.plan = plan.tcp
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
        self._view = memoryview(bytearray(BRIDGE_READ_BYTES))
        self._small = self._view[:BRIDGE_READ_HELD_BYTES]
        self._held: set[Connection] = set()

    def block(self) -> memoryview:
        """Where the next read goes."""
        return self._small if self.zmq.outlet.blocked else self._view

    def took(self, connection: Connection, frames: int, size: int) -> None:
        """So many frames came; the 0MQ socket has them, or will. While it takes nothing the connection is not read."""
        self.frames_in += frames
        self.bytes_in += size
        if self.zmq.outlet.blocked:
            connection.hold()
            self._held.add(connection)

    def forget(self, connection: Connection, reason: str) -> None:
        """It is gone."""
        self._held.discard(connection)
        if reason:
            self.ended_by[reason] += 1

    def put(self, run: bytes, done: Callable[[], None] | None = None) -> None:
        """Hand a run to the 0MQ socket."""
        self.zmq.outlet.put(run, done)
        self.zmq.poke()

    def write(self, connection: Connection, data: bytes, frames: int) -> None:
        """Frames to the other end; whoever writes looks at `connection.full` first."""
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
        self.log.warning("framing", connection=connection.number, peer=connection.address, reason=str(error))

    def counts(self) -> dict[str, Any]:
        """For status."""
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": dict(sorted(self.dropped.items())),
            "ended": dict(sorted(self.ended_by.items())),
            "zmq": self.zmq.status(),
        }

    def _on_change(self) -> None:
        if not self.zmq.outlet.blocked:
            held, self._held = self._held, set()
            for connection in held:
                connection.go_on()
