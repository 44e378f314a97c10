"""`accept: spooled` of a tcp-server: a frame is on our own disk before its device is told, and leaves the disk when an
application has answered for it.

With REQ or DEALER only, for a PUSH cannot learn what became of its message. Each row is asked as a request, [number,
empty, (meta), frame], and any reply is the receipt. One that gets none in time is asked again, counted `may_repeat`;
`id` in the meta frame tells repeats: the spool's id and the row's number.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from bridges.connection import FULL, MODE, Connection
from bridges.framing import Message
from bridges.messages import messages_of, run_of
from tunnel.config.plan import SpoolPlan
from tunnel.limits import BRIDGE_READ_BYTES, BRIDGE_TICK_S
from tunnel.spool import Row, Spool

if TYPE_CHECKING:
    from bridges.tcp_server import TcpServer

_NUMBER: Final = struct.Struct("!Q")


class Spooling:
    """See the module."""

    def __init__(self, server: TcpServer, plan: SpoolPlan) -> None:
        self._server = server
        self._plan = server.plan
        self.spool = Spool(
            plan.file("frames"),
            server.loop.call_soon_threadsafe,
            max_bytes=plan.max_bytes,
            expire_s=plan.expire_s,
            on_durable=self._on_durable,
            on_room=self._on_room,
        )
        self._owed: deque[tuple[int, Connection, int]] = deque()
        """Receipts for devices: (last row, connection, frames), in the order of the rows."""
        self._held: set[Connection] = set()
        self._rows: deque[Row] = deque()
        """Read from the disk, and not asked yet."""
        self._asked: dict[int, tuple[Row, float]] = {}
        """Rows under way, by number, with their deadlines; in the order of asking."""
        self._read_upto = self.spool.first - 1
        self._reading = False
        self.may_repeat = 0
        self._timer: asyncio.TimerHandle | None = None
        self._read_on()

    # --- from devices to the disk ------------------------------------------------------------------------------------

    def came(self, connection: Connection, messages: list[Message]) -> None:
        born, number = time.time(), 0
        before = [self._server.meta(connection)] if self._plan.meta else []
        for message in messages:
            number = self.spool.put([run_of([message], before)], 1, born)
        connection.mode = (connection.mode or 0) + 1
        self._owed.append((number, connection, len(messages)))
        if not self.spool.has_room:
            connection.hold(MODE)
            self._held.add(connection)

    def _on_durable(self, number: int) -> None:
        while self._owed and self._owed[0][0] <= number:
            _, connection, count = self._owed.popleft()
            connection.mode -= 1
            self._server.write(connection, (self._plan.ack or b"") * count, count)
            if connection.full:  # who does not read its acks is not read
                connection.hold(FULL)
            if connection.half_closed and not connection.mode:
                connection.close()
        self._read_on()

    def _on_room(self) -> None:
        held, self._held = self._held, set()
        for connection in held:
            connection.go_on(MODE)

    # --- from the disk to the applications ---------------------------------------------------------------------------

    def _read_on(self) -> None:
        if not self._reading and not self._rows and self._read_upto < self.spool.durable:
            self._reading = True
            self.spool.read(self._read_upto, BRIDGE_READ_BYTES, self._on_rows)

    def _on_rows(self, rows: list[Row]) -> None:
        self._reading = False
        if rows:
            self._read_upto = rows[-1].number
            self._rows.extend(rows)
        self._ask()

    def _ask(self) -> None:
        """As many as may be under way."""
        if self._server.closing:
            return
        framed: list[Message] = []
        deadline = self._server.loop.time() + self._plan.timeout_s
        while self._rows and len(self._asked) < self._plan.pipeline:
            row = self._rows.popleft()
            self._asked[row.number] = row, deadline
            framed.append(self._request(row))
        if framed:
            self._server.put(run_of(framed))
            self._watch_the_time()
        self._read_on()

    def _request(self, row: Row) -> list[bytes]:
        (frames,) = messages_of((row.body,))
        if self._plan.meta:
            told = json.loads(frames[0]) | {"id": f"{self.spool.id.hex()}.{row.number}"}
            frames = [json.dumps(told).encode(), *frames[1:]]
        return [_NUMBER.pack(row.number), b"", *frames]

    def heard(self, messages: list[list[bytes]]) -> None:
        for message in messages:
            number = _NUMBER.unpack(message[0])[0] if len(message[0]) == _NUMBER.size else 0
            if self._asked.pop(number, None) is None:
                self._server.dropped["reply"] += 1  # a second receipt, or none of ours
            else:
                self.spool.finish(number)
        self._ask()

    def _watch_the_time(self) -> None:
        if self._timer is None:
            self._timer = self._server.loop.call_later(BRIDGE_TICK_S, self._on_time)

    def _on_time(self) -> None:
        """Ask again what got no receipt, unless the 0MQ socket has not even taken what it was given."""
        self._timer = None
        now = self._server.loop.time()
        if not self._server.zmq.outlet.blocked:
            late = [row for row, deadline in self._asked.values() if deadline <= now]
            for row in late:
                self._asked[row.number] = row, now + self._plan.timeout_s
            if late:
                self.may_repeat += len(late)
                self._server.put(run_of([self._request(row) for row in late]))
        if self._asked and not self._server.closing:
            self._watch_the_time()

    # --- connections -------------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> None: ...

    def ended(self, connection: Connection) -> None:
        if not connection.mode:
            connection.close()

    def writable(self, connection: Connection) -> None:
        connection.go_on(FULL)

    def closed(self, connection: Connection) -> None:
        self._held.discard(connection)

    def owes(self) -> bool:
        """Receipts for what is on its way to the disk; what lies there the next process asks."""
        return bool(self._owed)

    def close(self) -> None:
        """What waits for the disk still gets there."""
        if self._timer is not None:
            self._timer.cancel()
        self.spool.close()

    def status(self) -> dict[str, Any]:
        return {"spool": self.spool.status(), "under_way": len(self._asked), "may_repeat": self.may_repeat}
