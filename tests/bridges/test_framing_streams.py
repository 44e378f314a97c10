"""Streams of frames: any split gives the same, what is too long or broken is found as early as can be, and a byte costs
the same in a frame of any length."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridges.framing import KINDS, OPTIONS, Decoder, FramingError, Message, make
from bridges.framings.base import Gathering
from tests.bridges.framings import CASES, ENDLESS, OVERHEAD, VARIANTS, as_read, cut, hear, name_of, single, writable
from tunnel.limits import MESSAGE_FRAMES

MAX_FRAME = 24
SPECIAL = b"\n\r\0aab\x02\x03\x10$<>[]^\\\x0b\x1c\xc0\xdb\xdc\xdd:, 019\x80\xff"
BODIES = st.lists(
    st.binary(max_size=8)
    | st.lists(st.sampled_from(SPECIAL), max_size=12).map(bytes)
    | st.binary(min_size=18, max_size=24),
    max_size=8,
)
SPLITS = st.lists(st.integers(0, 10_000), max_size=12)
ENDING = [case for case in CASES if case[0] not in ENDLESS]


def test_every_kind_is_here() -> None:
    assert set(VARIANTS) == set(KINDS) == {kind for kind, _ in ENDING} | set(ENDLESS)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_most_messages_can_be_written(case: tuple[str, dict[str, Any]]) -> None:
    """Else the tests below would try nothing."""
    kind, options = case
    bodies = [b"x" * (options.get("size", 3) if "pad" not in options else 3)] * 4
    assert len(writable(kind, options, bodies, MAX_FRAME)) == 4


@pytest.mark.parametrize("case", ENDING, ids=name_of)
@given(bodies=BODIES, at=SPLITS)
@settings(max_examples=120)
def test_what_is_written_is_read_over_any_split(
    case: tuple[str, dict[str, Any]], bodies: list[bytes], at: list[int]
) -> None:
    kind, options = case
    framing = make(kind, max_frame=MAX_FRAME, **options)
    messages = writable(kind, options, bodies, MAX_FRAME)
    line = b"".join(map(framing.encode, messages))
    wanted = [as_read(options, message) for message in messages]
    for pieces in ([line], cut(line, at), single(line)):
        heard = hear(framing, pieces)
        assert (heard.messages, heard.offset) == (wanted, None)
        assert heard.most_pending <= MAX_FRAME + OVERHEAD


@pytest.mark.parametrize("case", ENDING, ids=name_of)
@given(bodies=BODIES, garbage=st.lists(st.sampled_from(SPECIAL), max_size=40).map(bytes), at=SPLITS)
@settings(max_examples=120)
def test_garbage_is_the_same_over_any_split(
    case: tuple[str, dict[str, Any]], bodies: list[bytes], garbage: bytes, at: list[int]
) -> None:
    kind, options = case
    framing = make(kind, max_frame=MAX_FRAME, **options)
    good = writable(kind, options, bodies, MAX_FRAME)
    line = b"".join(map(framing.encode, good)) + garbage
    whole = hear(framing, [line])
    assert whole.messages[: len(good)] == [as_read(options, message) for message in good]
    for pieces in (cut(line, at), single(line)):
        heard = hear(framing, pieces)
        assert heard.same(whole), (heard, whole)
        assert heard.most_pending <= MAX_FRAME + OVERHEAD
    assert sum(map(size_of, whole.messages)) <= len(line)


def size_of(message: Message) -> int:
    return sum(map(len, message)) if isinstance(message, list) else len(message)


@pytest.mark.parametrize("kind", ENDLESS)
@given(line=st.binary(max_size=60), at=SPLITS)
def test_without_borders_the_bytes_are_the_same(kind: str, line: bytes, at: list[int]) -> None:
    assert b"".join(bytes(m) for m in hear(make(kind), cut(line, at)).messages if isinstance(m, bytes)) == line


# --- too long --------------------------------------------------------------------------------------------------------

LONG: dict[str, list[tuple[dict[str, Any], bytes, int]]] = {
    # With max_frame 5: the stream, and after how many bytes it is certain that a frame is too long.
    "line": [
        ({}, b"abcdefgh", 6),
        ({"delimiter": b"\r\n"}, b"abcde\rfgh", 7),
        ({"delimiter": b"\r\n"}, b"abcdefgh", 6),
        ({"delimiter": b"\r\n"}, b"abcdef\r\n", 6),
        ({"strip_cr": True}, b"abcde\rf", 7),
        ({"strip_cr": True}, b"abcdef\r\n", 6),
        ({"strip_cr": True}, b"abcde\r\r\n", 7),
        ({"strip_cr": True, "delimiter": b"ab"}, b"xxxxx\ra\rb", 8),
        ({"keep": True}, b"abcdefgh", 5),
        ({"keep": True, "delimiter": b"\r\n"}, b"abc\rdefg", 5),
        ({"delimiter": b"aab"}, b"xxxxxaaab", 8),
    ],
    "length": [
        ({}, bytes.fromhex("00000006"), 4),
        ({"width": 2, "order": "little"}, bytes.fromhex("0600"), 2),
        ({"width": 8}, b"\xff" * 8, 8),
        ({"width": 1, "offset": 1, "header": 4}, bytes.fromhex("00060000"), 4),
        ({"width": 1, "inclusive": True}, b"\7", 1),
        ({"width": 1, "adjust": 1}, b"\5", 1),
        ({"width": 1, "keep": True}, b"\5", 1),
        ({"width": "varint"}, b"\x80\1", 2),
        ({"width": "varint"}, b"\6", 1),
        ({"width": "varint", "keep": True}, b"\5", 1),
    ],
    "fixed": [],
    "stx-etx": [
        ({}, b"\2abcdefgh", 7),
        ({}, b"\2abcdef\3", 7),
        ({"end": b"\r\n"}, b"\2abcde\rf", 8),
        ({"check": "lrc"}, b"\2abcdef\3", 7),
        ({"stuffing": "escape"}, b"\2abcd\x10\3e", 8),
        ({"stuffing": "double"}, b"\x10\2abcd\x10\x10\x10\x10", 10),
        ({"skip": True}, b"abcdefgh\2abcdef", 15),
    ],
    "mllp": [({}, b"\x0babcdefgh", 7), ({}, b"\x0babcde\x1cf", 8)],
    "netstring": [({}, b"6:", 2), ({}, b"10", 2)],
    "octet-count": [({}, b"6 ", 2), ({}, b"10", 2)],
    "slip": [({}, b"\xc0abcdefgh", 7), ({}, b"abcd\xdb\xdce", 7), ({}, b"\xc0abcde\xdb", 7)],
    "idle": [({}, b"abcdef", 6)],
    "raw": [],
    "multipart": [
        ({}, bytes.fromhex("06000000"), 4),
        ({}, bytes.fromhex("0100008061") + bytes.fromhex("01000000"), 9),
        ({}, bytes.fromhex("0000008000000080"), 8),
        ({}, b"\xff\xff\xff\xff", 4),
    ],
}
TOO_LONG = [(kind, *each) for kind, table in LONG.items() for each in table]


def test_every_kind_is_bounded() -> None:
    assert set(LONG) == set(OPTIONS)
    assert {kind for kind, table in LONG.items() if not table} == {"fixed", "raw"}  # they cannot be too long


@pytest.mark.parametrize(("kind", "options", "line", "certain"), TOO_LONG)
def test_a_frame_is_found_too_long_as_soon_as_it_is_certain(
    kind: str, options: dict[str, Any], line: bytes, certain: int
) -> None:
    framing = make(kind, max_frame=5, **options)
    whole, slow = hear(framing, [line], end=False), hear(framing, single(line), end=False)
    assert "max_frame (5 bytes)" in whole.sentence
    assert slow.sentence == whole.sentence
    assert slow.offset == whole.offset
    assert slow.fed + 1 == certain


@pytest.mark.parametrize("case", ENDING, ids=name_of)
def test_a_frame_of_max_frame_is_taken(case: tuple[str, dict[str, Any]]) -> None:
    kind, options = case
    size = options.get("size", MAX_FRAME)
    sizes = range(size, 0, -1)
    # The longest of these letters that can be written, headers and delimiters that are kept included.
    message = next(iter(writable(kind, options, [b"x" * length for length in sizes], size)))
    framing = make(kind, max_frame=size, **options)
    assert size_of(message) == size - (1 if "strip" in options and options["pad"] == b"x" else 0)
    assert hear(framing, single(framing.encode(message) * 2)).messages == [message] * 2


def test_a_message_of_too_many_frames_is_refused() -> None:
    framing = make("multipart", max_frame=1 << 20)
    most = [b""] * MESSAGE_FRAMES
    assert framing.decoder().feed(framing.encode(most)) == [most]
    line = framing.encode([b"x"]) + b"\0\0\0\x80" * MESSAGE_FRAMES
    for pieces in ([line], cut(line, range(3, len(line), 1000))):
        heard = hear(framing, pieces, end=False)
        assert (heard.messages, heard.offset) == ([[b"x"]], 5)
        assert "65,536 frames" in heard.sentence


# --- broken ----------------------------------------------------------------------------------------------------------

BROKEN: dict[str, list[tuple[dict[str, Any], bytes, str]]] = {
    "line": [],
    "length": [
        ({"width": 1, "inclusive": True}, b"\0", "less than nothing"),
        ({"adjust": -5}, b"\0\0\0\4", "less than nothing"),
        ({"width": "varint", "inclusive": True}, b"\0", "less than nothing"),
        ({"width": "varint"}, b"\x80" * 10, "longer than 10 bytes"),
        ({"width": "varint", "offset": 1}, b"\x80" * 11, "longer than 10 bytes"),
    ],
    "fixed": [],
    "stx-etx": [
        ({}, b"x", "something else is here"),
        ({}, b"\3", "something else is here"),
        ({}, b"\2a\2b\3", "before its end"),
        ({"start": "<<", "end": ">>"}, b"<x", "something else is here"),
        ({"check": "lrc"}, b"\2a\3\3", "check byte"),
        ({"stuffing": "escape"}, b"x", "something else is here"),
        ({"stuffing": "escape"}, b"\2a\2", "neither stuffed"),
        ({"stuffing": "escape"}, b"\2a\x10b", "neither stuffed"),
        ({"stuffing": "double"}, b"\2", "something else is here"),
        ({"stuffing": "double"}, b"\x10\x10", "something else is here"),
        ({"stuffing": "double"}, b"\x10\2a\x10\2", "neither stuffed"),
    ],
    "mllp": [({}, b"MSH", "something else is here"), ({}, b"\x0ba\x0bb\x1c\r", "before its end")],
    "netstring": [
        ({}, b"x", "no netstring"),
        ({}, b":", "no netstring"),
        ({}, b"-1:", "no netstring"),
        ({}, b"01:a,", "no netstring"),
        ({}, b"1x", "no netstring"),
        ({}, b"1 :", "no netstring"),
        ({}, b"1:aa", "does not end"),
        ({}, b"0:;", "does not end"),
    ],
    "octet-count": [
        ({}, b"<165>", "no octet-count"),
        ({}, b"0 ", "no octet-count"),
        ({}, b"05 ", "no octet-count"),
        ({}, b" ", "no octet-count"),
    ],
    "slip": [({}, b"\xdb\xc0", "neither"), ({}, b"a\xdbb", "neither"), ({}, b"\xdb\xdb", "neither")],
    "idle": [],
    "raw": [],
    "multipart": [],
}
BREACHES = [(kind, *each) for kind, table in BROKEN.items() for each in table]


def test_every_kind_that_can_be_broken_is() -> None:
    assert set(BROKEN) == set(OPTIONS)
    assert len(BREACHES) > 30


@pytest.mark.parametrize(("kind", "options", "bad", "why"), BREACHES)
def test_who_breaks_the_framing_is_found_out_and_what_was_good_stays(
    kind: str, options: dict[str, Any], bad: bytes, why: str
) -> None:
    framing = make(kind, **options)
    good = framing.encode(b"good")
    for pieces in ([good + bad], [good, bad], single(good + bad)):
        heard = hear(framing, pieces, end=False)
        assert heard.messages == [b"good"]
        assert why in heard.sentence
        # With an END in front, the frame begins behind it.
        assert heard.offset == len(good)
        assert f"At byte {len(good)} of the stream" in heard.sentence


def test_after_an_error_there_is_nothing_but_that_error() -> None:
    decoder = make("line", max_frame=2).decoder()
    with pytest.raises(FramingError) as first:
        decoder.feed(b"a\nabc")
    assert first.value.before == [b"a"]
    with pytest.raises(FramingError) as second:
        decoder.feed(b"a\n")
    assert (str(second.value), second.value.before) == (str(first.value), [])
    assert decoder.end() == decoder.pause() == []


@pytest.mark.parametrize("case", ENDING, ids=name_of)
def test_a_stream_that_ends_within_a_frame_is_broken(case: tuple[str, dict[str, Any]]) -> None:
    kind, options = case
    framing = make(kind, max_frame=MAX_FRAME, **options)
    (message,) = writable(kind, options, [b"x" * options.get("size", 3)], MAX_FRAME)
    line = framing.encode(message)
    begins = 1 if options == {} and kind == "slip" else 0
    tried = 0
    for length in range(begins + 1, len(line)):
        heard = hear(framing, [line, line[:length]])
        if "open_end" in options:
            assert (len(heard.messages), heard.offset) == (2, None)
        else:
            assert heard.messages == [message]
            assert heard.offset == len(line) + begins
            assert "not complete" in heard.sentence
        tried += 1
    assert tried or len(line) == 1


def test_an_open_end_is_bounded_too() -> None:
    decoder = make("line", open_end=True, strip_cr=True, max_frame=3).decoder()
    assert decoder.feed(b"abc\r") == []
    assert decoder.end() == [b"abc"]
    decoder = make("line", open_end=True, delimiter=b"\r\n", max_frame=3).decoder()
    assert decoder.feed(b"abc\r") == []
    with pytest.raises(FramingError, match="longer than max_frame"):
        decoder.end()


# --- what it costs ---------------------------------------------------------------------------------------------------


def frame_of(kind: str, options: dict[str, Any], size: int) -> bytes:
    """A frame that is about so long, of the costliest bytes."""
    if kind == "fixed":
        return b"x" * size
    framing = make(kind, max_frame=size, **options)
    if kind == "multipart":
        frames = min(size // 8, 8000)
        return framing.encode([b"x" * (size // frames - 4)] * frames)
    body = {"slip": b"\xc0\xdb", "stx-etx": b"\x10\x10"}.get(kind, b"xx") * (size // 2)
    return framing.encode(body)


MUCH = 40
COSTLY: list[tuple[str, dict[str, Any]]] = [
    ("line", {}),
    ("line", {"delimiter": b"xxxxxxx\n"}),
    ("line", {"strip_cr": True}),
    ("length", {}),
    ("length", {"width": "varint"}),
    ("fixed", {}),
    ("stx-etx", {}),
    ("stx-etx", {"check": "lrc"}),
    ("stx-etx", {"stuffing": "escape"}),
    ("stx-etx", {"stuffing": "double"}),
    ("mllp", {}),
    ("netstring", {}),
    ("octet-count", {}),
    ("slip", {}),
    ("multipart", {}),
    ("idle", {}),
    ("raw", {}),
]


def prepared(kind: str, options: dict[str, Any], size: int) -> tuple[Decoder, bytes]:
    line = frame_of(kind, options, size)
    return make(kind, max_frame=len(line), **({"size": size} if kind == "fixed" else options)).decoder(), line


def test_every_kind_is_measured() -> None:
    assert {kind for kind, _ in COSTLY} == set(KINDS)
    assert len(GATHERING) >= 12


@pytest.mark.parametrize("case", COSTLY, ids=name_of)
@pytest.mark.parametrize("piece", [1, 1000])
def test_a_byte_of_a_long_frame_costs_what_one_of_a_short_frame_costs(
    case: tuple[str, dict[str, Any]], piece: int
) -> None:
    """Control below. A quadratic decoder takes 64 times as long for 8 times as many bytes; 20 times is fresh memory."""
    size = 8_000 if piece == 1 else 400_000
    assert ratio(case, size, piece) < MUCH


def ratio(case: tuple[str, dict[str, Any]], size: int, piece: int) -> float:
    return cost(case, 8 * size, piece) / cost(case, size, piece)


def cost(case: tuple[str, dict[str, Any]], size: int, piece: int) -> float:
    """CPU time of the best of three."""
    times = []
    for _ in range(3):
        decoder, line = prepared(*case, size)
        pieces = [line[at : at + piece] for at in range(0, len(line), piece)]
        begun = time.process_time()
        for each in pieces:
            decoder.feed(each)
        times.append(time.process_time() - begun)
    return max(min(times), 1e-6)


GATHERING = [case for case in COSTLY if isinstance(prepared(*case, 100)[0], Gathering)]
"""The others keep nothing that they have looked at."""


@pytest.mark.parametrize("case", GATHERING, ids=name_of)
def test_a_byte_is_looked_at_a_bounded_number_of_times(
    case: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, line = prepared(*case, 20_000)
    assert isinstance(decoder, Gathering)
    assert looked_at(decoder, single(line), monkeypatch) <= 4 * len(line) + 1000


def looked_at(decoder: Gathering, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that went through `_cut`, altogether."""
    sizes: list[int] = []
    real = decoder._cut

    def counted(data: bytes, frames: list[Message]) -> int:
        sizes.append(len(data))
        return real(data, frames)

    monkeypatch.setattr(decoder, "_cut", counted)
    for piece in pieces:
        decoder.feed(piece)
    return sum(sizes)


def test_a_decoder_that_always_looks_again_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control for both."""
    decoder, line = prepared("length", {}, 20_000)
    assert isinstance(decoder, Gathering)
    monkeypatch.setattr(type(decoder), "_ripe", lambda self, data: True)
    assert looked_at(decoder, single(line), monkeypatch) > 100 * len(line)
    assert ratio(("length", {}), 100_000, 10) > MUCH


@pytest.mark.parametrize(
    "case", [("mllp", {"skip": True}), ("stx-etx", {"skip": True, "stuffing": "double"})], ids=name_of
)
def test_skipped_bytes_are_not_kept(case: tuple[str, dict[str, Any]]) -> None:
    kind, options = case
    framing = make(kind, max_frame=10, **options)
    heard = hear(framing, [*single(b"\x10noise" * 1000), framing.encode(b"a")])
    assert heard.messages == [b"a"]
    assert heard.most_pending <= 1
