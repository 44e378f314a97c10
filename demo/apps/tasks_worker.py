"""PULL: takes the tasks and looks whether one is missing."""

from __future__ import annotations

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally(first=0)
    socket = open_socket(context, zmq.PULL)
    while True:
        if socket.poll(200):
            number, _ = socket.recv_multipart()
            tally.number(int(number))
        tally.tell_when_due()


if __name__ == "__main__":
    main()
