"""Counting 0MQ applications, each a process of its own and plain pyzmq: they know nothing of ztunnel.

Run as `python -m tests.apps JSON`; `App` starts one from a test and talks to it. Every message carries its sender's
name and a number from 1; what was sent and received goes to a journal (`tests.journal`), written once a turn.
Commands arrive as lines on stdin: `go` (send from now on), `stop` (send no more), `rate N`, `quit` (close, handing over
what is queued, and end). A lost parent (end of stdin) ends the application too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.journal import Journal, Writer
from tests.waiting import until

TURN_MS = 2
BURST = 256
"""Messages one turn sends or reads at most, so that commands are heard."""


@dataclass
class Options:
    """What one application does. `endpoints` are `bind ADDRESS` or `connect ADDRESS`."""

    role: str
    journal: str
    endpoints: Sequence[str]
    name: str = "a"
    rate: float = 500.0
    """Messages a second; replies of a requester throttle it further."""
    size: int = 64
    most: int = 0
    """Send this many, then no more; 0: until told to stop."""
    started: bool = False
    """Send at once, without waiting for `go`."""
    topics: Sequence[str] = ()
    """pub: what it publishes, in turn; sub: prefixes it subscribes to."""
    clients: int = 1
    """req: sockets that ask at the same time; dealer: requests under way at most."""
    timeout_s: float = 120.0
    """req: a request older than this is noted T and asked no more."""
    options: dict[str, int] = field(default_factory=dict)
    """Socket options by libzmq's name, set before bind or connect."""
    monitor: bool = False
    """Journal the socket's monitor events as `E EVENT value`."""
    curve: dict[str, str] = field(default_factory=dict)


