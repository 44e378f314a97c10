"""PAIR: says something twenty times a second and listens to the other one. Both ends run this."""

from __future__ import annotations

import time

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally(first=0)
    socket = open_socket(context, zmq.PAIR)
    say_at = time.monotonic()
    while True:
        if socket.poll(20):
            tally.number(int(socket.recv().split()[-1]))
        if time.monotonic() >= say_at and socket.poll(0, zmq.POLLOUT):
            say_at = time.monotonic() + 0.05
            socket.send(b"this is message %d" % tally.sent)
            tally.sent += 1
        tally.tell_when_due()


if __name__ == "__main__":
    main()
