"""One direction of a channel at its sender: window, numbers, replay, overflow, age, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.link.ends import Piece, piece
from tunnel.errors import LocalMisuseError, RemoteProtocolError
from tunnel.limits import BATCH_COST_BYTES, MESSAGE_FRAMES
from tunnel.link.outbound import Outbound, Terms

KIB = 1024
WINDOW = 64 * KIB


def outbound(window: int = WINDOW, compact: Any = None, **terms: Any) -> Outbound:
    return Outbound(1, "r", Terms(window, **terms), compact)


def put(out: Outbound, *bodies: bytes, now: float = 0.0) -> None:
    out.put([piece(body) for body in bodies], now)


def big(letter: bytes, size: int = 10 * KIB) -> bytes:
    return letter * size


def fragments(letter: bytes, n: int = 3, size: int = 10 * KIB) -> list[Piece]:
    return [piece(letter * size, messages=int(k == n - 1), more=k < n - 1) for k in range(n)]


def send(out: Outbound, now: float = 0.0) -> list[tuple[int, bytes]]:
    """Everything that may enter the lane: (number, first letter)."""
    sent = []
    while out.next_size(now) is not None:
        batch = out.take(now)
        sent.append((batch.seq, b"".join(map(bytes, batch.segments))[:1]))
    return sent


def test_numbers_count_from_one_in_the_order_of_reading() -> None:
    out = outbound()
    put(out, b"a", b"b")
    assert send(out) == [(1, b"a"), (2, b"b")]
    assert out.next_size(0.0) is None


def test_nothing_to_take_is_our_own_mistake() -> None:
    with pytest.raises(LocalMisuseError):
        outbound().take(0.0)


def test_the_window_closes_and_opens_with_delivery() -> None:
    out = outbound()
    put(out, big(b"a", 60 * KIB))
    assert out.has_room
    put(out, big(b"b"))
    assert not out.has_room
    send(out)
    assert not out.has_room
    assert out.acknowledge(1)
    assert out.has_room
    assert out.unacked_bytes == 10 * KIB


def test_one_message_may_be_larger_than_the_window() -> None:
    out = outbound()
    out.put(fragments(b"a", n=5, size=60 * KIB), 0.0)
    assert [letter for _, letter in send(out)] == [b"a"] * 5


def test_a_batch_counts_for_its_bookkeeping_at_least() -> None:
    out = outbound()
    read = 0
    while out.has_room:
        put(out, b"x")
        read += 1
    assert read == WINDOW // BATCH_COST_BYTES
    send(out)
    out.acknowledge(read)
    assert out.unacked_bytes == 0


def test_a_window_that_the_peer_narrowed_holds_back_what_was_read() -> None:
    out = outbound()
    put(out, *[big(b"a")] * 6)
    out.agreed(15 * KIB, 1 << 20)
    assert len(send(out)) == 2
    out.acknowledge(1)
    assert len(send(out)) == 1


def test_unsent_messages_that_the_peer_would_not_take_go() -> None:
    out = outbound(window=4 << 20)
    put(out, b"a")
    out.put(fragments(b"b", n=3, size=250 * KIB), 0.0)
    put(out, b"c")
    out.agreed(4 << 20, 750 * KIB - 4 * MESSAGE_FRAMES - 1)
    assert send(out) == [(1, b"a"), (2, b"c")]
    assert out.dropped == {"too_large": 1}
    assert out.unacked_bytes == 2 * BATCH_COST_BYTES


# --- acknowledgements and resuming -----------------------------------------------------------------------------------


def test_an_acknowledgement_of_what_was_not_sent_is_the_peers_error() -> None:
    out = outbound()
    put(out, b"a", b"b")
    out.take(0.0)
    with pytest.raises(RemoteProtocolError, match="never sent"):
        out.acknowledge(2)


def test_an_acknowledgement_ahead_of_the_replay_is_the_peers_error() -> None:
    out = outbound()
    put(out, b"a", b"b", b"c")
    send(out)
    out.resume(0, 0)
    out.take(0.0)
    with pytest.raises(RemoteProtocolError, match="never sent"):
        out.acknowledge(2)
    assert send(out) == [(2, b"b"), (3, b"c")]


def test_old_acknowledgements_change_nothing() -> None:
    out = outbound()
    put(out, b"a", b"b")
    send(out)
    assert out.acknowledge(2)
    assert not out.acknowledge(1)
    assert out.delivered == 2


def test_resume_goes_on_behind_what_was_received() -> None:
    out = outbound()
    put(out, b"a", b"b", b"c", b"d")
    send(out)
    out.resume(received=2, delivered=1)
    assert out.unacked_bytes == 3 * BATCH_COST_BYTES
    assert send(out) == [(3, b"c"), (4, b"d")]
    put(out, b"e")
    assert send(out) == [(5, b"e")]


def test_resume_when_acknowledgements_overtook_it() -> None:
    out = outbound()
    put(out, b"a", b"b", b"c")
    send(out)
    out.acknowledge(2)
    out.resume(received=2, delivered=0)
    assert send(out) == [(3, b"c")]


@pytest.mark.parametrize(("received", "delivered"), [(4, 0), (0, 0), (2, 3)])
def test_resume_at_impossible_numbers_is_the_peers_error(received: int, delivered: int) -> None:
    out = outbound()
    put(out, b"a", b"b", b"c")
    send(out)
    out.acknowledge(1)
    with pytest.raises(RemoteProtocolError, match="resumes r"):
        out.resume(received, delivered)


def test_a_live_channel_loses_what_was_under_way_and_counts_it() -> None:
    out = outbound(confirmed=False)
    out.put([piece(b"a", messages=3), piece(b"b", messages=2), piece(b"c", messages=4)], 0.0)
    send(out)
    put(out, b"d")
    out.resume(received=1, delivered=0)
    assert out.dropped == {"link_cut": 6}
    assert send(out) == [(2, b"d")]


def test_a_live_channel_keeps_no_payload() -> None:
    out = outbound(confirmed=False)
    put(out, b"a")
    assert send(out) == [(1, b"a")]
    assert [batch.segments for batch in out.flight] == [()]


@pytest.mark.parametrize("sent", [1, 2, 3])
def test_a_live_message_cut_in_two_is_lost_as_a_whole(sent: int) -> None:
    out = outbound(confirmed=False)
    out.put(fragments(b"a"), 0.0)
    put(out, b"b")
    for _ in range(sent):
        out.take(0.0)
    out.resume(0, 0)
    assert out.dropped == {"link_cut": 1}
    assert send(out) == [(1, b"b")]


def test_a_live_peer_that_resumes_inside_a_message_breaks_the_protocol() -> None:
    out = outbound(confirmed=False)
    out.put(fragments(b"a"), 0.0)
    send(out)
    with pytest.raises(RemoteProtocolError, match="in the middle of a message"):
        out.resume(1, 0)


# --- a new process at the other end ----------------------------------------------------------------------------------


def test_restart_sends_again_and_counts_what_may_repeat() -> None:
    out = outbound()
    out.put([piece(b"a", messages=2), piece(b"b", messages=3)], 0.0)
    send(out)
    put(out, b"c")
    out.acknowledge(1)
    out.restart()
    assert out.may_repeat == 3
    assert send(out) == [(1, b"b"), (2, b"c")]


def test_restart_in_the_middle_of_a_message_sends_all_of_it_again() -> None:
    out = outbound()
    out.put(fragments(b"a"), 0.0)
    out.take(0.0)
    out.restart()
    assert [seq for seq, _ in send(out)] == [1, 2, 3]


@pytest.mark.parametrize("terms", [{"confirmed": False}, {"resend_on_restart": False}])
def test_restart_without_resending_counts_the_loss(terms: dict[str, Any]) -> None:
    out = outbound(**terms)
    put(out, b"a", b"b")
    send(out)
    out.put(fragments(b"c"), 0.0)
    out.take(0.0)
    put(out, b"d")
    out.restart()
    assert out.dropped == {"peer_restart": 3}
    assert out.may_repeat == 0
    assert send(out) == [(1, b"d")]


# --- overflow --------------------------------------------------------------------------------------------------------


def latest(runs: Sequence[Sequence[bytes]]) -> tuple[list[Piece], int]:
    """Topics are first letters."""
    newest = {run[0][:1]: run for run in runs}
    kept = [run for run in runs if newest[run[0][:1]] is run]
    return [piece(b"".join(run)) for run in kept], len(runs) - len(kept)


@pytest.mark.parametrize(
    ("overflow", "left"),
    [("drop-oldest", b"cdefghij"), ("drop-newest", b"abcdef"), ("keep-latest", b"bcdefghij")],
)
def test_overflow(overflow: str, left: bytes) -> None:
    out = outbound(overflow=overflow, compact=latest)
    for letter in b"aabcdefghij" if overflow == "keep-latest" else b"abcdefghij":
        put(out, big(bytes([letter]), 7 * KIB if overflow == "keep-latest" else 10 * KIB))
        assert out.has_room
    sent = b"".join(bytes(batch.segments[0])[:1] for batch in out.queue)
    assert out.queue_bytes == sum(batch.cost for batch in out.queue) <= WINDOW
    assert sent in left
    assert out.dropped["overflow"] == 10 + (overflow == "keep-latest") - len(sent)
    assert sent.endswith(b"j") == (overflow != "drop-newest")


def test_overflow_counts_messages_and_never_what_was_sent() -> None:
    out = outbound(overflow="drop-oldest")
    put(out, *[big(b"s")] * 3)
    sent = send(out)
    out.put([piece(big(b"q"), messages=5) for _ in range(6)], 0.0)
    assert len(sent) == 3
    assert [batch.seq for batch in out.flight] == [1, 2, 3]
    assert out.dropped == {"overflow": 5 * (6 - len(out.queue))}
    assert out.unacked_bytes <= WINDOW


def test_what_is_sent_and_unacknowledged_stays_within_half_the_window() -> None:
    out = outbound(overflow="drop-oldest")
    put(out, *[big(b"a")] * 6)
    assert len(send(out)) == 4
    out.acknowledge(2)
    assert len(send(out)) == 2


@pytest.mark.parametrize("overflow", ["drop-oldest", "drop-newest", "keep-latest"])
def test_one_message_always_stays_however_large(overflow: str) -> None:
    out = outbound(overflow=overflow)
    out.put(fragments(b"a", n=4, size=60 * KIB), 0.0)
    assert not out.dropped
    assert len(send(out)) == 4


@pytest.mark.parametrize("overflow", ["drop-oldest", "drop-newest"])
def test_a_message_half_sent_is_finished(overflow: str) -> None:
    out = outbound(overflow=overflow)
    out.put(fragments(b"a", n=4, size=20 * KIB), 0.0)
    out.take(0.0)
    put(out, *[big(letter, 30 * KIB) for letter in (b"b", b"c", b"d")])
    assert [letter for _, letter in send(out)][:3] == [b"a"] * 3
    assert out.dropped["overflow"] == 2


# --- age -------------------------------------------------------------------------------------------------------------


def test_what_waited_too_long_goes_before_it_is_sent() -> None:
    out = outbound(max_age_s=5.0)
    put(out, b"a", now=0.0)
    put(out, b"b", now=3.0)
    assert send(out, now=6.0) == [(1, b"b")]
    assert out.dropped == {"expired": 1}
    assert out.relieved


def test_a_replayed_batch_that_is_too_old_travels_empty() -> None:
    out = outbound(max_age_s=5.0)
    put(out, big(b"a"), b"b", now=0.0)
    send(out)
    out.resume(0, 0)
    assert send(out, now=6.0) == [(1, b""), (2, b"")]
    assert out.dropped == {"expired": 2}
    out.acknowledge(2)
    assert out.unacked_bytes == 0


def test_a_message_half_sent_does_not_grow_old() -> None:
    out = outbound(max_age_s=5.0)
    out.put(fragments(b"a"), 0.0)
    out.take(0.0)
    assert len(send(out, now=9.0)) == 2
    out.resume(1, 0)
    assert [letter for _, letter in send(out, now=9.0)] == [b"a", b"a"]
    assert not out.dropped


def test_drop_all_leaves_what_must_be_finished() -> None:
    out = outbound()
    out.put(fragments(b"a"), 0.0)
    out.take(0.0)
    put(out, b"b", b"c")
    out.drop_all("gone")
    assert out.dropped == {"gone": 2}
    assert len(send(out)) == 2


def test_it_prints_its_state() -> None:
    out = outbound()
    put(out, b"a", b"b")
    out.take(0.0)
    assert repr(out) == "<Outbound r queue=1 flight=1 next=2 delivered=0 unacked=512/65536>"


def test_on_a_slow_line_batches_are_cut() -> None:
    out = outbound()
    out.put([piece(b"abcdefghij" * 100, messages=5)], 0.0)
    assert out.next_size(0.0, 400) == 400
    cut = [out.take(0.0) for _ in range(3)]
    assert out.next_size(0.0, 400) is None
    assert b"".join(bytes(segment) for batch in cut for segment in batch.segments) == b"abcdefghij" * 100
    assert [(batch.seq, batch.size, batch.messages, batch.more) for batch in cut] == [
        (1, 400, 0, True),
        (2, 400, 0, True),
        (3, 200, 5, False),
    ]
    assert out.unacked_bytes == 400 + 400 + BATCH_COST_BYTES
    out.acknowledge(3)
    assert out.unacked_bytes == 0


def test_what_must_go_again_is_cut_too_when_the_line_has_become_slow() -> None:
    out = outbound(window=1 << 20)
    put(out, b"a", big(b"b"), b"c", big(b"d"))
    assert [seq for seq, _ in send(out)] == [1, 2, 3, 4]
    held = out.unacked_bytes
    out.resume(received=1, delivered=0)
    sent = []
    while (size := out.next_size(0.0, 4 * KIB)) is not None:
        batch = out.take(0.0)
        assert size == batch.size <= 4 * KIB
        sent.append((batch.seq, b"".join(map(bytes, batch.segments))[:1], batch.messages, batch.more))
    assert [seq for seq, *_ in sent] == list(range(2, 2 + len(sent)))
    assert [(letter, messages, more) for _, letter, messages, more in sent] == [
        (b"b", 0, True),
        (b"b", 0, True),
        (b"b", 1, False),
        (b"c", 1, False),
        (b"d", 0, True),
        (b"d", 0, True),
        (b"d", 1, False),
    ]
    assert out.unacked_bytes == held
    put(out, b"e")
    assert send(out) == [(9, b"e")]
    assert out.acknowledge(9)
    assert out.unacked_bytes == 0


def test_fragments_are_cut_and_stay_one_message() -> None:
    out = outbound()
    out.put(fragments(b"a", n=2, size=1000), 0.0)
    sent = []
    while out.next_size(0.0, 600) is not None:
        sent.append(out.take(0.0))
    assert [(batch.size, batch.more, batch.messages) for batch in sent] == [
        (600, True, 0),
        (400, True, 0),
        (600, True, 0),
        (400, False, 1),
    ]
