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
TRIAL_SENT_S: Final = 20.0
"""... and for a mail server's answer to a mail."""
TRIAL_COMMAND_S: Final = 10.0
TRIAL_LOOK_S: Final = 45.0
"""... for an IMAP server's answer to one command, and for a whole look at a mailbox."""

# --- smtp-server -----------------------------------------------------------------------------------------------------
HEADER_BYTES: Final = 256 * KIB
"""Of a mail's header, looked at for loops."""
HOPS: Final = 100
"""Received fields of a mail; with so many it goes in circles (RFC 5321, 6.3)."""
INLINE_BYTES: Final = 128 * KIB
"""A mail up to this size lies in the database; a longer one in a file beside it, into which it goes as it comes."""
READ_BYTES: Final = 32 * KIB
"""One read of a client, and what its reader holds before it stops (twice, at most)."""
SMTP_RCVBUF_BYTES: Final = 32 * KIB
"""SO_RCVBUF of a client's connection (the kernel doubles it): one read brings no more, and asyncio's reader takes it
whole. (Measured with 50 clients that send 20 MB each: 6 MB less than with the kernel's own choice.)"""
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
SMTP_LATE: Final = 1024
"""Mails that were not acknowledged in time are remembered, so many, and come again under the id that they had."""
SMTP_DUPLICATES_S: Final = 2 * 86400.0
"""A mail whose 250 was probably lost is known again for so long: clients try for days."""
PARSE_BYTES: Final = 32 * MIB
PARSE_PARTS: Final = 200
PARSE_DEPTH: Final = 20
PARSE_TEXT_BYTES: Final = MIB
PARSE_HEADER_BYTES: Final = 32 * KIB
"""`parse: true`: a longer mail is not taken apart; parts, nesting, text and headers that are told of at most."""
PARSE_PARTS_MADE: Final = 2000
PARSE_FIELDS_MADE: Final = 20_000
"""A mail of more parts, or fields of headers, is told of by its first headers: each costs memory and time."""
PARSE_FIELD_BYTES: Final = 8 * KIB
PARSE_CONTENT_BYTES: Final = KIB
"""... and of one field of a header, and of those (Content-...) that each part may have: the standard library needs time
by the square of their length."""

# --- smtp-client -----------------------------------------------------------------------------------------------------
SEND_RECIPIENTS_MOST: Final = 10_000
"""... and the most that a table may say."""
SEND_CONNECTIONS: Final = 4
SEND_CONNECTIONS_MOST: Final = 64
"""Connections to one destination: unless the table says otherwise, and at most."""
SEND_DESTINATIONS: Final = 1000
"""Destinations remembered with their troubles (direct: true); of those without, the oldest are forgotten."""
SEND_LOOKUP_S: Final = 20.0
"""Looking up a domain's mail servers."""
SEND_HOSTS: Final = 5
"""Of a domain's servers so many are tried."""
SEND_STEP_S: Final = 300.0
"""A step of a conversation: what RFC 5321 gives MAIL and RCPT (4.5.3.2)."""
SEND_CONNECT_S: Final = 30.0
"""A server may take so long to answer a connect, and its greeting as long as a step."""
SEND_DOT_S: Final = 600.0
"""After the final dot a server may look at a mail for so long (RFC 5321, 4.5.3.2.6), as twice a step at most."""
SEND_CHUNK_BYTES: Final = 256 * KIB
"""A mail goes to the socket in pieces of this size; and a mail that is larger is no piece of memory while it waits."""
SEND_IDLE_S: Final = 30.0
"""A connection without a mail for so long is closed: servers end theirs after minutes."""
SEND_IDLE_DIRECT_S: Final = 2.0
"""... with direct: true, where many servers get one mail each."""
SEND_WORKERS: Final = 256
"""Connections of one bridge, to all destinations."""
SEND_STALE_S: Final = 5.0
"""One that was idle for longer is asked (RSET) whether it is there before a mail is tried on it."""
SEND_MAILS: Final = 100
"""Mails on one connection: a server that is one of several behind a name gets its share, no more."""
SEND_REST_MIN_S: Final = 1.0
SEND_REST_MAX_S: Final = 300.0
"""A server that cannot be reached is tried again after pauses between these two, doubled, with jitter."""
SEND_PAUSE_S: Final = 300.0
"""A server that refuses what we are (login, banner, TLS) is tried again so often, or at `mail resume`."""
SEND_READY: Final = 256
"""Mails taken from the disk's list at a time, without their bodies."""
SEND_SHARE: Final = 16
"""... of one domain, with direct: true: one whose servers are slow must leave the others their turn."""
SEND_EXPIRE_S: Final = 2 * 86400.0
"""A mail is tried for so long."""
SEND_REMEMBER_S: Final = 7 * 86400.0
"""Ids of mails are remembered for so long."""
SEND_REMEMBERED: Final = 1_000_000
"""... and so many at most: then the oldest are forgotten, counted."""
SEND_RATE_MOST: Final = 100_000
"""Mails of a `rate`: each is a number in memory."""
SEND_TIDY_S: Final = 30.0
"""How often what is too old is looked for."""
SEND_TIDY_ROWS: Final = 2000
"""... and so many of it ended in one transaction."""
SEND_RESULT_S: Final = 60.0
"""`reply: result` waits so long for a first attempt; then it tells how things are."""
SEND_STOP_S: Final = 4.0
"""An orderly stop lets a mail that is being sent go for so long."""
SEND_WORDS: Final = 500
"""Characters of a server's words that are kept."""
TAKE_BYTES: Final = 16 * MIB
TAKE_CREDIT: Final = 32
"""Messages that a half gives out before the first of them is on disk; their bytes are below its route's window."""
TAKE_MAILS: Final = 512
"""Messages from 0MQ on their way to the disk: with so many, no more are read."""
TAKE_AGAIN_S: Final = 1.0
"""A disk that failed is tried again so often."""
ID_CHARACTERS: Final = 200
"""A caller's id."""
SUBJECT_CHARACTERS: Final = 900
"""A subject that a template made: a header line has 998."""
ATTACHMENTS: Final = 100
"""Frames after the JSON."""
LIST_ROWS: Final = 1000
"""`mail ls`, at a time."""

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
