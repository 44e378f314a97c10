"""Every bound and timeout, with its unit in the name and a sentence of why. Nothing in ztunnel is unbounded.

This file knows numbers only; it imports nothing of ztunnel.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- the batch -------------------------------------------------------------------------------------------------------
BATCH_BYTES: Final = 256 * KIB
"""A batch is at most this long: large enough that a link frame costs nothing, small enough not to delay others."""
FRAGMENT_BYTES: Final = MIB + 64 * KIB
"""A message larger than a batch travels alone, in fragments of at most this: one of 1 MiB in one piece, never to be put
together again (with fragments of 256 KiB it took a fifth more CPU time, measured). A line must have shown that it
carries such a piece in LANE_BATCH_S; before that, and on a slower one, it is cut shorter."""
REFERENCE_BYTES: Final = 32 * KIB
"""Frames from this size up travel as references to the received message: below it a copy is cheaper than a part."""
INLINE_BYTES: Final = 4 * KIB
"""A batch up to this long travels in one part with its header: a part less to encrypt, where latency counts."""
JOURNAL: Final = 64
"""Batches that go ahead of their bookkeeping, at most, before it must be done (tunnel/ahead.py)."""
LINK_FRAME_BYTES: Final = FRAGMENT_BYTES + 4 * KIB
"""MAXMSGSIZE of link sockets: a fragment and its header; a peer that sends more is disconnected by libzmq."""
LINK_PARTS: Final = 96
"""Parts of one link message: a fragment has at most 34 references and the runs between them."""
MESSAGE_FRAMES: Final = 65_536
"""Frames of one application message; more is refused as too large (each frame costs memory of its own)."""

# --- channels --------------------------------------------------------------------------------------------------------
WINDOW_BYTES: Final = 4 * MIB
"""Unacknowledged bytes a channel may hold: covers 100 ms at 40 MB/s and bounds the replay buffer."""
MAX_MESSAGE_BYTES: Final = 64 * MIB
"""Largest application message by default; a larger one is refused and counted."""
SESSION_BYTES: Final = 1024 * MIB
"""What all routes of one peer may hold together; `check` refuses a table whose windows add up to more."""
ROUTES: Final = 4096
"""Routes one peer may announce in its HELLO."""
HELLO_BYTES: Final = 4 * MIB
"""A HELLO or WELCOME altogether: ROUTES entries of less than a KiB."""
BATCH_COST_BYTES: Final = 256
"""A batch counts for at least this much in a window: a trickle of tiny messages fills memory by its bookkeeping."""
PARKED_BYTES: Final = 1 * MIB
"""Replies kept for one client that does not read; what is over is dropped and counted."""
PARKED_CLIENTS: Final = 1024
"""Clients for which replies are kept at once; the replies of one more are dropped and counted."""
SUBSCRIPTIONS: Final = 1_000_000
"""Topics of one peer's subscription set on one route."""
TOPIC_BYTES: Final = 4 * KIB
"""Length of one subscribed topic."""
SUBSCRIPTION_FRAME_BYTES: Final = 128 * KIB
"""A piece of a subscription set, so that a ping never waits behind a large one."""
CLOCK_WINDOW_S: Final = 30.0
"""Clock offsets are the least of the last one to two windows: longer, and the drift of two clocks would show."""

# --- the lane --------------------------------------------------------------------------------------------------------
LANE_CREDIT_BYTES: Final = 2 * MIB
"""Bytes sent but not yet received on a fresh data lane: what an urgent batch may have to wait behind. Half of it would
hold one message of 1 MiB only, and cost a fifth of the throughput there (measured)."""
LANE_CREDIT_MAX_BYTES: Final = 64 * MIB
"""Credit of a long fat line, at most."""
LANE_CREDIT_MIN_BYTES: Final = 64 * KIB
"""Credit of a very slow line, at least."""
LANE_CREDIT_S: Final = 0.005
"""The credit grows to what the lane carries in this time: on a fast line two large messages under way are too few."""
LANE_BATCH_S: Final = 0.5
"""A batch is at most what the lane carries in this time, so that a slow line still changes turns."""
ACK_BYTES: Final = LANE_CREDIT_BYTES // 8
"""Received bytes after which an acknowledgement goes at once: an eighth of the credit of a fresh lane."""
ACK_DELAY_S: Final = 0.002
"""An acknowledgement that found no frame to ride on goes by itself after this time."""

