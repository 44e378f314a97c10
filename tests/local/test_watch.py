"""The transcripts of libzmq's monitor, as measured, and what is made of them."""

from __future__ import annotations

import pytest
import zmq

from tunnel.local.watch import SETTLED_S, BindWatch, ConnectWatch, Down, Switchboard, Up
from tunnel.local.words import MECHANISM_MISMATCH, expectation

E = zmq.Event
A = "tcp://10.0.0.5:5555"


def connect() -> ConnectWatch:
    return ConnectWatch(A, expectation("DEALER", "NULL"))


def bind() -> BindWatch:
    watch = BindWatch(A, expectation("ROUTER", "NULL"))
    watch.bound()
    return watch


def play(watch: ConnectWatch | BindWatch, *events: tuple[zmq.Event, int], now: float = 0.0) -> list[object]:
    return [watch.on_event(kind, value, now) for kind, value in events]


def test_a_good_connect() -> None:
    watch = connect()
    assert watch.state == "connecting"
    changes = play(watch, (E.CONNECT_DELAYED, 115), (E.CONNECTED, 9), (E.HANDSHAKE_SUCCEEDED, 0))
    assert changes == [None, None, Up(9)]
    assert (watch.state, watch.peers(0), watch.reason, watch.stuck) == ("connected", 1, "", False)


def test_the_wrong_socket_type_leaves_the_connect_stuck() -> None:
    watch = connect()
    play(watch, (E.CONNECT_DELAYED, 115), (E.CONNECTED, 9), (E.DISCONNECTED, 9))
    assert watch.stuck
    assert watch.state == "retrying"
    assert watch.reason == (
        "Something listens at tcp://10.0.0.5:5555, but it did not prove to be a REP, DEALER or ROUTER socket "
        "without CURVE or PLAIN: are the ends of the route swapped?"
    )


def test_another_mechanism_leaves_the_connect_stuck() -> None:
    watch = connect()
    play(watch, (E.CONNECTED, 9), (E.HANDSHAKE_FAILED_PROTOCOL, MECHANISM_MISMATCH), (E.DISCONNECTED, 9))
    assert watch.stuck
    assert "another security" in watch.reason
    assert "without CURVE or PLAIN" in watch.reason


def test_what_libzmq_tries_again_is_not_stuck() -> None:
    watch = connect()
    play(watch, (E.CONNECTED, 9), (E.HANDSHAKE_FAILED_NO_DETAIL, 32), (E.DISCONNECTED, 9), (E.CONNECT_RETRIED, 141))
    assert not watch.stuck
    assert "did not prove to be a REP, DEALER or ROUTER socket" in watch.reason


def test_nobody_listens() -> None:
    watch = connect()
    play(watch, (E.CONNECT_DELAYED, 115), (E.CLOSED, 17), (E.CONNECT_RETRIED, 111))
    assert (watch.state, watch.stuck) == ("retrying", False)
    assert "Nobody answers" in watch.reason


def test_an_old_reason_goes_when_the_peer_comes() -> None:
    watch = connect()
    play(watch, (E.CLOSED, 17), (E.CONNECT_RETRIED, 1), (E.CONNECTED, 3), (E.HANDSHAKE_SUCCEEDED, 0))
    assert watch.reason == ""


def test_a_good_connection_that_libzmq_ended_for_good_says_so() -> None:
    watch = connect()
    play(watch, (E.CONNECTED, 9), (E.HANDSHAKE_SUCCEEDED, 0))
    assert play(watch, (E.DISCONNECTED, 9)) == [Down(9, was_up=True)]
    assert "closed the connection" in watch.reason
    watch.gave_up()
    assert "max_message" in watch.reason


def test_bound_peers_are_counted() -> None:
    watch = bind()
    assert play(watch, (E.ACCEPTED, 9), (E.HANDSHAKE_SUCCEEDED, 0)) == [None, Up(9)]
    play(watch, (E.ACCEPTED, 10), (E.HANDSHAKE_SUCCEEDED, 0))
    assert watch.peers(0) == 2
    assert play(watch, (E.DISCONNECTED, 9)) == [Down(9, was_up=True)]
    assert watch.peers(0) == 1
    assert watch.reason_at(0) == ""


def test_a_wrong_peer_at_a_bind_is_told_and_not_counted() -> None:
    watch = bind()
    assert play(watch, (E.ACCEPTED, 9), (E.DISCONNECTED, 9)) == [None, Down(9, was_up=False)]
    assert (watch.peers(0), watch.refusals) == (0, 1)
    assert "did not prove to be a REQ, DEALER or ROUTER socket" in watch.reason_at(0)
    assert watch.reason_at(10_000) == ""


def test_the_gate_s_word_is_the_reason() -> None:
    watch = bind()
    for kind, value in ((E.ACCEPTED, 9), (E.HANDSHAKE_FAILED_AUTH, 400), (E.DISCONNECTED, 9)):
        watch.on_event(kind, value, 0, "10.9.9.9 is not among them.")
    assert watch.reason_at(0) == "10.9.9.9 is not among them."
    assert watch.refusals == 1


