"""`ztunnel bridge-test`: a device's dump through a bridge's framing, before anything is wired. Opens no connection.

Knows bridges/framing.py and the table; the bytes come from a file or from stdin.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final, cast

import typer
from typer.core import TyperCommand

from tunnel.cli.pick import named_table
from tunnel.cli.tap import shown
from tunnel.errors import UsageError, ZtunnelError
from tunnel.limits import TAP_FRAME_BYTES

if TYPE_CHECKING:
    from bridges.framing import Framing, FramingError, Message, Option

_PIECE: Final = 4096
"""One read, unless --split says otherwise: pieces in which a frame ends are gone through byte by byte."""
_CHUNKS: Final = {
    "idle": "a file has no pauses, so all of it is one frame",
    "raw": "on a line a frame is what one read brings; here it is a piece of the file",
}
"""What a file cannot show of these kinds."""


class _Command(TyperCommand):
    """Its --help ends with the kinds and their options."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from bridges.framing import COMMON, OPTIONS
        from tunnel.cli.show import print_rows

        super().format_help(ctx, formatter)
        rows = [_option_row("every kind", name, option) for name, option in COMMON.items()]
        for kind, options in OPTIONS.items():
            rows += [_option_row(kind, name, option) for name, option in options.items()] or [(kind, "", "", "")]
        print_rows(("KIND", "OPTION", "DEFAULT", "MEANING"), rows)


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bridge-test", cls=_Command)(bridge_test)


def bridge_test(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TABLE BRIDGE] [FILE]",
            help="A bridge of a table (or --frame), and the dump; left out or -: stdin.",
            show_default=False,
        ),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            "--frame",
            metavar="OPTIONS",
            help="The framing, instead of a bridge's: 'kind=length,width=2', or as in a table: '{kind: line}'.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        int | None,
        typer.Option(
            "--split",
            min=1,
            metavar="N",
            help="Feed it N bytes at a time: the frames stay the same.",
            show_default=False,
        ),
    ] = None,
    frame_bytes: Annotated[
        int, typer.Option("--bytes", min=0, help="Show so many bytes of each frame.")
    ] = TAP_FRAME_BYTES,
    reverse: Annotated[
        bool,
        typer.Option(
            "--reverse",
            help="The other direction: each line is a message (hex:0d0a are bytes), and what is written to the device "
            "goes to stdout. With multipart a tab separates frames.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, frames whole.")] = False,
) -> None:
    """Cut a device's dump into frames as a bridge would, and show them.

    A line a frame: its number, the byte at which it begins, its size and its first bytes as `ztunnel tap` shows them.
    Exit 1: the bytes break the framing (frames before that are shown), or a message cannot be written in it.
    """
    named = list(words or ())
    reads, writes = _of_frame(frame) if frame is not None else _of_bridge(named)
    if len(named) > 1:
        raise UsageError(f"one FILE at a time: {named[0]} and {named[1]} are two.")
    if reverse and (as_json or split):
        raise UsageError("--reverse writes bytes, so there is nothing to split or to print as JSON.")
    with _open(named[0] if named else "-") as source:
        if reverse:
            _encode(writes, source, sys.stdout.buffer)
        else:
            _decode(reads, iter(lambda: source.read1(split or _PIECE), b""), frame_bytes, as_json)


# --- which framing ---------------------------------------------------------------------------------------------------


def _of_bridge(named: list[str]) -> tuple[Framing, Framing]:
    """How the bridge reads and writes; its two words are taken off `named`."""
    if len(named) < 2:
        raise UsageError("which framing? Name a table and one of its bridges, or say --frame 'kind=line'.")
    from bridges.framing import make
    from tunnel.config import load_table
    from tunnel.config.bridge_model import Tcp
    from tunnel.config.values import suggest, those_there_are

    table, name = named.pop(0), named.pop(0)
    loaded = load_table(named_table(table))
    bridge = loaded.model.bridges.get(name)
    if bridge is None:
        known = loaded.model.bridges
        hint = suggest(name, known) or (those_there_are(known) if known else " It has none.")
        raise UsageError(f"{loaded.path} has no bridge {name!r}.{hint}")
    if not isinstance(bridge, Tcp):
        raise UsageError(f"{name} is a {bridge.kind}, which has no framing.")
    reads: Framing = bridge.frame.made if bridge.frame is not None else make("line")
    return reads, bridge.frame_out.made if bridge.frame_out is not None else reads