# --- receipts (tunnel/receipts.py) -----------------------------------------------------------------------------------
DESK_HWM: Final = 64
"""High-water mark of a desk where messages enter; its givers hold themselves to RECEIPTS_BYTES besides."""
DESK_MESSAGES_A_TURN: Final = 64
"""Messages that a desk takes or gives before other sockets get their turn."""
DESK_RECEIPTS: Final = 16_384
"""Receipts that may wait at one desk; then no more messages are read there."""
DESK_TAKERS: Final = 16
"""Takers of one desk; one more is not heard."""
DESK_CREDIT: Final = 1024
"""Messages that one taker may have unanswered, at most."""
DESK_RETRY_S: Final = 0.02
"""A full peer of a desk gives no sign when it can take more: it is tried again this often."""
DESK_DOUBT_S: Final = 0.2
"""A peer has gone: takers are looked for at once, and again after this, for libzmq tells it a moment early."""
DESK_KNOCKS: Final = 64
"""A taker that said nothing while it was looked for so often is taken for gone."""
DESK_HASHED_BYTES: Final = 4096
"""So much of a message goes into the number by which its repeats are known."""
RECEIPTS_BYTES: Final = 8 * MIB
"""What a giver may have under way: it keeps every message until its receipt has come."""
RECEIPTS_CREDIT: Final = 16
"""Messages that a taker may have unanswered, unless its bridge says otherwise."""
RECEIPTS_KNOWN: Final = 4096
"""Numbers that a taker remembers having answered, so as to answer repeats by itself."""

# --- streams ---------------------------------------------------------------------------------------------------------
STREAM_CONNECTIONS: Final = 1024
"""Connections of one stream route at a time, at one half, unless the table says otherwise."""
STREAM_CONNECT_S: Final = 10.0
"""How long a target may take to answer, and a client may wait for the link, unless the table says otherwise."""
STREAM_CREDIT_BYTES: Final = 64 * KIB
"""Bytes that a connection may always have under way, each way: OPEN and what follows it wait for nobody."""
STREAM_QUEUE_BYTES: Final = 512 * KIB
"""Unsent bytes of a stream route from which on no connection is read: then the connections take turns."""
STREAM_READ_BYTES: Final = 2 * BATCH_BYTES - 12
"""One read of a connection at most, its headers besides: half as long, each byte cost 3 to 5 % more (measured)."""
STREAM_ANSWERS_BYTES: Final = MIB
"""Refusals of a peer's streams that wait for it, besides two windows; then it breaks the protocol."""
STREAM_SMALL_BYTES: Final = 4 * KIB
"""Shorter stretches that wait for a local socket are copied together: each would cost memory of its own."""
STREAM_BACKLOG: Final = 1024
"""Clients that the kernel accepts ahead of us."""
STREAM_ACCEPTS_A_TURN: Final = 32
"""Clients let in before other callbacks get their turn."""
STREAM_ACCEPT_PAUSE_S: Final = 0.2
"""Without descriptors left, who comes waits this long."""
STREAM_NAME_S: Final = 10.0
"""A target's name is looked up again after this time."""
STREAM_TEXT_BYTES: Final = 400
"""The reason of a reset, in UTF-8."""
STREAM_SWEEP_S: Final = 1.0
"""How often idle connections are looked for, and clients that left while they waited for a link."""

