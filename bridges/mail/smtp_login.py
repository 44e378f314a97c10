"""AUTH PLAIN and LOGIN (RFC 4954, 4616): what a client says, as a name and a password. Who is right is the server's to
say (users.py)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable

MECHANISMS = ("PLAIN", "LOGIN")
Ask = Callable[[bytes], Awaitable[str | None]]
"""Says a challenge, and gives the line that answers it; None: there is none."""


class LoginError(ValueError):
    """This is no login."""


async def said(mechanism: str, initial: str, ask: Ask) -> tuple[str, bytes]:
    """Name and password; `initial`: what came with the command. LoginError: something else was said."""
    try:
        if mechanism == "PLAIN":
            message = _decoded(initial) if initial else await _answer(ask, b"334 ")
            _, name, password = message.split(b"\0")
        else:
            name = _decoded(initial) if initial else await _answer(ask, b"334 VXNlcm5hbWU6")
            password = await _answer(ask, b"334 UGFzc3dvcmQ6")
        return name.decode(), password
    except (ValueError, binascii.Error):
        raise LoginError from None


async def _answer(ask: Ask, challenge: bytes) -> bytes:
    line = await ask(challenge)
    if line is None or line == "*":
        raise LoginError
    return _decoded(line)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text if text != "=" else "", validate=True)
