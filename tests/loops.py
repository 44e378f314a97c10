"""Running a test's coroutine on each loop that the reactor runs on, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tunnel.reactor import Reactor, new_loop

LOOPS: Final[dict[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "default": new_loop,
    "asyncio": asyncio.new_event_loop,
}

Body = Callable[[Reactor], Awaitable[None]]


def run_with_reactor(body: Body, loop: str = "default", within_s: float = 60) -> None:
    """Run `body` with a fresh reactor on a fresh loop, and close both."""

    async def main() -> None:
        reactor = Reactor(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(body(reactor), within_s)
        finally:
            reactor.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def until(condition: Callable[[], object], within_s: float = 10, what: Callable[[], object] = lambda: "") -> None:
    """Wait on the loop for a condition, with a deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what()}"
        await asyncio.sleep(0.005)
