"""What the halves tell each other beside messages: topic sets, and how many applications are connected.

(docs/protocol.md, 7.) Makes the frames and reads them; what is told while there is no link is told when one opens.
"""

from __future__ import annotations

from collections.abc import Iterator

from tunnel.errors import RemoteProtocolError
from tunnel.link import wire
from tunnel.link.channel import Channel
from tunnel.link.directory import Directory
from tunnel.link.wire import Parts, Segment


class Notices:
    """One peer's."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._telling: set[int] = set()
        """Channels whose topic set has changes to be sent."""
        self._counts: dict[int, int] = {}
        """Applications at this half, by our channel."""

    def forget(self, channel: Channel) -> None:
        """The channel is gone."""
        self._telling.discard(channel.number)
        self._counts.pop(channel.number, None)

    def topics_changed(self, channel: Channel) -> None:
        """`wanted` has changes for the peer."""
        if channel.refused is None:
            self._telling.add(channel.number)

    def opened(self) -> Parts | None:
        """A link is there: every topic set goes whole, and so does this, if there is anything to say."""
        for channel in self._directory.by_name.values():
            if channel.wanted and channel.refused is None:
                channel.wanted.restart()
                self._telling.add(channel.number)
        counts = list(self._counts.items())
        return wire.encode_peers(counts) if counts else None

    def topic_sets(self) -> Iterator[Parts]:
        """What changed in the topic sets, as far as it may go now."""
        while self._telling:
            channel = self._directory.by_number[self._telling.pop()]
            if channel.wanted is not None and channel.refused is None:
                yield from channel.wanted.frames(channel.number)

    def peers(self, channel: Channel, count: int) -> Parts | None:
        """How many applications are connected at this half of the route; None when that is known."""
        if self._counts.get(channel.number) == count:
            return None
        self._counts[channel.number] = count
        return wire.encode_peers([(channel.number, count)])

    def on_subscribe(self, part: Segment) -> Channel | None:
        """The channel whose `granted` is whole again and has changes to be applied."""
        piece = wire.decode_subscribe(part)
        channel = self._directory.by_peer_number.get(piece.channel)
        if channel is None or channel.granted is None:
            raise RemoteProtocolError(
                "channel", f"the peer subscribes on channel {piece.channel}, which it may not open"
            )
        channel.topic_changes.extend(channel.granted.take(piece))
        if not piece.last:
            return None
        channel.topic_ack = (piece.channel, piece.generation)
        return channel

    def on_subscribed(self, part: Segment) -> None:
        number, generation = wire.decode_subscribed(part)
        channel = self._directory.by_number.get(number)
        if channel is not None and channel.wanted is not None:
            channel.wanted.acknowledged = generation
            self._telling.add(number)

    def on_peers(self, part: Segment) -> None:
        for number, count in wire.decode_peers(part):
            channel = self._directory.by_peer_number.get(number)
            if channel is not None:
                channel.remote_peers = count
