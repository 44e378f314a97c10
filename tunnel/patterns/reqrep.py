"""reqrep: REQ and DEALER applications at `from`, REP, DEALER and ROUTER applications at `to`.

Envelopes cross untouched. The far half puts a tag frame before them, the first bytes of the near half's session, and
takes it off the reply: that leads the reply to its side, and a reply to a session that has ended is dropped and counted
instead of answering a newer request of a client that happens to have the same routing id.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tunnel import pump
from tunnel.limits import PARKED_BYTES, PARKED_CLIENTS, PARKED_RETRY_S, REPLIES_A_TURN, TAG_BYTES
from tunnel.link.inbound import Run
from tunnel.patterns.base import Hub, Pattern, Port
from tunnel.patterns.sharing import SharedOut
from tunnel.pump import Fed, Segment


@dataclass(slots=True)
class _Parked:
    """Replies that one client does not take."""

    messages: deque[tuple[tuple[Segment, ...], int]] = field(default_factory=deque)
    size: int = 0


class ReqrepFrom(SharedOut):
    """ROUTER: reads requests, hands replies back."""

    skips_probes = True

    def __init__(self, plan: Any, hub: Hub) -> None:
        super().__init__(plan, hub)
        self._parked: dict[bytes, _Parked] = {}
        self._retry: Any = None

    def may_enter_ahead(self, port: Port) -> bool:
        return not self._parked and super().may_enter_ahead(port)

    def feed(self, port: Port, run: Run) -> Fed:
        if self._parked:
            return self._feed_around_parked(run)
        return pump.feed(self.socket, run.segments, run.position)

    def _feed_around_parked(self, run: Run) -> Fed:
        """While replies are parked, one at a time: a client's later reply must not overtake its earlier ones."""
        sent, gone, position = 0, 0, run.position
        for _ in range(REPLIES_A_TURN):
            if position >= run.size:
                return Fed(sent, position, pump.DONE, gone)
            try:
                message, after = pump.cut(run.segments, position)
                client = pump.first_frame(message, 0)
            except pump.RunError:
                return Fed(sent, position, pump.BAD, gone)
            if client in self._parked:
                self._park(client, message, after - position)
                run.fed += 1
            else:
                fed = pump.feed(self.socket, message)
                if fed.status is not pump.DONE:
                    return Fed(sent, position, fed.status, gone)
                sent += fed.messages
                gone += fed.unreachable
            position = after
        return Fed(sent, position, pump.LIMIT, gone)

    def on_full(self, port: Port, run: Run, fed: Fed) -> bool:
        """One client is full: set its reply aside and go on, for the others must not wait for it."""
        if fed.status is not pump.AGAIN:
            return True
        client = pump.first_frame(run.segments, run.position)
        message, position = pump.cut(run.segments, run.position)
        self._park(client, message, position - run.position)
        run.fed += 1
        run.position = position
        if position >= run.size:
            self.finish(port, run, self.hub.now())
        return True

    def _park(self, client: bytes, message: tuple[Segment, ...], size: int) -> None:
        self.disarm()
        parked = self._parked.get(client)
        if parked is None:
            if len(self._parked) >= PARKED_CLIENTS:
                self.dropped["client_full"] += 1
                return
            parked = self._parked[client] = _Parked()
        if parked.size + size > PARKED_BYTES and parked.messages:
            self.dropped["client_full"] += 1
            return
        parked.messages.append((message, size))
        parked.size += size
        if self._retry is None:
            self._retry = self.hub.call_later(PARKED_RETRY_S, self._unpark)

    def _unpark(self) -> None:
        """A full ROUTER peer gives no sign when it can take more: ask again and again."""
        self._retry = None
        if not self.end.has_socket:
            return
        for client, parked in list(self._parked.items()):
            while parked.messages:
                message, size = parked.messages[0]
                fed = pump.feed(self.socket, message)
                if fed.status is pump.AGAIN:
                    break
                self.tally.messages_out += fed.messages
                self.tally.bytes_out += size if fed.messages else 0
                self.dropped["unreachable"] += fed.unreachable
                if self.tap is not None:
                    sides = " or ".join(port.peer.side for port in self.ports)
                    self.tap.left(sides, message, 0, fed.messages, 1)
                parked.messages.popleft()
                parked.size -= size
            if not parked.messages:
                del self._parked[client]
        self.end.watch.poke()
        if self._parked:
            self._retry = self.hub.call_later(PARKED_RETRY_S, self._unpark)


class ReqrepTo(Pattern):
    """DEALER: hands requests to services, reads their replies."""

    def wants_to_read(self) -> bool:
        """Replies to a side whose link is down wait in its window; when that is full they must not hold up the rest."""
        linked = [port for port in self.ports if port.linked]
        return all(port.has_room() for port in linked) if len(self.ports) > 1 else self.ports[0].has_room()

    def prefix(self, port: Port) -> bytes:
        """The tag."""
        return port.peer.peer_session[:TAG_BYTES]

    def read(self) -> bool | None:
        now = self.hub.now()
        by_tag = {port.peer.peer_session[:TAG_BYTES]: port for port in self.ports if port.peer.peer_session}
        only = self.ports[0]
        shortcut = only.shortcut if len(self.ports) == 1 else None
        tagged = pump.drain_tagged(self.socket, self.max_message_bytes(), shortcut, self.prefix(only))
        if tagged is None:
            return None
        self.dropped["untagged"] += tagged.untagged
        for tag, drained in tagged:
            port = by_tag.get(tag)
            messages = sum(piece.messages for piece in drained.pieces)
            if port is None:
                self.dropped["stale_reply"] += messages
            elif not port.linked and not port.has_room():
                self.dropped["side_away"] += messages
            else:
                self.take_in(port, drained, now)
        return tagged.emptied