# --- links inside SSH ------------------------------------------------------------------------------------------------
SSH_CONNECT_S: Final = 10.0
"""Each step to a sshd (connection, key exchange, login, forward) may take this long; sshds look names up on the way."""
SSH_ALIVE_S: Final = 5.0
SSH_ALIVE_COUNT: Final = 3
"""A sshd is asked this often whether it lives, and is given up when nothing at all came from it for as many times."""
SSH_REDIAL_MAX_S: Final = 5.0
"""Pauses between attempts at a sshd, at most: the link's own, over it, are longer."""
SSH_WINDOW_BYTES: Final = 4 * MIB
"""What a sshd may send on one connection before the device took it: memory of the carrier's process."""
SSH_CONNECTIONS: Final = 512
"""Connections of one carrier at a time: the listening device bounds those that have not proved a key itself."""
SSH_LINES: Final = 50
"""Lines of what `ssh` said last that are kept to find the reason in."""
KNOWN_HOSTS_BYTES: Final = 16 * MIB
"""A known_hosts file; a longer one is something else."""

# --- links inside HTTP -----------------------------------------------------------------------------------------------
HTTP_HEAD_BYTES: Final = 16 * KIB
"""Request or status line and headers of one message."""
HTTP_CHUNK_BYTES: Final = 256 * KIB
"""One WebSocket frame, or one numbered chunk of the long-poll form, at most: proxies take bodies of this size."""
HTTP_CONNECTIONS: Final = 512
"""Connections of one HTTP port at a time."""
HTTP_HANDSHAKES: Final = 64
"""... of which so many may not have begun a link: strangers."""
HTTP_PING_S: Final = 20.0
"""A WebSocket is pinged this often, because proxies cut what is silent for 60 s ..."""
HTTP_SILENCE_S: Final = 45.0
"""... and is dead when nothing came for this long."""
HTTP_HELLO_S: Final = 2.0
"""A WebSocket that was let in must carry a word each way in this time, else something on the way holds it up."""
HTTP_UPGRADE_S: Final = 2.5
"""The upgrade and that word together: what is left of HANDSHAKE_S is for long-poll."""
HTTP_DIAL_S: Final = 4.5
"""The device gives up after HANDSHAKE_S (5 s): its carrier says why before that."""
HTTP_HOLD_S: Final = 25.0
"""A long-poll request is answered after this time though there is nothing to say: proxies give up after 30 to 60 s."""
HTTP_REPLY_S: Final = HTTP_HOLD_S + 10.0
"""... and asked again when there is no answer by then."""
HTTP_PATIENCE_S: Final = 30.0
"""Long-poll requests are repeated for this long over errors on the way; then the connection is lost."""
HTTP_SESSION_S: Final = 60.0
"""A long-poll session without a request for this long is over; a connection kept alive is closed."""
HTTP_SESSIONS: Final = 256
"""Long-poll sessions of one HTTP port at a time."""
HTTP_WEBSOCKET_AGAIN_S: Final = 300.0
"""While long-poll is in use, WebSocket is tried again this often ..."""
HTTP_SLOW_AGAIN_S: Final = 15.0
"""... and sooner where it was not refused but slow: first after this time, then after twice as long each time."""
HTTP_RETRY_MIN_S: Final = 0.05
HTTP_RETRY_MAX_S: Final = 2.0
"""Pauses between repeated long-poll requests: doubled between these two."""

# --- liveness --------------------------------------------------------------------------------------------------------
PING_IDLE_S: Final = 5.0
"""A lane that said nothing for this long is pinged."""
PONG_GAP_S: Final = 0.1
"""Pings that follow each other faster than this are not all answered."""
SILENCE_S: Final = 15.0
"""A control lane silent, or a data lane whose bytes stand still, for this long is dead: both lanes are redialled."""
HANDSHAKE_S: Final = 5.0
"""HELLO to OPEN, and the CURVE handshake before it; a silent connection holds a descriptor no longer than this."""
HELLO_GAP_S: Final = 0.05
HELLO_BURST: Final = 10
"""Greetings of one side that come faster than one in the first, beyond as many at once, are dropped: an honest dialler
pauses longer, but for a reload or two."""
REDIAL_MIN_S: Final = 0.2
REDIAL_MAX_S: Final = 30.0
"""Decorrelated jitter between attempts runs between these two, for ever."""
REDIAL_CALM_S: Final = 10.0
"""A link that was up for this long starts again with the shortest pause."""
REDIAL_UP_S: Final = 1.0
"""... and one that was up for this long begins again from a pause of as much: what grew while the other box was away
must not keep a link down that is cut again soon after."""
EVICTED_S: Final = 30.0
"""A process whose place another process of the same side has taken stays away for this long."""
BYE_LINGER_S: Final = 0.5
"""The goodbye itself may take this long to leave."""
BYE_S: Final = 2.0
"""An orderly close drains and acknowledges for at most this long."""