def test_a_failure_among_young_connections_is_not_taken_for_the_good_one() -> None:
    """9 is silent, 10 succeeds; libzmq names neither at the success, and gives 9 up later."""
    watch = bind()
    play(watch, (E.ACCEPTED, 9), (E.ACCEPTED, 10), (E.HANDSHAKE_SUCCEEDED, 0))
    assert watch.peers(0) == 1
    assert play(watch, (E.HANDSHAKE_FAILED_NO_DETAIL, 11), (E.DISCONNECTED, 9), now=5.0)[-1] == Down(9, was_up=False)
    assert watch.peers(5.0) == 1
    assert play(watch, (E.DISCONNECTED, 10), now=5.1) == [Down(10, was_up=True)]
    assert watch.peers(5.1) == 0


def test_a_wrong_guess_is_put_right_when_the_connection_is_old() -> None:
    """9 and 10 are young, 9 was the good one but 10 went without a word: whichever was guessed, 9 counts in the end."""
    watch = bind()
    play(watch, (E.ACCEPTED, 8), (E.ACCEPTED, 9), (E.HANDSHAKE_SUCCEEDED, 0))
    play(watch, (E.DISCONNECTED, 8))  # guessed to be the good one, and it was not
    assert watch.peers(0) == 0
    assert watch.peers(SETTLED_S + 0.1) == 1


def test_a_guess_never_counts_twice() -> None:
    watch = bind()
    watch.on_event(E.ACCEPTED, 8, 0.0)
    watch.on_event(E.ACCEPTED, 9, 3.0)
    watch.on_event(E.HANDSHAKE_SUCCEEDED, 0, 3.0)  # put down to 8, the older
    assert watch.peers(3.0) == 1
    assert watch.peers(SETTLED_S + 0.1) == 1  # 8 is up for certain; whether 9 is, is not known yet
    assert watch.peers(3.0 + SETTLED_S + 0.1) == 2


def test_news_that_come_late_do_not_count_a_silent_connection_as_a_peer() -> None:
    """The process stood still for 10 s: the three look old before their timeouts are heard of."""
    watch = bind()
    play(watch, (E.ACCEPTED, 8), (E.ACCEPTED, 9), (E.ACCEPTED, 10))
    assert watch.peers(10.0) == 3
    for fd in (8, 9, 10):
        watch.on_event(E.HANDSHAKE_FAILED_NO_DETAIL, 11, 10.0)
        assert watch.on_event(E.DISCONNECTED, fd, 10.0) == Down(fd, was_up=False)
    assert (watch.peers(10.0), watch.refusals) == (0, 3)


def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    watch = bind()
    play(watch, (E.ACCEPTED, 9), (E.HANDSHAKE_SUCCEEDED, 0), (E.DISCONNECTED, 9), (E.ACCEPTED, 9))
    assert watch.peers(0) == 0
    play(watch, (E.HANDSHAKE_SUCCEEDED, 0))
    assert watch.peers(0) == 1


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ("tcp://0.0.0.0:5555", "tcp://192.0.2.1:5555"),
        ("tcp://[::]:5555", "tcp://[::ffff:127.0.0.1]:5555"),
        ("tcp://127.0.0.1:5555", "tcp://[::ffff:127.0.0.1]:5555"),
        ("ipc:///tmp/x", "ipc:///tmp/x"),
    ],
)
def test_the_switchboard_finds_binds(known: str, told: str) -> None:
    board, watch, other = Switchboard(), bind(), bind()
    board.put(known, watch)
    board.put("tcp://0.0.0.0:7777", other)
    assert board.find(E.ACCEPTED, 9, told) is watch
    assert board.find(E.HANDSHAKE_SUCCEEDED, 0, told) is watch
    assert board.find(E.DISCONNECTED, 9, told) is watch
    assert board.find(E.DISCONNECTED, 9, told) is None


def test_the_switchboard_tells_binds_and_connects_apart() -> None:
    board, binding, connecting = Switchboard(), bind(), connect()
    board.put("tcp://127.0.0.1:5555", binding)
    board.put("tcp://10.0.0.5:5555", connecting)
    assert board.find(E.CONNECTED, 3, "tcp://10.0.0.5:5555") is connecting
    assert board.find(E.CLOSED, 3, "tcp://10.0.0.5:5555") is connecting
    assert board.find(E.CONNECT_RETRIED, 3, "tcp://10.0.0.9:5555") is None


def test_events_under_way_of_a_dropped_endpoint_concern_nobody() -> None:
    board, watch = Switchboard(), connect()
    board.put(A, watch)
    assert board.find(E.CONNECTED, 3, A) is watch
    board.drop(watch)
    assert board.find(E.DISCONNECTED, 3, A) is None
    assert board.find(E.CLOSED, 3, A) is None
