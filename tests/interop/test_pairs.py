"""PAIR through the tunnel: applications that restart, also while nobody reads, are served again."""

from __future__ import annotations

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until


def console(tunnel: Tunnel, near: str, far: str, at_from: str = "bind", at_to: str = "bind", **more: object) -> None:
    ends = {"from": f"dmz {at_from} {near}", "to": f"plant {at_to} {far}"}
    tunnel.write({"console": {"pattern": "pair", "max_age": "never"} | ends | more})
    tunnel.start()


def says(app: zmq.Socket[bytes], other: zmq.Socket[bytes], text: bytes) -> None:
    """Says `text` until the other has heard it: what a PAIR says to a half that is replacing its socket is lost."""

    def heard() -> bool:
        app.send(text)
        while other.poll(100):
            if other.recv() == text:
                return True
        return False

    until(heard, 15, f"{text!r} is heard")
    while other.poll(100):
        other.recv()


@pytest.mark.parametrize("ours", ["bind", "connect"])
def test_an_application_that_restarts_again_and_again(tunnel: Tunnel, ours: str) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    theirs = "connect" if ours == "bind" else "bind"
    console(tunnel, near, far, at_from=ours)
    stays = tunnel.app(zmq.PAIR, "connect", far)
    for number in range(8):
        restarts = tunnel.app(zmq.PAIR, theirs, near)
        says(restarts, stays, b"up %d" % number)
        says(stays, restarts, b"down %d" % number)
        restarts.close()


def test_an_application_that_restarts_while_its_messages_wait(tunnel: Tunnel) -> None:
    """The link is full, so its predecessor's messages are unread when it comes back: they cross, then its own do."""
    near, far = tunnel.tcp(), tunnel.tcp()
    console(tunnel, near, far, window="64KiB")
    first = tunnel.app(zmq.PAIR, "connect", near, {zmq.LINGER: 5000})
    tunnel.peers("dmz", "console", 1)
    count = 130
    for number in range(count - 30):
        first.send_multipart([b"%d" % number, bytes(1000)])
    tunnel.until_route("dmz", "console", lambda r: r["unacked_bytes"] > 65_536)
    for number in range(count - 30, count):  # these stay unread
        first.send_multipart([b"%d" % number, bytes(1000)])
    first.close()
    tunnel.peers("dmz", "console", 0)
    second = tunnel.app(zmq.PAIR, "connect", near)
    tunnel.peers("dmz", "console", 1)
    other = tunnel.app(zmq.PAIR, "connect", far)
    got = [int(other.recv_multipart()[0]) for _ in range(count)]
    assert got == list(range(count))
    says(second, other, b"me now")
    says(other, second, b"you now")


def test_a_second_application_is_told_of_and_gets_its_turn(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    console(tunnel, near, far)
    other = tunnel.app(zmq.PAIR, "connect", far)
    first = tunnel.app(zmq.PAIR, "connect", near)
    says(first, other, b"first")
    second = tunnel.app(zmq.PAIR, "connect", near)
    tunnel.until_route("dmz", "console", lambda r: "second application" in r["endpoints"][0]["reason"])
    says(first, other, b"still first")
    first.close()
    says(second, other, b"second")
