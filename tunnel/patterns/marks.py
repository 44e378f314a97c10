"""High-water marks that follow the size of messages, for libzmq counts messages and memory is bytes.

At an exit, 64 messages wait at most per peer, or 64 KiB of smaller ones: what dies with a consumer or with this process
(docs/guarantees.md). 64 messages of 64 bytes would mean a change of threads for every 2 KiB, a third of the speed; and
64 of 64 MiB would mean 4 GiB. Where messages enter, a queue of 1,000 is bounded to ENTRY_QUEUE_BYTES likewise. libzmq
takes new marks for connections that are there already. A mark that the table gives is never touched.

Marks are chosen by the first messages and from then on only widened. A narrowed one can stop a connection for ever:
the reader of libzmq's pipe tells its writer how far it is only after every (mark + 1) / 2 messages, so the writer may
believe that many are still unread, takes that for full, and writes nothing that would bring the next telling (measured,
4.3.5: 300 messages read at a mark of 1,000, mark set to 16, nothing arrives any more). Hence a route that has carried
many small messages keeps its wide mark when large ones follow.
"""

from __future__ import annotations

import zmq

from tunnel.limits import (
    ENTRY_HWM_LEAST,
    ENTRY_QUEUE_BYTES,
    EXIT_HWM,
    EXIT_HWM_LEAST,
    EXIT_HWM_MOST,
    EXIT_QUEUE_BYTES,
    EXIT_QUEUE_MOST_BYTES,
    KIB,
    LOCAL_HWM,
)

FIRST_GUESS_BYTES = 64 * KIB
"""How large messages are taken to be before any was seen: a small first one says little."""


def exit_mark(message_bytes: int) -> int:
    """SNDHWM for messages of this size."""
    if message_bytes * EXIT_HWM <= EXIT_QUEUE_BYTES:
        return min(EXIT_HWM_MOST, EXIT_QUEUE_BYTES // max(1, message_bytes))
    return max(EXIT_HWM_LEAST, min(EXIT_HWM, EXIT_QUEUE_MOST_BYTES // message_bytes))


def entry_mark(message_bytes: int) -> int:
    """RCVHWM for messages of this size."""
    return max(ENTRY_HWM_LEAST, min(LOCAL_HWM, ENTRY_QUEUE_BYTES // max(1, message_bytes)))


class Marks:
    """The marks of one local socket. Sizes are taken for large until many small messages have passed."""

    def __init__(self, *, fixed: bool) -> None:
        self._fixed = fixed
        self.forget()

    def forget(self) -> None:
        """The socket is a new one, with the marks of birth."""
        self._exit_bytes = self._entry_bytes = FIRST_GUESS_BYTES
        self._first_exit = self._first_entry = True
        self.exit, self.entry = EXIT_HWM, LOCAL_HWM

    def leaving(self, socket: zmq.Socket[bytes], size: int, messages: int) -> None:
        """These are about to leave by this socket."""
        if self._fixed or not messages:
            return
        self._exit_bytes = max(size // messages, self._exit_bytes * 7 // 8)
        mark = exit_mark(self._exit_bytes)
        if self._first_exit or mark >= 2 * self.exit:  # nothing was sent before the first: any mark is safe
            self.exit = mark
            socket.setsockopt(zmq.SNDHWM, mark)
        self._first_exit = False

    def entered(self, socket: zmq.Socket[bytes], size: int, messages: int) -> None:
        """These came in by this socket."""
        if self._fixed or not messages:
            return
        self._entry_bytes = max(size // messages, self._entry_bytes * 7 // 8)
        mark = entry_mark(self._entry_bytes)
        # the first may be narrower than the mark of birth, if what was read so far is less than half of it
        if mark >= 2 * self.entry or (self._first_entry and mark >= 2 * messages):
            self.entry = mark
            socket.setsockopt(zmq.RCVHWM, mark)
        self._first_entry = False
