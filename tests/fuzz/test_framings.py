"""A short run of the fuzz target in framings.py, the same seeds each time: it goes everywhere, and would notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bridges.framings import line, marks
from bridges.framings.line import LineDecoder
from bridges.framings.marks import MarkedDecoder
from bridges.framings.multipart import MultipartDecoder
from tests.fuzz.framings import Fuzz, breaches

STEPS = 6000
ELSEWHERE = {"multipart.py"}
"""Its bound on frames needs a stream of 256 KiB: tests/bridges/test_framing_streams.py has it."""


def test_streams_are_borne_and_every_breach_is_met() -> None:
    fuzz = Fuzz(1)
    fuzz.run(STEPS)
    places = set(breaches())
    assert len(places) > 20
    missed = places - fuzz.ways.lines()
    assert {file for file, _ in missed} <= ELSEWHERE, missed
    assert len(missed) <= 1, missed


BUGS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "a delimiter in two reads is overlooked": (LineDecoder, "_ripe", lambda self, data: self._delimiter in data),
    "a mark in two reads is overlooked": (MarkedDecoder, "_ripe", lambda self, data: self._behind in data),
    "half a delimiter counts as message": (line, "partial", lambda data, mark: 0),
    "half a mark counts as message": (marks, "begin_of", lambda data, at, mark, skip: data.find(mark, at)),
    "nobody looks how long a line is": (LineDecoder, "_waits", lambda self: None),
    "what is dropped is kept": (MultipartDecoder, "_drop", lambda self: None),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control."""
    owner, name, broken = BUGS[bug]
    monkeypatch.setattr(owner, name, broken)
    fuzz = Fuzz(1)
    with pytest.raises(AssertionError):
        fuzz.run(STEPS)