class Role:
    """One socket, sending at a pace and reading what comes. Subclasses say what a message is."""

    kind: int
    reads = True

    def __init__(self, options: Options, context: zmq.Context[Any]) -> None:
        self.options = options
        self.context = context
        self.journal = Writer(Path(options.journal))
        self.pad = b"x" * options.size
        self.seq = 0
        self.sending = options.started
        self.rate = options.rate
        self._allowance = 0.0
        self._last = time.monotonic()
        self.monitors: list[zmq.Socket[bytes]] = []
        self.sockets = [self.open() for _ in range(self.number())]

    def number(self) -> int:
        return 1

    def open(self) -> zmq.Socket[bytes]:
        socket = self.context.socket(self.kind)
        for name, value in self.options.options.items():
            socket.set(getattr(zmq, name), value)
        self.prepare(socket)
        for endpoint in self.options.endpoints:
            method, address = endpoint.split(" ", 1)
            getattr(socket, method)(address)
        return socket

    def prepare(self, socket: zmq.Socket[bytes]) -> None:
        if self.options.monitor:
            # pyzmq's own name for it is the descriptor's, which a socket opened later may get too
            address = f"inproc://monitor-{len(self.monitors)}"
            socket.monitor(address, zmq.EVENT_ALL)
            self.monitors.append(self.context.socket(zmq.PAIR))
            self.monitors[-1].connect(address)

    def turn(self) -> None:
        for socket in self.sockets if self.reads else ():
            for _ in range(BURST):
                try:
                    parts = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                except zmq.ZMQError as error:
                    if error.errno != zmq.EFSM:
                        raise
                    break  # a REQ that has not asked, a REP that has answered
                self.received(socket, parts)
        if self.sending:
            self.send_due()
        for monitor in self.monitors:
            while monitor.poll(0):
                event = recv_monitor_message(monitor)
                self.journal.note("E", zmq.Event(event["event"]).name, int(event["value"]))
        self.journal.flush()

    def send_due(self) -> None:
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._last) * self.rate, BURST)
        self._last = now
        while self._allowance >= 1 and self.send_one():
            self._allowance -= 1
            if self.options.most and self.seq >= self.options.most:
                self.sending = False
                return

    def go(self) -> None:
        self._last = time.monotonic()
        self.sending = True

    def send_one(self) -> bool:
        """Sends the next message if the socket takes it."""
        try:
            self.sockets[0].send_multipart(self.message(self.seq + 1), zmq.NOBLOCK)
        except zmq.Again:
            return False
        self.seq += 1
        self.journal.note("S", self.options.name, self.seq)
        return True

    def message(self, seq: int) -> list[bytes]:
        return [self.options.name.encode(), b"%d" % seq, self.pad]

    def received(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        self.journal.note("R", parts[0].decode(), int(parts[1]))


class Push(Role):
    kind = zmq.PUSH
    reads = False


class Pull(Role):
    kind = zmq.PULL


class Pair(Role):
    kind = zmq.PAIR


class Publisher(Role):
    """Publishes each topic in turn, numbered per topic. Before `go` it greets: number 0 on each, not journalled."""

    kind = zmq.PUB
    reads = False

    def __init__(self, options: Options, context: zmq.Context[Any]) -> None:
        super().__init__(options, context)
        self._greeted = 0.0

    def turn(self) -> None:
        super().turn()
        if not self.seq and not self.sending and time.monotonic() > self._greeted + 0.2:
            self._greeted = time.monotonic()
            for topic in self.options.topics:
                self.sockets[0].send_multipart([topic.encode(), b"0", b""])

    def send_one(self) -> bool:
        number, index = divmod(self.seq, len(self.options.topics))
        topic = self.options.topics[index]
        self.sockets[0].send_multipart([topic.encode(), b"%d" % (number + 1), self.pad], zmq.NOBLOCK)
        self.seq += 1
        self.journal.note("S", topic, number + 1)
        return True


class Subscriber(Role):
    """Subscribes to prefixes; greetings are noted H."""

    kind = zmq.SUB

    def prepare(self, socket: zmq.Socket[bytes]) -> None:
        super().prepare(socket)
        for topic in self.options.topics:
            socket.set(zmq.SUBSCRIBE, topic.encode())

    def received(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        seq = int(parts[1])
        self.journal.note("R" if seq else "H", parts[0].decode(), seq)


class Service(Role):
    """A REP that carries out a request by noting it, and answers with the request's own name and number."""

    kind = zmq.REP

    def received(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        super().received(socket, parts)
        socket.send_multipart([parts[0], parts[1], b"done"])


class Requester(Role):
    """Several REQ clients, each with one request under way. Keys are NAME.0, NAME.1 ...; L notes round trips in µs."""

    kind = zmq.REQ

    def __init__(self, options: Options, context: zmq.Context[Any]) -> None:
        super().__init__(options, context)
        self._next = [1] * options.clients
        self._asked_at: list[float | None] = [None] * options.clients

    def number(self) -> int:
        return self.options.clients

    def key(self, index: int) -> str:
        return f"{self.options.name}.{index}"

    def send_one(self) -> bool:
        for index, asked_at in enumerate(self._asked_at):
            if asked_at is None:
                key, seq = self.key(index), self._next[index]
                try:
                    self.sockets[index].send_multipart([key.encode(), b"%d" % seq, self.pad], zmq.NOBLOCK)
                except zmq.Again:
                    continue
                self.journal.note("S", key, seq)
                self._asked_at[index] = time.monotonic()
                self.seq += 1
                return True
        return False

    def received(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        index = self.sockets.index(socket)
        right = parts[:2] == [self.key(index).encode(), b"%d" % self._next[index]]
        self.journal.note("R" if right else "W", parts[0].decode(), int(parts[1]))
        asked_at = self._asked_at[index]
        if right and asked_at is not None:
            self.journal.note("L", self.key(index), int((time.monotonic() - asked_at) * 1e6))
            self._next[index] += 1
            self._asked_at[index] = None

    def turn(self) -> None:
        super().turn()
        for index, asked_at in enumerate(self._asked_at):
            if asked_at is not None and time.monotonic() > asked_at + self.options.timeout_s:
                self.journal.note("T", self.key(index), self._next[index])
                self.sockets[index].close(0)
                self.sockets[index] = self.open()
                self._next[index] += 1
                self._asked_at[index] = None


class Dealer(Role):
    """A DEALER client with up to `clients` requests under way at once."""

    kind = zmq.DEALER

    def __init__(self, options: Options, context: zmq.Context[Any]) -> None:
        super().__init__(options, context)
        self._answered = 0

    def message(self, seq: int) -> list[bytes]:
        return [b"", *super().message(seq)]

    def send_one(self) -> bool:
        return self.seq - self._answered < self.options.clients and super().send_one()

    def received(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        super().received(socket, parts[1:])
        self._answered += 1


ROLES: dict[str, type[Role]] = {
    "push": Push,
    "pull": Pull,
    "pair": Pair,
    "pub": Publisher,
    "sub": Subscriber,
    "rep": Service,
    "req": Requester,
    "dealer": Dealer,
}


def main(text: str) -> None:
    options = Options(**json.loads(text))
    context = zmq.Context[Any]()
    role = ROLES[options.role](options, context)
    poller = zmq.Poller()
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    role.journal.note("E", "opened", 0)
    pending = b""
    while True:
        role.turn()
        for socket in role.sockets:
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(TURN_MS if role.sending else 50))
        for socket in role.sockets:
            poller.unregister(socket)
        if sys.stdin.fileno() not in ready:
            continue
        heard = os.read(sys.stdin.fileno(), 4096)
        *lines, pending = (pending + heard).split(b"\n")
        if not heard or b"quit" in lines:
            break
        for line in lines:
            word, *rest = line.decode().split()
            if word == "go":
                role.go()
            elif word == "stop":
                role.sending = False
            elif word == "rate":
                role.rate = float(rest[0])
            role.journal.note("E", word, 0)
    role.journal.flush()
    context.destroy(linger=None if heard else 0)


class App:
    """A running application, seen from a test."""

    def __init__(self, options: Options, before: Sequence[str] = ()) -> None:
        """`before`: what the command begins with, `ip netns exec NAME` say."""
        self.options = options
        self.journal = Journal(Path(options.journal))
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "tests.apps", json.dumps(asdict(options))],
            stdin=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def opened(self) -> App:
        until(lambda: "opened" in self.journal.of("E"), 20, f"{self.options.role} {self.options.name} opened")
        return self

    def go(self) -> None:
        self.tell("go")

    def stop(self) -> None:
        """Sends no more; returns when that is so."""
        if self.process.poll() is None:
            self.tell("stop")
            until(lambda: "stop" in self.journal.of("E"), 20, f"{self.options.role} {self.options.name} stopped")

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def quit(self, within_s: float = 10) -> None:
        """Ends it, handing over what is queued; killed when that takes too long."""
        if self.process.poll() is None:
            self.resume()
            self.tell("quit")
            try:
                self.process.wait(within_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def sent(self) -> int:
        return self.journal.count("S")

    def received(self) -> int:
        return self.journal.count("R")


class Apps:
    """Starts applications under one folder and ends them all."""

    def __init__(self, folder: Path, before: Sequence[str] = ()) -> None:
        self.folder = folder
        self.before = before
        self.all: list[App] = []

    def start(self, role: str, *endpoints: str, name: str | None = None, **more: Any) -> App:
        name = name or f"{role}{len(self.all)}"
        journal = str(self.folder / f"{name}.{len(self.all)}.journal")
        app = App(Options(role=role, journal=journal, endpoints=endpoints, name=name, **more), self.before)
        self.all.append(app)
        return app

    def opened(self) -> None:
        for app in self.all:
            app.opened()

    def close(self) -> None:
        for app in self.all:
            if app.process.poll() is None:
                app.kill()
            if app.process.stdin:
                app.process.stdin.close()


def settled(counts: Callable[[], object], quiet_s: float, within_s: float) -> None:
    """Waits until `counts()` has not changed for `quiet_s`: nothing is on its way any more."""
    last, since = counts(), time.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        now = counts()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > quiet_s

    until(quiet, within_s, lambda: f"the counts settled; now {counts()}", every_s=0.05)


if __name__ == "__main__":
    main(sys.argv[1])
