"""REQ: asks for the price of something, waits for the answer, asks again."""

from __future__ import annotations

import time

import zmq

from demo.apps.common import Tally, open_socket


def main() -> None:
    context, tally = zmq.Context(), Tally()
    socket = open_socket(context, zmq.REQ)
    while True:
        order = f"order {tally.sent}".encode()
        asked = time.perf_counter()
        socket.send(order)
        tally.sent += 1
        while not socket.poll(200):
            tally.tell_when_due()
        if socket.recv_multipart() == [order, b"is on its way"]:
            tally.round_trip(time.perf_counter() - asked)
        tally.tell_when_due()
        time.sleep(0.004)


if __name__ == "__main__":
    main()
