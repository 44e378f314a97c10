"""paramiko's transport with what it lacks for links: unix sockets at the sshd, reasons, and news of its own end.

paramiko opens and takes only TCP forwards. OpenSSH's `direct-streamlocal` and `forwarded-streamlocal` (section 2.4 of
its PROTOCOL file) are added here by means of paramiko's inner functions, so this file alone changes when those do.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, cast

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN

from tunnel.carriers.ssh_base import SshError
from tunnel.carriers.ssh_pipe import Inbox
from tunnel.limits import SSH_CONNECT_S, SSH_WINDOW_BYTES

PACKET_BYTES = 128 * 1024
"""What the sshd may put into one packet: fewer of them, less work in Python."""
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
"""Fastest first; what else paramiko knows (CBC, 3DES) is not offered."""
_LAST_DATA = struct.Struct("52xI")
"""tcp_info.tcpi_last_data_recv, milliseconds (linux/tcp.h)."""


class Transport(paramiko.Transport):
    """One session at a sshd. `on_end` is called from its thread when it is over."""

    def __init__(self, sock: socket.socket, on_end: Callable[[], None]) -> None:
        super().__init__(sock, default_window_size=SSH_WINDOW_BYTES, default_max_packet_size=PACKET_BYTES)
        self.tcp = sock
        self.goodbye = ""
        """What the sshd said as it hung up."""
        self.remarks: list[str] = []
        """What it remarked on the way, such as that it forwards no ports."""
        self._on_end = on_end
        self._failures: dict[int, tuple[int, str]] = {}
        options = self.get_security_options()
        options.ciphers = tuple(cipher for cipher in CIPHERS if cipher in options.ciphers)

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._on_end()

    def silent_s(self) -> float:
        """Since when nothing came from the sshd, seconds. OSError when the connection is closed."""
        info = self.tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA.size)
        return float(_LAST_DATA.unpack(info)[0]) / 1000

    # --- opening channels --------------------------------------------------------------------------------------------

    def open_to(self, target: tuple[str, int] | str) -> paramiko.Channel:
        """A channel to a port or a unix socket at the sshd; its buffer is an Inbox.

        SshError with `code` in words; EOFError: the session is over.
        """
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_OPEN)
        inner: Any = self
        with self.lock:
            number = inner._next_channel()
            channel: Any = paramiko.Channel(number)
            event = self.channel_events[number] = threading.Event()
            inner._channels.put(number, channel)
            self.channels_seen[number] = True
            channel._set_transport(self)
            channel._set_window(SSH_WINDOW_BYTES, PACKET_BYTES)
        message.add_string("direct-streamlocal@openssh.com" if isinstance(target, str) else "direct-tcpip")
        for value in (number, SSH_WINDOW_BYTES, PACKET_BYTES):
            message.add_int(value)
        host, port = (target, None) if isinstance(target, str) else target
        message.add_string(host)
        if port is not None:
            message.add_int(port)
        message.add_string("" if port is None else "127.0.0.1")  # who asks
        message.add_int(0)
        inner._send_user_message(message)
        if not inner.active:  # paramiko drops the message then, without a word, and wakes nobody who came too late
            raise EOFError("the session is over")
        opened = event.wait(SSH_CONNECT_S)
        if inner.active and opened and number not in self._failures:
            return cast("paramiko.Channel", channel)
        code, text = self._failures.pop(number, (0, ""))
        if opened:
            raise ChannelRefused(code, text if inner.active else "the session ended meanwhile")
        inner._unlink_channel(number)
        raise ChannelRefused(0, f"no answer within {SSH_CONNECT_S:g} s")

    def _parse_channel_open_success(self, message: paramiko.Message) -> None:
        inner: Any = self
        channel = inner._channels.get(message.get_int())
        if channel is not None:
            channel.in_buffer = Inbox()  # here nothing can have come yet: this thread is the one that feeds it
        message.rewind()
        super()._parse_channel_open_success(message)  # type: ignore[misc]

    def _parse_channel_open_failure(self, message: paramiko.Message) -> None:
        number, code, text = message.get_int(), message.get_int(), message.get_text()
        self._failures[number] = (code, text)
        message.rewind()
        super()._parse_channel_open_failure(message)  # type: ignore[misc]

    # --- being connected to ------------------------------------------------------------------------------------------

    def forward(self, target: tuple[str, int] | str, on_channel: Callable[[paramiko.Channel, str], None]) -> None:
        """Ask the sshd to listen. `on_channel(channel, who connected)` runs in the transport's thread. SshError."""

        def handler(channel: paramiko.Channel, origin: tuple[str, int], _where: Any) -> None:
            channel.in_buffer = Inbox()  # type: ignore[assignment]
            on_channel(channel, origin[0])

        self._tcp_handler = handler
        if isinstance(target, str):
            reply = self.global_request("streamlocal-forward@openssh.com", (target,), wait=True)
        else:
            reply = self.global_request("tcpip-forward", target, wait=True)
        if reply is None:
            raise SshError("; ".join(self.remarks))

    def _parse_channel_open(self, message: paramiko.Message) -> None:
        """A connection to a forwarded unix socket is put as one to a port, which paramiko knows."""
        kind = message.get_text()
        if kind == "forwarded-streamlocal@openssh.com":
            numbers = [message.get_int() for _ in range(3)]
            path = message.get_text()
            message = paramiko.Message()
            message.add_string("forwarded-tcpip")
            for number in numbers:
                message.add_int(number)
            for text in (path, ""):
                message.add_string(text)
                message.add_int(0)
            message = paramiko.Message(message.asbytes())
        else:
            message.rewind()
        super()._parse_channel_open(message)  # type: ignore[misc]

    # --- what it says ------------------------------------------------------------------------------------------------

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        message.get_int()
        self.goodbye = message.get_text()

    def _parse_debug(self, message: paramiko.Message) -> None:
        message.get_boolean()
        self.remarks = [*self.remarks[-9:], message.get_text()]


class ChannelRefused(SshError):
    """The sshd did not open a channel; `code` as RFC 4254, 5.1 has it, 0 where it said nothing."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
