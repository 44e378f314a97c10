"""Mails on their way to 0MQ, and which of them is to blame where nobody answers.

Somebody who does not answer is away, or hangs, or is one whom a single mail brings down, every time that it is given.
Away and hanging are no mail's fault: nothing is put aside for that. A failure counts against a mail only where another
one was answered:

    overtaken   it has waited `again_s`, and one that was first given after it was answered: it failed
    silent      nothing is answered for `again_s`: the oldest is given again, and nobody is to blame
    gone        who was to answer is gone, and all with him: given again, one alone at a time; one with which he goes
                again is a suspect
    answered    every suspect but this one has failed; and all are given together again
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bridges.mail.handover import HandOver
from bridges.mail.limits import GIVE_AGAIN_S
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.limits import BRIDGE_TICK_S
from tunnel.reactor import Reactor

_NEVER: Final = 1e9
"""Seconds: when to give again is decided here."""


@dataclass(slots=True, eq=False)
class Letter:
    """One mail with what is to be said when it is answered, or fails."""

    frames: Sequence[bytes]
    taken: Callable[[], None]
    refused: Callable[[str], None]
    """Why; whoever was asked will not have it now."""
    failed: Callable[[str], bool]
    """Why; True: it is to be given again."""
    repeats: bool = False
    """It was given before, perhaps by a process before this one."""
    size: int = field(init=False)
    number: int = field(init=False, default=0)
    first_at: float = field(init=False, default=0.0)
    given_at: float = field(init=False, default=0.0)
    """When it was given first, and last."""
    overtaken: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.size = sum(map(len, self.frames))


class Giving:
    """See the module. `on_room`: fewer bytes are held than before."""

    def __init__(
        self, reactor: Reactor, plan: ZmqPlan, on_room: Callable[[], None], again_s: float = GIVE_AGAIN_S
    ) -> None:
        self._loop = reactor.loop
        self._on_room = on_room
        self._again_s = again_s
        self.over = HandOver(reactor, plan, self._pump, _NEVER, self._gone)
        self._line: deque[Letter] = deque()
        self._given: dict[int, Letter] = {}
        """Under way, in the order of giving."""
        self._suspects: set[Letter] = set()
        self._alone = False
        self._numbers = 0
        self._moved_at = self._loop.time()
        """When something was answered last, or there was nobody to answer."""
        self.held_bytes = self.handed = self.may_repeat = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Giving line={len(self._line)} given={len(self._given)} alone={self._alone}>"

    @property
    def under_way(self) -> int:
        """Given and not answered."""
        return len(self._given)

    @property
    def held(self) -> int:
        return len(self._line) + len(self._given)

    def put(self, letter: Letter) -> None:
        """Give it when its turn comes."""
        self._numbers += 1
        letter.number = self._numbers
        self.held_bytes += letter.size
        self._line.append(letter)
        self._pump()
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(BRIDGE_TICK_S, self._on_time)

    def drop(self, letter: Letter) -> None:
        """Whoever put it waits no longer."""
        self._suspects.discard(letter)
        if letter in self._line:
            self._line.remove(letter)
        elif self._given.pop(letter.number, None) is not None:
            self.over.forget(letter.number)
        else:
            return
        self.held_bytes -= letter.size
        self._on_room()
        self._pump()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.over.close()

    def status(self) -> dict[str, Any]:
        return self.over.status() | {"may_repeat": self.may_repeat}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._line and not self._closed and self.over.has_room and not (self._alone and self._given):
            self._give(self._line.popleft())

    def _give(self, letter: Letter) -> None:
        self.may_repeat += letter.repeats
        letter.repeats = True
        letter.given_at = now = self._loop.time()
        letter.first_at = letter.first_at or now
        letter.overtaken = False
        if not self._given:
            self._moved_at = now
        self._given[letter.number] = letter
        self.over.give(letter.number, letter.frames, lambda refusal: self._answered(letter, refusal))

    def _answered(self, letter: Letter, refusal: str) -> None:
        if self._given.pop(letter.number, None) is None:
            return
        self._moved_at = self._loop.time()
        self._alone = False
        suspects, self._suspects = self._suspects - {letter}, set()
        self.held_bytes -= letter.size
        if not refusal:
            self.handed += 1
            letter.taken()
        else:
            letter.refused(refusal)
        for suspect in suspects:
            self._blame(suspect, "whoever is given it goes away without an answer")
        for other in self._given.values():
            if other.given_at >= letter.first_at:
                break
            other.overtaken = True
        self._on_room()
        self._pump()

    def _blame(self, letter: Letter, why: str) -> None:
        """It failed once more; it goes to the end of the line, or nowhere."""
        if self._given.pop(letter.number, None) is not None:
            self.over.forget(letter.number)
            self.held_bytes -= letter.size
        elif letter in self._line:
            self._line.remove(letter)
            self.held_bytes -= letter.size
        if letter.failed(why):
            self.held_bytes += letter.size
            self._line.append(letter)

    def _gone(self) -> None:
        """Who was to answer has left, with all that he had."""
        given = list(self._given.values())
        for letter in given:
            self.over.forget(letter.number)
        self._given.clear()
        if self._alone and given:
            self._suspects.add(given[0])
            self._line.extend(given)
        else:
            self._line.extendleft(reversed(given))
        self._alone = True
        self._moved_at = self._loop.time()
        self._pump()

    def _on_time(self) -> None:
        self._timer = None
        now = self._loop.time()
        if not self.over.judges:
            self._moved_at = now
        late = [one for one in self._given.values() if one.overtaken and now - one.given_at > self._again_s]
        for letter in late if self.over.judges else ():
            self._blame(letter, "nobody answered for it, and later ones were answered")
        self._pump()
        if self._given and now - self._moved_at > self._again_s:
            self._moved_at = now
            oldest = self._given.pop(next(iter(self._given)))
            self.over.forget(oldest.number)
            self._give(oldest)
        if self.held and not self._closed:
            self._timer = self._loop.call_later(BRIDGE_TICK_S, self._on_time)
