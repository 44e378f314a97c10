"""The bridges for mail, as the configuration sees them: one file a kind, one line each in MAIL."""

from __future__ import annotations

from typing import Final

from tunnel.config.mail import imap, smtp_client, smtp_server
from tunnel.config.mail.kind import MailKind

MAIL: Final[dict[str, MailKind]] = {
    "smtp-server": smtp_server.KIND,
    "smtp-client": smtp_client.KIND,
    "imap": imap.KIND,
}
