"""`ztunnel bridge-test` as a user meets it: a dump in, frames out, and what is said of a dump that does not fit."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bridges.framing import OPTIONS, make
from tests.bridges.framings import VARIANTS
from tests.config.tables import BASE, write
from tunnel import cli

BRIDGES = """\
bridges:
  scales:
    side: plant
    kind: tcp-server
    listen: tcp://127.0.0.1:4001
    zmq: PUSH connect tcp://127.0.0.1:4003
    frame: {kind: length, width: 2, max_frame: 1KiB}
    frame_out: {kind: line}
  bare:
    side: plant
    kind: tcp-server
    listen: tcp://127.0.0.1:4002
    zmq: PUSH connect tcp://127.0.0.1:4003
"""


class Done:
    def __init__(self, code: object, out: bytes, err: bytes) -> None:
        self.code, self.raw = code, out
        self.out, self.err = out.decode("utf-8", "replace").splitlines(), err.decode().splitlines()


class Command:
    """`ztunnel bridge-test`, run in a folder."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch) -> None:
        self.folder, self._capture, self._patch = folder, capture, patch
        patch.chdir(folder)

    def __call__(self, *arguments: object, stdin: bytes = b"") -> Done:
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            cli.main(["bridge-test", *map(str, arguments)])
        told = self._capture.readouterr()
        return Done(left.value.code, told.out, told.err)

    def dump(self, data: bytes) -> Path:
        (self.folder / "dump").write_bytes(data)
        return Path("dump")


@pytest.fixture
def test(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path, capsysbinary, monkeypatch)


def test_lines_of_a_dump(test: Command) -> None:
    done = test("--frame", "kind=line", test.dump(b"12.5 kg\n13 kg\n\n\x00\xff\n"))
    assert done.out == [
        '    1  at 0        [7] "12.5 kg"',
        '    2  at 8        [5] "13 kg"',
        "    3  at 14       [0]",
        "    4  at 15       [2] x00ff",
    ]
    assert done.err == ["ztunnel: 4 frames in 18 bytes, framing line."]
    assert done.code == 0


def test_from_stdin_and_cut_short(test: Command) -> None:
    for arguments in ((), ("-",)):
        done = test("--frame", "kind=line", "--bytes", 3, *arguments, stdin=b"12.5 kg\n")
        assert (done.code, done.out) == (0, ['    1  at 0        [7] "12."...'])
    assert test("--frame", "kind=line").err == ["ztunnel: 0 frames in 0 bytes, framing line."]


def test_as_json(test: Command) -> None:
    done = test("--frame", "kind=multipart", "--json", stdin=make("multipart").encode([b"id", b"\x00"]))
    assert [json.loads(line) for line in done.out] == [
        {"number": 1, "offset": 0, "frames": [{"size": 2, "hex": "6964"}, {"size": 1, "hex": "00"}]}
    ]


def test_a_breach_is_told_with_its_byte_and_what_came_before_is_shown(test: Command) -> None:
    arguments = ("--frame", "kind=length,width=2,max_frame=10B")
    done = test(*arguments, stdin=b"\0\1a\0\2bc\xff\xff")
    assert done.out == ['    1  at 0        [1] "a"', '    2  at 3        [2] "bc"']
    assert done.code == 1
    (sentence,) = done.err
    assert sentence.startswith("ztunnel: At byte 7 of the stream: a frame begins that is longer than max_frame")
    told = [json.loads(line) for line in test(*arguments, "--json", stdin=b"\0\1a\xff\xff").out]
    assert (told[0]["offset"], told[1]["offset"]) == (0, 3)
    assert told[1]["breach"].startswith("At byte 3")


def test_a_dump_that_ends_within_a_frame(test: Command) -> None:
    done = test("--frame", "kind=line", stdin=b"whole\nhal")
    assert (done.code, done.out) == (1, ['    1  at 0        [5] "whole"'])
    assert done.err == [
        "ztunnel: At byte 6 of the stream: a frame begins that is not complete: the stream ended after 3 bytes of it."
    ]


def options_as_text(options: dict[str, Any]) -> str:
    words = {key: f"hex:{value.hex()}" if isinstance(value, bytes) else value for key, value in options.items()}
    words |= {"pause": f"{words['pause'] * 1000:g}ms"} if "pause" in words else {}
    return ",".join(f"{key}={str(value).lower()}" for key, value in words.items())


CASES = [(kind, options) for kind, variants in VARIANTS.items() for options in variants]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda case: str(case))
@pytest.mark.parametrize("broken", [False, True], ids=["right", "broken"])
def test_in_whatever_pieces_it_comes(test: Command, kind: str, options: dict[str, Any], broken: bool) -> None:
    """The same frames at the same places, for every framing, also of a stream that breaks it."""
    framing = make(kind, **options)
    if options.get("keep") and kind == "length":
        bare = make(kind, **{**options, "keep": False})
        encoded = [bare.encode(b"x" * size) for size in (5, 7, 5)]
    else:
        behind = options.get("delimiter", b"\n") if options.get("keep") else b""
        encoded = [framing.encode((b"%05d" % number)[-options.get("size", 5) :] + behind) for number in range(3)]
    stream = b"".join(encoded) + (b"\xff" * 3 if broken else b"")
    dump = test.dump(stream)
    arguments = ("--json", "--frame", ",".join(filter(None, (f"kind={kind}", options_as_text(options)))))
    whole = test(*arguments, dump)
    told = [json.loads(line) for line in whole.out]
    offsets = [one["offset"] for one in told if "frames" in one]
    if kind not in ("idle", "raw"):
        starts = [sum(map(len, encoded[:index])) for index in range(3)]
        lead = 1 if kind == "slip" and framing.lead else 0  # type: ignore[attr-defined]
        assert offsets[:3] == [start + lead for start in starts]
    for size in (1, 2, 3, 7) if kind != "raw" else ():
        pieces = test(*arguments, dump, "--split", size)
        assert (pieces.out, pieces.code, pieces.err) == (whole.out, whole.code, whole.err)


