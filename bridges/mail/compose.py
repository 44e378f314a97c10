"""A JSON frame and a template become a mail. Pure: the time comes from outside.

Whatever a value holds, it cannot become a header of its own: control characters in the subject, in names and in
addresses are refused before the email package sees them, and values in html: are escaped.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8, EmailPolicy
from email.utils import formatdate
from typing import Any, Final

from bridges.mail.addresses import AddressError, checked, control_free, shown
from bridges.mail.fill import Filling
from bridges.mail.limits import ATTACHMENTS, SUBJECT_CHARACTERS
from bridges.mail.raw import HOP
from tunnel.config.mail.smtp_client_plan import TemplatePlan

_NAMED: Final = re.compile(r"\s*(?P<name>[^<>]*?)\s*<(?P<address>[^<>]+)>\s*")
_TYPE: Final = re.compile(r"(?!multipart/|message/)[a-z0-9][a-z0-9.+-]{0,60}/[a-z0-9][a-z0-9.+-]{0,100}")
_NEWLINE: Final = re.compile(r"\r\n|\r|\n")
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_BAD_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")


class ComposeError(ValueError):
    """No mail can be made of this; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Somebody's name, "" where it is not said, and address."""

    name: str
    address: str

    def as_header(self) -> Address:
        local, _, domain = self.address.rpartition("@")
        if local.startswith('"'):
            local = re.sub(r"\\(.)", r"\1", local[1:-1])
        return Address(self.name, local, domain)


@dataclass(frozen=True, slots=True)
class Composed:
    """A mail, and its envelope."""

    sender: str
    to: tuple[str, ...]
    raw: bytes


def mailbox(text: str) -> Mailbox:
    """`a@example.com`, or `Name <a@example.com>`. ComposeError: neither."""
    found = _NAMED.fullmatch(text)
    name, address = (found["name"].strip('"'), found["address"]) if found else ("", text.strip(" "))
    if not control_free(text):
        raise ComposeError(f"a control character stands in an address or a name: {shown(text)}.")
    try:
        return Mailbox(name, checked(address))
    except AddressError as error:
        raise ComposeError(f"{error}.") from None


def message_id(mail_id: str, domain: str) -> str:
    """The same for the same id, so that a mail that comes twice can be recognised by it."""
    plain = mail_id if len(mail_id) <= 64 and _PLAIN_ID.fullmatch(mail_id) else None
    word = plain or hashlib.sha256(mail_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    return f"<{word}@{domain.strip('[]')}>"


def compose(
    template: TemplatePlan,
    data: Mapping[str, Any],
    frames: Sequence[bytes],
    *,
    sender: str | None,
    mail_id: str,
    hostname: str,
    hop: str,
    now: float,
) -> Composed:
    """`sender`: where neither template says it. ComposeError, FillError: this is no mail, and why."""
    origin = mailbox(template.sender.fill(data) if template.sender is not None else sender or "")
    to = [mailbox(one) for one in _recipients(template.to, data)]
    if not to:
        raise ComposeError("nobody is named in 'to'.")
    subject = template.subject.fill(data)
    if not control_free(subject):
        raise ComposeError(f"the subject has a control character in it: {shown(subject)}.")
    if len(subject) > SUBJECT_CHARACTERS:
        raise ComposeError(f"the subject has {len(subject)} characters; {SUBJECT_CHARACTERS} is the most.")
    mail = EmailMessage(policy=_policy([origin, *to]))
    try:
        mail["From"] = origin.as_header()
        mail["To"] = [one.as_header() for one in to]
        mail["Subject"] = subject
        mail["Date"] = formatdate(now, usegmt=True)
        mail["Message-ID"] = message_id(mail_id, hostname)
        mail[HOP] = hop
        _body(mail, template, data)
        for content, (name, kind) in zip(frames, _attachments(template, data, len(frames)), strict=True):
            maintype, _, subtype = kind.partition("/")
            mail.add_attachment(content, maintype, subtype, filename=name)
        raw = mail.as_bytes()
    except (ValueError, LookupError, TypeError, IndexError) as error:  # what the email package takes exception to
        if isinstance(error, ComposeError):
            raise
        raise ComposeError(f"no mail could be made of this: {shown(str(error))}.") from None
    raw = re.sub(rb"\r\n|\r|\n", b"\r\n", raw)
    return Composed(origin.address, tuple(dict.fromkeys(one.address for one in to)), raw)


def _recipients(to: tuple[Filling, ...], data: Mapping[str, Any]) -> list[str]:
    if to:
        return [one for filling in to for one in filling.several(data)]
    said = data.get("to")
    found = [said] if isinstance(said, str) else said
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ComposeError("in the JSON 'to' is an address, or a list of addresses.")
    return found


def _policy(boxes: Sequence[Mailbox]) -> EmailPolicy[EmailMessage]:
    """Names may be encoded; an address beyond ASCII cannot (RFC 6532)."""
    ascii_only = all(one.address.isascii() for one in boxes)
    return (SMTP if ascii_only else SMTPUTF8).clone(cte_type="7bit")


def _body(mail: EmailMessage, template: TemplatePlan, data: Mapping[str, Any]) -> None:
    if template.text is not None:
        mail.set_content(_lines(template.text.fill(data)))
        if template.html is not None:
            mail.add_alternative(_lines(template.html.fill(data, html.escape)), subtype="html")
    elif template.html is not None:
        mail.set_content(_lines(template.html.fill(data, html.escape)), subtype="html")


def _lines(text: str) -> str:
    if (bad := _BAD_TEXT.search(text)) is not None:
        raise ComposeError(f"the text has a control character in it: {shown(bad[0])}.")
    return _NEWLINE.sub("\n", text)


def _attachments(template: TemplatePlan, data: Mapping[str, Any], count: int) -> list[tuple[str, str]]:
    """Name and type of each frame: what the JSON says in `attachments`, a list of {name, type}."""
    if count and not template.attachments:
        raise ComposeError(f"{count} frames come after the JSON, and the table does not say attachments: frames.")
    if count > ATTACHMENTS:
        raise ComposeError(f"{count} attachments are too many; {ATTACHMENTS} is the most.")
    said = data.get("attachments", []) if template.attachments else []
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said) or len(said) > count:
        raise ComposeError("in the JSON 'attachments' is a list of {name, type}, at most one for each frame.")
    found: list[tuple[str, str]] = []
    for number in range(count):
        one = said[number] if number < len(said) else {}
        name, kind = one.get("name", f"attachment-{number + 1}"), one.get("type", "application/octet-stream")
        if not isinstance(name, str) or not isinstance(kind, str) or not control_free(name):
            raise ComposeError(f"the name of an attachment is text without control characters: {shown(str(name))}.")
        if not _TYPE.fullmatch(kind.lower()):
            raise ComposeError(f"{shown(kind)} is no type of an attachment; write for example application/pdf.")
        found.append((re.split(r"[/\\]", name)[-1][:200] or f"attachment-{number + 1}", kind.lower()))
    return found