def _of_frame(text: str) -> tuple[Framing, Framing]:
    from bridges.framing import OptionError, make

    said = _mapping(text) if text.lstrip().startswith("{") else _pairs(text)
    kind = str(said.pop("kind", "line"))
    try:
        framing = make(kind, **{name: _value(kind, name, value) for name, value in said.items()})
    except OptionError as error:
        raise UsageError(f"--frame: {error}") from None
    return framing, framing


def _pairs(text: str) -> dict[str, Any]:
    """`kind=length,width=2`; a comma within a value is written as hex:2c."""
    said: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, is_pair, value = pair.partition("=")
        if not is_pair and not said:
            name, value = "kind", pair
        elif not is_pair:
            raise UsageError(f"--frame: {pair!r} is no option; write name=value, and a comma in a value as hex:2c.")
        if name.strip() in said:
            raise UsageError(f"--frame: {name.strip()} is here twice.")
        said[name.strip()] = value
    return said


def _mapping(text: str) -> dict[str, Any]:
    """`{kind: length, width: 2}`, as it stands in a table."""
    from tunnel.config.nodes import Map, Unreadable, compose, plain
    from tunnel.errors import Problem

    problems: list[Problem] = []
    try:
        node = compose(text, "--frame", problems)
    except Unreadable as error:
        raise UsageError(str(error)) from None
    if problems:
        raise UsageError(f"--frame: {problems[0].sentence}")
    said = plain(node) if isinstance(node, Map) else {}
    return said if isinstance(said, dict) else {}


def _value(kind: str, name: str, said: Any) -> Any:
    """Sizes and times with their units, as in a table; numbers and flags from their words."""
    from bridges.framing import COMMON, OPTIONS
    from tunnel.config.values import duration, size

    option = COMMON.get(name) or OPTIONS.get(kind, {}).get(name)
    try:
        if option is not None and name == "max_frame":
            return size(said)
        if option is not None and option.type == "seconds":
            return duration(said)
    except ValueError as error:
        raise UsageError(f"--frame: {name}: {error}") from None
    if option is None or not isinstance(said, str):
        return said
    if option.type == "flag":
        return {"true": True, "false": False}.get(said, said)
    number = said.lstrip("-").isdecimal() and said.isascii()
    return int(said) if number and option.type in ("integer", "choice") else said


# --- bytes to frames -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A message, and the byte of the stream at which it begins."""

    offset: int
    message: Message


class _Cutter:
    """One decoder that is fed as the bytes come, and a second that goes byte by byte where frames end, to see where."""

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._decoder = framing.decoder()
        self._places = framing.decoder()
        self._fed = 0

    def feed(self, data: bytes) -> tuple[list[_Found], FramingError | None]:
        from bridges.framing import FramingError

        breach = None
        try:
            messages = self._decoder.feed(data)
        except FramingError as error:
            messages, breach = error.before, error
        return self._placed(messages, data), breach

    def end(self) -> tuple[list[_Found], FramingError | None]:
        from bridges.framing import FramingError

        at = self._decoder.offset
        try:
            messages, breach = self._decoder.end(), None
        except FramingError as error:
            messages, breach = error.before, error
        return [_Found(at, message) for message in messages], breach

    def _placed(self, messages: list[Message], data: bytes) -> list[_Found]:
        at, self._fed = self._fed, self._fed + len(data)
        if self._framing.kind == "raw":  # as many frames as there are reads
            found = []
            for message in messages:
                found.append(_Found(at, message))
                at += len(message)
            return found
        if not messages:
            self._look(data)
            return []
        places: list[int] = []
        for index in range(len(data)):
            begins = self._places.offset
            places += [begins] * self._look(data[index : index + 1])
        return [_Found(place, message) for place, message in zip(places, messages, strict=True)]

    def _look(self, data: bytes) -> int:
        """How many frames these bytes complete."""
        from bridges.framing import FramingError

        try:
            return len(self._places.feed(data))
        except FramingError as error:  # after it the decoder says the same again, and nothing else
            return len(error.before)


