"""All four patterns at once through a rig, and the exact account of what became of every message.

Services and publishers stand inside (plant), clients and subscribers in the DMZ, as in the guide; tasks go outwards.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.apps import App, settled
from tests.faults.rig import Rig
from tests.journal import Requests, Verdict, compare, compare_requests
from tests.waiting import until

ROUTES = ("orders", "ticks", "weights", "chat")


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


class Load:
    """Applications on all four routes. `dmz` and `plant` are those that talk to that half."""

    def __init__(self, rig: Rig, rate: float = 700, monitor: bool = False, timeout_s: float = 120) -> None:
        apps, self.rig = rig.apps, rig
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
        return {
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
        account = self.account()
        wrong = {name: str(verdict) for name, verdict in account.items() if not verdict.clean}
        assert not wrong, "\n".join(f"{name}: {told}" for name, told in wrong.items())
        assert all(count >= 30 for count in self.state().values()), self.state()
