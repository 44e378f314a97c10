"""cut, first_frame, keep_latest, split and Chunk: no socket needed."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.pump.runs import at_borders, contents, decode, encode, joined
from tests.pump.test_drain import SHAPES
from tests.pump.test_feed import MALFORMED
from tunnel.limits import BATCH_BYTES, FRAGMENT_BYTES, REFERENCE_BYTES
from tunnel.pump import DENY, RunError

BORDERS = range(0, 300_000, 1013)


def test_cut_takes_the_messages_out_one_by_one(pump: ModuleType) -> None:
    segments = at_borders(encode(SHAPES), BORDERS)
    position, got = 0, []
    for _ in SHAPES:
        message, position = pump.cut(segments, position)
        got += decode(joined(message))
    assert got == SHAPES
    assert position == sum(map(len, segments))
    with pytest.raises(RunError):
        pump.cut(segments, position)


def test_cut_refers_to_what_is_large(pump: ModuleType) -> None:
    chunk = pump.Chunk(b"x" * REFERENCE_BYTES)
    head = (REFERENCE_BYTES).to_bytes(4, "little")
    message, behind = pump.cut((encode([[b"a"]]), head, chunk, encode([[b"b"]])), 5)
    assert [type(segment) for segment in message] == [bytes, pump.Chunk]
    assert behind == 5 + 4 + REFERENCE_BYTES


def test_first_frames(pump: ModuleType) -> None:
    segments = at_borders(encode(SHAPES), BORDERS)
    position, got = 0, []
    while position < sum(map(len, segments)):
        got.append(pump.first_frame(segments, position))
        position = pump.cut(segments, position)[1]
    assert got == [message[0] for message in SHAPES]
    assert all(type(frame) is bytes for frame in got)


def test_the_newest_of_each_first_frame_stays_at_its_place(pump: ModuleType) -> None:
    first = [[b"a", b"1"], [b"b", b"1"], [b"a", b"2"], [b"", b"1"]]
    second = [[b"c"], [b"a", b"3", b""], [b"b", b"2"], [b"d", b"x" * REFERENCE_BYTES], [b"", b"2"]]
    runs = [at_borders(encode(first), [3, 9]), (), (encode(second),)]
    pieces, dropped = pump.keep_latest(runs)
    assert contents(pieces) == [[b"c"], [b"a", b"3", b""], [b"b", b"2"], [b"d", b"x" * REFERENCE_BYTES], [b"", b"2"]]
    assert dropped == 4
    assert pump.keep_latest([]) == ([], 0)


def test_what_is_kept_is_divided_into_batches_again(pump: ModuleType) -> None:
    messages = [[b"%d" % i, b"x" * 1000] for i in range(1000)]
    big = [[b"big", b"y" * (2 * FRAGMENT_BYTES)]]
    pieces, dropped = pump.keep_latest([(encode(messages),), (encode(big + messages[:500]),)])
    assert contents(pieces) == messages[500:] + big + messages[:500]
    assert dropped == 500
    assert max(piece.size for piece in pieces) == FRAGMENT_BYTES
    assert max(piece.size for piece in pieces if piece.messages > 1) <= BATCH_BYTES


def test_split_gives_each_side_what_it_wants(pump: ModuleType) -> None:
    topics = pump.Topics()
    topics.add(0, b"")
    topics.add(1, b"weather.")
    topics.add(1, b"weather.oslo")
    topics.add(2, b"\x01\x00")
    topics.add(9, b"nobody")
    topics.add(DENY, b"weather.secret")
    messages = [
        [b"weather.oslo", b"rain"],
        [b"", b"empty topic"],
        [b"\x01\x00\x01", b""],
        [b"weather", b"short of the prefix"],
        [b"weather.secret.x", b"hidden"],
        [b"weather.rome" + b"." * REFERENCE_BYTES, b"x" * BATCH_BYTES],
    ]
    for borders in ([], range(100), BORDERS):
        result = pump.split(at_borders(encode(messages), borders), topics, 3)
        assert [contents(side.pieces) for side in result] == [
            [messages[i] for i in (0, 1, 2, 3, 5)],
            [messages[0], messages[5]],
            [messages[2]],
        ]
        assert (result.unmatched, result.denied) == (1, 1)
    topics.clear(0)
    result = pump.split((encode(messages),), topics, 3)
    assert [contents(side.pieces) for side in result] == [[], [messages[0], messages[5]], [messages[2]]]
    assert (result.unmatched, result.denied) == (3, 1)


def test_sides_beyond_n_do_not_count(pump: ModuleType) -> None:
    topics = pump.Topics()
    topics.add(5, b"a")
    result = pump.split((encode([[b"abc"]]),), topics, 5)
    assert ([side.pieces for side in result], result.unmatched) == ([[]] * 5, 1)
    for n in (0, 64, -1):
        with pytest.raises(ValueError, match=r"1\.\.63"):
            pump.split((), topics, n)


def test_all_63_sides(pump: ModuleType) -> None:
    topics = pump.Topics()
    for side in range(63):
        topics.add(side, b"%d" % side)
    result = pump.split((encode([[b"%d" % side] for side in range(63)]),), topics, 63)
    for side, drained in enumerate(result):
        wanted = [[b"%d" % i] for i in range(63) if (b"%d" % i).startswith(b"%d" % side)]
        assert contents(drained.pieces) == wanted


@pytest.mark.parametrize("bad", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_runs_raise(pump: ModuleType, bad: bytes) -> None:
    topics = pump.Topics()
    topics.add(0, b"")
    good = encode([[b"good", b"one"]])
    for segments in ((good + bad,), (good, bad)):
        with pytest.raises(RunError, match=f"at byte {len(good)} of {len(good + bad)}"):
            pump.split(segments, topics, 1)
        with pytest.raises(RunError, match=f"at byte {len(good)} of {len(good + bad)}"):
            pump.keep_latest([segments])


def test_a_chunk_is_bytes_by_reference(pump: ModuleType) -> None:
    data = bytes(range(256))
    chunk = pump.Chunk(data)
    part = chunk[10:20]
    assert isinstance(part, pump.Chunk)
    assert (len(chunk), bytes(chunk), bytes(part), bytes(part[2:4])) == (256, data, data[10:20], data[12:14])
    assert bytes(chunk[:]) == data
    assert bytes(chunk[300:]) == b""
    assert bytes(chunk[5:2]) == b""
    assert (chunk[0], chunk[255], chunk[-1]) == (0, 255, 255)
    with pytest.raises(IndexError):
        chunk[256]
    with pytest.raises(IndexError):
        chunk[-257]
    view = memoryview(part)
    assert view.readonly
    del chunk, part
    assert view.tobytes() == data[10:20]
