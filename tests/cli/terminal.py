"""`ztunnel` on a terminal, for commands that ask for a password: what is typed is never shown."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.supervise.rig import ZTUNNEL
from tests.waiting import until


def typed(
    arguments: Sequence[str], answers: Sequence[tuple[str, str]], environment: Mapping[str, str], folder: Path
) -> tuple[int, str]:
    """Each answer is typed when its question stands there; exit code and stdout."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    seen = b""

    def read() -> bytes:
        nonlocal seen
        with contextlib.suppress(BlockingIOError):
            seen += os.read(ours, 4096)
        return seen

    try:
        process = subprocess.Popen(
            [*ZTUNNEL, *arguments],
            env=environment,
            cwd=folder,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            start_new_session=True,
        )
        begin = 0
        for question, answer in answers:
            asked = f"{question}: ".encode()  # with its blank: what is typed before that is thrown away
            until(lambda asked=asked, begin=begin: asked in read()[begin:], 20, lambda: seen)  # type: ignore[misc]
            begin = len(seen)
            os.write(ours, answer.encode() + b"\n")
        stdout, _ = process.communicate(timeout=60)
        read()
    finally:
        os.close(ours)
        os.close(theirs)
    assert not any(answer.encode() in seen for _, answer in answers)
    return process.returncode, stdout
