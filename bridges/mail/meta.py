"""The frames of a mail as a 0MQ message: [topic, meta, raw]. Pure.

    topic   a word for subscribers: what the rule that took the mail says; any pattern has it
    meta    JSON: what is known of the mail besides itself, see KEYS
    raw     the mail as it came, RFC 5322, byte for byte: signatures in it stay valid

More frames may follow (`parse: true`: the attachments). Who sends mail needs `to` and, for bounces, `from`; these two,
and not the headers, say whom it is from and for: the envelope.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from bridges.mail.addresses import AddressError, checked
from bridges.mail.limits import META_BYTES

Meta = dict[str, Any]

KEYS: Final = {
    "id": "text that no other mail has; the same when a mail comes twice",
    "from": "the sender of the envelope; empty for a bounce",
    "to": "its recipients, a list",
    "size": "bytes of raw",
    "sha256": "of raw, in hex",
    "received": "when it came, ISO 8601 with its zone",
    "rule": "which rule of the table took it",
    "client": "smtp-server: the address that it came from",
    "helo": "smtp-server: what that one called itself",
    "tls": "smtp-server: version and cipher, or null",
    "user": "smtp-server: who had logged in, or null",
    "tag": "smtp-server: the sub-address of the first recipient",
    "utf8": "smtp-server: it was announced with SMTPUTF8",
    "parsed": "parse: headers, text and a list of attachments, whose bytes are the frames after raw",
    "account": "imap: whose mailbox",
    "folder": "imap: in which folder it lay",
    "uidvalidity": "imap",
    "uid": "imap: folder, UIDVALIDITY and UID name a mail for ever",
    "flags": "imap: its flags when it was fetched, a list",
    "date": "imap: when it came to the mailbox, ISO 8601",
}


class MetaError(ValueError):
    """A meta frame that cannot be used; the sentence says why."""


def frame_of(meta: Mapping[str, Any]) -> bytes:
    """The meta frame."""
    return json.dumps(meta, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def read(frame: bytes) -> Meta:
    """The mapping in a meta frame; `from` and `to` are looked at by `envelope`. MetaError: it is none."""
    if len(frame) > META_BYTES:
        raise MetaError(f"the meta frame has {len(frame)} bytes; {META_BYTES} is the most.")
    try:
        found = json.loads(frame)
    except (ValueError, RecursionError):
        raise MetaError("the meta frame is not JSON.") from None
    if not isinstance(found, dict):
        raise MetaError("the meta frame is JSON, but no object.")
    return found


def envelope(meta: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Sender ("": a bounce) and recipients, each looked at. MetaError: one of them is wrong."""
    sender, to = meta.get("from", ""), meta.get("to")
    if isinstance(to, str):
        to = [to]
    if not isinstance(sender, str) or not isinstance(to, list) or not all(isinstance(one, str) for one in to):
        raise MetaError("in the meta frame 'from' is an address and 'to' a list of addresses.")
    if not to:
        raise MetaError("the meta frame names no recipient in 'to'.")
    try:
        return checked(sender) if sender else "", tuple(dict.fromkeys(checked(one) for one in to))
    except AddressError as error:
        raise MetaError(f"{error}.") from None
