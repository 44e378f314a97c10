"""A bridge at a route's desk (tunnel/receipts.py): a Giver puts messages and hears when they are safe; a Taker gets
messages and says when it has them safe.

    giver = Giver(reactor, plan.receipts, on_room=read_on)
    giver.put(number, [b"frame", ...], then)    # then(None): taken; then("..."): refused for good, and why
    taker = Taker(reactor, plan.receipts, on_message)
    taker.done(number)                          # some time after on_message(number, frames)

The device may be killed or restarted at any moment, or not be there yet: both connect anew by themselves, for ever. A
giver then puts again what was not taken, so the route may get a message twice; a taker gets again what it had not said
`done` of, and keeps from its bridge what this process has, or had, already. Plain callbacks on the reactor's loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from tunnel.limits import DESK_HWM, HANDSHAKE_S, RECEIPTS_BYTES, RECEIPTS_CREDIT, RECEIPTS_KNOWN, SESSION_BYTES
from tunnel.local.endpoint import Pause
from tunnel.monitor import Monitor, MonitorEvent
from tunnel.reactor import LOCAL_AFFINITY, POLLIN, POLLOUT, Reactor, Watch
from tunnel.receipts import ANEW, CREDIT, DONE, HERE, MESSAGE, NUMBER, PUT, REFUSED, TAKE, TAKEN, THERE

_NEVER_MS: Final = 86_400_000
"""RECONNECT_IVL. libzmq's own reconnect would carry on with what was left in its queue, which is put again as well.
With -1 it would throw away the answers that are not read yet."""
_BROKEN: Final = (
    zmq.Event.DISCONNECTED
    | zmq.Event.CLOSED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)
_WORDS_A_TURN: Final = 256

Then = Callable[[str | None], object]
OnMessage = Callable[[int, list[bytes]], object]


class _Line:
    """A DEALER to one desk, made anew whenever it breaks. Words go out only while it is up."""

    def __init__(
        self,
        reactor: Reactor,
        endpoint: str,
        on_up: Callable[[], object],
        on_word: Callable[[list[bytes]], object],
        on_writable: Callable[[], object] = lambda: None,
    ) -> None:
        self.up = False
        self.connects = 0
        """How often it came up."""
        self._reactor = reactor
        self._endpoint = endpoint
        self._on_up = on_up
        self._on_word = on_word
        self._on_writable = on_writable
        self._pause = Pause()
        self._timer: asyncio.TimerHandle | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._watch: Watch | None = None
        self._monitor: Monitor | None = None
        self._closed = False
        self._dial()

    def send(self, *word: bytes) -> bool:
        """False: it is not up, or full; then `on_up` or `on_writable` comes."""
        if self._socket is None or self._watch is None or not self.up:
            return False
        try:
            self._socket.send_multipart(word, zmq.DONTWAIT, copy=False)  # small frames are copied all the same
        except zmq.Again:
            self._watch.want(POLLIN | POLLOUT)
            return False
        self._watch.poke()
        return True

    def anew(self) -> None:
        """Have it break and come again."""
        if self._socket is not None:
            self._hang_up()
            self._later()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._hang_up()

    def _dial(self) -> None:
        self._timer = None
        self._socket = socket = self._reactor.context.socket(zmq.DEALER)
        numbers = {
            zmq.AFFINITY: LOCAL_AFFINITY,
            zmq.LINGER: 0,
            zmq.SNDHWM: DESK_HWM,
            zmq.MAXMSGSIZE: 2 * SESSION_BYTES,  # more than any route takes
            zmq.HANDSHAKE_IVL: int(HANDSHAKE_S * 1000),
            zmq.RECONNECT_IVL: _NEVER_MS,
        }
        for option, value in numbers.items():
            socket.setsockopt(option, value)
        self._monitor = Monitor(self._reactor, socket, lambda event: self._on_event(socket, event))
        self._watch = self._reactor.watch(socket, self._on_ready, POLLIN)
        socket.connect(self._endpoint)

    def _on_event(self, socket: zmq.Socket[bytes], event: MonitorEvent) -> None:
        if socket is not self._socket:
            return
        if event.kind == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.up = True
            self.connects += 1
            self._pause.reset()
            self._on_up()
        elif event.kind & _BROKEN:
            while self._read():
                pass
            self.anew()

    def _on_ready(self, events: int) -> bool:
        if events & POLLOUT and self._watch is not None:
            self._watch.want(POLLIN)
            self._on_writable()
        if events & POLLIN:
            for _ in range(_WORDS_A_TURN):
                if not self._read():
                    break
        return False

    def _read(self) -> bool:
        """One word, if there is one."""
        if self._socket is None:
            return False
        try:
            word = self._socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return False
        self._on_word(word)
        return True

    def _later(self) -> None:
        if not self._closed:
            self._timer = self._reactor.call_later(self._pause.take(), self._dial)

    def _hang_up(self) -> None:
        self.up = False
        socket, self._socket = self._socket, None
        if socket is not None and self._watch is not None and self._monitor is not None:
            self._watch.close()
            self._monitor.close()
            socket.close(linger=0)


class _Put:
    """A message that was not answered yet."""

    __slots__ = ("frames", "size", "then")

    def __init__(self, frames: Sequence[bytes], then: Then) -> None:
        self.frames = tuple(frames)
        self.size = sum(map(len, frames))
        self.then = then


class Giver:
    """Puts messages into a route, and tells of each what became of it; it keeps it until then, and no longer.

    Whoever puts looks at `has_room` first, and goes on at `on_room`. A message is kept all the same, and one larger
    than `most_bytes` goes alone.
    """

    def __init__(
        self,
        reactor: Reactor,
        endpoint: str,
        on_room: Callable[[], object] = lambda: None,
        most_bytes: int = RECEIPTS_BYTES,
    ) -> None:
        self.taken = self.refused = self.repeated = 0
        self.bytes = 0
        """Kept."""
        self._most_bytes = most_bytes
        self._on_room = on_room
        self._open: dict[int, _Put] = {}
        """By number, in the order of putting."""
        self._unsent: deque[int] = deque()
        """Of those, what the present connection was not given yet, in order."""
        self._line = _Line(reactor, endpoint, self._on_up, self._on_word, self._flush)

    def __repr__(self) -> str:
        return f"<Giver {'up' if self.up else 'down'} waiting={self.waiting} bytes={self.bytes} taken={self.taken}>"

    @property
    def up(self) -> bool:
        """Connected to the desk. (Its route may have no room all the same.)"""
        return self._line.up

    @property
    def waiting(self) -> int:
        """Messages without an answer."""
        return len(self._open)

    @property
    def has_room(self) -> bool:
        return self.bytes < self._most_bytes

    def put(self, number: int, frames: Sequence[bytes], then: Then) -> None:
        """A message of at least one frame. `then` is called once, later, unless the giver is closed before: with None
        when it is taken, with a sentence when it never will be. `number` (0 to 2**64 - 1) is the bridge's own, its row
        in a spool perhaps. ValueError: a message of that number waits already, or there is no frame.
        """
        if not frames or number in self._open:
            raise ValueError(f"Message {number} waits already." if frames else "A message has at least one frame.")
        self._open[number] = put = _Put(frames, then)
        self.bytes += put.size
        self._unsent.append(number)
        self._flush()

    def forget(self, number: int) -> None:
        """Nobody waits for that answer any more; the message may be taken, or not."""
        put = self._open.pop(number, None)
        if put is not None:
            self.bytes -= put.size
            if number in self._unsent:
                self._unsent.remove(number)

    def close(self) -> None:
        """What was not answered may have been taken, or not."""
        self._line.close()
        self._open.clear()
        self._unsent.clear()

    def status(self) -> dict[str, Any]:
        return {
            "up": self.up,
            "waiting": self.waiting,
            "waiting_bytes": self.bytes,
            "taken": self.taken,
            "refused": self.refused,
            "may_repeat": self.repeated,
        }

    def _on_up(self) -> None:
        self.repeated += len(self._open) - len(self._unsent)
        self._unsent = deque(self._open)
        self._flush()

    def _flush(self) -> None:
        while self._unsent:
            number = self._unsent[0]
            if not self._line.send(PUT, NUMBER.pack(number), *self._open[number].frames):
                return
            self._unsent.popleft()

    def _on_word(self, word: list[bytes]) -> None:
        had_room = self.has_room
        if word[0] == TAKEN:
            for frame in word[1:]:
                self._answer(frame, None)
        elif word[0] == REFUSED and len(word) == 3:
            self._answer(word[1], word[2].decode("utf-8", "replace"))
        if self.has_room and not had_room:
            self._on_room()

    def _answer(self, frame: bytes, reason: str | None) -> None:
        put = self._open.pop(NUMBER.unpack(frame)[0], None) if len(frame) == NUMBER.size else None
        if put is None:
            return
        self.bytes -= put.size
        if reason is None:
            self.taken += 1
        else:
            self.refused += 1
        put.then(reason)


class Taker:
    """Gets messages of a route, at most `credit` that it has not said `done` of, and says `done`.

    Numbers are the desk's; a message that is given out again bears the same number as long as its device runs, and on a
    spooled route as long as the spool at the other side lives. A bridge that must not hand a message on twice remembers
    them on disk.
    """

    def __init__(self, reactor: Reactor, endpoint: str, on_message: OnMessage, credit: int = RECEIPTS_CREDIT) -> None:
        self.messages = self.repeated = 0
        """Given to the bridge; kept from it."""
        self._on_message = on_message
        self._credit = credit
        self._has: set[int] = set()
        """With the bridge, not done."""
        self._known: dict[int, None] = {}
        """The newest that were done, oldest first."""
        self._unsaid: deque[int] = deque()
        """Done, and not said on the present connection yet, which was given them."""
        self._given: set[int] = set()
        """What the present connection was given and has not answered."""
        self._line = _Line(reactor, endpoint, self._on_up, self._on_word, self._flush)

    def __repr__(self) -> str:
        return f"<Taker {'up' if self.up else 'down'} waiting={self.waiting} messages={self.messages}>"

    @property
    def up(self) -> bool:
        """Connected to the desk."""
        return self._line.up

    @property
    def waiting(self) -> int:
        """Messages that the bridge has not said `done` of."""
        return len(self._has)

    def done(self, number: int) -> None:
        """This message is safe with the bridge (fsynced, or handed on for good). In any order."""
        if number not in self._has:
            return
        self._has.remove(number)
        self._known[number] = None
        if len(self._known) > RECEIPTS_KNOWN:
            del self._known[next(iter(self._known))]
        self._say_done(number)

    def close(self) -> None:
        """What was not done is given out again, to whom it may be."""
        self._line.close()

    def status(self) -> dict[str, Any]:
        return {"up": self.up, "waiting": self.waiting, "messages": self.messages, "repeats": self.repeated}

    def _on_up(self) -> None:
        self._given.clear()
        self._unsaid.clear()
        self._line.send(TAKE, CREDIT.pack(self._credit))

    def _on_word(self, word: list[bytes]) -> None:
        if word[0] == MESSAGE and len(word) > 2 and len(word[1]) == NUMBER.size:
            self._on_given(NUMBER.unpack(word[1])[0], word[2:])
        elif word[0] == THERE:
            self._line.send(HERE)
        elif word[0] == ANEW:
            self._line.anew()

    def _on_given(self, number: int, frames: list[bytes]) -> None:
        self._given.add(number)
        if number in self._known:  # the desk did not hear of it
            self.repeated += 1
            self._say_done(number)
        elif number in self._has:
            self.repeated += 1
        else:
            self.messages += 1
            self._has.add(number)
            self._on_message(number, frames)

    def _say_done(self, number: int) -> None:
        if number in self._given:  # else it is said when the present connection is given it
            self._given.remove(number)
            self._unsaid.append(number)
            self._flush()

    def _flush(self) -> None:
        while self._unsaid and self._line.send(DONE, NUMBER.pack(self._unsaid[0])):
            self._unsaid.popleft()
