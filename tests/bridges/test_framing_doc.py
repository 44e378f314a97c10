"""docs/framing.md is true: its examples run, its options are those that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridges.framing import MAX_FRAME, OPTIONS, REQUIRED, Message, Option, make
from tests.bridges.framings import hear
from tunnel.config.values import duration

DOC = (Path(__file__).parent.parent.parent / "docs" / "framing.md").read_text()
CODE = re.compile(r"`((?:[^`])+)`")


def bytes_of(text: str) -> bytes:
    """A table's cell, in which `|` must be written `\\|`."""
    return text.replace("\\|", "|").encode().decode("unicode_escape").encode("latin-1")


def message_of(cell: str) -> Message:
    frames = [bytes_of(text) for text in CODE.findall(cell)]
    return frames if len(frames) > 1 else frames[0]


ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    for row in DOC.splitlines()
    if row.startswith("| `{kind:")
]
EXAMPLES = [(yaml.safe_load(CODE.findall(options)[0]), messages.split(", "), line) for options, messages, line in ROWS]


def test_every_kind_has_an_example() -> None:
    assert {options["kind"] for options, _, _ in EXAMPLES} == set(OPTIONS)


@pytest.mark.parametrize(("options", "messages", "line"), EXAMPLES)
def test_examples_are_true(options: dict[str, Any], messages: list[str], line: str) -> None:
    if "pause" in options:
        options = {**options, "pause": duration(options["pause"])}
    framing = make(**options)
    wanted = [message_of(message) for message in messages]
    (cell,) = CODE.findall(line)
    assert b"".join(map(framing.encode, wanted)) == bytes_of(cell)
    assert hear(framing, [bytes_of(cell)]).messages == wanted


def default_of(option: Option) -> str:
    if option.default is REQUIRED or option.default is None:
        return "must be given" if option.default is REQUIRED else "none"
    if isinstance(option.default, bytes):
        return f"`hex:{option.default.hex()}`"
    if option.type == "seconds":
        return f"`{option.default * 1000:g}ms`"
    return f"`{str(option.default).lower()}`"


def row_of(kind: str, name: str, option: Option) -> str:
    choices = f": {', '.join(f'`{choice}`' for choice in option.choices)}" if option.choices else ""
    return f"| {kind} | `{name}` | {default_of(option)} | {option.meaning}{choices} |"


def rows() -> list[str]:
    return [row_of(kind, name, option) for kind, options in OPTIONS.items() for name, option in options.items()]


def test_the_options_are_those_that_there_are() -> None:
    assert len(rows()) > 20
    table = DOC.split("| kind | option | default | meaning |\n|---|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == rows()


def test_the_bound_is_the_one_that_is() -> None:
    assert f"{MAX_FRAME >> 20} MiB unless" in DOC