# --- sockets ---------------------------------------------------------------------------------------------------------
LINK_RCVHWM: Final = 64
"""Messages that wait in a link socket: batches, so already 16 MiB."""
HUNG_UP_S: Final = 1.0
"""After the other end hung up, libzmq gets this long to hand over the frames it has decoded: it takes microseconds and
says when it did; where it never says so (the peer broke the protocol) the lane counts as lost after this."""
LOCAL_HWM: Final = 256
"""High-water mark of local entry sockets: their queue is memory of ours, in messages of any size. libzmq's own default
of 1,000 holds 1 GiB of 1 MiB messages while the route is blocked (measured: 950 MB a half; 290 MB with this)."""
EXIT_HWM: Final = 256
"""High-water mark of local exit sockets: what a consumer that is killed can take along (docs/guarantees.md). With 64
the threads change turns for every 2 KiB of 64-byte messages (measured: half of the speed)."""
LEAST_HWM: Final = 16
ENTRY_QUEUE_BYTES: Final = 16 * MIB
EXIT_QUEUE_BYTES: Final = 16 * MIB
"""Where the first messages are large, so many bytes of them may wait in a local queue, but at least LEAST_HWM messages
(patterns/marks.py)."""
FEED_PATIENCE_US: Final = 1000
"""How long a feed may sleep altogether for room at an exit, before the loop takes over: at EXIT_HWM messages a turn of
the loop each would cap small messages at a third of what the link carries."""
EXIT_LINGER_S: Final = 5.0
"""Time that exits get on an orderly stop to hand over what is already in their queues."""
LOCAL_CONNECT_S: Final = 5.0
"""A connect to an application that is not answered within this time is begun anew: the kernel's own pause doubles."""
RECONNECT_MIN_S: Final = 0.1
RECONNECT_MAX_S: Final = 1.0
"""libzmq's pauses between its own tries of a local connect: longer, and an application that starts late waits."""
REMAKE_MIN_S: Final = 0.2
REMAKE_MAX_S: Final = 2.0
"""The same where libzmq gives up for ever and we bind or connect anew."""
REMAKE_CALM_S: Final = 10.0
"""A connection that was good for this long starts again with the shortest pause."""
GAVE_UP_S: Final = 0.2
"""libzmq says at once that it tries again; silent for this long after a disconnect, it never will (libzmq #4196)."""
DRAIN_S: Final = 30.0
"""What is unread in a connection that is made anew gets this long to be read."""
LISTENER_CLOSE_S: Final = 2.0
"""The closing of a listener is waited for this long before its address is bound again."""
REASON_S: Final = 300.0
"""A peer that was turned away is told of in `status` for this long."""
KEEPALIVE_IDLE_S: Final = 15.0
KEEPALIVE_INTERVAL_S: Final = 5.0
KEEPALIVE_COUNT: Final = 3
"""TCP keepalive of local connections: an application's machine that died silently is noticed after 30 s."""
HEARTBEAT_TIMEOUTS: Final = 3
"""Heartbeats of a local end, where the table asks for them, may fail to be answered this many times."""
SWEEP_S: Final = 1.0
"""How often queues are searched for what has grown too old, and peers are told how many applications are here."""
EVENTS_TICK_S: Final = 1.0
"""EVENTS of every watched socket is reread this often: a missed edge would hang for ever."""
MONITOR_CLOSE_S: Final = 10.0
"""A monitor whose socket was closed first is kept for at most this long, until libzmq says that it sends no more."""
RESOLVE_S: Final = 5.0
"""A host name that does not resolve within this time is reported and tried again with the next dial."""
LISTEN_RETRY_S: Final = 1.0
"""A link port that could not be opened is tried again this often, for ever."""
LISTEN_BACKLOG: Final = 64
"""Connections that the kernel accepts ahead of us; small, because each must find a descriptor (carriers/guard.py)."""
LISTEN_HANDSHAKES: Final = 256
"""Connections of one link port that have not finished their handshake; beyond it only known addresses are let in, and
beyond twice as many none until the silent ones are gone."""
LISTEN_KNOWN: Final = 32
"""Addresses from which a dialler proved its key lately, and which are let in under pressure."""
DESCRIPTOR_RESERVE: Final = 16
"""Descriptors that connections never get: new sockets, files and the guard's own need them."""
DESCRIPTORS: Final = 1_048_576
"""The descriptor limit is raised to the hard limit, but no further than this."""
CONTEXT_SOCKETS: Final = 16_384
"""0MQ sockets of one process, monitors included: 4,096 routes with a socket and two ends of a monitor each."""
HEARTBEAT_S: Final = 5.0
HEARTBEAT_TIMEOUT_S: Final = 120.0
"""ZMTP heartbeats on the link's listener reap connections whose dialler is gone without a word. They wait behind
payload on the line: at 15 s they ended a healthy lane with 1 MiB under way at 40 KB/s (measured). Whether a link lives
is judged by SILENCE_S."""
LISTEN_UNACKED_S: Final = 30.0
"""TCP itself gives up a connection of the listener when what was sent stays unacknowledged for this long."""
XPUB_STALL_S: Final = 1.0
"""An XPUB exit that could send nothing for this long drops for its stalled subscribers instead of starving all."""
XPUB_LOSSY_S: Final = 10.0
"""... and returns to not dropping after this long."""

