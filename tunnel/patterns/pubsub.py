"""pubsub: PUB applications at `from`, SUB applications at `to`. Topics cross as sets, messages only where wanted.

The publishers' half (XSUB) holds the union of what every `to` side wants, and outlives their cuts and restarts. The
subscribers' half (XPUB) tells what its applications want, and does not let one that stands still starve the others.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import zmq

from tunnel import pump
from tunnel.limits import (
    SUBSCRIPTIONS_A_TURN,
    TOPIC_BYTES,
    XPUB_LOSSY_S,
    XPUB_RETRY_S,
    XPUB_STALL_S,
)
from tunnel.link.inbound import Run
from tunnel.patterns.base import Hub, Pattern, Port
from tunnel.pump import Drained, Fed
from tunnel.reactor import POLLIN


class PubsubFrom(Pattern):
    """XSUB: reads what is published."""

    def __init__(self, plan: Any, hub: Hub) -> None:
        super().__init__(plan, hub)
        self._topics = pump.Topics()
        self._union: Counter[bytes] = Counter()
        """How many sides want a topic; the socket is subscribed to each once."""
        for topic in plan.topics.deny:
            self._topics.add(pump.DENY, topic)

    def attach(self, end: Any, ports: Any) -> None:
        super().attach(end, ports)
        for side in range(len(self.ports)):
            for topic in self.plan.subscribe:
                self._apply(side, True, topic)

    def on_opened(self) -> None:
        """The local socket is there (again): subscribe to everything that is wanted."""
        for topic in self._union:
            self._tell(True, topic)

    def on_reopened(self) -> None:
        self.on_opened()
        super().on_reopened()

    def arrived(self, port: Port) -> None:
        """The far half's topic set has changed."""
        side = self.ports.index(port)
        changes, port.channel.topic_changes = port.channel.topic_changes, []
        for add, topic in changes:
            if add or topic not in self.plan.subscribe:
                self._apply(side, add, topic)
        port.peer.topics_applied(port.channel)
        self.hub.touch(port.peer)
        if self.end.has_socket:
            self.end.watch.poke()

    def _apply(self, side: int, add: bool, topic: bytes) -> None:
        for wanted in self._within_allowed(topic):
            if add and self._topics.add(side, wanted):
                self._union[wanted] += 1
                if self._union[wanted] == 1:
                    self._tell(True, wanted)
            elif not add and self._topics.remove(side, wanted):
                self._union[wanted] -= 1
                if not self._union[wanted]:
                    del self._union[wanted]
                    self._tell(False, wanted)

    def _within_allowed(self, topic: bytes) -> list[bytes]:
        """The part of a subscription that `topics: allow` lets through."""
        allowed = self.plan.topics.allow
        if any(topic.startswith(prefix) for prefix in allowed):
            return [topic]
        return [prefix for prefix in allowed if prefix.startswith(topic)]

    def _tell(self, add: bool, topic: bytes) -> None:
        if self.end.has_socket:
            self.socket.send(bytes([add]) + topic, zmq.DONTWAIT)  # its SNDHWM is 0: never EAGAIN

    def wants_to_read(self) -> bool:
        return bool(self.ports) and all(port.has_room() for port in self.ports)

    def read(self) -> bool:
        now = self.hub.now()
        drained = pump.drain(self.socket, self.max_message_bytes())
        if len(self.ports) == 1 and not self.plan.topics.deny:
            self.take_in(self.ports[0], drained, now)
            return drained.emptied
        self._spread(drained, now)
        return drained.emptied

    def _spread(self, drained: Drained, now: float) -> list[Port]:
        """To each side what it wants. Those that got anything."""
        self.count_in(drained)
        run = [segment for piece in drained.pieces for segment in piece.segments]
        if not run:
            return []
        split = pump.split(run, self._topics, len(self.ports))
        self.dropped["denied"] += split.denied
        for port, part in zip(self.ports, split, strict=True):
            port.put(part.pieces, now)
            self.hub.touch(port.peer)
            if self.tap is not None:
                self.tap.entered(port.peer.side, part)
        return [port for port, part in zip(self.ports, split, strict=True) if part.pieces]

    def admit(self, drained: Drained, now: float) -> list[Port]:
        """No publisher's socket has looked yet who wants it."""
        return self._spread(drained, now)