@pytest.mark.parametrize(
    ("kind", "word"), [("idle", "a file has no pauses"), ("raw", "on a line a frame is what one read brings")]
)
def test_it_says_what_a_file_cannot_show(test: Command, kind: str, word: str) -> None:
    done = test("--frame", f"kind={kind}", "--split", 3, stdin=b"abcdef")
    assert word in done.err[0]
    assert len(done.out) == (1 if kind == "idle" else 2)


def test_with_a_bridge_of_a_table(test: Command) -> None:
    write(test.folder, BASE + BRIDGES)
    assert test("dmz.yaml", "scales", stdin=b"\0\3abc").out == ['    1  at 0        [3] "abc"']
    assert test("dmz.yaml", "bare", test.dump(b"abc\n")).out == ['    1  at 0        [3] "abc"']
    assert test("dmz.yaml", "scales", "--reverse", stdin=b"abc\n").raw == b"abc\n"
    assert "max_frame (1,024 bytes)" in test("dmz.yaml", "scales", stdin=b"\xff\xff").err[0]


@pytest.mark.parametrize(
    ("frame", "lines", "written"),
    [
        ("kind=length,width=2", b"abc\nhex:00ff\n\n", b"\0\3abc\0\2\0\xff\0\0"),
        ("kind=mllp", b"MSH|1", b"\x0bMSH|1\x1c\r"),
        ("kind=line,delimiter=hex:0d0a", b"a\nb\n", b"a\r\nb\r\n"),
        ("kind=multipart", b"id\thex:00\n", make("multipart").encode([b"id", b"\0"])),
    ],
)
def test_the_other_direction(test: Command, frame: str, lines: bytes, written: bytes) -> None:
    done = test("--frame", frame, "--reverse", stdin=lines)
    assert (done.code, done.raw) == (0, written)


@pytest.mark.parametrize(
    ("frame", "line", "sentence"),
    [
        ("kind=slip", b"", "line 2: A message cannot be written with framing slip: it is empty."),
        ("kind=line", b"hex:0", "line 2: after 'hex:' comes an even number of the digits 0-9 and a-f."),
    ],
)
def test_a_message_that_cannot_be_written(test: Command, frame: str, line: bytes, sentence: str) -> None:
    done = test("--frame", frame, "--reverse", stdin=b"ok\n" + line + b"\nlater\n")
    assert (done.code, done.raw, done.err) == (1, make(frame.partition("=")[2]).encode(b"ok"), [f"ztunnel: {sentence}"])


def test_options_as_they_stand_in_a_table(test: Command) -> None:
    for frame in ('{kind: fixed, size: 4, pad: " ", strip: true}', "fixed,size=4,pad= ,strip=true"):
        assert test("--frame", frame, stdin=b"abc abcd").out == [
            '    1  at 0        [3] "abc"',
            '    2  at 4        [4] "abcd"',
        ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--frame", "kind=lnie"], "--frame: There is no framing 'lnie'. Did you mean 'line'?"),
        (["--frame", "kind=line,delimitr=x"], "Did you mean 'delimiter'?"),
        (["--frame", "kind=line,max_frame=5"], "--frame: max_frame: 5 has no unit"),
        (["--frame", "kind=idle,pause=5"], "--frame: pause: 5 has no unit"),
        (["--frame", "kind=length,width=3"], "width must be 1 or 2 or 4 or 8 or varint"),
        (["--frame", "kind=length,inclusive=yes"], "inclusive must be true or false"),
        (["--frame", "kind=fixed"], "Framing fixed needs size"),
        (["--frame", "kind=line,delimiter=,,x"], "'x' is no option; write name=value"),
        (["--frame", "kind=line,kind=slip"], "kind is here twice"),
        (["--frame", "{kind: line"], "--frame:1:"),
        (["--frame", "{kind: line, kind: slip}"], "--frame: 'kind' is here twice"),
        (["--frame", "kind=line", "nowhere"], "nowhere cannot be read: No such file or directory."),
        (["--frame", "kind=line", "a", "b"], "one FILE at a time"),
        (["--frame", "kind=line", "--reverse", "--json"], "nothing to split or to print"),
        ([], "which framing? Name a table and one of its bridges"),
        (["dmz.yaml"], "which framing?"),
        (["dmz.yaml", "scale"], "dmz.yaml has no bridge 'scale'. Did you mean 'scales'?"),
        (["dmz.yaml", "x"], "dmz.yaml has no bridge 'x'. There are scales and bare."),
        (["none.yaml", "x"], "there is no file none.yaml"),
    ],
)
def test_a_wrong_command_line(test: Command, arguments: list[str], sentence: str) -> None:
    write(test.folder, BASE + BRIDGES)
    done = test(*arguments)
    assert (done.code, done.raw) == (2, b"")
    assert sentence in " ".join(done.err)
    assert len(done.err) == 1


def test_help_names_every_kind_and_option(test: Command) -> None:
    done = test("--help")
    assert done.code == 0
    rows = [line.split() for line in done.out]
    for kind, options in OPTIONS.items():
        for name in options:
            assert [kind, name] in [row[:2] for row in rows]
        assert options or [kind] in rows
