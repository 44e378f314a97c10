"""What frames of devices mean to a tcp-server, by the type of its 0MQ socket: Pushing, Telling, Routing."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bridges.connection import FULL, MODE, Connection
from bridges.framing import Message
from bridges.messages import run_of
from bridges.outlet import Outlet

if TYPE_CHECKING:
    from bridges.tcp_server import TcpServer


class Pushing:
    """PUSH, PUB: every frame is a message. With `ack` the device is told when the socket has it."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server

    def came(self, connection: Connection, messages: list[Message]) -> None:
        run, ack, count = self._server.run_of(connection, messages), self._server.plan.ack, len(messages)
        if ack is None:
            self._server.put(run)
            return
        connection.mode = (connection.mode or 0) + 1

        def done() -> None:
            connection.mode -= 1
            self._server.write(connection, ack * count, count)
            if connection.full:  # who does not read its acks is not read
                connection.hold(FULL)
            if connection.half_closed and not connection.mode:
                connection.close()

        self._server.put(run, done)

    def heard(self, messages: list[list[bytes]]) -> None:
        """Such a socket hears nothing."""

    def opened(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None:
        if not connection.mode:
            connection.close()

    def writable(self, connection: Connection) -> None:
        connection.go_on(FULL)

    def closed(self, connection: Connection) -> None: ...

    def owes(self) -> bool:
        """The outlet's own waiting is all there is."""
        return False

    def close(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {}


class Telling:
    """SUB, PULL: every message goes to all devices, or to one after the other."""

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._to_one = server.plan.to == "one"
        self._topics = server.zmq.type_name == "SUB"
        self._waiting: deque[bytes] = deque()
        """Encoded frames that no connection had room for (`to: one`)."""
        self._turn: dict[Connection, None] = {}
        """Whose turn it is, first."""
        self._look()

    def heard(self, messages: list[list[bytes]]) -> None:
        told = (self._server.frame_of(message, topic=self._topics) for message in messages)
        frames = [frame for frame in told if frame is not None]
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

    def _deal(self) -> None:
        """`to: one`: each frame to the next connection that has room; the rest waits, and nothing more is read."""
        tried = 0
        while self._waiting and tried < len(self._turn):
            connection = next(iter(self._turn))
            del self._turn[connection]
            self._turn[connection] = None
            if connection.full or connection.ending:
                tried += 1
                continue
            tried = 0
            self._server.write(connection, self._waiting.popleft())
        self._look()

    def _look(self) -> None:
        """Messages of a PULL wait for a device; those of a SUB do not."""
        wanted = not self._waiting and (bool(self._turn) or self._topics) and not self._server.closing
        self._server.zmq.read(wanted)

    def came(self, connection: Connection, messages: list[Message]) -> None:
        self._server.dropped["unasked"] += len(messages)

    def opened(self, connection: Connection) -> None:
        self._turn[connection] = None
        self._deal()

    def ended(self, connection: Connection) -> None:
        """`to: all`: it may go on listening. Work (`to: one`) is not given to one that may just as well be gone."""
        if self._to_one:
            self._turn.pop(connection, None)
            connection.close()

    def writable(self, connection: Connection) -> None:
        if self._to_one:
            self._deal()

    def closed(self, connection: Connection) -> None:
        self._turn.pop(connection, None)
        self._look()

    def owes(self) -> bool:
        self._look()
        return bool(self._waiting and self._turn)

    def close(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {"waiting": len(self._waiting)}


_NUMBER: Final = struct.Struct("!I")


class _Application:
    """One DEALER that said hello: its connections, and what is on its way to it."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet
        self.connections: dict[Connection, None] = {}


class Routing:
    """ROUTER: applications (DEALER) speak with single connections.

    From us: [`open`, connection, meta], [`data`, connection, frame], [`end`, connection], [`close`, connection, why].
    To us: [`hello`], then [`data`, connection, frame], [`close`, connection]. `connection` is 4 bytes. Each connection
    belongs to one of those who said hello, in turn; until one has, devices wait, unread. Of an application that is gone
    the connections are closed: their next dial leads to another.
    """

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._applications: dict[bytes, _Application] = {}
        """Whose turn it is, first."""
        self._homeless: dict[Connection, None] = {}
        self._gone = 0

    def came(self, connection: Connection, messages: list[Message]) -> None:
        application = self._applications.get(connection.mode or b"")
        if application is None:  # read before anybody was there, or after it went
            self._server.dropped["nobody"] += len(messages)
            return
        number = _NUMBER.pack(connection.number)
        frames: list[Message] = [
            [connection.mode, b"data", number, *([m] if isinstance(m, bytes) else m)] for m in messages
        ]
        self._put(application, frames)
        if application.outlet.blocked:
            connection.hold(MODE)

    def _put(self, application: _Application, frames: list[Message]) -> None:
        application.outlet.put(run_of(frames))
        self._server.zmq.poke()

    def heard(self, messages: list[list[bytes]]) -> None:
        for application, *words in messages:
            if words == [b"hello"]:
                self._hello(application)
            elif len(words) >= 2 and words[0] in (b"data", b"close") and len(words[1]) == _NUMBER.size:
                self._told(application, words)
            else:
                self._server.dropped["words"] += 1
                self._server.reason = f"an application said {words[:1]!r}, which is none of hello, data, close"

    def _hello(self, name: bytes) -> None:
        if name not in self._applications:
            lane = self._server.zmq.lane(name, lambda: self._changed(name), lambda: self._lost(name))
            self._applications[name] = _Application(lane)
        self._house_all()

    def _house_all(self) -> None:
        while self._homeless:
            name = self._next()
            if name is None:
                return
            connection = next(iter(self._homeless))
            del self._homeless[connection]
            self._house(connection, name)

    def _next(self) -> bytes | None:
        """The application whose turn it is. One that does not read gets nobody new: what waits for it stays bounded."""
        for name, application in self._applications.items():
            if not application.outlet.blocked:
                self._applications[name] = self._applications.pop(name)
                return name
        return None

    def _changed(self, name: bytes) -> None:
        """It takes messages again, or no more."""
        application = self._applications.get(name)
        if application is not None and not application.outlet.blocked:
            for connection in application.connections:
                connection.go_on(MODE)
            self._house_all()

    def _lost(self, name: bytes) -> None:
        """Nobody has this routing id any more."""
        application = self._applications.pop(name, None)
        if application is None:
            return
        self._gone += 1
        self._server.reason = "an application that had said hello is gone; its connections were closed"
        self._server.zmq.forget(name)
        for connection in tuple(application.connections):
            connection.mode = None
            connection.close("application_gone")

    def _told(self, application: bytes, words: list[bytes]) -> None:
        connection = self._server.connections.get(_NUMBER.unpack(words[1])[0])
        if connection is None or connection.mode != application or connection.ending:
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

    def _house(self, connection: Connection, name: bytes) -> None:
        """Give it to an application."""
        application = self._applications[name]
        connection.mode = name
        application.connections[connection] = None
        told: list[Message] = [[name, b"open", _NUMBER.pack(connection.number), self._server.meta(connection)]]
        self._put(application, told)
        connection.go_on(MODE)

    def opened(self, connection: Connection) -> None:
        connection.hold(MODE)
        self._homeless[connection] = None
        self._house_all()

    def ended(self, connection: Connection) -> None:
        application = self._applications.get(connection.mode or b"")
        if application is None:
            connection.close()
        else:
            self._put(application, [[connection.mode, b"end", _NUMBER.pack(connection.number)]])

    def writable(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None:
        self._homeless.pop(connection, None)
        application = self._applications.get(connection.mode or b"")
        if application is not None:
            application.connections.pop(connection, None)
            number, reason = _NUMBER.pack(connection.number), connection.reason.encode()
            self._put(application, [[connection.mode, b"close", number, reason]])

    def owes(self) -> bool:
        return False

    def close(self) -> None: ...

    def status(self) -> dict[str, Any]:
        return {
            "applications": len(self._applications),
            "applications_gone": self._gone,
            "waiting": len(self._homeless),
        }
