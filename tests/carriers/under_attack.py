"""A listener in a process of its own, with few descriptors, and an attacker in another: for test_guard.py.

    python -m tests.carriers.under_attack listener LIMIT [without-guard]
    python -m tests.carriers.under_attack attacker HOST PORT COUNT SOURCE [SOURCE ...]

Both read lines from stdin and end with it; the listener answers each line with its status as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.carriers.ends import LISTENER_KEYS, ListenSpy
from tunnel.carriers import CARRIERS, guard
from tunnel.config.plan import Allow, KeyPair, ListenPlan, Secret
from tunnel.reactor import Reactor, run
from tunnel.zap import Zap

ROOT = Path(__file__).parents[2]
CONNECTS_A_ROUND = 500


class Process:
    """One of the two, as a test sees it."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.carriers.under_attack", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(b"status\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


async def listen(limit: int, guarded: bool, good_key: str, secret: str, public: str) -> None:
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if not guarded:
        guard.Guard._press = lambda self: None  # type: ignore[method-assign]
        guard.Guard._take_ballast = lambda self: True  # type: ignore[method-assign]
    reactor = Reactor(asyncio.get_running_loop())
    spy = ListenSpy()
    spy.echo = True
    plan = ListenPlan("tcp://127.0.0.1:0", ("plant",), Allow())
    keys = KeyPair(public, Secret(secret))
    spy.listener = listener = CARRIERS["tcp"].listen(
        reactor, Zap(reactor), plan, keys, lambda key: "plant" if key == good_key else None, spy
    )
    print(json.dumps(listener.status()), flush=True)
    ended = asyncio.Event()

    def on_line() -> None:
        data = os.read(0, 4096)
        if not data:
            ended.set()
        for _ in data.splitlines():
            print(json.dumps(listener.status()), flush=True)

    reactor.loop.add_reader(0, on_line)
    await ended.wait()
    os._exit(0)


def attack(host: str, port: int, count: int, sources: list[str]) -> None:
    """Hold `count` silent connections, or attempts at one; whatever ends is begun again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    poll = select.epoll()
    poll.register(0, select.EPOLLIN)
    open_sockets: dict[int, socket.socket] = {}
    begun = 0
    print(json.dumps({"ready": True}), flush=True)
    while True:
        for _ in range(min(CONNECTS_A_ROUND, count - len(open_sockets))):
            sock = socket.socket()
            sock.setblocking(False)
            # the port is chosen at connect: binding one here would run out of them
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((sources[begun % len(sources)], 0))
            begun += 1
            with contextlib.suppress(BlockingIOError):
                try:
                    sock.connect((host, port))
                except OSError as error:
                    if not isinstance(error, BlockingIOError):
                        sock.close()
                        continue
            open_sockets[sock.fileno()] = sock
            poll.register(sock, select.EPOLLRDHUP)
        for descriptor, _ in poll.poll(0.1):
            if descriptor == 0:
                os._exit(0)
            poll.unregister(descriptor)
            open_sockets.pop(descriptor).close()


def main() -> None:
    role, *arguments = sys.argv[1:]
    if role == "listener":
        limit, guarded = int(arguments[0]), "without-guard" not in arguments
        good, secret, public = (os.environ[name] for name in ("GOOD_KEY", "SECRET", "PUBLIC"))
        run(listen(limit, guarded, good, secret, public))
    else:
        host, port, count, *sources = arguments
        attack(host, int(port), int(count), sources)


def environment(good_key: str) -> dict[str, str]:
    """The keys that the listener's process is given."""
    return {"GOOD_KEY": good_key, "SECRET": LISTENER_KEYS.secret.reveal(), "PUBLIC": LISTENER_KEYS.public}


if __name__ == "__main__":
    main()
