"""What a bridge hands to its 0MQ socket: runs, fed as far as the socket takes them, and who is told when one is gone.

A socket that takes no more is the end of reading: whoever puts a run and finds `blocked` stops, and is called when it
is over. Nothing is dropped here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import zmq

from tunnel import pump
from tunnel.pump import BAD, DONE, Segment

Done = Callable[[], None]


class Whole:
    """One message whose frames are not copied: libzmq sends them from where they are, which must not change."""

    def __init__(self, frames: Sequence[Segment]) -> None:
        self.size = sum(map(len, frames))
        self._frames = frames

    def send(self, socket: zmq.Socket[bytes]) -> bool:
        """False: it takes no more for now. In the middle of a message libzmq then drops the rest of it as that comes:
        it is said to its end, and once more."""
        taken = True
        for number, frame in enumerate(self._frames, 1):
            more = zmq.SNDMORE if number < len(self._frames) else 0
            try:
                socket.send(frame, zmq.DONTWAIT | more, copy=False)
            except zmq.Again:
                if number == 1:
                    return False
                taken = False
        return taken


class Outlet:
    """Runs on their way to one socket, in order."""

    def __init__(
        self, socket: zmq.Socket[bytes], on_change: Callable[[], None], on_gone: Callable[[], None] | None = None
    ) -> None:
        """`on_change`: it has become blocked, or is no longer. `on_gone`: a ROUTER's peer is not there any more."""
        self.messages = 0
        self.bytes = 0
        """Handed over so far."""
        self.unreachable = 0
        """Messages of a ROUTER to peers that are gone."""
        self._socket = socket
        self.malformed = 0
        """Runs that were no runs to their end, which went nowhere."""
        self._on_change = on_change
        self._on_gone = on_gone
        self._runs: deque[tuple[tuple[Segment, ...] | Whole, Done | None]] = deque()
        self._position = 0

    def __repr__(self) -> str:
        return f"<Outlet runs={len(self._runs)} messages={self.messages}>"

    @property
    def blocked(self) -> bool:
        return bool(self._runs)

    @property
    def waiting(self) -> int:
        """Runs."""
        return len(self._runs)

    def put(self, run: bytes | tuple[Segment, ...] | Whole, done: Done | None = None) -> None:
        """Hand a run over (in one piece, or in several), now or when there is room; then `done` is called."""
        self._runs.append(((run,) if isinstance(run, bytes) else run, done))
        if len(self._runs) == 1:
            self.flush()
            if self._runs:
                self._on_change()

    def flush(self) -> None:
        """As much as the socket takes."""
        gone = self.unreachable
        while self._runs:
            run, done = self._runs[0]
            if isinstance(run, Whole):
                if not run.send(self._socket):
                    break
                self.messages += 1
                self.bytes += run.size
                self._runs.popleft()
                if done is not None:
                    done()
                continue
            fed = pump.feed(self._socket, run, self._position)
            self.messages += fed.messages
            self.unreachable += fed.unreachable
            self.bytes += fed.position - self._position
            self._position = fed.position
            if fed.status is BAD:
                self.malformed += 1
            elif fed.status is not DONE:
                break
            self._runs.popleft()
            self._position = 0
            if done is not None and fed.status is DONE:
                done()
        if self.unreachable > gone and self._on_gone is not None:
            self._on_gone()

    def forget(self, run: tuple[Segment, ...] | Whole) -> None:
        """Nobody wants this one any more: it goes nowhere, unless it has begun to go."""
        for number, (waiting, _) in enumerate(self._runs):
            if waiting is run and (number or not self._position):
                del self._runs[number]
                if not self._runs:
                    self._on_change()
                return

    def drop(self) -> int:
        """Forget what waits: whom it is for is gone. How many runs that were."""
        count = len(self._runs)
        self._runs.clear()
        self._position = 0
        return count

    def on_writable(self) -> None:
        """There may be room."""
        was = self.blocked
        self.flush()
        if was and not self.blocked:
            self._on_change()
