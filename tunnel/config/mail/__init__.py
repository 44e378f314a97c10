"""The bridges for mail, as the configuration sees them: one file a kind, one line each in MAIL."""

from __future__ import annotations

from typing import Final

from tunnel.config.mail.imap import IMAP
from tunnel.config.mail.kind import MailKind

MAIL: Final[dict[str, MailKind]] = {
    "imap": IMAP,
}
