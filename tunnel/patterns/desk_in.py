"""The desk where messages enter: each gets a receipt once the route's own promise protects it from a kill of this half.

    spooled     it is on disk, for every side that it goes to
    confirmed   every side that it goes to has delivered it; or the route dropped it by its rules, counted
    live        it was read

A message that no subscriber wants is taken at once. Receipts come in the order of the messages towards each side. What
was not answered when this half ends is not answered: the bridge puts it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import zmq

from tunnel import pump
from tunnel.limits import DESK_HWM, DESK_RECEIPTS, MESSAGE_FRAMES, REFERENCE_BYTES
from tunnel.patterns.desk import Desk
from tunnel.receipts import NUMBER, PUT, REFUSED, TAKEN

if TYPE_CHECKING:
    from tunnel.patterns.base import Pattern, Port


@dataclass(slots=True)
class _Receipt:
    """Of one message. `sides`: how many it is not safe for yet."""

    peer: bytes
    number: bytes
    size: int
    sides: int = 0
    too_large: bool = False


class DeskIn(Desk):
    """See the module."""

    hwm: ClassVar[int] = DESK_HWM

    def __init__(self, pattern: Pattern) -> None:
        super().__init__(pattern)
        self.receipts = 0
        """Messages that wait for theirs."""
        self.taken = 0
        self.refused = 0
        self._marks: dict[Port, deque[tuple[int, _Receipt]]] = {}
        """By port: safe once the port is safe through this mark; in order."""

    def __repr__(self) -> str:
        return f"<DeskIn {self.pattern.plan.name} receipts={self.receipts} taken={self.taken} refused={self.refused}>"

    def wants_to_read(self) -> bool:
        """As the route's own socket, and not more than there may be receipts."""
        pattern = self.pattern
        if pattern.stopping or not pattern.end.has_socket or self.receipts + self.unsaid >= DESK_RECEIPTS:
            return False
        return pattern.wants_to_read()

    def heard(self, peer: bytes, word: bytes, frames: Sequence[zmq.Frame]) -> bool:
        if word != PUT or len(frames) < 2 or len(frames[0]) != NUMBER.size:
            return False
        number, body = frames[0].bytes, frames[1:]
        size, most = sum(map(len, body)), self.pattern.max_message_bytes()
        if size > most or len(body) > MESSAGE_FRAMES:
            self.pattern.dropped["too_large"] += 1
            self.pattern.say_too_large(1)
            self._refuse(peer, number, size, most)
            return True
        parts = [frame.buffer.toreadonly() if len(frame) >= REFERENCE_BYTES else frame.bytes for frame in body]
        receipt = _Receipt(peer, number, size)
        for port in self.pattern.admit(pump.Drained(pump.pack(parts)), self.pattern.hub.now()):
            mark = port.entered_through
            if port.safe_through < mark:
                receipt.sides += 1
                self._marks.setdefault(port, deque()).append((mark, receipt))
        if receipt.sides:
            self.receipts += 1
        else:
            self._take(peer, [number])
        return True

    def want(self) -> None:
        if self.receipts:
            for port, marks in self._marks.items():
                self._answer(port, marks)
        super().want()

    def _answer(self, port: Port, marks: deque[tuple[int, _Receipt]]) -> None:
        """What has become safe for this port, and is so for the others."""
        through = port.safe_through
        taken: dict[bytes, list[bytes]] = {}
        while marks and marks[0][0] <= through:
            _, receipt = marks.popleft()
            receipt.sides -= 1
            # it was put before the two halves met, and the other half has a stricter limit
            receipt.too_large |= port.backlog is None and receipt.size > port.channel.max_message_bytes
            if receipt.sides:
                continue
            self.receipts -= 1
            if receipt.too_large:
                self._refuse(receipt.peer, receipt.number, receipt.size, port.channel.max_message_bytes)
            else:
                taken.setdefault(receipt.peer, []).append(receipt.number)
        for peer, numbers in taken.items():
            self._take(peer, numbers)

    def gone(self, peer: bytes) -> None:
        """Nobody to tell: it puts again what it does not know of."""

    def told(self) -> dict[str, Any]:
        return {"receipts_waiting": self.receipts, "taken": self.taken, "refused": self.refused}

    def _take(self, peer: bytes, numbers: list[bytes]) -> None:
        self.taken += len(numbers)
        self.say(peer, TAKEN, *numbers)

    def _refuse(self, peer: bytes, number: bytes, size: int, most: int) -> None:
        self.refused += 1
        reason = f"a message of {size} bytes, and {self.pattern.plan.name} takes {most} (max_message)"
        self.say(peer, REFUSED, number, reason.encode())
