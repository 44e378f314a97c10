"""Runs `tunnel.device` with one of its protections taken out, for the controls: the fault must then show.

    python -m tests.faults.without [--without PROTECTION]... [--limit NAME=VALUE]... [--nofile N] -- TABLE --as SIDE

Production code has no switch for any of this: the protection is replaced in this process before the device starts.
`--limit` sets a number of tunnel/limits.py, before anything reads it; `--nofile` lowers the descriptor limit, hard too.
"""

from __future__ import annotations

import argparse
import resource
import sys

from tests.faults.protections import PROTECTIONS
from tunnel import limits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", action="append", default=[], choices=PROTECTIONS)
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--nofile", type=int)
    parser.add_argument("device", nargs="+")
    arguments = parser.parse_args()
    if arguments.nofile:
        resource.setrlimit(resource.RLIMIT_NOFILE, (arguments.nofile, arguments.nofile))
    for setting in arguments.limit:
        name, _, value = setting.partition("=")
        setattr(limits, name, type(getattr(limits, name))(value))
    for name in arguments.without:
        PROTECTIONS[name]()

    from tunnel import device

    sys.exit(device.main(arguments.device))


if __name__ == "__main__":
    main()
