"""What supervisord really starts: `python -m tunnel.supervise.child NAME FINGERPRINT`, in the runtime folder.

It ties the process's life to its supervisor's (when a supervisor is killed, its processes get TERM), closes what it
inherited, and becomes the program NAME of `programs.json`. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h"""


def main() -> None:
    """Become the program, or leave with 127 and a line that says why."""
    name = sys.argv[1]
    die_with_parent()
    try:
        program = json.loads(Path("programs.json").read_text())[name]
        os.closerange(3, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536))  # the lock among them
        os.execve(program["argv"][0], program["argv"], {**os.environ, **program["environment"]})
    except (OSError, ValueError, KeyError) as error:
        print(f"process {name} could not be started: {type(error).__name__}: {error}", file=sys.stderr)
        os._exit(127)


def die_with_parent(parent: int | None = None) -> None:
    """Get TERM when the parent process dies (Linux; elsewhere nothing happens). Survives exec.

    `parent`: its pid, when known, to notice that it died before we could ask.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    except (OSError, AttributeError):
        return
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