XPUB_RETRY_S: Final = 0.002
"""A full XPUB is tried again after this time even when nothing was heard of it."""
PARKED_RETRY_S: Final = 0.02
"""Parked replies are offered again this often: a full client of a ROUTER gives no sign when it can take more."""
REPLIES_A_TURN: Final = 256
"""Replies looked at one by one, while some are parked, before other sockets get their turn."""
SUBSCRIPTIONS_A_TURN: Final = 1000
"""Subscriptions read from an XPUB before other sockets get their turn."""
SHARE_SLACK_BYTES: Final = 64 * KIB
"""Sides whose unacknowledged bytes differ by less than this share the next messages evenly."""
TAG_BYTES: Final = 8
"""Length of the tag frame before requests: so much of the near half's session."""

HEAP_MAPPED_BYTES: Final = 32 * MIB
HEAP_KEPT_BYTES: Final = 64 * MIB
"""Blocks up to the first come from the heap, of which so much is kept (heap.py)."""
HEAP_GIVEN_BACK_BYTES: Final = 256 * KIB
"""A bridge for mail: free blocks from this size on are given back, and so is so much at the heap's end."""

# --- the table -------------------------------------------------------------------------------------------------------
TABLE_BYTES: Final = 1 * MIB
"""A route table file; a longer one is not a table."""
TABLE_NODES: Final = 100_000
"""YAML nodes after aliases are expanded: an alias bomb is refused, not loaded."""
TABLE_DEPTH: Final = 32
"""How deep a table may nest; a real one has five levels."""
NAME_CHARACTERS: Final = 64
"""Length of a name of a table, side, route or bridge: names become file names and words in logs."""
KEY_FILE_BYTES: Final = 64 * KIB
"""A key file; a longer one is something else."""
INCLUDE_FILES: Final = 256
"""Files that `include` may name altogether."""
IPC_PATH_BYTES: Final = 107
"""Length of a unix socket's path on Linux (sun_path, unix(7), less the final zero)."""

