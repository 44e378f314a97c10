"""All four patterns at once through a rig, and the exact account of what became of every message.

Services and publishers stand inside (plant), clients and subscribers in the DMZ, as in the guide; tasks go outwards.
A conversation adds a stream to the load: one connection on which both ends count.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from array import array
from collections.abc import Callable

from tests.apps import App, settled
from tests.faults.rig import Rig
from tests.journal import Requests, Verdict, compare, compare_requests
from tests.streams import Service, connected
from tests.waiting import until

ROUTES = ("orders", "ticks", "weights", "chat")
NUMBER_BYTES = 8
SAY_EVERY_S = 0.01
"""Pause of a talker between two sends; 1.3 MB/s each way in the mean."""


def four_routes(rig: Rig, delivery: str = "confirmed") -> str:
    """The table's routes. Every window of `ticks` is large enough for an outage at the rates used here."""
    return f"""
orders:
  pattern: reqrep
  from: dmz bind {rig.ipc("orders")}
  to: plant connect {rig.ipc("service")}
  max_age: never
  delivery: {delivery}
ticks:
  pattern: pubsub
  from: plant connect {rig.ipc("feed")}
  to: dmz bind {rig.ipc("ticks")}
  delivery: {delivery}
  overflow: block
weights:
  pattern: pipeline
  from: plant bind {rig.ipc("weights")}
  to: dmz bind {rig.ipc("workers")}
  delivery: {delivery}
chat:
  pattern: pair
  from: dmz bind {rig.ipc("chat-dmz")}
  to: plant bind {rig.ipc("chat-plant")}
  max_age: never
  delivery: {delivery}
"""


class Talker:
    """One end of a connection: says 0, 1, 2 and so on, eight bytes each, and checks that it hears the same.

    `wrong` is the first that was not the next: bytes lost, repeated and out of order all show there.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.said = self.heard = 0
        self.wrong = self.broken = ""
        self.ended = False
        """The other end has said all."""
        self._socket = connection
        self._socket.settimeout(120)
        self._silent = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._say, self._hear)]
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        return f"<Talker said={self.said} heard={self.heard} {self.wrong or self.broken or 'clean'}>"

    def hush(self) -> None:
        """Says no more; still hears."""
        self._silent.set()

    def join(self, deadline: float | None = None) -> None:
        """Until all is said and heard, or until this monotonic time."""
        for thread in self._threads:
            thread.join(None if deadline is None else max(0, deadline - time.monotonic()))

    def _say(self) -> None:
        sizes = random.Random(1)
        try:
            while not self._silent.wait(SAY_EVERY_S):
                new = range(self.said, self.said + sizes.choice((1, 12, 600, 6_000)))
                self._socket.sendall(array("Q", new).tobytes())
                self.said = new.stop
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.broken = f"saying: {error}"

    def _hear(self) -> None:
        rest = b""
        try:
            while data := self._socket.recv(1 << 16):
                data = rest + data
                whole = len(data) - len(data) % NUMBER_BYTES
                rest = data[whole:]
                self._check(array("Q", data[:whole]))
            self.ended = not rest
        except OSError as error:
            self.broken = f"hearing: {error}"

    def _check(self, numbers: array[int]) -> None:
        expected = range(self.heard, self.heard + len(numbers))
        self.heard = expected.stop
        if not self.wrong and numbers != array("Q", expected):
            number, due = next((one, due) for one, due in zip(numbers, expected, strict=True) if one != due)
            self.wrong = f"{number} came where {due} was due"


class Conversation:
    """A stream route, and one connection through it whose two ends talk to each other."""

    def __init__(self, entry: str) -> None:
        self.entry = entry
        self.ends: list[Talker] = []
        self._service = Service(self._serve)
        self.target = self._service.address

    def route(self) -> str:
        """The table's route: `to` is the end that is served."""
        return f"{{pattern: stream, from: dmz bind {self.entry}, to: 'plant connect {self.target}'}}"

    def go(self) -> None:
        self.ends.append(Talker(connected(self.entry)))
        until(lambda: len(self.ends) == 2, 20, "the connection reached the service")

    def finish(self, within_s: float) -> None:
        """Both say no more and hear the rest."""
        deadline = time.monotonic() + within_s
        for end in self.ends:
            end.hush()
        for end in self.ends:
            end.join(deadline)

    @property
    def faults(self) -> str:
        """Nothing, when it is the same connection still and each end heard exactly what the other said."""
        near, far = self.ends[:2]
        whole = (near.said, far.said) == (far.heard, near.heard) and near.ended and far.ended
        clean = not any(end.wrong or end.broken for end in self.ends)
        return "" if whole and clean and self._service.accepted == 1 else f"{self.ends}"

    def close(self) -> None:
        self._service.close()

    def _serve(self, connection: socket.socket) -> None:
        end = Talker(connection)
        self.ends.append(end)
        end.join()


