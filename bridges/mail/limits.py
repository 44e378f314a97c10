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
IMAP_FOLDERS: Final = 8
"""Folders of one bridge, each with a connection of its own: servers let one user in 10 to 15 times."""
IMAP_WINDOW: Final = 256
"""Mails of one folder that are taken on and not done with yet."""
IMAP_HELD_BYTES: Final = 16 * MIB
"""Mails of one bridge that were fetched and are not answered for, together; one larger mail goes alone."""
IMAP_FETCH_MAILS: Final = 32
"""Mails of one FETCH, at most: one round trip for all of them."""
IMAP_FETCH_BYTES: Final = MIB
"""... and their bytes; one larger mail goes alone."""
IMAP_LIST_UIDS: Final = 512
"""UIDs that are asked for at a time, more where they are sparse: a folder of a million mails is never listed whole."""
IMAP_LIST_MOST: Final = 16_384
"""... so many at most, in a folder that holds more mails than that."""
IMAP_MARK_MAILS: Final = 100
"""Mails of one STORE or MOVE: command lines stay short (RFC 7162, 4, has servers take 8192 bytes)."""
IMAP_ATTEMPTS: Final = 5
"""What fails so often is put aside."""
IMAP_CONNECT_S: Final = 20.0
"""A connection, with TLS, and the server's greeting."""
IMAP_COMMAND_S: Final = 60.0
"""The server says nothing for so long while it owes an answer: the connection is dead."""
IMAP_POLL_S: Final = 300.0
IMAP_IDLE_S: Final = 540.0
"""IDLE is begun anew so often: RFC 2177 says 29 min, firewalls forget sooner."""
IMAP_PAUSE_S: Final = 2.0
"""Before the first new attempt; then half as much again each time, with jitter."""
IMAP_PAUSE_GROWTH: Final = 1.5
IMAP_PAUSE_MAX_S: Final = 60.0
IMAP_REFUSED_S: Final = 300.0
"""After a refused login: services lock accounts where somebody tries too often."""
IMAP_SET_BACK_S: Final = 10.0
"""A mail at which the connection broke is fetched again after so long, or at the next poll."""
IMAP_DISK_S: Final = 1.0
"""Between attempts to write to a disk that fails."""
IMAP_CLOSE_S: Final = 3.0
"""An orderly stop waits so long for answers, and for the last marks."""
IMAP_LINE_BYTES: Final = 64 * KIB
"""Literals beside mails: names, envelopes. A server that announces more is not believed."""
IMAP_ANSWER_BYTES: Final = 16 * MIB
"""The answer to one command, beside the largest mail that it may hold."""
TOKEN_S: Final = 30.0
TOKEN_BYTES: Final = 16 * KIB
"""What a token command may take, and print."""
