"""Listening sockets of the addresses that a table may hold."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tunnel.errors import LocalError
from tunnel.ports import bound, listening


@pytest.mark.parametrize(
    ("address", "reached_at"),
    [
        ("tcp://127.0.0.1:0", "127.0.0.1"),
        ("tcp://lo:*", "127.0.0.1"),
        ("tcp://[::1]:0", "::1"),
        ("tcp://*:0", "127.0.0.1"),
        ("tcp://*:0", "::1"),
    ],
)
def test_addresses(address: str, reached_at: str) -> None:
    with contextlib.closing(listening(address, 4)) as port:
        assert not port.getblocking()
        socket.create_connection((reached_at, port.getsockname()[1]), 5).close()


def test_ipv6_alone_leaves_ipv4_alone() -> None:
    with contextlib.closing(listening("tcp://[::]:0", 4)) as six:
        number = six.getsockname()[1]
        with contextlib.closing(listening(f"tcp://0.0.0.0:{number}", 4)):
            pass


def test_what_is_bound_lets_nobody_in() -> None:
    with contextlib.closing(bound("tcp://127.0.0.1:0")) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(port.getsockname(), 5)


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(LocalError, match="nope0 is neither a numeric address nor an interface"):
        listening("tcp://nope0:0", 4)


def test_a_port_that_is_taken() -> None:
    with contextlib.closing(listening("tcp://127.0.0.1:0", 4)) as port, pytest.raises(OSError, match="in use"):
        listening(f"tcp://127.0.0.1:{port.getsockname()[1]}", 4)