# --- control ---------------------------------------------------------------------------------------------------------
RECORD_BYTES: Final = 16 * KIB
"""`running.json`, which root reads in folders of other users."""
VARIABLES_BYTES: Final = 256 * KIB
"""/etc/ztunnel/NAME.env; in a longer one something else is."""
PID_MOST: Final = 1 << 22
"""Linux's largest (PID_MAX_LIMIT, proc(5))."""
CONTROL_REQUEST_BYTES: Final = 64 * KIB
CONTROL_REPLY_BYTES: Final = 16 * MIB
CONTROL_CLIENTS: Final = 32
CONTROL_TIMEOUT_S: Final = 1.0
"""A status question is answered within this time, however blocked the routes are."""
CONTROL_IDLE_S: Final = 60.0
"""A control connection that asks nothing for this long is closed."""

# --- the spool (tunnel/spool) ----------------------------------------------------------------------------------------
SPOOL_BYTES: Final = 2 * 1024 * MIB
"""What a spooled route may keep on disk towards one side, unless the table says otherwise."""
SPOOL_EXPIRE_S: Final = 7 * 86400.0
"""... and for how long: a spool that nobody takes from must not hold last year's messages when somebody comes."""
SPOOL_PAGE_BYTES: Final = 8 * KIB
"""SQLite's page: at 4 KiB rows of 1 KiB and of 256 KiB are written slower, at 16 KiB single small rows (measured)."""
SPOOL_CACHE_BYTES: Final = 8 * MIB
"""SQLite's page cache; a longer transaction goes to the WAL early."""
SPOOL_WAITING_BYTES: Final = 32 * MIB
"""Rows in memory that wait for the disk: `has_room` is False above it, and True again below the half."""
SPOOL_ROOM_SHARE: Final = 16
"""A spool that was full has room again when this share of it (one in so many bytes) is free: not for every row."""
SPOOL_ROW_BYTES: Final = 512 * MIB
"""A row; SQLite itself ends at 1,000,000,000 bytes."""
SPOOL_META_BYTES: Final = 64 * KIB
"""The small JSON beside a message."""
SPOOL_WAL_BYTES: Final = 16 * MIB
"""The WAL is carried into the file when so much was written; it is then overwritten from its beginning. (One large row
makes it as long as that row, until the next calm.)"""
SPOOL_RESERVE_BYTES: Final = 64 * MIB
"""Free space of the file system that the spool leaves alone, so that removing rows works where adding does not."""
SPOOL_RESERVE_SHARE: Final = 8
"""... but at most one in so many bytes of a small file system."""
SPOOL_READ_ROWS: Final = 4096
"""Rows of one answer to `read`."""
SPOOL_REMOVE_ROWS: Final = 4096
SPOOL_REMOVE_BYTES: Final = 64 * MIB
"""Rows removed in one transaction, at most (one at least): new rows wait behind it."""
SPOOL_REMOVE_S: Final = 0.5
"""Rows that are done are removed with the next rows that come, or after this time."""
SPOOL_CALM_S: Final = 1.0
"""After so long without a write the WAL is carried over and cut; then nothing happens until there is work again."""
SPOOL_RETRY_MIN_S: Final = 0.2
SPOOL_RETRY_MAX_S: Final = 5.0
"""A disk that fails is tried again after a pause that doubles between these two, for ever."""
SPOOL_EXPIRE_LOOK_S: Final = 30.0
"""While rows wait that will expire, the clock is looked at this often, for it may be set; it costs no disk access."""
SPOOL_CLOSE_S: Final = 5.0
"""`close` waits so long for the disk."""
SPOOL_DEAD_ROWS: Final = 10_000
SPOOL_DEAD_BYTES: Final = 64 * MIB
"""Dead letters kept (the newest always); the oldest go, counted."""
SPOOL_REASON_CHARACTERS: Final = 1000
"""Why a row was buried."""
SPOOL_LIST_ROWS: Final = 1000
"""Rows of one answer to `list`."""
SPOOL_SET_ASIDE: Final = 3
"""Corrupt files kept beside a spool; with so many it is refused, for then the disk is what must be looked at."""

