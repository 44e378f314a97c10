"""Large messages after small ones, and the other way round, with the high-water marks that ztunnel chooses itself.

libzmq (4.3.5, measured) never lets a message pass again when SNDHWM is set below the number of messages that its I/O
thread has read but not yet reported, which it does in steps of half the old mark only; RCVHWM likewise.
"""

from __future__ import annotations

import pytest
import zmq

from tests.tunnel_pair import Tunnel


@pytest.mark.parametrize("small", [3, 100, 400, 2000])
def test_large_messages_after_small_ones(tunnel: Tunnel, small: int) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write({"r": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}"}})
    tunnel.start()
    client, server = tunnel.app(zmq.PUSH, "connect", near), tunnel.app(zmq.PULL, "connect", far)
    for _ in range(2):
        for number in range(small):
            client.send(b"%d" % number)
            assert server.recv() == b"%d" % number
        for size in (1_000_000, 10 * 1024 * 1024, 1_000_000, 5):
            client.send(bytes(size))
            assert len(server.recv()) == size
    for number in range(small):
        client.send(b"%d" % number)
    assert [int(server.recv()) for _ in range(small)] == list(range(small))


def test_a_message_larger_than_the_window(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write(
        {"r": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}", "window": "256KiB"}}
    )
    tunnel.start()
    client, server = tunnel.app(zmq.PUSH, "connect", near), tunnel.app(zmq.PULL, "connect", far)
    for number in range(3):
        client.send_multipart([b"%d" % number, bytes(20 * 1024 * 1024)])
    for number in range(3):
        head, body = server.recv_multipart()
        assert (head, len(body)) == (b"%d" % number, 20 * 1024 * 1024)
