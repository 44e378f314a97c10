"""The allocator takes what it is told, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def test_glibc_takes_the_thresholds() -> None:
    code = "from tunnel.heap import keep_large_blocks as k; import platform; print(k(), platform.libc_ver()[0])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == ("True" if told[-1] == "glibc" else "False")
