"""SUB: shows two of the three topics; what nobody subscribes to stays at home."""

from __future__ import annotations

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally()
    socket = open_socket(context, zmq.SUB)
    socket.subscribe(b"speed")
    socket.subscribe(b"temperature")
    while True:
        if socket.poll(200):
            topic, number = socket.recv_multipart()
            tally.number(int(number), topic)
        tally.tell_when_due()


if __name__ == "__main__":
    main()
