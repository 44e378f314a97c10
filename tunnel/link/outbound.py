"""One channel at its sender: from the local socket to the lane (docs/protocol.md, "Channels").

It knows batches, sequence numbers and the window; it knows neither lanes nor other channels. A batch waits in `queue`
without a number, gets one as it enters the lane, and stays in `flight` until the peer has delivered it. What is in
flight never changes its place or number within one session of the peer, so whatever is dropped was never sent.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from tunnel.errors import LocalMisuseError, RemoteProtocolError
from tunnel.limits import BATCH_COST_BYTES, FRAGMENT_BYTES, MESSAGE_FRAMES

if TYPE_CHECKING:
    from tunnel.link.wire import Segment


class Piece(Protocol):
    """What the pump drains: a run of whole messages, or a fragment of one (`more`: the message goes on)."""

    @property
    def segments(self) -> Sequence[Segment]: ...

    @property
    def size(self) -> int: ...

    @property
    def messages(self) -> int: ...

    @property
    def more(self) -> bool: ...


class Compact(Protocol):
    """keep-latest: of messages with equal first frames only the newest stays; also gives how many went."""

    def __call__(self, runs: Sequence[Sequence[Segment]], /) -> tuple[Sequence[Piece], int]: ...


@dataclass(slots=True)
class Batch:
    """A piece on its way. `seq` is 0 until it enters the lane; `born`: when its first message was read, in seconds."""

    segments: Sequence[Segment]
    size: int
    messages: int
    more: bool
    born: float
    seq: int = 0
    unit: int = 0
    """A spooled channel: the number that its disk gave it (tunnel/link/spooled.py)."""
    place: int = 0
    """Where it stands among all that were put, from 1; fragments of a batch share it. Never sent, and never changes."""

    @property
    def cost(self) -> int:
        """What it counts for in the window."""
        return self.size if self.size > BATCH_COST_BYTES else BATCH_COST_BYTES


@dataclass(frozen=True, slots=True)
class Terms:
    """How a channel treats its batches; the local part of a route's settings."""

    window_bytes: int
    confirmed: bool = True
    overflow: Literal["block", "drop-newest", "drop-oldest", "keep-latest"] = "block"
    priority: Literal["high", "normal", "bulk"] = "normal"
    max_age_s: float | None = None
    resend_on_restart: bool = True


