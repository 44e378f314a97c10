"""What the demo's applications share: their arguments, and a line of JSON a second that says how it goes."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

import zmq


def open_socket(context: zmq.Context[zmq.Socket[bytes]], kind: zmq.SocketType) -> zmq.Socket[bytes]:
    """The application's socket, as its arguments say: `bind ENDPOINT` or `connect ENDPOINT`."""
    method, endpoint = sys.argv[1:3]
    socket = context.socket(kind)
    socket.linger = 0
    if method == "bind":
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
    return socket


class Tally:
    """Counts messages, and tells once a second. Ends the application when nobody listens any more."""

    def __init__(self, first: int | None = None) -> None:
        """`first`: the number that the first message should bear; None where one may join late (SUB)."""
        self._first = first
        self.sent = self.received = self.missing = 0
        self._expected: dict[bytes, int] = {}
        self._round_trips_ms: list[float] = []
        self._tell_at = time.monotonic() + 1

    def number(self, number: int, sender: bytes = b"") -> None:
        """A numbered message arrived: what lies between it and the one before is missing."""
        self.received += 1
        expected = self._expected.get(sender, number if self._first is None else self._first)
        self.missing += max(0, number - expected)
        self._expected[sender] = number + 1

    def round_trip(self, seconds: float) -> None:
        self.received += 1
        self._round_trips_ms.append(seconds * 1000)

    def tell_when_due(self) -> None:
        """Prints the counts when a second has passed since the last time."""
        now = time.monotonic()
        if now < self._tell_at:
            return
        self._tell_at = now + 1
        said: dict[str, float] = {"sent": self.sent, "received": self.received, "missing": self.missing}
        if self._round_trips_ms:
            said["round_trip_ms"] = statistics.median(self._round_trips_ms)
            self._round_trips_ms.clear()
        try:
            print(json.dumps(said), flush=True)
        except BrokenPipeError:
            os._exit(0)
