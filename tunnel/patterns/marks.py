"""Narrower high-water marks for a route of large messages, for libzmq counts messages and memory is bytes.

256 messages of 1 MiB would be 256 MiB at an entry whose route is blocked, and as much at an exit. So the first messages
choose: where they are large, the mark is narrowed, once. It is never changed again, and never widened: a mark that is
changed on a connection that carried messages can stop it for ever (tests/local/test_marks.py). The first are safe: the
reader of libzmq's pipe tells its writer how far it is after every (mark + 1) / 2 messages, and as long as fewer than
half of the new mark were read in all, no telling that the writer needs can have been left out.
"""

from __future__ import annotations

import zmq

from tunnel.limits import ENTRY_QUEUE_BYTES, EXIT_HWM, EXIT_QUEUE_BYTES, LEAST_HWM, LOCAL_HWM


def narrowed(widest: int, queue_bytes: int, message_bytes: int) -> int:
    """The mark at which messages of this size fill `queue_bytes`, at least LEAST_HWM and at most `widest`."""
    return max(LEAST_HWM, min(widest, queue_bytes // max(1, message_bytes)))


class Marks:
    """The marks of one local socket, open to choice until its first messages have passed. `given`: by the table."""

    def __init__(self, given: int | None) -> None:
        self._given = given
        self.exit = 0
        """What may wait for one peer of the exit, in messages."""
        self.forget()

    def forget(self) -> None:
        """The socket is a new one."""
        self.exit = EXIT_HWM if self._given is None else self._given
        self.entry_open = self.exit_open = self._given is None

    def entered(self, socket: zmq.Socket[bytes], size: int, messages: int) -> None:
        """These, the first, came in by this socket."""
        if not messages:
            return
        self.entry_open = False
        mark = narrowed(LOCAL_HWM, ENTRY_QUEUE_BYTES, size // messages)
        if mark < LOCAL_HWM and messages < mark // 2:
            socket.setsockopt(zmq.RCVHWM, mark)

    def leaving(self, socket: zmq.Socket[bytes], size: int, messages: int) -> None:
        """These, the first, are about to leave by this socket."""
        if not messages:
            return
        self.exit_open = False
        mark = narrowed(EXIT_HWM, EXIT_QUEUE_BYTES, size // messages)
        if mark < self.exit:
            self.exit = mark
            socket.setsockopt(zmq.SNDHWM, mark)
