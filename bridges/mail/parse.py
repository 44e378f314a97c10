"""A mail taken apart, for applications that do not want to: header, text, and attachments as frames of their own. Pure.

What comes from a mail is data of a stranger: nothing here is a path, and everything is bounded. A mail that is longer
than PARSE_BYTES, or nested too deeply, is told of as far as that goes, with `cut`: the raw frame has it whole.
"""

from __future__ import annotations

from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import EmailPolicy
from typing import Any, Final

from bridges.mail.limits import (
    PARSE_BYTES,
    PARSE_CONTENT_BYTES,
    PARSE_DEPTH,
    PARSE_FIELD_BYTES,
    PARSE_FIELDS_MADE,
    PARSE_HEADER_BYTES,
    PARSE_PARTS,
    PARSE_PARTS_MADE,
    PARSE_TEXT_BYTES,
)


class _Policy(EmailPolicy):
    """The standard one; but a field is no longer than it may be, for some take time by the square of their length."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[: _most(name)]


_POLICY: Final = _Policy()


class _TooMuchError(ValueError):
    """A mail of more parts, or fields, than are worth the time and the memory."""


class _Part(EmailMessage):
    """Of one mail; all of its parts share what it may have."""

    def __init__(self, policy: EmailPolicy, left: dict[str, int]) -> None:
        super().__init__(policy)
        self._left = left
        self._spend("parts")

    def set_raw(self, name: str, value: str) -> None:
        self._spend("fields")
        super().set_raw(name, value)

    def _spend(self, what: str) -> None:
        self._left[what] -= 1
        if self._left[what] < 0:
            raise _TooMuchError(f"too many {what}")


def _taken_apart(raw: bytes, *, headersonly: bool = False) -> Message:
    left = {"parts": PARSE_PARTS_MADE, "fields": PARSE_FIELDS_MADE}
    parser = BytesParser(lambda policy: _Part(policy, left), policy=_POLICY)  # type: ignore[arg-type, misc]
    return parser.parsebytes(raw, headersonly=headersonly)


def _most(name: str) -> int:
    return PARSE_CONTENT_BYTES if name.lower().startswith("content-") else PARSE_FIELD_BYTES


def parsed(raw: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """{headers: {name: [values]}, text, html, attachments: [{name, type, size}], cut} and the attachments' bytes."""
    told: dict[str, Any] = {"headers": {}, "text": "", "html": "", "attachments": [], "cut": False}
    if len(raw) > PARSE_BYTES:
        told["cut"] = True
        return told, []
    try:
        try:
            mail = _taken_apart(raw)
        except _TooMuchError:
            told["cut"] = True
            told["headers"] = _headers(_taken_apart(raw[:PARSE_HEADER_BYTES], headersonly=True), told)
            return told, []
        told["headers"] = _headers(mail, told)
        attachments: list[bytes] = []
        parts = _Parts(told)
        parts.walk(mail, 0)
        attachments = parts.attachments
    except (ValueError, LookupError, RecursionError, AttributeError, TypeError, IndexError):
        told["cut"] = True  # the standard library stumbles over some mails
        return told, []
    return told, attachments


def _headers(mail: Message, told: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    size = 0
    for name, value in mail.raw_items():  # items() would look at all of them, however many those are
        told["cut"] |= len(value) >= _most(name)
        try:
            text = str(_POLICY.header_fetch_parse(name, value))
        except (ValueError, LookupError, AttributeError, TypeError, IndexError):
            text = ""
        size += len(name) + len(text)
        if size > PARSE_HEADER_BYTES:
            told["cut"] = True
            break
        found.setdefault(name.lower(), []).append(" ".join(text.split()))
    return found


class _Parts:
    """The leaves of a mail, in their order."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.attachments: list[bytes] = []
        self._told = told
        self._count = 0

    def walk(self, part: Message, depth: int) -> None:
        self._count += 1
        if depth > PARSE_DEPTH or self._count > PARSE_PARTS:
            self._told["cut"] = True
            return
        payload = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(payload, list):
            for inner in payload:
                if isinstance(inner, Message):
                    self.walk(inner, depth + 1)
            return
        self._leaf(part)

    def _leaf(self, part: Message) -> None:
        if part.get_content_maintype() == "message" and isinstance(part.get_payload(), list):
            data = b"".join(bytes(inner) for inner in part.get_payload() if isinstance(inner, Message))
        else:
            found = part.get_payload(decode=True)
            data = found if isinstance(found, bytes) else b""
        kind = part.get_content_type()
        word = {"text/plain": "text", "text/html": "html"}.get(kind)
        name = part.get_filename()
        if word and name is None and part.get_content_disposition() != "attachment" and not self._told[word]:
            self._told[word] = self._text(part, data)
            return
        self._told["attachments"].append({"name": _name(name), "type": kind, "size": len(data)})
        self.attachments.append(data)

    def _text(self, part: Message, data: bytes) -> str:
        if len(data) > PARSE_TEXT_BYTES:
            self._told["cut"] = True
            data = data[:PARSE_TEXT_BYTES]
        try:
            return data.decode(part.get_content_charset() or "utf-8", "replace")
        except LookupError:
            return data.decode("utf-8", "replace")


def _name(name: str | None) -> str | None:
    """As text for people: no folder, no control character. It is no path all the same."""
    if name is None:
        return None
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:255] or None