class PubsubTo(Pattern):
    """XPUB: hands on what is published, listens to who wants what."""

    def __init__(self, plan: Any, hub: Hub) -> None:
        super().__init__(plan, hub)
        self._stalled_since: float | None = None
        self._lossy_until: float | None = None
        self._retry: Any = None
        self._allowance = 0
        """Messages that a lossy socket is still fed before the subscribers are given time to read."""

    def on_opened(self) -> None:
        self.end.watch.call_on_edges(self._on_edge)

    def wants_to_read(self) -> bool:
        return True

    def on_reopened(self) -> None:
        self._lossy_until = self._stalled_since = None
        for port in self.ports:
            if port.channel.wanted is not None:
                port.channel.wanted.clear()
                self._say(port)
        super().on_reopened()

    def read(self) -> bool:
        """Subscriptions come as messages: 1 or 0 and the topic."""
        for _ in range(SUBSCRIPTIONS_A_TURN):
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            head = frames[0]
            if head[:1] not in (b"\0", b"\1") or len(head) > TOPIC_BYTES + 1:
                self.dropped["upstream"] += 1  # an XSUB application talks upstream: there is nobody to hear it
                continue
            for port in self.ports:
                wanted = port.channel.wanted
                if wanted is not None and not wanted.change(add=head[:1] == b"\1", topic=head[1:]):
                    self.dropped["subscription"] += 1
        for port in self.ports:
            self._say(port)
        return False

    def _say(self, port: Port) -> None:
        port.peer.topics_changed(port.channel)
        self.hub.touch(port.peer)

    def settled(self) -> bool:
        return all(port.channel.wanted is None or port.channel.wanted.settled for port in self.ports if port.linked)

    def want(self) -> None:
        """XPUB always says that it can be written, so waiting for that would spin: edges and a timer do it."""
        if self.end.has_socket:
            self.end.watch.want(0 if self.stopping else POLLIN)

    def _on_edge(self) -> None:
        """Something changed at the socket: perhaps a subscriber has read."""
        if self._blocked:
            self._again()

    def may_enter_ahead(self, port: Port) -> bool:
        """Who stands still is noticed while feeding."""
        return False

    def feed(self, port: Port, run: Run) -> Fed:
        if self._lossy_until is not None and self.hub.now() >= self._lossy_until:
            self._lossy(False)
        if self._lossy_until is not None:
            return self._feed_lossy(run)
        fed = pump.feed(self.socket, run.segments, run.position)
        if fed.messages:
            self._stalled_since = None
        return fed

    def _feed_lossy(self, run: Run) -> Fed:
        """At most the allowance, over all runs of a turn: a burst would fill the queues of those that do read too."""
        if not self._allowance:
            return Fed(0, run.position, pump.LIMIT)
        fed = pump.feed(self.socket, run.segments, run.position, None, self._allowance)
        self._allowance -= fed.messages
        self.dropped["stalled_subscriber_up_to"] += fed.messages
        return fed

    def on_full(self, port: Port, run: Run, fed: Fed) -> bool:
        now = self.hub.now()
        if fed.status is pump.AGAIN:
            if self._stalled_since is None:
                self._stalled_since = now
            elif now - self._stalled_since >= XPUB_STALL_S and self._lossy_until is None:
                self._lossy(True)
        if self._retry is None:
            self._retry = self.hub.call_later(XPUB_RETRY_S, self._on_retry)
        return False

    def _lossy(self, on: bool) -> None:
        """NODROP or not: with it one that stands still starves all, without it every burst loses for everyone."""
        self._lossy_until = self.hub.now() + XPUB_LOSSY_S if on else None
        self._stalled_since = None
        self.socket.setsockopt(zmq.XPUB_NODROP, 0 if on else 1)

    def _on_retry(self) -> None:
        self._retry = None
        if self._blocked:
            self._again()

    def _again(self) -> None:
        """A subscriber has read half its queue, or some time has passed."""
        self._blocked = False
        self._allowance = max(1, self.marks.exit // 4)
        self.push()
        self.hub.settle()
