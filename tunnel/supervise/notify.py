"""systemd's notification protocol (sd_notify(3)): READY, STATUS, WATCHDOG, STOPPING. Nothing without NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Notifier:
    """Tells systemd how we are. `watchdog_s` is how often it wants to hear `WATCHDOG=1`; None: it does not care."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")  # popped: no child may speak for us
        self._last_status = ""
        period_us = os.environ.pop("WATCHDOG_USEC", "")
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(period_us) / 1e6 / 2 if period_us.isdigit() and for_us and self._address else None

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changed."""
        if text != self._last_status:
            self._last_status = text
            self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.connect(address)
            out.sendall(state.encode())
