"""The bounds and times of the bridges for mail: name, unit, why. What all bridges share is in tunnel/limits.py."""

from __future__ import annotations

from typing import Final

from tunnel.limits import KIB, MIB

# --- the database, and the hand-over to 0MQ --------------------------------------------------------------------------
DATABASE_GROUP: Final = 512
"""Orders of one transaction, at most."""
DATABASE_CLOSE_S: Final = 5.0
"""`close` waits so long for the disk."""
MAIL_BYTES: Final = 64 * MIB
"""A mail as it lies in one frame, at most; the default of smtp-server and imap is `MAIL_DEFAULT_BYTES`."""
MAIL_DEFAULT_BYTES: Final = 25 * MIB
"""What most mail services take."""
META_BYTES: Final = 64 * KIB
"""The meta frame."""
ADDRESS_BYTES: Final = 320
"""An address: 64 of the local part, @, 255 of the domain (RFC 5321, 4.5.3.1)."""
RECIPIENTS: Final = 100
"""Recipients of one mail, unless the table says otherwise: what RFC 5321 asks servers to take (4.5.3.1.8)."""
GIVEN_BYTES: Final = 8 * MIB
"""Mails given to 0MQ and not acknowledged, together; one larger mail goes alone."""
GIVEN_MAILS: Final = 256
GIVE_AGAIN_S: Final = 30.0
"""A mail given to 0MQ that nobody acknowledged for so long is given again."""

# --- smtp-server -----------------------------------------------------------------------------------------------------

# --- smtp-client -----------------------------------------------------------------------------------------------------

# --- imap ------------------------------------------------------------------------------------------------------------