# --- looking at messages (tunnel/tap.py, tunnel/probe.py) ------------------------------------------------------------
TAP_BATCH_MESSAGES: Final = 16
"""Messages of one batch that a tap shows at most."""
TAP_RATE: Final = 200
"""Messages a second, each way, that a tap shows at most: a tenth of a per cent of a core."""
TAP_FRAMES: Final = 16
"""Frames of a message that a tap shows at most."""
TAP_BATCH_FRAMES: Final = 1024
"""Frames of one batch that a tap counts at most."""
TAP_FRAME_BYTES: Final = 32
"""Bytes of a frame that a tap shows unless told otherwise."""
TAP_FRAME_MOST_BYTES: Final = 4 * KIB
TAP_RING_MESSAGES: Final = 1000
TAP_RING_BYTES: Final = 1 * MIB
"""What waits for those who look; the oldest goes, counted."""
TAP_POLL_MESSAGES: Final = 100
"""Messages of one answer, so that writing it holds up the loop for a millisecond at most."""
TAP_READERS: Final = 8
"""Who may look at the same time at one side."""
TAP_LEASE_S: Final = 5.0
"""A reader that does not ask for this long is gone."""
TAP_POLL_S: Final = 0.2
"""Pause between two questions of a reader."""
PROBE_S: Final = 2.0
"""`probe` waits so long for an answer over the link."""
PROBE_KNOCK_S: Final = 0.3
"""... and asks again after this time, for answers are thinned (PONG_GAP_S)."""
PROBE_LOOK_S: Final = 0.5
"""Between the two looks of `probe`, where nothing is full."""
PROBE_STILL_S: Final = 3.0
"""What is full and has not moved for this long stands still. Queues of libzmq and of the kernel empty in gusts: with a
consumer of 2 MB/s nothing moved for 3 s at a time (measured)."""

# --- supervision -----------------------------------------------------------------------------------------------------
READY_S: Final = 30.0
"""`up -d` and `restart` wait this long for every local socket to open."""
STOP_WAIT_S: Final = 12
"""A process gets this long between TERM and KILL: BYE_S, EXIT_LINGER_S and some air."""
DOWN_S: Final = 25.0
"""`down` waits this long for supervisord to end: STOP_WAIT_S for the device, then for the keeper."""
START_S: Final = 1
"""A process that dies earlier than this after its start was never up."""
REVIVE_MIN_S: Final = 0.5
REVIVE_MAX_S: Final = 30.0
"""A process that died is started again after a pause that doubles between these two, for ever."""
REVIVE_CALM_S: Final = 60.0
"""A process that ran for this long is started again at once, and counts as calm."""
CRASH_LOOP: Final = 3
"""So many deaths without calm between them are shown as a crash loop."""
KEEPER_SCAN_S: Final = 10.0
"""The keeper looks at all processes this often, event or not: supervisord discards events that it cannot queue."""
PROCESS_LOG_BYTES: Final = 2 * MIB
PROCESS_LOG_BACKUPS: Final = 3
"""One process's log: at most (1 + backups) times this, as it may lie in a memory file system."""

# --- logs ------------------------------------------------------------------------------------------------------------
LOG_LINE_BYTES: Final = 4000
"""One line, below PIPE_BUF (4,096), so that it is written whole and without waiting."""
LOG_REPEAT_S: Final = 10.0
LOG_REPEATS: Final = 3
"""Of equal lines within that time so many are shown, the others counted."""
LOG_REPEATS_KEPT: Final = 1024
"""Different lines remembered for that."""

