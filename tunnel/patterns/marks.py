"""High-water marks that follow the size of messages, for libzmq counts messages and memory is bytes.

At an exit, 64 messages wait at most per peer, or 64 KiB of smaller ones: what dies with a consumer or with this process
(docs/guarantees.md). 64 messages of 64 bytes would mean a change of threads for every 2 KiB, a third of the speed; and
64 of 64 MiB would mean 4 GiB. Where messages enter, a queue of 1,000 is bounded to ENTRY_QUEUE_BYTES likewise. libzmq
takes new marks for connections that are there already. A mark that the table gives is never touched.
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
    LOCAL_HWM,
)


def exit_mark(message_bytes: int) -> int:
    """SNDHWM for messages of this size."""
    if message_bytes * EXIT_HWM <= EXIT_QUEUE_BYTES:
        return min(EXIT_HWM_MOST, EXIT_QUEUE_BYTES // max(1, message_bytes))
    return max(EXIT_HWM_LEAST, min(EXIT_HWM, EXIT_QUEUE_MOST_BYTES // message_bytes))


def entry_mark(message_bytes: int) -> int:
    """RCVHWM for messages of this size."""
    return max(ENTRY_HWM_LEAST, min(LOCAL_HWM, ENTRY_QUEUE_BYTES // max(1, message_bytes)))


class Marks:
    """The marks of one local socket. Sizes shrink a mark at once and widen it slowly: memory first, then speed."""

    def __init__(self, *, fixed: bool) -> None:
        self._fixed = fixed
        self._exit_bytes = self._entry_bytes = 0
        self.exit = EXIT_HWM
        self.entry = LOCAL_HWM

    def forget(self) -> None:
        """The socket is a new one, with the marks of birth."""
        self.exit, self.entry = EXIT_HWM, LOCAL_HWM

    def leaving(self, socket: zmq.Socket[bytes], size: int, messages: int) -> None:
        """These are about to leave by this socket."""
        if self._fixed or not messages:
            return
        self._exit_bytes = max(size // messages, self._exit_bytes * 7 // 8)
        mark = exit_mark(self._exit_bytes)
        if mark < self.exit or mark >= 2 * self.exit:
            self.exit = mark
            socket.setsockopt(zmq.SNDHWM, mark)

    def entered(self, socket: zmq.Socket[bytes], size: int, messages: int) -> None:
        """These came in by this socket."""
        if self._fixed or not messages:
            return
        self._entry_bytes = max(size // messages, self._entry_bytes * 7 // 8)
        mark = entry_mark(self._entry_bytes)
        if mark < self.entry or mark >= 2 * self.entry:
            self.entry = mark
            socket.setsockopt(zmq.RCVHWM, mark)
