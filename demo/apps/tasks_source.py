"""PUSH: hands out numbered tasks of a kilobyte, some hundreds a second."""

from __future__ import annotations

import time

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally()
    socket = open_socket(context, zmq.PUSH)
    load, due = bytes(1024), time.monotonic()
    while True:
        if socket.poll(200, zmq.POLLOUT):
            socket.send_multipart([b"%d" % tally.sent, load])
            tally.sent += 1
        due = max(due + 0.002, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))
        tally.tell_when_due()


if __name__ == "__main__":
    main()
