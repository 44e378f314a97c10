"""Runs and messages: what the pump moves, as lists, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.framing import Message
from bridges.messages import messages_of, run_of

MESSAGES = st.lists(st.one_of(st.binary(max_size=40), st.lists(st.binary(max_size=20), min_size=1, max_size=4)))


def test_the_bytes_of_a_run() -> None:
    assert run_of([b"ab", [b"c", b""]], [b"t"]) == (
        b"\x01\0\0\x80t\x02\0\0\0ab" + b"\x01\0\0\x80t\x01\0\0\x80c\0\0\0\0"
    )
    assert run_of([]) == b""


@given(MESSAGES, st.lists(st.binary(max_size=5), max_size=2), st.integers(1, 7))
def test_there_and_back_in_whatever_segments(messages: list[Message], before: list[bytes], size: int) -> None:
    run = run_of(messages, before)
    expected = [[*before, *(one if isinstance(one, list) else [one])] for one in messages]
    assert list(messages_of([run])) == expected
    assert list(messages_of([run[at : at + size] for at in range(0, len(run), size)])) == expected


@pytest.mark.parametrize("size", [0, 1, 300, 70_000])
def test_sizes_of_a_frame(size: int) -> None:
    assert list(messages_of([run_of([b"x" * size])])) == [[b"x" * size]]
