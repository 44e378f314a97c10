"""What a tap keeps of the batches that pass it: the truth, and never much."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pump.runs import Message, at_borders, encode
from tunnel.limits import (
    TAP_BATCH_FRAMES,
    TAP_BATCH_MESSAGES,
    TAP_FRAME_BYTES,
    TAP_FRAMES,
    TAP_RATE,
    TAP_RING_BYTES,
    TAP_RING_MESSAGES,
)
from tunnel.pump import Chunk, Drained, Piece
from tunnel.tap import Sample, Tap


def drained(*messages: Message) -> Drained:
    run = encode(messages)
    return Drained([Piece((run,), len(run), len(messages))])


def a_tap() -> Tap:
    """A tap whose allowance never ends: a second passes between two looks."""
    return Tap(now=count().__next__, wall=lambda: 1_700_000_000.0)


def frames(sample: Sample) -> list[bytes]:
    return [first for _, first in sample.frames]


def test_messages_as_they_are_with_empty_frames_and_no_bytes() -> None:
    tap = a_tap()
    tap.entered("plant", drained([b"id", b"", b"hello"], [b""], [b"x"]))
    assert [frames(sample) for sample in tap.samples] == [[b"id", b"", b"hello"], [b""], [b"x"]]
    first = tap.samples[0]
    assert (first.number, first.direction, first.peer, first.frame_count, first.size) == (1, "in", "plant", 3, 7)
    assert (first.whole, first.certain, first.time) == (True, True, 1_700_000_000.0)
    assert tap.seen == {"in": 3, "out": 0}


def test_of_long_frames_the_first_bytes_and_the_true_size() -> None:
    tap = a_tap()
    tap.frame_bytes = 4
    tap.entered("plant", drained([b"0123456789", b"abcd", b"ab"], [b"next"]))
    assert [sample.frames for sample in tap.samples] == [((10, b"0123"), (4, b"abcd"), (2, b"ab")), ((4, b"next"),)]


def test_no_bytes_at_all_when_none_are_wanted() -> None:
    tap = a_tap()
    tap.frame_bytes = 0
    tap.entered("plant", drained([b"secret", b""]))
    assert tap.samples[0].frames == ((6, b""), (0, b""))


def test_a_message_in_fragments_is_one() -> None:
    run = encode([[b"head", b"x" * 700_000, b"tail"]])
    stretches = [run[:256_000], run[256_000:512_000], run[512_000:]]
    pieces = [Piece((part,), len(part), int(i == 2), i < 2) for i, part in enumerate(stretches)]
    tap = a_tap()
    tap.entered("plant", Drained(pieces))
    (sample,) = tap.samples
    assert [size for size, _ in sample.frames] == [4, 700_000, 4]
    assert frames(sample) == [b"head", b"x" * TAP_FRAME_BYTES, b"tail"]


def test_what_is_held_by_reference_is_read_too() -> None:
    payload = b"reference" * 8000
    head = encode([[payload]])[:4]
    tap = a_tap()
    tap.left("dmz", [head, Chunk(payload)], 0, 1, 1)
    assert tap.samples[0].frames == ((72_000, payload[:TAP_FRAME_BYTES]),)
    assert tap.samples[0].direction == "out"


def test_from_a_position_on_and_no_further_than_was_handed_over() -> None:
    run = encode([[b"before"], [b"one"], [b"two"], [b"not yet"]])
    tap = a_tap()
    tap.left("dmz", [run[:3], run[3:]], len(encode([[b"before"]])), 2, 2)
    assert [frames(sample) for sample in tap.samples] == [[b"one"], [b"two"]]
    assert tap.seen == {"in": 0, "out": 2}


def test_a_batch_of_which_some_were_not_handed_over_is_marked() -> None:
    tap = a_tap()
    tap.left("dmz", [encode([[b"gone"], [b"handed"]])], 0, 1, 2)
    assert [(frames(sample), sample.certain) for sample in tap.samples] == [([b"gone"], False)]
    tap.left("dmz", [encode([[b"gone"]])], 0, 0, 1)
    assert tap.seen["out"] == 1


def test_few_messages_of_one_batch() -> None:
    tap = a_tap()
    tap.entered("plant", drained(*[[b"%d" % i] for i in range(1000)]))
    assert [frames(sample) for sample in tap.samples] == [[b"%d" % i] for i in range(TAP_BATCH_MESSAGES)]
    assert tap.seen["in"] == 1000


def test_few_messages_a_second_each_way() -> None:
    clock = [100.0]
    tap = Tap(now=lambda: clock[0])
    batch = drained(*[[b"x"]] * TAP_BATCH_MESSAGES)
    for _ in range(100):
        tap.entered("plant", batch)
    assert len(tap.samples) == TAP_RATE
    tap.left("plant", [encode([[b"the other way"]])], 0, 1, 1)
    assert len(tap.samples) == TAP_RATE + 1, "one way does not starve the other"
    clock[0] += 0.5
    for _ in range(100):
        tap.entered("plant", batch)
    assert len(tap.samples) == TAP_RATE + 1 + TAP_RATE // 2
    assert tap.seen["in"] == 200 * TAP_BATCH_MESSAGES


def test_the_ring_holds_so_many_messages() -> None:
    tap = a_tap()
    for _ in range(2 * TAP_RING_MESSAGES // TAP_BATCH_MESSAGES):
        tap.entered("plant", drained(*[[b"x"]] * TAP_BATCH_MESSAGES))
    assert len(tap.samples) == TAP_RING_MESSAGES
    assert tap.samples[-1].number == tap.last


def test_the_ring_holds_so_many_bytes() -> None:
    tap = a_tap()
    tap.frame_bytes = 4096
    for _ in range(2 * TAP_RING_BYTES // (4096 * TAP_BATCH_MESSAGES)):
        tap.entered("plant", drained(*[[bytes(10_000)]] * TAP_BATCH_MESSAGES))
    assert sum(sample.held_bytes for sample in tap.samples) == TAP_RING_BYTES


def test_of_very_many_frames_the_first() -> None:
    tap = a_tap()
    tap.entered("plant", drained([b"f"] * 20, [b"next"], [b"f"] * (TAP_BATCH_FRAMES + 1), [b"never reached"]))
    told = [(len(sample.frames), sample.frame_count, sample.whole) for sample in tap.samples]
    assert told == [(TAP_FRAMES, 20, True), (1, 1, True), (TAP_FRAMES, TAP_BATCH_FRAMES - 21, False)]
    assert tap.seen["in"] == 4


@pytest.mark.parametrize("run", [b"", b"\1", b"\xff\xff\xff\x7fshort", b"\5\0\0\x80hello"])
def test_a_broken_run_breaks_nothing(run: bytes) -> None:
    tap = a_tap()
    tap.left("plant", [run], 0, 3, 3)
    tap.left("plant", [run], 1000, 3, 3)
    assert all(not sample.whole or sample.frame_count == 1 for sample in tap.samples)


@settings(max_examples=200, deadline=None)
@given(
    messages=st.lists(
        st.lists(st.binary(max_size=80), min_size=1, max_size=5), min_size=1, max_size=TAP_BATCH_MESSAGES
    ),
    borders=st.lists(st.integers(0, 5000)),
    frame_bytes=st.integers(0, 100),
)
def test_wherever_the_segments_meet(messages: list[list[bytes]], borders: list[int], frame_bytes: int) -> None:
    tap = a_tap()
    tap.frame_bytes = frame_bytes
    tap.left("dmz", at_borders(encode(messages), borders), 0, len(messages), len(messages))
    expected = [tuple((len(frame), frame[:frame_bytes]) for frame in message) for message in messages]
    assert [sample.frames for sample in tap.samples] == expected
    assert all(sample.whole for sample in tap.samples)
