"""PUB: publishes numbered readings under three topics, a thousand a second."""

from __future__ import annotations

import time

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally()
    socket = open_socket(context, zmq.PUB)
    number, due = 0, time.monotonic()
    while True:
        for topic in (b"pressure", b"speed", b"temperature"):
            socket.send_multipart([topic, b"%d" % number])
            tally.sent += 1
        number += 1
        due += 0.003
        time.sleep(max(0.0, due - time.monotonic()))
        tally.tell_when_due()


if __name__ == "__main__":
    main()
