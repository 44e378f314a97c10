"""Topic sets that cross the link as sets, not as raw subscription frames (pitfalls: libzmq #4063, #3733).

`Wanted` is the subscriber's half: what its applications want, sent whole when a link opens and as changes after that.
`Granted` is the publisher's half: what one peer wants, which outlives the peer's connection and its process, so that a
cut or a restart at the far end unsubscribes nothing until the new set has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel.errors import RemoteProtocolError
from tunnel.limits import SUBSCRIPTIONS
from tunnel.link.wire import Subscribe, encode_subscribe

if TYPE_CHECKING:
    from tunnel.link.wire import Parts


class Wanted:
    """The set of topics that the applications at this half want."""

    def __init__(self, standing: tuple[bytes, ...] = ()) -> None:
        self._standing = frozenset(standing)
        self.topics: set[bytes] = set(standing)
        self.generation = 0
        self.acknowledged = 0
        self._changes: dict[bytes, bool] = {}
        self._anew = True

    @property
    def settled(self) -> bool:
        """The far half has taken the set as it stands."""
        return not self._anew and not self._changes and self.acknowledged == self.generation

    def change(self, *, add: bool, topic: bytes) -> bool:
        """An application subscribed or unsubscribed (first or last of its topic). False: over the limit, ignored."""
        if add:
            if len(self.topics) >= SUBSCRIPTIONS:
                return False
            if topic in self.topics:
                return True
            self.topics.add(topic)
        else:
            if topic in self._standing or topic not in self.topics:
                return True
            self.topics.discard(topic)
        self._changes[topic] = add
        return True

    def clear(self) -> None:
        """The local socket is a new one: what its applications want comes again by itself."""
        for topic in self.topics - self._standing:
            self._changes[topic] = False
        self.topics = set(self._standing)

    def restart(self) -> None:
        """A link opened: the whole set goes."""
        self._anew = True
        self._changes.clear()

    def frames(self, channel: int) -> list[Parts]:
        """What the far half has not been told yet. Changes wait until it has taken the last ones, and grow into one
        message meanwhile: applications that come and go quickly must not fill a control lane that is slow."""
        if not self._anew and (not self._changes or self.acknowledged != self.generation):
            return []
        self.generation += 1
        changes = [(True, topic) for topic in self.topics] if self._anew else [(a, t) for t, a in self._changes.items()]
        frames = encode_subscribe(channel, self.generation, changes, anew=self._anew)
        self._anew = False
        self._changes.clear()
        return frames


class Granted:
    """The set of topics that one peer wants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.topics: set[bytes] = set()
        self._coming: set[bytes] | None = None

    def take(self, piece: Subscribe) -> list[tuple[bool, bytes]]:
        """Apply a piece; gives the changes to the set: (True, topic) is new, (False, topic) is gone."""
        if piece.first:
            self._coming = set()
        if self._coming is None:
            return self._apply(piece.changes)
        self._coming.update(topic for add, topic in piece.changes if add)
        self._bound(len(self._coming))
        if not piece.last:
            return []
        coming, self._coming = self._coming, None
        changes = [(True, topic) for topic in coming - self.topics]
        changes += [(False, topic) for topic in self.topics - coming]
        self.topics = coming
        return changes

    def _apply(self, changes: list[tuple[bool, bytes]]) -> list[tuple[bool, bytes]]:
        done: list[tuple[bool, bytes]] = []
        for add, topic in changes:
            if add and topic not in self.topics:
                self.topics.add(topic)
                done.append((True, topic))
            elif not add and topic in self.topics:
                self.topics.discard(topic)
                done.append((False, topic))
        self._bound(len(self.topics))
        return done

    def _bound(self, count: int) -> None:
        if count > SUBSCRIPTIONS:
            raise RemoteProtocolError("subscriptions", f"{self.name}: the peer wants more than {SUBSCRIPTIONS} topics")
