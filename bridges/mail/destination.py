"""One place that mail goes to: the relay, or a domain; what is ready to go there, and how its server was lately."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from bridges.mail.limits import SEND_REST_MAX_S, SEND_REST_MIN_S
from bridges.mail.outbox_records import Job
from bridges.mail.retry import Rate, Rest
from bridges.mail.sending import Conversation

RELAY: Final = ""
"""The name of the destination of everything, where there is a relay."""


class Destination:
    """One of them: what is ready to go there, and how its server was lately."""

    def __init__(self, name: str, rate: tuple[int, float] | None) -> None:
        self.name = name
        self.ready: deque[Job] = deque()
        self.workers = 0
        self.waiting = 0
        """Workers with nothing to do."""
        self.lines: set[Conversation] = set()
        self.unknown = True
        """Its server was not reached since this process began."""
        self.server = ""
        """The one that was reached last."""
        self.rate = Rate(*rate) if rate is not None else Rate()
        self.rest = Rest(SEND_REST_MIN_S, SEND_REST_MAX_S)
        self.reason = ""
        """Why it rests or is paused."""
        self.paused_until = 0.0
        """It refuses what we are."""
        self.woken = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Destination {self.name or 'relay'} ready={len(self.ready)} lines={len(self.lines)} {self.reason}>"

    @property
    def open(self) -> int:
        """Connections."""
        return sum(line.alive for line in self.lines)

    def held_s(self, now: float) -> float:
        """For how long nothing is to go there."""
        return max(self.rest.until - now, self.paused_until - now, self.rate.wait_s(now), 0.0)

    def free(self) -> None:
        """It is there, or is to be tried at once."""
        self.rest.until = self.paused_until = 0.0
        self.reason = ""
