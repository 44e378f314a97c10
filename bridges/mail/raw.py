"""A raw mail on its way out: what is refused, and the two things that are ever changed in it. Pure.

A raw mail leaves byte for byte, so that signatures in it stay valid, but for a Bcc header, which is nobody's business,
and a last line without its end. CR and LF that stand alone are how one mail is made to look like two (SMTP smuggling):
refused, or made CRLF where the table says so.
"""

from __future__ import annotations

import re
from typing import Final

_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_BCC: Final = re.compile(rb"^(?:resent-)?bcc[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.IGNORECASE | re.MULTILINE)
_BAD_IN_HEAD: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:")
HEADERS_BYTES: Final = 64 * 1024
HOP: Final = "X-Ztunnel-Hop"
"""Which table a mail went through."""


class RawError(ValueError):
    """This cannot be sent as a mail; the sentence says why."""


def prepared(raw: bytes, *, normalise: bool, hop: str | None = None) -> bytes:
    """The bytes that leave, all of whose lines end with CRLF. `hop`: this table's name, as a header on top."""
    if not raw:
        raise RawError("the mail is empty.")
    if normalise:
        raw = _BARE.sub(b"\r\n", raw)
    elif (bare := _BARE.search(raw)) is not None:
        word = "CR" if bare[0] == b"\r" else "LF"
        raise RawError(f"a {word} stands alone at byte {bare.start()}; lines of a mail end with CR LF.")
    if b"\0" in raw:
        raise RawError(f"a NUL stands at byte {raw.index(0)}; a mail holds none.")
    if not raw.endswith(b"\r\n"):
        raw += b"\r\n"
    end = head_length(raw)
    head = raw[:end]
    if (bad := _BAD_IN_HEAD.search(head)) is not None:
        raise RawError(f"a control character (0x{bad[0][0]:02x}) stands in a header, at byte {bad.start()}.")
    if not _FIELD.match(head):
        raise RawError("the mail does not begin with a header, such as 'Subject: ...'.")
    without = _BCC.sub(b"", head)
    if without != head:
        raw = without + raw[end:]
    if not without.strip():
        raise RawError("the mail has no header.")
    return raw if hop is None else f"{HOP}: {hop}\r\n".encode() + raw


def head_length(raw: bytes) -> int:
    """Bytes of the headers, with the end of the last one's line."""
    end = raw.find(b"\r\n\r\n")
    return len(raw) if end < 0 else end + 2


def header(raw: bytes, name: str) -> str:
    """The first header of this name, unfolded, as text; "" where there is none."""
    head = raw[: head_length(raw)]
    pattern = rb"^" + re.escape(name.encode()) + rb"[ \t]*:((?:[^\r\n]|\r\n[ \t])*)\r\n"
    found = re.search(pattern, head, re.IGNORECASE | re.MULTILINE)
    return "" if found is None else found[1].replace(b"\r\n", b"").decode("utf-8", "replace").strip()


def headers(raw: bytes) -> list[list[str]]:
    """Name and value of each, unfolded, as text: of the first HEADERS_BYTES."""
    head = re.sub(rb"\r\n(?=[ \t])", b"", raw[: head_length(raw)])[:HEADERS_BYTES]
    lines = (line.partition(b":") for line in head.split(b"\r\n") if line)
    return [[one.decode("utf-8", "replace").strip() for one in (name, value)] for name, _, value in lines]
