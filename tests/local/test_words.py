"""Sentences: what is wrong, where, what to do next; and no partner list that libzmq does not share."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import zmq

from tests.waiting import until
from tunnel.local.words import PARTNERS, Failure, expectation, why_bind_failed, why_no_connection, why_no_handshake

KINDS = ("REQ", "REP", "DEALER", "ROUTER", "PUB", "SUB", "XPUB", "XSUB", "PUSH", "PULL", "PAIR")


@pytest.mark.parametrize("ours", PARTNERS)
def test_partners_are_those_that_libzmq_lets_pair(ours: str) -> None:
    """Every other type is turned away by libzmq itself."""
    context = zmq.Context()
    for theirs in KINDS:
        a, b = context.socket(getattr(zmq, ours)), context.socket(getattr(zmq, theirs))
        monitor = b.get_monitor_socket()
        port = a.bind_to_random_port("tcp://127.0.0.1")
        b.connect(f"tcp://127.0.0.1:{port}")
        seen: list[int] = []

        def ended(monitor: zmq.Socket[bytes] = monitor, seen: list[int] = seen) -> bool:
            while monitor.poll(0):
                seen.append(int.from_bytes(monitor.recv_multipart()[0][:2], "little"))
            return bool({zmq.Event.HANDSHAKE_SUCCEEDED, zmq.Event.DISCONNECTED} & set(seen))

        until(ended, 5, f"{ours} and {theirs} have met")
        assert (zmq.Event.HANDSHAKE_SUCCEEDED in seen) == (theirs in PARTNERS[ours]), (ours, theirs)
        b.disable_monitor()
        a.close(0)
        b.close(0)
    context.destroy(linger=0)


@pytest.mark.parametrize("method", ["bind", "connect"])
@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (None, "are the ends of the route swapped"),
        (Failure("protocol", 0x11000002), "another security"),
        (Failure("protocol", 0x11000001), "keys do not fit"),
        (Failure("protocol", 0x10000011), "breaks the 0MQ protocol"),
        (Failure("auth", 400), "refuse"),
        (Failure("no_detail", errno.EAGAIN), "in time"),
        (Failure("no_detail", errno.EPIPE), "are the ends of the route swapped"),
    ],
)
@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN", "CURVE"])
def test_every_failed_handshake_has_a_sentence(method: str, failure: Failure | None, says: str, mechanism: str) -> None:
    sentence = why_no_handshake(method, "tcp://10.0.0.5:1", expectation("PULL", mechanism), failure)
    assert says in sentence
    assert "tcp://10.0.0.5:1" in sentence
    assert sentence[0].isupper()
    assert sentence[-1] in ".?"


@pytest.mark.parametrize("method", ["bind", "connect"])
@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN", "CURVE"])
@pytest.mark.parametrize("code", [errno.EPIPE, errno.ECONNRESET])
def test_who_hangs_up_first_makes_no_difference(method: str, mechanism: str, code: int) -> None:
    ours, theirs = (
        why_no_handshake(method, "tcp://10.0.0.5:1", expectation("XPUB", mechanism), failure)
        for failure in (None, Failure("no_detail", code))
    )
    assert ours == theirs
    assert "did not prove to be a SUB or XSUB socket" in ours


@pytest.mark.parametrize("code", [errno.EADDRINUSE, errno.EACCES, errno.ENODEV, errno.ENOENT, errno.EINVAL, zmq.ETERM])
def test_every_failed_bind_has_a_sentence(code: int) -> None:
    sentence = why_bind_failed("tcp://10.0.0.5:1", code)
    assert "tcp://10.0.0.5:1" in sentence
    assert sentence.endswith(".")


def test_an_ipc_service_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert "There is no" in why_no_connection(f"ipc://{path}")
    path.write_text("")
    assert "Nobody listens" in why_no_connection(f"ipc://{path}")
    assert "Nobody listens at ipc://@x" in why_no_connection("ipc://@x")
