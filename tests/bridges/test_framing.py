"""Every kind by example, both ways; what cannot be written; wrong options."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bridges.framing import (
    COMMON,
    KINDS,
    MAX_FRAME,
    OPTIONS,
    REQUIRED,
    FramingError,
    Message,
    Option,
    OptionError,
    make,
)
from tests.bridges.framings import CASES, VARIANTS, hear, name_of, single
from tunnel.limits import MESSAGE_FRAMES

H = bytes.fromhex
SYSLOG = b"<165>1 2003-10-11T22:14:15.003Z host app - ID47 - hi"
HL7 = b"MSH|^~\\&|A|B\rPID|1\r"
HELLO = b"HELLO, WORLD"

EXAMPLES: dict[str, list[tuple[dict[str, Any], list[Message], bytes]]] = {
    "line": [
        ({}, [b"12.5 kg", b"", b"13"], b"12.5 kg\n\n13\n"),
        ({}, [b"cr stays\r"], b"cr stays\r\n"),
        ({"delimiter": b"\r\n"}, [b"a\nb", b"c\r"], b"a\nb\r\nc\r\r\n"),
        ({"delimiter": "hex:0d0a"}, [b"a"], b"a\r\n"),
        ({"delimiter": "END"}, [b"a", b"EN"], b"aENDENEND"),
        ({"strip_cr": True}, [b"a", b"b\rc"], b"a\nb\rc\n"),
        ({"keep": True}, [b"a\n", b"\n"], b"a\n\n"),
        ({"open_end": True}, [b"a"], b"a\n"),
    ],
    # The examples of Netty's LengthFieldBasedFrameDecoder, with lengths of 2 and 4 bytes.
    "length": [
        ({"width": 2, "keep": True}, [H("000c") + HELLO], H("000c") + HELLO),
        ({"width": 2}, [HELLO, b""], H("000c") + HELLO + H("0000")),
        ({"width": 2, "inclusive": True, "keep": True}, [H("000e") + HELLO], H("000e") + HELLO),
        ({"width": 2, "adjust": -2}, [HELLO], H("000e") + HELLO),
        ({"width": 4, "offset": 2, "keep": True}, [H("cafe0000000c") + HELLO], H("cafe0000000c") + HELLO),
        ({"width": 4, "header": 6, "keep": True}, [H("0000000ccafe") + HELLO], H("0000000ccafe") + HELLO),
        ({"width": 2, "offset": 1, "header": 4}, [HELLO], H("00000c00") + HELLO),
        ({"width": 2, "offset": 1, "header": 4, "inclusive": True}, [HELLO], H("00001000") + HELLO),
        ({"width": 1}, [b"ab"], H("02") + b"ab"),
        ({"width": 2, "order": "little"}, [b"ab"], H("0200") + b"ab"),
        ({"order": "little"}, [b"ab"], H("02000000") + b"ab"),
        ({"width": 8}, [b"ab"], H("0000000000000002") + b"ab"),
        # protobuf's own example: 150 is 96 01.
        ({"width": "varint"}, [bytes(150), b"", bytes(127)], H("9601") + bytes(150) + H("00") + H("7f") + bytes(127)),
        (
            {"width": "varint", "inclusive": True},
            [bytes(126), bytes(127)],
            H("7f") + bytes(126) + H("8101") + bytes(127),
        ),
        ({"width": "varint", "offset": 1, "keep": True}, [H("300161")], H("300161")),
    ],
    "fixed": [
        ({"size": 3}, [b"abc", b"def"], b"abcdef"),
        ({"size": 3, "pad": b" "}, [b"a  ", b"def"], b"a  def"),
        ({"size": 3, "pad": b" ", "strip": True}, [b"a", b"", b"def"], b"a     def"),
    ],
    "stx-etx": [
        ({}, [b"12.5 kg", b""], b"\x0212.5 kg\x03\x02\x03"),
        ({"start": "$", "end": "hex:0d0a"}, [b"GPGGA", b"\r"], b"$GPGGA\r\n$\r\r\n"),
        # 'R' ^ '1' ^ ETX
        ({"check": "lrc"}, [b"R1", b""], b"\x02R1\x03\x60\x02\x03\x03"),
        ({"stuffing": "escape"}, [b"\x02a\x03\x10", b""], b"\x02\x10\x02a\x10\x03\x10\x10\x03\x02\x03"),
        (
            {"stuffing": "double"},
            [b"\x02a\x03\x10", b"\x10\x03"],
            b"\x10\x02\x02a\x03\x10\x10\x10\x03\x10\x02\x10\x10\x03\x10\x03",
        ),
        ({"stuffing": "double", "dle": "~"}, [b"~"], b"~\x02~~~\x03"),
        ({"skip": True}, [b"a"], b"\x02a\x03"),
    ],
    "mllp": [
        ({}, [HL7, b"\x1c", b"\r"], b"\x0b" + HL7 + b"\x1c\r\x0b\x1c\x1c\r\x0b\r\x1c\r"),
        ({"skip": True}, [HL7], b"\x0b" + HL7 + b"\x1c\r"),
    ],
    # cr.yp.to/proto/netstrings.txt
    "netstring": [({}, [b"hello world!", b"", b"12:"], b"12:hello world!,0:,3:12:,")],
    # RFC 6587, 3.4.1
    "octet-count": [({}, [SYSLOG, b"1 2"], b"%d %b3 1 2" % (len(SYSLOG), SYSLOG))],
    # RFC 1055
    "slip": [
        ({}, [b"ab", b"\xc0\xdb", b"\xdc\xdd"], b"\xc0ab\xc0\xc0\xdb\xdc\xdb\xdd\xc0\xc0\xdc\xdd\xc0"),
        ({"lead": False}, [b"ab", b"\xdb\xdc"], b"ab\xc0\xdb\xdd\xdc\xc0"),
    ],
    "idle": [({"pause": 1}, [b"abc"], b"abc")],
    "raw": [({}, [b"abc"], b"abc")],
    "multipart": [
        (
            {},
            [[b"id", b"", b"abc"], [b"x"], [b""]],
            H("02000080") + b"id" + H("0000008003000000") + b"abc" + H("01000000") + b"x" + H("00000000"),
        )
    ],
}
BOTH_WAYS = [(kind, *example) for kind, examples in EXAMPLES.items() for example in examples]


def test_every_kind_and_option_is_tried() -> None:
    assert set(EXAMPLES) == set(VARIANTS) == set(OPTIONS) == set(KINDS)
    assert all(EXAMPLES.values())
    for kind, options in OPTIONS.items():
        for name, option in options.items():
            for tried in ([each[0] for each in EXAMPLES[kind]], VARIANTS[kind]):
                values = {repr(each[name]) for each in tried if name in each} - {repr(option.default)}
                assert values, (kind, name)
            if option.choices:
                values = {each.get(name, option.default) for each in VARIANTS[kind]}
                assert values == set(option.choices), (kind, name)


@pytest.mark.parametrize(("kind", "options", "messages", "line"), BOTH_WAYS)
def test_by_example(kind: str, options: dict[str, Any], messages: list[Message], line: bytes) -> None:
    framing = make(kind, **options)
    assert framing.kind == kind
    assert b"".join(map(framing.encode, messages)) == line
    assert hear(framing, [line]).messages == messages
    if kind != "raw":
        assert hear(framing, single(line)).messages == messages
    assert framing.decoder().feed(memoryview(line)) == framing.decoder().feed(line)


READ_ONLY: list[tuple[str, dict[str, Any], bytes, list[Message]]] = [
    ("line", {"strip_cr": True}, b"a\r\nb\n\r\r\n", [b"a", b"b", b"\r"]),
    ("line", {"strip_cr": True, "delimiter": "aa"}, b"aaa\raa\raa", [b"", b"a", b""]),
    ("line", {"open_end": True}, b"a\nb", [b"a", b"b"]),
    ("line", {"open_end": True, "strip_cr": True}, b"a\r\nb\r", [b"a", b"b"]),
    ("line", {"open_end": True, "delimiter": b"\r\n"}, b"a\r", [b"a\r"]),
    ("line", {"delimiter": "aba"}, b"ababa", [b""]),
    ("length", {"width": "varint"}, H("818000") + b"a" + H("818080808080808000") + b"b", [b"a", b"b"]),
    ("length", {"width": 2, "offset": 2, "header": 5}, H("cafe0001ff") + b"a", [b"a"]),
    ("stx-etx", {"skip": True}, b"\r\n\x02a\x03\r\n\x02b\x03\r\n", [b"a", b"b"]),
    ("stx-etx", {"skip": True, "check": "lrc"}, b"?\x02a\x03b??\x02b\x03a?", [b"a", b"b"]),
    (
        "stx-etx",
        {"skip": True, "stuffing": "double"},
        b"\x10\x10\x02\x10\x10\x10\x03\x10\x03\x10\x02b\x10\x03",
        [b"\x10", b"b"],
    ),
    ("stx-etx", {"skip": True, "stuffing": "escape"}, b"\x03\x02\x10\x03\x03\x10\x02b\x03", [b"\x03", b"b"]),
    ("mllp", {"skip": True}, b"\n\x0ba\x1c\r\n\x1c\r\x0bb\x1c\r", [b"a", b"b"]),
    ("slip", {}, b"noise\xc0\xc0\xc0a\xc0\xc0", [b"noise", b"a"]),
    ("raw", {}, b"", []),
    ("idle", {}, b"", []),
]


@pytest.mark.parametrize(("kind", "options", "line", "messages"), READ_ONLY)
def test_what_is_only_read(kind: str, options: dict[str, Any], line: bytes, messages: list[Message]) -> None:
    framing = make(kind, **options)
    for pieces in ([line], single(line)):
        heard = hear(framing, pieces, end="open_end" in options)
        assert (heard.messages, heard.offset) == (messages, None)


UNWRITABLE: dict[str, list[tuple[dict[str, Any], Message, str]]] = {
    "line": [
        ({}, b"a\nb", "contains the delimiter"),
        ({"delimiter": "aa"}, b"ba", "contains the delimiter"),
        ({"strip_cr": True}, b"a\r", "ends with a CR"),
        ({"keep": True}, b"a", "must end with the delimiter"),
        ({"keep": True}, b"", "must end with the delimiter"),
        ({"keep": True}, b"a\nb\n", "not contain it before"),
    ],
    "length": [
        ({"width": 1}, bytes(256), "1 bytes cannot say 256"),
        ({"width": 1, "inclusive": True}, bytes(255), "cannot say 256"),
        ({"adjust": 5}, b"abc", "cannot say -2"),
        ({"width": "varint", "adjust": 5}, b"abc", "cannot say -2"),
        ({"width": 1, "keep": True}, b"\3ab", "not its own"),
        ({"width": 1, "keep": True}, b"\1ab", "not its own"),
        ({"width": 1, "keep": True}, b"", "not its own"),
        ({"width": 1, "inclusive": True, "keep": True}, b"\0", "not its own"),
    ],
    "fixed": [
        ({"size": 2}, b"abc", "every frame has 2"),
        ({"size": 2}, b"a", "pad fills"),
        ({"size": 2, "pad": b"x"}, b"abc", "every frame has 2"),
        ({"size": 2, "pad": b"x", "strip": True}, b"x", "taken off"),
    ],
    "stx-etx": [
        ({}, b"a\2", "contains a mark"),
        ({}, b"a\3", "contains a mark"),
        ({"end": ">>"}, b"a>", "contains a mark"),
    ],
    "mllp": [({}, b"a\x0b", "contains a mark"), ({}, b"a\x1c\r", "contains a mark")],
    "netstring": [],
    "octet-count": [({}, b"", "is empty")],
    "slip": [({}, b"", "is empty")],
    "idle": [({}, b"", "is empty")],
    "raw": [({}, b"", "is empty")],
    "multipart": [
        ({}, [], "0 frames"),
        ({"max_frame": MAX_FRAME}, [b""] * (MESSAGE_FRAMES + 1), "65,537 frames"),
        ({"max_frame": 10}, [b"abcd", b"abc"], "11 bytes"),
    ],
}
REFUSED = [(kind, *each) for kind, table in UNWRITABLE.items() for each in table]


def test_every_kind_was_asked_to_write_nonsense() -> None:
    assert set(UNWRITABLE) == set(OPTIONS)
    assert len(REFUSED) > 25


@pytest.mark.parametrize(("kind", "options", "message", "why"), REFUSED)
def test_what_cannot_be_written_is_refused(kind: str, options: dict[str, Any], message: Message, why: str) -> None:
    with pytest.raises(FramingError, match=why) as caught:
        make(kind, **options).encode(message)
    assert kind in str(caught.value)
    assert caught.value.before == []


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_too_long_and_several_frames_are_not_written(case: tuple[str, dict[str, Any]]) -> None:
    kind, options = case
    framing = make(kind, max_frame=20, **options)
    with pytest.raises(FramingError, match="max_frame is 20"):
        framing.encode(bytes(21))
    if kind != "multipart":
        with pytest.raises(FramingError, match="2 frames"):
            framing.encode([b"a", b"b"])


def test_a_message_of_one_frame_may_come_in_a_list() -> None:
    assert make("line").encode([b"a"]) == b"a\n"
    assert make("multipart").encode(b"a") == make("multipart").encode([b"a"])


def test_idle_says_how_long_a_pause_is_and_no_other_does() -> None:
    assert make("idle", pause=2).idle_s == 2.0
    assert {make(kind, **VARIANTS[kind][0]).idle_s for kind in KINDS if kind != "idle"} == {None}


def test_a_pause_ends_an_idle_frame_and_no_other() -> None:
    decoder = make("idle").decoder()
    assert decoder.pause() == []
    assert decoder.feed(b"ab") == decoder.feed(b"c") == []
    assert decoder.pending == 3
    assert decoder.pause() == [b"abc"]
    assert decoder.pause() == decoder.end() == []
    decoder.feed(b"d")
    assert decoder.end() == [b"d"]
    other = make("line").decoder()
    other.feed(b"ab")
    assert other.pause() == []
    assert other.feed(b"c\n") == [b"abc"]


def test_raw_hands_on_what_came_at_once_in_pieces_of_max_frame() -> None:
    decoder = make("raw", max_frame=4).decoder()
    assert decoder.feed(b"abcd") == [b"abcd"]
    assert decoder.feed(b"abcdefghi") == [b"abcd", b"efgh", b"i"]


def test_a_framing_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make("line").max_frame = 1  # type: ignore[misc]
    assert make("line", delimiter="a") == make("line", delimiter=b"a")


def test_a_decoder_prints_its_state() -> None:
    decoder = make("line").decoder()
    decoder.feed(b"a\nbc")
    assert repr(decoder) == "<LineDecoder offset=2 pending=2>"


# --- options ---------------------------------------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "bytes": [b"", b"x" * 65, "", "hex:", "hex:0", "hex:xx", "ü", 1, None, True, ["a"]],
    "integer": [1.0, "1", None, True, 1 << 40, -(1 << 40)],
    "flag": [0, 1, "true", None],
    "choice": ["", "nothing", None, True, 3, 1.0, ["big"], b"big"],
    "seconds": [0, 0.0001, 3601, "1s", None, True, float("nan"), float("inf")],
}
KNOWN = [(kind, name, option) for kind, options in OPTIONS.items() for name, option in options.items()]


def test_every_type_of_option_has_wrong_values() -> None:
    assert {option.type for _, _, option in KNOWN} == set(WRONG)


@pytest.mark.parametrize(("kind", "name", "option"), [*KNOWN, ("line", "max_frame", COMMON["max_frame"])])
def test_a_wrong_value_is_refused_by_name(kind: str, name: str, option: Option) -> None:
    for value in WRONG[option.type]:
        with pytest.raises(OptionError, match=name) as caught:
            make(kind, **{**VARIANTS[kind][0], name: value})
        assert caught.value.option == name
        assert str(caught.value).endswith(".")


@pytest.mark.parametrize(("kind", "name", "option"), KNOWN)
def test_defaults_are_values_and_every_option_says_what_it_means(kind: str, name: str, option: Option) -> None:
    assert option.meaning
    if option.default is not None and option.default is not REQUIRED:
        assert option.read(name, option.default) == option.default
        assert make(kind, **VARIANTS[kind][0]) == make(kind, **{name: option.default, **VARIANTS[kind][0]})


@pytest.mark.parametrize(
    ("kind", "options", "name", "why"),
    [
        ("lines", {}, None, "Did you mean 'line'"),
        ("xyz", {}, None, "There are: line, length"),
        ("line", {"delimeter": "a"}, "delimeter", "Did you mean 'delimiter'"),
        ("line", {"size": 1}, "size", "There are: delimiter, strip_cr"),
        ("raw", {"size": 1}, "size", "none but max_frame"),
        ("fixed", {}, "size", "needs size: bytes of every frame"),
        ("line", {"max_frame": 0}, "max_frame", "whole number from 1 to 1,073,741,824"),
        ("fixed", {"size": 2, "max_frame": 1}, "size", "more than max_frame"),
        ("fixed", {"size": 2, "strip": True}, "strip", "needs pad"),
        ("line", {"strip_cr": True, "delimiter": b"\r\n"}, "strip_cr", "contains a CR"),
        ("line", {"strip_cr": True, "keep": True}, "keep", "strip_cr"),
        ("line", {"keep": True, "delimiter": "abc", "max_frame": 2}, "max_frame", "longer"),
        ("length", {"width": "varint", "header": 5}, "header", "leave it out"),
        ("length", {"width": "varint", "order": "little"}, "order", "leave it out"),
        ("length", {"offset": 2, "header": 5}, "header", "reaches to byte 6"),
        ("length", {"keep": True, "max_frame": 3}, "max_frame", "longer"),
        ("stx-etx", {"stuffing": "double", "start": "<<"}, "stuffing", "one byte each"),
        ("stx-etx", {"stuffing": "escape", "dle": b"\3"}, "dle", "differ"),
        ("stx-etx", {"stuffing": "escape", "check": "lrc"}, "check", "stuffing"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, options: dict[str, Any], name: str | None, why: str) -> None:
    with pytest.raises(OptionError, match=why) as caught:
        make(kind, **options)
    assert caught.value.option == name
