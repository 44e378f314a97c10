"""Sharing out among several sides: whose turn it is for requests and tasks that may go to any of them."""

from __future__ import annotations

from collections.abc import Sequence

from tunnel.limits import SHARE_SLACK_BYTES
from tunnel.patterns.base import Port


def takers(ports: Sequence[Port]) -> list[Port]:
    """The ports that may get the next messages: linked, with room, and with the fewest unacknowledged bytes.

    With one side only that side waits for its link as long as its window allows; with several a dead one is skipped,
    and while all are dead nothing is read, for nobody can say yet who will take it.
    """
    if len(ports) == 1:
        return [ports[0]] if ports[0].has_room() else []
    able = [port for port in ports if port.linked and port.has_room()]
    if not able:
        return []
    least = min(port.unacked_bytes for port in able)
    return sorted(
        (port for port in able if port.unacked_bytes <= least + SHARE_SLACK_BYTES), key=lambda port: port.unacked_bytes
    )
