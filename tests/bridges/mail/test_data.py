"""The end of a mail, dots and line ends, whatever the pieces are in which the bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.mail.data import END, Data, Header
from bridges.mail.limits import HEADER_BYTES

SMUGGLED = [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\n"]
"""Ends of a mail to some servers."""


def cut(data: bytes, *, size: int = 1 << 20, normalise: bool = False) -> tuple[bytes, Data]:
    """The mail in what a client says after DATA, fed in pieces of that size."""
    decoder, out = Data(normalise=normalise), b""
    for at in range(0, len(data), size):
        if decoder.done:
            decoder.rest += data[at : at + size]
        else:
            out += decoder.feed(data[at : at + size])
    return out, decoder


def stuffed(mail: bytes) -> bytes:
    """A mail as a right client says it."""
    return (
        b"".join(b"." + line if line.startswith(b".") else line for line in mail.splitlines(keepends=True)) + b".\r\n"
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize(
    "mail",
    [b"", b".\r\n", b"a\r\n", b"..\r\n.\r\n...a\r\n", b"a\r\n\r\n.b\r\n\r\n", b"\r\n" * 50, b"x" * 5000 + b"\r\n"],
)
def test_a_mail_comes_out_as_it_was(mail: bytes, size: int) -> None:
    out, decoder = cut(stuffed(mail) + b"QUIT\r\n", size=size)
    assert (out, decoder.done, decoder.rest, decoder.bare) == (mail, True, b"QUIT\r\n", False)


LINES = st.lists(st.sampled_from([b"", b".", b"..", b"a", b".a", b"\x00", b"a.b"]).map(lambda line: line + b"\r\n"))


@given(lines=LINES, size=st.integers(1, 9))
def test_any_lines_in_any_pieces(lines: list[bytes], size: int) -> None:
    mail = b"".join(lines)
    out, decoder = cut(stuffed(mail), size=size)
    assert (out, decoder.done, decoder.bare) == (mail, True, False)


@given(data=st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n"])).map(b"".join), size=st.integers(1, 7))
def test_pieces_change_nothing(data: bytes, size: int) -> None:
    for normalise in (False, True):
        whole, at_once = cut(data + END, normalise=normalise)
        pieces, bit_by_bit = cut(data + END, size=size, normalise=normalise)
        assert (whole, at_once.rest, at_once.bare) == (pieces, bit_by_bit.rest, bit_by_bit.bare)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("smuggled", SMUGGLED)
def test_nothing_else_ends_a_mail(smuggled: bytes, size: int) -> None:
    hidden = b"a" + smuggled + b"MAIL FROM:<evil@example.com>\r\n"
    out, decoder = cut(hidden + b".\r\nQUIT\r\n", size=size)
    assert decoder.done
    assert decoder.bare
    assert decoder.rest == b"QUIT\r\n"
    assert b"evil" in out


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_old_devices_lines_are_made_right(size: int) -> None:
    said = b"a\nb\rc\r\n..d\n.e\r\n\n.\r\nf"  # LF . CRLF ends nothing
    out, decoder = cut(said + END, size=size, normalise=True)
    assert out == b"a\r\nb\r\nc\r\n.d\r\ne\r\n\r\n\r\nf\r\n"
    assert decoder.done
    assert decoder.bare


def test_a_line_without_an_end_is_not_kept() -> None:
    decoder, size = Data(), 0
    for _ in range(100):
        size += len(decoder.feed(b"x" * 100_000))
        assert len(decoder._kept) <= 8
    assert size > 9_999_000


def test_a_mail_of_nothing_but_line_ends_is_not_kept() -> None:
    decoder = Data()
    for _ in range(100):
        decoder.feed(b"\r\n" * 10_000)
        assert len(decoder._kept) <= 8


def test_hops_and_fields_of_a_header() -> None:
    header = Header()
    for byte in b"Received: a\r\n by b\r\nX-Mark: one\r\n two\r\nreceived: c\r\nx-mark:three\r\n\r\nReceived: not\r\n":
        header.feed(bytes([byte]))
    assert header.hops() == 2
    assert header.values("X-Mark") == ["one two", "three"]


def test_a_header_without_an_end_is_bounded() -> None:
    header = Header()
    for _ in range(100):
        header.feed(b"Received: x\r\n" * 1000)
    assert header.hops() <= HEADER_BYTES // 13 + 1
