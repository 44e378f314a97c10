"""The bytes of one connection between the device's unix socket and a channel of paramiko's.

Two threads a connection: one reads the device and writes the channel; the other writes the device what the transport's
thread could not write at once, and gives the window back. The transport's own thread writes to the device without
waiting (a hand-over between threads for every packet halves the speed), and never to the sshd: it must always read.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_WINDOW_ADJUST

from tunnel.carriers.ssh_base import Counts

READ_BYTES = 32 * 1024
WRITE_CHUNKS = 16
"""Packets written to the device in one call, when it is behind."""


class Inbox:
    """Stands in for a channel's buffer (paramiko.BufferedPipe): what the sshd sent, on its way to the device.

    Bounded by the channel's window, which is given back only for what the device took.
    """

    def __init__(self) -> None:
        self.wake = threading.Condition()
        self.queue: deque[bytes] = deque()
        self.ended = False
        self.taken = 0
        """Bytes that the device took and the window was not given back for."""
        self._sock: socket.socket | None = None
        self._writing = False

    def attach(self, sock: socket.socket) -> None:
        with self.wake:
            self._sock = sock
            self.wake.notify()

    # --- what the transport's thread calls --------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        with self.wake:
            if self._sock is not None and not self.queue and not self._writing:
                with contextlib.suppress(OSError):  # no room, or gone: the writing thread finds out which
                    sent = self._sock.send(data, socket.MSG_DONTWAIT)
                    self.taken += sent
                    data = data[sent:] if sent < len(data) else b""
            if data:
                self.queue.append(data)
            if data or self.taken > READ_BYTES * 8:
                self.wake.notify()

    def close(self) -> None:
        with self.wake:
            self.ended = True
            self.wake.notify()

    # --- what the writing thread calls ------------------------------------------------------------------------------

    def next(self) -> tuple[list[bytes], int, bool]:
        """Wait for something to do: (what to write now, what the window is to be given back for, is that all)."""
        with self.wake:
            self._writing = False
            while not (self._sock is not None and (self.queue or self.taken > READ_BYTES * 8 or self.ended)):
                self.wake.wait()
            chunks = [self.queue.popleft() for _ in range(min(WRITE_CHUNKS, len(self.queue)))]
            self._writing = bool(chunks)
            taken, self.taken = self.taken, 0
            return chunks, taken, self.ended and not self.queue and not chunks

    def took(self, count: int) -> None:
        with self.wake:
            self.taken += count

    # --- what else a BufferedPipe has -------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(map(len, self.queue))

    def read_ready(self) -> bool:
        return bool(self.queue)

    def set_event(self, event: object) -> None:
        raise NotImplementedError("nobody waits for such a channel by its descriptor")


class Pipe:
    """Carries one connection until either end goes, then calls `on_end` once, from one of its threads."""

    def __init__(
        self, channel: paramiko.Channel, sock: socket.socket, counts: Counts, on_end: Callable[[Pipe], None]
    ) -> None:
        self.channel = channel
        self._sock = sock
        self._counts = counts
        self._on_end = on_end
        inbox = channel.in_buffer
        assert isinstance(inbox, Inbox)
        self._inbox = inbox
        self._left = 2
        self._lock = threading.Lock()
        sock.settimeout(None)
        counts.add(connections=1)
        inbox.attach(sock)
        for run in (self._up, self._down):
            threading.Thread(target=run, name=f"ssh {run.__name__}", daemon=True).start()

    def cut(self) -> None:
        """End it at once, whatever is under way."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._inbox.close()

    def _up(self) -> None:
        """device → sshd"""
        try:
            while data := self._sock.recv(READ_BYTES):
                self._counts.add(bytes_in=len(data))
                sent = self.channel.send(data)
                while sent < len(data):  # the window was nearly full, or packets are shorter than this
                    more = self.channel.send(data[sent:])
                    if more == 0:
                        raise OSError("closed")
                    sent += more
            self.channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            self._break()
        self._done()

    def _down(self) -> None:
        """sshd → device"""
        try:
            while True:
                chunks, taken, last = self._inbox.next()
                for number in range(len(chunks)):
                    self._sock.sendall(chunks[number])
                    self._inbox.took(len(chunks[number]))
                if taken:
                    self._counts.add(bytes_out=taken)
                    self._give_back(taken)
                if last:
                    break
            if self.channel.closed:
                self._break()
            else:
                self._sock.shutdown(socket.SHUT_WR)
                while not self.channel.closed and self._left == 2:  # half closed: the other way may go on for long
                    self.channel.status_event.wait(1.0)
                if self.channel.closed:
                    self._break()
        except (OSError, EOFError, paramiko.SSHException):
            self._break()
        self._done()

    def _give_back(self, count: int) -> None:
        channel: Any = self.channel
        size = channel._check_add_window(count)
        if size > 0:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(channel.remote_chanid)
            message.add_int(size)
            channel.transport._send_user_message(message)

    def _break(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.close()

    def _done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._break()
        self._sock.close()
        self._counts.add(connections=-1)
        self._on_end(self)
