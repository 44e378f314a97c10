"""The bridges for mail, as the configuration sees them: one file a kind, one line each in MAIL."""

from __future__ import annotations

from typing import Final

from tunnel.config.mail import smtp_client
from tunnel.config.mail.kind import MailKind

MAIL: Final[dict[str, MailKind]] = {
    "smtp-client": smtp_client.KIND,
}
