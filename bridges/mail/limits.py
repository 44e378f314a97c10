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
LARGE_BYTES: Final = MIB
"""From this size on a mail is given without a copy of it."""
GIVE_AGAIN_S: Final = 30.0
"""A mail given to 0MQ that nobody acknowledged for so long is given again."""

TRIAL_S: Final = 5.0
"""`ztunnel mail test` waits so long for each thing that should happen at once."""

# --- smtp-server -----------------------------------------------------------------------------------------------------
HEADER_BYTES: Final = 256 * KIB
"""Of a mail's header, looked at for loops."""
HOPS: Final = 100
"""Received fields of a mail; with so many it goes in circles (RFC 5321, 6.3)."""
INLINE_BYTES: Final = 128 * KIB
"""A mail up to this size lies in the database; a longer one in a file beside it, into which it goes as it comes."""
READ_BYTES: Final = 32 * KIB
"""One read of a client, and what its reader holds before it stops (twice, at most)."""
SMTP_CONNECTIONS: Final = 100
SMTP_PER_ADDRESS: Final = 20
"""Connections at a time, altogether and of one address, unless the table says otherwise."""
SMTP_COMMAND_S: Final = 300.0
"""A client may be silent for so long between two commands (RFC 5321, 4.5.3.2.7)."""
SMTP_DATA_S: Final = 600.0
"""... and need so long for a whole mail."""
SMTP_ANSWER_S: Final = 30.0
"""So long after the end of a mail it is on disk, or acknowledged, or the client is told to come again. Clients wait
10 minutes (RFC 5321, 4.5.3.2.6), old devices less."""
SMTP_ERRORS: Final = 10
"""Commands of one connection that were wrong; then it is closed."""
SMTP_LOGINS: Final = 3
"""Logins of one connection that were wrong; then it is closed."""
SMTP_LOGIN_S: Final = 1.0
"""A wrong login is answered after so long."""
SMTP_LOGINS_AT_A_TIME: Final = 4
"""Passwords that are being hashed at the same time: each costs a core for a while."""
USERS_BYTES: Final = MIB
KNOWN_BYTES: Final = 16 * MIB
"""Files of users, and of known recipients; a longer one is something else."""
SMTP_DUPLICATES_S: Final = 2 * 86400.0
"""A mail whose 250 was probably lost is known again for so long: clients try for days."""
PARSE_BYTES: Final = 32 * MIB
PARSE_PARTS: Final = 200
PARSE_DEPTH: Final = 20
PARSE_TEXT_BYTES: Final = MIB
PARSE_HEADER_BYTES: Final = 32 * KIB
"""`parse: true`: a longer mail is not taken apart; parts, nesting, text and headers that are told of at most."""

# --- smtp-client -----------------------------------------------------------------------------------------------------

# --- imap ------------------------------------------------------------------------------------------------------------
