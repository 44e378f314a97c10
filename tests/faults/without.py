"""Runs `tunnel.device` with one of its protections taken out, for the controls: the fault must then show.

    python -m tests.faults.without [--without PROTECTION]... [--limit NAME=VALUE]... [--nofile N] -- TABLE --as SIDE

Production code has no switch for any of this: the protection is replaced in this process before the device starts.
`--limit` sets a number of tunnel/limits.py, before anything reads it; `--nofile` lowers the descriptor limit, hard too.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from typing import Any

from tunnel import limits


def replay() -> None:
    """A link that comes back goes on with what is new; what was under way is taken to have arrived."""
    from tunnel.link.outbound import Outbound

    def resume(self: Outbound, received: int, delivered: int) -> None:
        self.acknowledge(self.next_seq - 1)
        self.cursor = self.next_seq

    Outbound.resume = resume  # type: ignore[method-assign]
    sequence()  # the gap would be noticed there


def resume_point() -> None:
    """A link that comes back sends again whatever was not delivered, also what was received."""
    from tunnel.link.outbound import Outbound

    original = Outbound.resume

    def resume(self: Outbound, received: int, delivered: int) -> None:
        original(self, received, delivered)
        if self.terms.confirmed:
            self.cursor = delivered + 1

    Outbound.resume = resume  # type: ignore[method-assign]


def sequence() -> None:
    """A batch is taken whatever its number."""
    from tunnel.link.inbound import Inbound

    original = Inbound.accept

    def accept(self: Inbound, header: Any, *rest: Any) -> bool:
        self.received = header.seq - 1
        return original(self, header, *rest)

    Inbound.accept = accept  # type: ignore[method-assign]


def counting() -> None:
    """What a `live` route loses is not counted."""
    from tunnel.link.outbound import Outbound

    original = Outbound._lose_flight_after

    def lose(self: Outbound, seq: int, reason: str) -> None:
        before = self.dropped.copy()
        original(self, seq, reason)
        self.dropped = before

    Outbound._lose_flight_after = lose  # type: ignore[method-assign]


PROTECTIONS: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (replay, resume_point, sequence, counting)
}


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

    sys.argv = ["tunnel.device", *arguments.device]
    device.main()


if __name__ == "__main__":
    main()
