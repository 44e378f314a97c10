"""An IMAP connection of imaplib, as ours are: guarded, bounded, with deadlines; and how its failures are told."""

from __future__ import annotations

import contextlib
import imaplib
import re
import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Final

from bridges.mail.limits import IMAP_ANSWER_BYTES, IMAP_CONNECT_S, IMAP_LINE_BYTES
from tunnel.config.mail.imap import ImapPlan
from tunnel.config.values import tcp
from tunnel.limits import BRIDGE_USER_TIMEOUT_S, KEEPALIVE_IDLE_S

CONTROLS: Final = re.compile(rb"[\x00-\x1f\x7f]")
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", 18)


class Refused(Exception):
    """The server does not let us in; the sentence says why."""


class ControlError(ValueError):
    """An argument would have ended the line of its command."""


class No(Exception):
    """The server said NO to one command; the connection is well. The sentence has its words."""


class Imap(imaplib.IMAP4):
    """imaplib's connection, as ours are."""

    def __init__(self, plan: ImapPlan, context: ssl.SSLContext | None) -> None:
        at = tcp(plan.connect[0])
        self._address = at.host, at.port
        self._name = (plan.tls.server_name if plan.tls is not None else None) or at.host
        self._wraps = context if plan.mode == "implicit" else None
        self.literal_most = IMAP_LINE_BYTES
        """Of one literal."""
        self._left = IMAP_ANSWER_BYTES
        """... and of the answer to one command, with its lines."""
        super().__init__(self._name, at.port)

    def _create_socket(self, timeout: float | None = None) -> socket.socket:
        plain = socket.create_connection(self._address, IMAP_CONNECT_S)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.suppress(OSError, AttributeError):
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(KEEPALIVE_IDLE_S))
            with contextlib.suppress(OSError):
                plain.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(BRIDGE_USER_TIMEOUT_S * 1000))
            return plain if self._wraps is None else self._wraps.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise

    def _command(self, name: str, *args: Any) -> Any:
        """The one place that every command passes."""
        for argument in (name, *args):
            data = argument.encode("utf-8", "surrogatepass") if isinstance(argument, str) else argument
            if data is not None and CONTROLS.search(bytes(data)):
                self.literal = None  # imaplib's own word for none
                raise ControlError(f"an argument of {name} has a control character in it; it was not sent")
        self._left = IMAP_ANSWER_BYTES + self.literal_most
        return super()._command(name, *args)  # type: ignore[misc]  # typeshed leaves it out

    def read(self, size: int) -> bytes:
        if size > self.literal_most:
            raise self.abort(f"the server announces {size} bytes where {self.literal_most} are the most")
        self._count(size)
        data = super().read(size)
        if len(data) < size:
            raise self.abort("the server hung up")
        return data

    def readline(self) -> bytes:
        line = super().readline()
        self._count(len(line))
        return line

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise self.abort("the server's answer does not end")


def select_on(descriptors: Iterable[int], within_s: float) -> None:
    """Until one of them can be read."""
    poller = select.poll()
    for one in descriptors:
        poller.register(one, select.POLLIN)
    poller.poll(within_s * 1000)


def shown(words: object) -> str:
    """A server's words as they may stand in a sentence."""
    if isinstance(words, BaseException):
        first = words.args[0] if words.args else ""
        words = first.decode("utf-8", "replace") if isinstance(first, bytes) else first
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(words)).strip()
    return text if len(text) <= 200 else f"{text[:200]}..."
