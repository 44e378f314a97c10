"""What frames of devices mean to a tcp-server, by the type of its 0MQ socket: Pushing, Telling, Routing."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bridges.connection import Connection
from bridges.framing import Message
from bridges.messages import run_of

if TYPE_CHECKING:
    from bridges.tcp_server import TcpServer


class Pushing:
    """PUSH, PUB: every frame is a message. With `ack` the device is told when the socket has it."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._plan = server.plan

    def came(self, connection: Connection, messages: list[Message]) -> None:
        plan = self._plan
        before = [] if plan.topic is None else [plan.topic]
        if plan.meta:
            before.append(self._server.meta(connection))
        topics = plan.topic_until is not None
        run = run_of(self._with_topics(messages, before)) if topics else run_of(messages, before)
        if plan.ack is None:
            self._server.put(run)
            return
        ack, count = plan.ack, len(messages)
        connection.mode = (connection.mode or 0) + 1

        def done() -> None:
            connection.mode -= 1
            self._server.write(connection, ack * count, count)
            if connection.half_closed and not connection.mode:
                connection.close()

        self._server.put(run, done)

    def _with_topics(self, messages: list[Message], before: list[bytes]) -> list[Message]:
        """[topic, meta, rest]; a frame without the mark is all topic, and has an empty rest."""
        until = self._plan.topic_until or b""
        found: list[Message] = []
        for message in messages:
            first, rest = (message, []) if isinstance(message, bytes) else (message[0], message[1:])
            topic, _, body = first.partition(until)
            found.append([topic, *before, body, *rest])
        return found

    def heard(self, messages: list[list[bytes]]) -> None:
        """Such a socket hears nothing."""

    def opened(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None:
        if not connection.mode:
            connection.close()

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


class Telling:
    """SUB, PULL: every message goes to all devices, or to one after the other."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._to_one = server.plan.to == "one"
        self._waiting: deque[bytes] = deque()
        """Encoded frames that no connection had room for (`to: one`)."""
        self._turn: deque[Connection] = deque()
        self._look()

    def heard(self, messages: list[list[bytes]]) -> None:
        frames = [frame for frame in (self._frame(message) for message in messages) if frame is not None]
        if not frames:
            return
        if self._to_one:
            self._waiting.extend(frames)
            self._deal()
            return
        data, count = b"".join(frames), len(frames)
        if not self._turn:
            self._server.dropped["nobody"] += count
        for connection in self._turn:
            if connection.full:
                self._server.dropped["slow"] += count
            else:
                self._server.write(connection, data, count)

    def _frame(self, message: list[bytes]) -> bytes | None:
        if self._server.plan.writes.kind == "multipart":
            return self._server.encode(message)
        if len(message) == 1:
            return self._server.encode(message[0])
        if len(message) == 2:  # its topic is for those who subscribe
            return self._server.encode(message[1])
        self._server.dropped["frames"] += 1
        self._server.reason = f"a message of {len(message)} frames: only the framing multipart can say so many"
        return None

    def _deal(self) -> None:
        """`to: one`: each frame to the next connection that has room; the rest waits, and nothing more is read."""
        tried = 0
        while self._waiting and tried < len(self._turn):
            connection = self._turn[0]
            self._turn.rotate(-1)
            if connection.full:
                tried += 1
                continue
            tried = 0
            self._server.write(connection, self._waiting.popleft())
        self._look()

    def _look(self) -> None:
        """Messages of a PULL wait for a device; those of a SUB do not."""
        wanted = not self._waiting and (bool(self._turn) or self._server.zmq.type_name == "SUB")
        self._server.zmq.read(wanted)

    def came(self, connection: Connection, messages: list[Message]) -> None:
        self._server.dropped["unasked"] += len(messages)

    def opened(self, connection: Connection) -> None:
        self._turn.append(connection)
        self._deal()

    def ended(self, connection: Connection) -> None:
        """It may go on listening."""

    def writable(self, connection: Connection) -> None:
        if self._to_one:
            self._deal()

    def closed(self, connection: Connection) -> None:
        if connection in self._turn:
            self._turn.remove(connection)
        self._look()

    def status(self) -> dict[str, Any]:
        return {"waiting": len(self._waiting)}


_NUMBER: Final = struct.Struct("!I")


class Routing:
    """ROUTER: applications (DEALER) speak with single connections.

    From us: [`open`, connection, meta], [`data`, connection, frame], [`close`, connection, reason]. To us: [`hello`],
    then [`data`, connection, frame], [`close`, connection]. `connection` is 4 bytes. Each connection belongs to one of
    those who said hello, in turn; until one has, devices wait.
    """

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._applications: deque[bytes] = deque()
        self._homeless: deque[Connection] = deque()

    def came(self, connection: Connection, messages: list[Message]) -> None:
        application = connection.mode
        if application is None:  # it was read before anybody was there
            self._server.dropped["nobody"] += len(messages)
            return
        frames: list[Message] = [
            [application, b"data", _NUMBER.pack(connection.number), *([m] if isinstance(m, bytes) else m)]
            for m in messages
        ]
        self._server.put(run_of(frames))

    def heard(self, messages: list[list[bytes]]) -> None:
        for application, *words in messages:
            if words == [b"hello"]:
                self._hello(application)
            elif len(words) >= 2 and words[0] in (b"data", b"close") and len(words[1]) == _NUMBER.size:
                self._told(application, words)
            else:
                self._server.dropped["words"] += 1
                self._server.reason = f"an application said {words[:1]!r}, which is none of hello, data, close"

    def _hello(self, application: bytes) -> None:
        if application not in self._applications:
            self._applications.append(application)
        while self._homeless:
            self._house(self._homeless.popleft())

    def _told(self, application: bytes, words: list[bytes]) -> None:
        connection = self._server.connections.get(_NUMBER.unpack(words[1])[0])
        if connection is None or connection.mode != application:
            self._server.dropped["gone"] += 1
        elif words[0] == b"close":
            connection.close("application")
        elif connection.full:
            self._server.dropped["slow"] += 1
        else:
            message: Message = words[2:] if self._server.plan.writes.kind == "multipart" else b"".join(words[2:])
            data = self._server.encode(message)
            if data is not None:
                self._server.write(connection, data)

    def _house(self, connection: Connection) -> None:
        """Give it to an application."""
        if connection.number not in self._server.connections:
            return
        application = self._applications[0]
        self._applications.rotate(-1)
        connection.mode = application
        told = [application, b"open", _NUMBER.pack(connection.number), self._server.meta(connection)]
        self._server.put(run_of([told]))
        connection.go_on()

    def opened(self, connection: Connection) -> None:
        if self._applications:
            self._house(connection)
        else:
            connection.hold()
            self._homeless.append(connection)

    def ended(self, connection: Connection) -> None:
        if connection.mode is not None:
            self._server.put(run_of([[connection.mode, b"end", _NUMBER.pack(connection.number)]]))

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None:
        if connection.mode is not None and not self._server.closing:
            told = [connection.mode, b"close", _NUMBER.pack(connection.number)]
            self._server.put(run_of([told]))

    def status(self) -> dict[str, Any]:
        return {"applications": len(self._applications), "waiting": len(self._homeless)}
