"""The meta frame: what is read from a stranger's."""

from __future__ import annotations

import pytest

from bridges.mail import meta


def test_there_and_back() -> None:
    told = {"from": "a@b.c", "to": ["d@e.f"], "helo": "größe"}
    assert meta.read(meta.frame_of(told)) == told
    assert meta.envelope(told) == ("a@b.c", ("d@e.f",))


def test_a_bounce_has_no_sender_and_repeated_recipients_are_one() -> None:
    assert meta.envelope({"to": ["d@e.f", "d@e.f", "g@h.i"]}) == ("", ("d@e.f", "g@h.i"))
    assert meta.envelope({"from": "", "to": "d@e.f"}) == ("", ("d@e.f",))


@pytest.mark.parametrize("frame", [b"", b"{", b"\xff", b"[1]", b"1", b"x" * 70_000, b"[" * 60_000])
def test_no_meta_frame(frame: bytes) -> None:
    with pytest.raises(meta.MetaError, match="the meta frame"):
        meta.read(frame)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"to": []},
        {"to": [1]},
        {"to": {"a": 1}},
        {"from": 5, "to": ["a@b.c"]},
        {"to": ["a@b.c\r\nDATA"]},
        {"from": "a@b.c\n", "to": ["a@b.c"]},
    ],
)
def test_no_envelope(told: dict[str, object]) -> None:
    with pytest.raises(meta.MetaError) as error:
        meta.envelope(told)
    assert str(error.value).isprintable()