def _decode(framing: Framing, pieces: Iterable[bytes], frame_bytes: int, as_json: bool) -> None:
    cutter, count, size = _Cutter(framing), 0, 0
    breach = None
    for data in pieces:
        size += len(data)
        found, breach = cutter.feed(data)
        count = _show(found, count, frame_bytes, as_json)
        if breach is not None:
            break
    else:
        found, breach = cutter.end()
        count = _show(found, count, frame_bytes, as_json)
    if framing.kind in _CHUNKS:
        typer.echo(f"ztunnel: framing {framing.kind}: {_CHUNKS[framing.kind]}.", err=True)
    if breach is not None:
        if as_json:
            typer.echo(json.dumps({"breach": str(breach), "offset": breach.offset}))
        raise ZtunnelError(str(breach))
    frames = "1 frame" if count == 1 else f"{count:,} frames"
    typer.echo(f"ztunnel: {frames} in {size:,} bytes, framing {framing.kind}.", err=True)


def _show(found: list[_Found], count: int, frame_bytes: int, as_json: bool) -> int:
    """`count` frames were shown before; how many are now."""
    for number, one in enumerate(found, count + 1):
        parts = [one.message] if isinstance(one.message, bytes) else one.message
        if as_json:
            told = [{"size": len(part), "hex": part.hex()} for part in parts]
            typer.echo(json.dumps({"number": number, "offset": one.offset, "frames": told}))
        else:
            line = "  ".join(shown(len(part), part[:frame_bytes]) for part in parts)
            typer.echo(f"{number:>5}  at {one.offset:<8} {line}")
    return count + len(found)


# --- and back --------------------------------------------------------------------------------------------------------


def _encode(framing: Framing, lines: BinaryIO, out: BinaryIO) -> None:
    from bridges.framing import FramingError

    try:
        for number, line in enumerate(lines, 1):
            try:
                out.write(framing.encode(_message(framing, line.removesuffix(b"\n"), number)))
            except FramingError as error:
                raise ZtunnelError(f"line {number}: {error}") from None
    finally:
        out.flush()


def _message(framing: Framing, line: bytes, number: int) -> Message:
    if framing.kind == "multipart":
        return [_bytes(part, number) for part in line.split(b"\t")]
    return _bytes(line, number)


def _bytes(text: bytes, number: int) -> bytes:
    if not text.startswith(b"hex:"):
        return text
    try:
        return bytes.fromhex(text.removeprefix(b"hex:").decode())
    except ValueError:
        raise ZtunnelError(f"line {number}: after 'hex:' comes an even number of the digits 0-9 and a-f.") from None


# --- small things ----------------------------------------------------------------------------------------------------


def _open(file: str) -> AbstractContextManager[BufferedReader]:
    if file == "-":
        return nullcontext(cast("BufferedReader", sys.stdin.buffer))
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None


def _option_row(kind: str, name: str, option: Option) -> tuple[str, str, str, str]:
    from bridges.framing import REQUIRED
    from tunnel.config.render import duration_text, size_text

    default = option.default
    if name == "max_frame":
        said = size_text(default)
    elif option.type == "seconds":
        said = duration_text(default)
    elif default is None or default is REQUIRED:
        said = "none" if default is None else "must be given"
    elif isinstance(default, bytes):
        said = f"hex:{default.hex()}"
    else:
        said = str(default).lower()
    choices = f": {', '.join(map(str, option.choices))}" if option.choices else ""
    return kind, name, said, f"{option.meaning}{choices}"