# --- bridges ---------------------------------------------------------------------------------------------------------
FRAME_BYTES: Final = MIB
"""Longest message of a bridge's connection unless the table says otherwise: each connection may hold as much."""
FRAME_MOST_BYTES: Final = 1024 * MIB
"""... and the most that a table may say: what a session holds (SESSION_BYTES)."""
FRAME_DELIMITER_BYTES: Final = 64
"""Delimiters and other marks of a framing."""
FRAME_HEADER_BYTES: Final = 256
"""A header with a length in it, altogether."""
FRAME_PAUSE_MIN_S: Final = 0.001
FRAME_PAUSE_MAX_S: Final = 3600.0
"""Pauses that may end a frame lie between these two."""

# --- bridges to TCP --------------------------------------------------------------------------------------------------
BRIDGE_CONNECTIONS: Final = 1000
"""Connections of one tcp-server at a time, unless the table says otherwise."""
BRIDGE_POOL: Final = 256
"""Connections of one tcp-client, at most."""
BRIDGE_READ_BYTES: Final = 256 * KIB
"""One read of a connection: into a block that all connections of a bridge share."""
BRIDGE_READ_HELD_BYTES: Final = 16 * KIB
"""... of a connection that is not to be read: its loop may read once more all the same."""
BRIDGE_QUEUE_BYTES: Final = MIB
"""What may wait for one connection that does not read, unless the table says otherwise."""
BRIDGE_PIPELINE: Final = 64
BRIDGE_PIPELINE_MOST: Final = 10_000
"""Requests of one connection under way at a time: unless the table says otherwise, and at most."""
BRIDGE_TIMEOUT_S: Final = 10.0
"""A request waits so long for its reply, unless the table says otherwise."""
BRIDGE_REQUESTS: Final = 65_536
"""Requests of one bridge under way at a time."""
BRIDGE_LANE_RUNS: Final = 64
"""Runs of replies (a read each, so 16 MiB) that wait for a 0MQ client that does not take them; more are dropped."""
BRIDGE_TICK_S: Final = 0.1
"""How often a bridge looks for what has waited too long, while anything waits."""
BRIDGE_USER_TIMEOUT_S: Final = 30.0
"""TCP_USER_TIMEOUT: a device that vanished with data of ours under way is noticed after this."""
BRIDGE_CONNECT_S: Final = 5.0
"""A legacy server may take so long to answer a connect."""
BRIDGE_REDIAL_MIN_S: Final = 0.2
BRIDGE_REDIAL_MAX_S: Final = 30.0
"""Pauses between attempts at a legacy server: doubled between these two, with jitter, for ever."""
BRIDGE_CALM_S: Final = 5.0
"""A connection that was good for this long begins again with the shortest pause."""
BRIDGE_LINGER_S: Final = 2.0
"""What was handed to the 0MQ socket gets so long to leave, on an orderly stop."""
BRIDGE_STOP_S: Final = 5.0
"""What was taken from devices gets so long before that to be handed to the 0MQ socket, and to be answered."""
BRIDGE_STOP_CLOSE_S: Final = 1.0
"""... and what was written to devices so long to leave. With BRIDGE_LINGER_S the three stay below STOP_WAIT_S."""
BRIDGE_CLOSE_S: Final = 10.0
"""A connection that is closed has so long to take what was written to it before."""
BRIDGE_RETRY_S: Final = 0.01
"""A peer of a ROUTER that is full is tried again after this: there is no sign when it can take more."""
BRIDGE_HELD_BYTES: Final = 16 * MIB
"""All connections together may bring so much more, when the 0MQ side takes nothing, before they are not read any more:
shared among them down to BRIDGE_READ_LEAST_BYTES each."""
BRIDGE_GATHERED_BYTES: Final = 256 * MIB
"""Frames that are not complete, of all connections of a tcp-server: whoever brings more is hung up on."""
BRIDGE_LOG_S: Final = 1.0
"""Devices that break the framing are told of in the log this often at most, with their number."""
BRIDGE_READ_LEAST_BYTES: Final = KIB
"""... but so much each."""
