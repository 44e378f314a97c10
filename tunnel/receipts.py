"""The words between a bridge and a route's *desk*: how it learns that a message is safe, and says that it has one safe.

The desk is a ROUTER at `places.receipts_path`, beside the private socket of a `bind local` end; a bridge connects a
DEALER. Every message is a word and its frames, without an empty one between. NUMBER is 8 bytes, network byte order.

Where messages enter (pipeline and pubsub, `from`), numbers are the bridge's:

    bridge   put NUMBER FRAME...        a message for the route
    desk     taken NUMBER...            so far the route's promise protects these; several in one word
    desk     refused NUMBER REASON      this one will never be carried; REASON is text for people

Where they leave (pipeline, `to`), numbers are the desk's:

    bridge   take CREDIT                so many more messages may be unanswered at a time (4 bytes)
    desk     message NUMBER FRAME...    one that is given out; equal numbers are the same message again
    bridge   done NUMBER...             these are safe with the bridge
    desk     there                      is somebody there?
    bridge   here                       yes
    desk     anew                       what you are talking of is not known here: connect anew

A bridge whose connection went connects anew, and puts again what was not taken, or takes anew. What it had not said
`done` of is given out again. Neither side needs to know why.
"""

from __future__ import annotations

import struct
from typing import Final

PUT: Final = b"put"
TAKEN: Final = b"taken"
REFUSED: Final = b"refused"
TAKE: Final = b"take"
MESSAGE: Final = b"message"
DONE: Final = b"done"
THERE: Final = b"there"
HERE: Final = b"here"
ANEW: Final = b"anew"

NUMBER: Final = struct.Struct("!Q")
CREDIT: Final = struct.Struct("!I")
