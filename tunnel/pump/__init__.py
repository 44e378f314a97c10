"""The two inner loops, from socket to batch and from batch to socket, and what sorts batches in between.

A *segment* is anything with the buffer protocol and `len()`: bytes, or a `Chunk` (a message held by reference). A *run*
is a sequence of segments that together are `u32 little-endian (top bit: more parts follow; low 31 bits: length), bytes`
repeated: whole messages. Where segments meet carries no meaning, but a payload that lies in one Chunk and has at least
REFERENCE_BYTES is never copied. A `Piece` is a run of at most BATCH_BYTES, or one message that is larger, or a fragment
of one larger than FRAGMENT_BYTES; the segments of all its fragments in a row are a run again.

`drain`, `drain_tagged`, `drain_shares`   socket → pieces, until EAGAIN (`emptied`) or a batch is full: look at EVENTS.
                                          What is too large, or a probe, is dropped and counted.
`feed`                                    run → socket, until EAGAIN; what could not be finished starts again.
                                          With `patience_us` it sleeps so long, altogether, for room.
`cut`, `first_frame`, `keep_latest`       one message out of a run; its first frame; the newest of each first frame.
`pack`                                    one message as pieces (pure Python in both: for a desk's few messages).
`Topics`, `split`                         who subscribed to what, and a run sorted by it.
`events`                                  ZMQ_EVENTS, quicker than pyzmq tells it.
`send`, `recv`                            one message of a link socket.
`read_record`, `records`                  byte streams: what a descriptor has as a record, and a run as records.
`Shortcut`                                small batches between the two, ahead of their bookkeeping: given to `drain`
                                          and `recv`, it may take what they received.

Errors of libzmq other than EAGAIN, EINTR and EHOSTUNREACH are raised as zmq.ZMQError (what came before is returned
first), a malformed run as RunError (`feed` answers BAD). `COMPILED` says whether this is the Cython module or
`twin.py`, the same in pure Python, some forty times slower; `WHY_PURE` says why it is the twin. ZTUNNEL_PUMP=pure asks
for it.
"""

import os
from typing import TYPE_CHECKING

from tunnel.pump import twin
from tunnel.pump.base import (
    AGAIN,
    BAD,
    DENY,
    DONE,
    LIMIT,
    MORE,
    SENT,
    UNREACHABLE,
    Drained,
    Fed,
    LinkMessage,
    Piece,
    RunError,
    Segment,
    Segments,
    Split,
    Status,
    Tagged,
)
from tunnel.pump.twin_runs import pack

COMPILED = False
WHY_PURE = ""

if os.environ.get("ZTUNNEL_PUMP") == "pure":
    WHY_PURE = "ZTUNNEL_PUMP=pure asks for it"
else:
    try:
        from tunnel.pump import _pump

        missing = [name for name in twin.__all__ if not hasattr(_pump, name)]
        COMPILED = not missing
        if missing:
            WHY_PURE = f"the compiled pump is of an older build and lacks {', '.join(missing)}: install again"
    except ImportError as error:
        WHY_PURE = f"the compiled pump does not load: {error}"

if TYPE_CHECKING or COMPILED:
    from tunnel.pump._pump import (
        Chunk,
        Shortcut,
        Topics,
        cut,
        drain,
        drain_shares,
        drain_tagged,
        events,
        feed,
        first_frame,
        keep_latest,
        read_record,
        records,
        recv,
        send,
        split,
    )
else:
    from tunnel.pump.twin import *  # noqa: F403

__all__ = [
    "AGAIN",
    "BAD",
    "COMPILED",
    "DENY",
    "DONE",
    "LIMIT",
    "MORE",
    "SENT",
    "UNREACHABLE",
    "WHY_PURE",
    "Chunk",
    "Drained",
    "Fed",
    "LinkMessage",
    "Piece",
    "RunError",
    "Segment",
    "Segments",
    "Shortcut",
    "Split",
    "Status",
    "Tagged",
    "Topics",
    "cut",
    "drain",
    "drain_shares",
    "drain_tagged",
    "events",
    "feed",
    "first_frame",
    "keep_latest",
    "pack",
    "read_record",
    "records",
    "recv",
    "send",
    "split",
]
