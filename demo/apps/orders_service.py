"""REP: answers every order."""

from __future__ import annotations

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally()
    socket = open_socket(context, zmq.REP)
    while True:
        if socket.poll(200):
            order = socket.recv()
            socket.send_multipart([order, b"is on its way"])
            tally.received += 1
            tally.sent += 1
        tally.tell_when_due()


if __name__ == "__main__":
    main()