class Load:
    """Applications on all four routes. `dmz` and `plant` are those that talk to that half."""

    def __init__(
        self,
        rig: Rig,
        rate: float = 700,
        monitor: bool = False,
        timeout_s: float = 120,
        talk: Conversation | None = None,
    ) -> None:
        apps, self.rig, self.talk = rig.apps, rig, talk
        more = {"monitor": monitor}
        self.service = apps.start("rep", f"bind {rig.ipc('service')}", **more)
        self.feed = apps.start(
            "pub", f"bind {rig.ipc('feed')}", topics=["a", "b", "c"], rate=rate, options={"SNDHWM": 0}, **more
        )
        self.producer = apps.start("push", f"connect {rig.ipc('weights')}", name="producer", rate=rate, **more)
        self.inner = apps.start("pair", f"connect {rig.ipc('chat-plant')}", name="inner", rate=rate / 2, **more)
        self.clients = apps.start(
            "req", f"connect {rig.ipc('orders')}", name="c", clients=4, rate=rate / 2, timeout_s=timeout_s, **more
        )
        self.crowd = apps.start(
            "dealer", f"connect {rig.ipc('orders')}", name="d", clients=100_000, rate=rate / 2, **more
        )
        self.subscriber = apps.start("sub", f"connect {rig.ipc('ticks')}", topics=["a", "b"], **more)
        self.worker = apps.start("pull", f"connect {rig.ipc('workers')}", **more)
        self.outer = apps.start("pair", f"connect {rig.ipc('chat-dmz')}", name="outer", rate=rate / 2, **more)
        self.plant = [self.service, self.feed, self.producer, self.inner]
        self.dmz = [self.clients, self.crowd, self.subscriber, self.worker, self.outer]
        self.senders = [self.feed, self.producer, self.inner, self.clients, self.crowd, self.outer]

    def go(self) -> None:
        """Numbered messages from now on: the subscriptions have crossed, everything flows."""
        self.rig.apps.opened()
        until(lambda: set(self.subscriber.journal.of("H")) == {"a", "b"}, 20, "the publisher's greetings crossed")
        for app in self.senders:
            app.go()
        if self.talk is not None:
            self.talk.go()
        self.flows(20)

    def flows(self, within_s: float, more: int = 20) -> None:
        """Waits until every route has carried `more` further messages."""
        goals = {name: count() + more for name, count in self.counts().items()}
        until(
            lambda: all(count() >= goals[name] for name, count in self.counts().items()),
            within_s,
            lambda: f"every route carried {more} more: {self.state()} of {goals}",
        )

    def counts(self) -> dict[str, Callable[[], int]]:
        ends = self.talk.ends if self.talk is not None else []
        return {
            **{f"stream {at}": lambda end=end: end.heard for at, end in enumerate(ends)},  # type: ignore[misc]
            "req": self.clients.received,
            "dealer": self.crowd.received,
            "ticks": self.subscriber.received,
            "weights": self.worker.received,
            "outer": self.outer.received,
            "inner": self.inner.received,
        }

    def state(self) -> dict[str, int]:
        return {name: count() for name, count in self.counts().items()}

    def finish(self, quiet_s: float = 1.5, within_s: float = 40) -> None:
        """Stops the senders and waits until nothing moves any more."""
        for app in self.senders:
            app.stop()
        settled(lambda: (self.state(), [app.sent() for app in self.senders]), quiet_s, within_s)

    def arrive(self, within_s: float = 40) -> None:
        """Stops the senders and waits until all that was sent has arrived; judged is what comes a moment later."""
        for app in self.senders:
            app.stop()
        if self.talk is not None:
            self.talk.finish(within_s)
        until(
            lambda: not any(verdict.faults[0] for verdict in self.account().values()),
            within_s,
            lambda: f"everything arrived: {[str(verdict) for verdict in self.account().values()]}",
            every_s=0.1,
        )
        settled(self.state, 0.3, within_s)

    def requests(self, client: App) -> Requests:
        return compare_requests(client.journal, self.service.journal)

    def messages(self) -> dict[str, Verdict]:
        """Per stream of one direction, what became of it."""
        ticks = {topic: seqs for topic, seqs in self.feed.journal.of("S").items() if topic in ("a", "b")}
        return {
            "ticks": compare(ticks, self.subscriber.journal.of("R")),
            "weights": compare(self.producer.journal.of("S"), self.worker.journal.of("R")),
            "chat outwards": compare(self.inner.journal.of("S"), self.outer.journal.of("R")),
            "chat inwards": compare(self.outer.journal.of("S"), self.inner.journal.of("R")),
        }

    def account(self) -> dict[str, Verdict | Requests]:
        return {"REQ": self.requests(self.clients), "DEALER": self.requests(self.crowd), **self.messages()}

    def assert_clean(self) -> None:
        """0 lost, 0 repeated, 0 reordered, on every route, and enough messages to mean something."""
        wrong = {name: str(verdict) for name, verdict in self.account().items() if not verdict.clean}
        if self.talk is not None and self.talk.faults:
            wrong["stream"] = self.talk.faults
        assert not wrong, "\n".join(f"{name}: {told}" for name, told in wrong.items())
        assert all(count >= 30 for count in self.state().values()), self.state()
