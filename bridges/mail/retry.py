"""When a mail is tried again, and how many may go in a time. Pure: the time and chance come from outside."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

JITTER: Final = 0.2
"""A pause is longer by up to this part: mails that failed together do not all come again together."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Pauses between attempts; the last one goes on for ever (a mail's `expire` ends it)."""

    steps: tuple[tuple[float, int], ...]
    """(pause in seconds, how many times), such as (60, 1), (300, 2)."""

    def after(self, attempts: int, chance: float) -> float:
        """Seconds from a failed attempt (the first is 1) to the next; `chance` is from 0 to 1."""
        pause_s = 0.0
        for step_s, times in self.steps:
            pause_s = step_s
            if attempts <= times:
                break
            attempts -= times
        return pause_s * (1 + JITTER * chance)


@dataclass(slots=True)
class Rate:
    """At most `count` in any stretch of `period_s`; None: as many as one likes."""

    count: int | None = None
    period_s: float = 0.0
    _went: deque[float] = field(default_factory=deque)

    def wait_s(self, now: float) -> float:
        """How long the next one has to wait."""
        if self.count is None or len(self._went) < self.count:
            return 0.0
        return max(0.0, self._went[0] + self.period_s - now)

    def take(self, now: float) -> None:
        """One goes now."""
        if self.count is not None:
            self._went.append(now)
            if len(self._went) > self.count:
                self._went.popleft()


@dataclass(slots=True)
class Rest:
    """The pauses of a server that cannot be reached: `first_s`, doubled up to `most_s`, until it is there."""

    first_s: float
    most_s: float
    failures: int = 0
    until: float = 0.0

    def fail(self, now: float, chance: float) -> None:
        pause_s = min(self.most_s, self.first_s * 2 ** min(self.failures, 30))
        self.until = now + pause_s * (1 + JITTER * chance)
        self.failures += 1

    def over(self) -> None:
        """It is there again, or is to be tried at once."""
        self.failures, self.until = 0, 0.0