class Outbound:
    """One direction of one route towards one peer. Sizes in bytes, times in seconds of the local monotonic clock."""

    def __init__(self, channel: int, name: str, terms: Terms, compact: Compact | None = None) -> None:
        self.channel = channel
        self.name = name
        self.terms = terms
        self.window_bytes = terms.window_bytes
        """The stricter of the two ends' windows."""
        self.queue: deque[Batch] = deque()
        self.queue_bytes = 0
        self.flight: deque[Batch] = deque()
        self.flight_bytes = 0
        self.next_seq = 1
        self.delivered = 0
        self.placed = 0
        """The place of the newest batch."""
        self.cursor = 1
        """The next number to put into the lane; below next_seq while a resumed link is replaying."""
        self.sent_messages = 0
        self.sent_bytes = 0
        self.dropped: Counter[str] = Counter()
        self.may_repeat = 0
        self.relieved = False
        """Old messages went without an acknowledgement: there may be room again. Who reads it clears it."""
        self._compact = compact
        self._mid_message = False
        """The last batch that got a number was a fragment with more to come: the head of the queue must follow it."""

    def __repr__(self) -> str:
        return (
            f"<Outbound {self.name} queue={len(self.queue)} flight={len(self.flight)} next={self.next_seq} "
            f"delivered={self.delivered} unacked={self.unacked_bytes}/{self.window_bytes}>"
        )

    @property
    def unacked_bytes(self) -> int:
        """What this channel holds: unsent, and sent but not delivered."""
        return self.queue_bytes + self.flight_bytes

    @property
    def has_room(self) -> bool:
        """May another batch be read from the local socket? Routes that drop always read; they drop instead."""
        return self.terms.overflow != "block" or self.unacked_bytes < self.window_bytes

    @property
    def settled(self) -> int:
        """Everything through this place was delivered, or dropped and counted. Perhaps more was, but nothing less."""
        head = self.flight[0] if self.flight else self.queue[0] if self.queue else None
        return self.placed if head is None else head.place - 1

    # --- local side --------------------------------------------------------------------------------------------------

    @property
    def load_bytes(self) -> int:
        """How busy it is, in comparison with that of another side."""
        return self.unacked_bytes

    @property
    def drained(self) -> bool:
        """Nothing is held here that an orderly end should wait for."""
        return not self.unacked_bytes

    def put(self, pieces: Iterable[Piece], now: float) -> None:
        """Take what was read from the local socket. Whole messages only: the last piece has `more` False."""
        for piece in pieces:
            self.queue.append(self._placed(piece, now))
            self.queue_bytes += self.queue[-1].cost
        if self.terms.overflow != "block":
            self._overflow(now)

    def _placed(self, piece: Piece, now: float) -> Batch:
        self.placed = place = self.placed + 1
        return Batch(piece.segments, piece.size, piece.messages, piece.more, now, 0, 0, place)

    def _overflow(self, now: float) -> None:
        """Bound the unsent by what the window leaves, at least half of it; only unsent whole messages are dropped.

        One message always stays, however large: else a route could never carry one that is larger than half its window.
        """
        limit = max(self.window_bytes // 2, self.window_bytes - self.flight_bytes)
        if self.queue_bytes <= limit:
            return
        half_sent = self._take_half_sent()
        overflow = self.terms.overflow
        if overflow == "keep-latest" and self._compact is not None:
            pieces, gone = self._compact([run for run, _ in _messages(self.queue)])
            self.dropped["overflow"] += gone
            places = _places(self.queue, pieces)
            self.queue = deque(
                Batch(p.segments, p.size, p.messages, p.more, now, place=place)
                for p, place in zip(pieces, places, strict=True)
            )
            self.queue_bytes = sum(batch.cost for batch in self.queue)
            limit = limit * 3 // 4  # else every further batch would compact the whole queue again
        limit -= sum(batch.cost for batch in half_sent)
        while self.queue_bytes > limit and not self._is_one_message():
            if overflow == "drop-newest":
                self._drop_newest()
            else:
                self._drop_oldest("overflow")
        self.queue.extendleft(reversed(half_sent))
        self.queue_bytes += sum(batch.cost for batch in half_sent)

    def _is_one_message(self) -> bool:
        """The queue is empty or holds nothing but one batch, or the fragments of one message."""
        return next((at for at, batch in enumerate(self.queue) if not batch.more), 0) >= len(self.queue) - 1

    def _take_half_sent(self) -> list[Batch]:
        """Remove the rest of a message whose first fragments are already under way; it must be finished."""
        rest: list[Batch] = []
        mid = self._mid_message
        while mid and self.queue:
            batch = self.queue.popleft()
            self.queue_bytes -= batch.cost
            rest.append(batch)
            mid = batch.more
        return rest

    def _drop_oldest(self, reason: str) -> None:
        more = True
        while more and self.queue:
            batch = self.queue.popleft()
            self.queue_bytes -= batch.cost
            self.dropped[reason] += batch.messages
            more = batch.more

    def _drop_newest(self) -> None:
        while self.queue:
            batch = self.queue.pop()
            self.queue_bytes -= batch.cost
            self.dropped["overflow"] += batch.messages
            if not self.queue or not self.queue[-1].more:
                return

    @property
    def is_clear(self) -> bool:
        """Nothing waits, so a batch may enter the lane at once."""
        may_fly = self.terms.overflow == "block" or self.flight_bytes < self.window_bytes // 2
        return not self.queue and self.cursor == self.next_seq and may_fly

    @property
    def room_bytes(self) -> int:
        """What may fly besides what does."""
        most = self.window_bytes if self.terms.overflow == "block" else self.window_bytes // 2
        return most - self.flight_bytes

    # --- lane side ---------------------------------------------------------------------------------------------------

    def next_size(self, now: float, batch_bytes: int = FRAGMENT_BYTES) -> int | None:
        """Size of the batch whose turn it is in the lane, or None when nothing may go. A longer one is cut to fit."""
        if self.cursor < self.next_seq:
            if self.flight[self._replaying].size > batch_bytes:
                self._cut_replay(batch_bytes)
            return self.flight[self._replaying].size
        self.expire(now)
        if not self.queue:
            return None
        most = self.window_bytes if self.terms.overflow == "block" else self.window_bytes // 2
        if self.flight_bytes >= most and not self._mid_message:
            return None
        if self.queue[0].size > batch_bytes:
            self._cut_head(batch_bytes)
        return self.queue[0].size

    def _cut_head(self, most: int) -> None:
        """Make fragments of the next batch: the receiver joins what comes with `more`, be it one message or many."""
        head = self.queue.popleft()
        fragments = _cut(head, most)
        self.queue.extendleft(reversed(fragments))
        self.queue_bytes += sum(batch.cost for batch in fragments) - head.cost

    @property
    def _replaying(self) -> int:
        """Where in `flight` the cursor stands."""
        return self.cursor - self.flight[0].seq

    def _cut_replay(self, most: int) -> None:
        """The line is slower now than when this went for the first time: cut it, and number the rest anew.

        The peer never received these numbers, and nothing from the cursor on was sent on the present connection.
        """
        rest = [self.flight.pop() for _ in range(len(self.flight) - self._replaying)]
        head = rest.pop()
        fragments = _cut(head, most)
        self.flight.extend(fragments)
        self.flight.extend(reversed(rest))
        for seq, batch in enumerate(reversed([*rest, *reversed(fragments)]), self.cursor):
            batch.seq = seq
        self.next_seq += len(fragments) - 1
        self.flight_bytes += sum(batch.cost for batch in fragments) - head.cost

    def take(self, now: float) -> Batch:
        """The batch for the lane, numbered. A replayed one that is too old travels empty: numbers have no gaps."""
        if self.cursor < self.next_seq:
            batch = self.flight[self._replaying]
            self.cursor += 1
            self._empty_if_old(batch, now)
            return batch
        if not self.queue:
            raise LocalMisuseError(f"{self!r} has nothing to send")
        batch = self.queue.popleft()
        self.queue_bytes -= batch.cost
        return self._enter(batch)

    def take_at_once(self, piece: Piece, now: float) -> Batch:
        """As `put` and `take` in one, for a whole piece while `is_clear`."""
        return self._enter(self._placed(piece, now))

    def _enter(self, batch: Batch) -> Batch:
        batch.seq = self.next_seq
        self.next_seq += 1
        self.cursor = self.next_seq
        self._mid_message = batch.more
        self.sent_messages += batch.messages
        self.sent_bytes += batch.size
        kept = batch
        if not self.terms.confirmed:
            kept = Batch((), batch.size, batch.messages, batch.more, batch.born, batch.seq, place=batch.place)
        self.flight.append(kept)
        self.flight_bytes += batch.cost
        return batch

    def expire(self, now: float) -> None:
        """Drop what waited too long, judged where it waits; a message half sent is finished."""
        age = self.terms.max_age_s
        if age is None or self._mid_message:
            return
        while self.queue and now - self.queue[0].born > age:
            self._drop_oldest("expired")
            self.relieved = True

    def _empty_if_old(self, batch: Batch, now: float) -> None:
        age = self.terms.max_age_s
        whole = not batch.more and (batch is self.flight[0] or not self._before(batch).more)
        if age is not None and whole and batch.messages and now - batch.born > age:
            self.dropped["expired"] += batch.messages
            self.flight_bytes -= batch.cost
            batch.segments, batch.size, batch.messages = (), 0, 0
            self.flight_bytes += batch.cost

    def _before(self, batch: Batch) -> Batch:
        return self.flight[batch.seq - self.flight[0].seq - 1]

    def acknowledge(self, delivered: int) -> bool:
        """The peer handed everything through `delivered` to its local socket. True when this freed something."""
        if delivered >= self.cursor:
            raise RemoteProtocolError("sequence", f"the peer acknowledges batch {delivered} of {self.name}, never sent")
        freed = False
        while self.flight and self.flight[0].seq <= delivered:
            self.flight_bytes -= self.flight.popleft().cost
            freed = True
        self.delivered = max(self.delivered, delivered)
        return freed

    # --- a link comes back -------------------------------------------------------------------------------------------

    def resume(self, received: int, delivered: int) -> None:
        """The same session of the peer is back: go on after what it has received.

        `delivered` may be behind what we know: a batch's acknowledgement can overtake OPENED, on the other lane.
        """
        if not (delivered <= received and self.delivered <= received < self.next_seq):
            sent = f"{self.delivered}..{self.next_seq - 1}"
            raise RemoteProtocolError(
                "sequence", f"the peer resumes {self.name} at {delivered}..{received}, but {sent} was sent"
            )
        self.cursor = received + 1
        self.acknowledge(delivered)
        if not self.terms.confirmed:
            self._lose_flight_after(received, "link_cut")
            self.next_seq = self.cursor

    def agreed(self, window_bytes: int, max_message_bytes: int) -> None:
        """What both ends of the route allow. Unsent messages that the peer would not take go, counted."""
        self.window_bytes = window_bytes
        most = max_message_bytes + 4 * MESSAGE_FRAMES
        kept = self._take_half_sent()
        while self.queue:
            message = [self.queue.popleft()]
            while message[-1].more and self.queue:
                message.append(self.queue.popleft())
            if sum(batch.size for batch in message) > most:
                self.dropped["too_large"] += sum(batch.messages for batch in message)
                self.relieved = True
            else:
                kept.extend(message)
        self.queue.extend(kept)
        self.queue_bytes = sum(batch.cost for batch in kept)

    def restart(self) -> None:
        """The peer's process is a new one: it has nothing, its numbers begin again."""
        again = self.terms.confirmed and self.terms.resend_on_restart
        if again:
            self.may_repeat += sum(batch.messages for batch in self.flight)
            self.queue.extendleft(reversed(self.flight))
            self.queue_bytes += self.flight_bytes
            self.flight.clear()
            self.flight_bytes = 0
            self._mid_message = False
        else:
            self._lose_flight_after(0, "peer_restart")
        self.next_seq = self.cursor = 1
        self.delivered = 0

    def _lose_flight_after(self, seq: int, reason: str) -> None:
        """Count as lost what is in flight above `seq`; the unsent rest of a message so beheaded goes with it.

        The receiver has forgotten the fragments of such a message too (Inbound.abandon), so `seq` ends a message.
        """
        if self.flight and self.flight[0].seq <= seq and self.flight[seq - self.flight[0].seq].more:
            raise RemoteProtocolError("sequence", f"the peer resumes {self.name} in the middle of a message")
        while self.flight and self.flight[-1].seq > seq:
            batch = self.flight.pop()
            self.flight_bytes -= batch.cost
            self.dropped[reason] += batch.messages
        if self._mid_message:
            self._drop_oldest(reason)
        self._mid_message = False

    def drop_all(self, reason: str) -> None:
        """Forget what is unsent, counted (a route that is taken away; replies nobody waits for)."""
        half_sent = self._take_half_sent()
        while self.queue:
            self._drop_oldest(reason)
        self.queue.extend(half_sent)
        self.queue_bytes = sum(batch.cost for batch in half_sent)


def _cut(batch: Batch, most: int) -> list[Batch]:
    """A batch as fragments without numbers."""
    fragments = [
        Batch(run, size, 0, True, batch.born, unit=batch.unit, place=batch.place)
        for run, size in _fragments(batch.segments, most)
    ]
    fragments[-1].messages, fragments[-1].more = batch.messages, batch.more
    return fragments


def _fragments(segments: Sequence[Segment], most: int) -> Iterable[tuple[list[Segment], int]]:
    """A run in stretches of `most` bytes, the last one shorter."""
    run: list[Segment] = []
    size = 0
    for segment in segments:
        at = 0
        while at < len(segment):
            if size == most:
                yield run, size
                run, size = [], 0
            step = min(len(segment) - at, most - size)
            run.append(_stretch(segment, at, at + step))
            size += step
            at += step
    yield run, size


def _stretch(segment: Segment, start: int, stop: int) -> Segment:
    return memoryview(segment)[start:stop]


def _messages(queue: Iterable[Batch]) -> Iterable[tuple[list[Segment], int]]:
    """Batches as runs of whole messages: the fragments of one message are put together."""
    run: list[Segment] = []
    for batch in queue:
        run.extend(batch.segments)
        if not batch.more:
            yield run, batch.messages
            run = []


def _places(queue: Iterable[Batch], pieces: Iterable[Piece]) -> Iterator[int]:
    """Places for what is left of the queue's messages: none lies above one of its messages' own.

    Which went is not known here; but of those that stayed the n-th was the n-th or a later one before.
    """
    before = iter(queue)
    place = passed = first = 0
    for piece in pieces:
        while passed <= first and (batch := next(before, None)) is not None:
            place, passed = batch.place, passed + batch.messages
        yield place
        first += piece.messages
