"""A program of the user's that prints an OAuth access token: run without a shell, bounded in time and in output.

Only its exit status is told, never what it printed.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from bridges.mail.limits import TOKEN_BYTES, TOKEN_S
from tunnel.keys import Secret

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
"""RFC 6750, 2.1."""


class TokenError(Exception):
    """There is no token; the sentence says why."""


def token(command: Sequence[str], within_s: float = TOKEN_S) -> Secret:
    """What it prints, less white space around it. Blocks; TokenError."""
    name = command[0]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise TokenError(
            f"the token command {name} cannot be run: {getattr(error, 'strerror', None) or error}"
        ) from None
    try:
        printed = _read(process, name, time.monotonic() + within_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise TokenError(f"the token command {name} failed, with exit status {process.returncode}")
    text = printed.decode("ascii", "replace").strip()
    if not _TOKEN.fullmatch(text):
        raise TokenError(f"the token command {name} printed {'nothing' if not text else 'something that is no token'}")
    return Secret(text)


def _read(process: subprocess.Popen[bytes], name: str, deadline: float) -> bytes:
    """All that it prints, until it has ended."""
    assert process.stdout is not None
    printed = b""
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TokenError(f"the token command {name} took too long")
            piece = os.read(stream.fileno(), TOKEN_BYTES)
            if not piece:
                break
            printed += piece
            if len(printed) > TOKEN_BYTES:
                raise TokenError(f"the token command {name} printed more than {TOKEN_BYTES} bytes")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TokenError(f"the token command {name} took too long") from None
    return printed
