"""A dialler and a listener that remember what they were told, and waiting for it on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import zmq

from tests.loops import until
from tunnel.carriers import CARRIERS, Carrier, Dialled, Lane, Listener
from tunnel.carriers.memory import MemoryCarrier
from tunnel.config.plan import Allow, KeyPair, ListenPlan, Secret
from tunnel.pump import Segment
from tunnel.reactor import Reactor, run
from tunnel.zap import Zap


def new_keys() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), Secret(secret.decode()))


LISTENER_KEYS = new_keys()
DIALLER_KEYS = new_keys()
STRANGER_KEYS = new_keys()

__all__ = ["DIALLER_KEYS", "LISTENER_KEYS", "STRANGER_KEYS", "DialSpy", "Ends", "ListenSpy", "run_within", "until"]


class DialSpy:
    """DialEvents that are written down."""

    def __init__(self) -> None:
        self.ups: list[Lane] = []
        self.received: list[tuple[Lane, list[bytes]]] = []
        self.losses: list[tuple[Lane, str]] = []

    def up(self, lane: Lane) -> None:
        self.ups.append(lane)

    def frames(self, lane: Lane, parts: Sequence[Segment]) -> None:
        self.received.append((lane, [bytes(part) for part in parts]))

    def lost(self, lane: Lane, reason: str) -> None:
        self.losses.append((lane, reason))

    @property
    def is_up(self) -> bool:
        return set(self.ups) == set(Lane)


class ListenSpy:
    """ListenEvents that are written down; answers when told to."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, str, list[bytes]]] = []
        self.listener: Listener | None = None
        self.echo = False

    def frames(self, conn: bytes, user_id: str, parts: list[Segment]) -> None:
        if self.echo:
            assert self.listener is not None
            self.listener.send(conn, parts)
        else:
            self.received.append((conn, user_id, [bytes(part) for part in parts]))

    def conn_of(self, first_part: bytes) -> bytes:
        return next(conn for conn, _, parts in self.received if parts[0] == first_part)


class Ends:
    """One reactor with a listener of one scheme; dials it as often as asked."""

    def __init__(self, scheme: str, path: str) -> None:
        self.reactor = Reactor(asyncio.get_running_loop())
        self.zap = Zap(self.reactor)
        self.carrier: Carrier = MemoryCarrier() if scheme == "memory" else CARRIERS[scheme]
        self.address = {"tcp": "tcp://127.0.0.1:0", "ipc": f"ipc://{path}", "memory": "memory://here"}[scheme]
        self.spy = ListenSpy()
        self.listener: Listener | None = None
        self.dialled: list[Dialled] = []

    def who(self, public: str) -> str | None:
        return "plant" if public == DIALLER_KEYS.public else None

    def listen(self, allow: Allow | None = None, own: KeyPair = LISTENER_KEYS, **more: Any) -> Listener:
        plan = ListenPlan(self.address, ("plant",), allow or Allow(), **more)
        self.listener = self.spy.listener = self.carrier.listen(self.reactor, self.zap, plan, own, self.who, self.spy)
        self.address = self.listener.status()["address"]
        return self.listener

    def dial(
        self, own: KeyPair = DIALLER_KEYS, server: str = LISTENER_KEYS.public, source: str | None = None
    ) -> tuple[Dialled, DialSpy]:
        spy = DialSpy()
        dialled = self.carrier.dial(self.reactor, self.address, own, server, source, spy)
        self.dialled.append(dialled)
        return dialled, spy

    async def pair(self) -> tuple[Dialled, DialSpy, bytes, bytes]:
        """A dialler that is up, and the listener's names for its control and its data lane."""
        dialled, spy = self.dial()
        await until(lambda: spy.is_up)
        seen = len(self.spy.received)
        for lane in Lane:
            dialled.send(lane, [b"lane %d" % lane])
        await until(lambda: len(self.spy.received) == seen + 2)
        new = self.spy.received[seen:]
        conns = [next(conn for conn, _, parts in new if parts == [b"lane %d" % lane]) for lane in Lane]
        return dialled, spy, conns[0], conns[1]

    def close(self) -> None:
        for dialled in self.dialled:
            dialled.close()
        if self.listener is not None:
            self.listener.close()
        self.zap.close()
        self.reactor.close()


def run_within(main: Coroutine[Any, Any, None], within_s: float = 60) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, within_s)

    run(bounded())
