"""What the monitor's events say about each local endpoint: its state, its peers, why it fails. Pure.

Measured with libzmq 4.3.5, and the reason for all of this:
- A connect end that met the wrong socket type, another security mechanism, a ZAP refusal (400) or a frame over
  MAXMSGSIZE gets DISCONNECTED and is *never* tried again (libzmq #4196). Whenever libzmq does try again,
  CONNECT_RETRIED follows at once. So: DISCONNECTED without CONNECT_RETRIED means that we must connect anew ourselves.
- At a bind end ACCEPTED and DISCONNECTED bear the descriptor, HANDSHAKE_SUCCEEDED bears none. Which of several young
  connections succeeded is therefore a guess (the oldest), put right
  once a connection has outlived the time of a handshake.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import zmq

from tunnel.limits import HANDSHAKE_S, REASON_S
from tunnel.local.words import (
    Expectation,
    Failure,
    why_dropped,
    why_gone,
    why_no_connection,
    why_no_handshake,
)

SETTLED_S: Final = HANDSHAKE_S + 1.0
"""A connection this old has had its handshake, for libzmq ends those that have not after HANDSHAKE_IVL."""

_FAILED: Final = {
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "no_detail",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "protocol",
    zmq.Event.HANDSHAKE_FAILED_AUTH: "auth",
}


@dataclass(frozen=True, slots=True)
class Up:
    """A peer's handshake succeeded; `conn` names the connection until its Down."""

    conn: int


@dataclass(frozen=True, slots=True)
class Down:
    """A connection ended; `was_up` tells whether it had had its handshake."""

    conn: int
    was_up: bool


Change = Up | Down | None


class ConnectWatch:
    """One `connect` endpoint. `stuck`: libzmq may have given up (see above)."""

    method: Final = "connect"

    def __init__(self, address: str, expected: Expectation) -> None:
        self.address = address
        self.expected = expected
        self.state = "connecting"
        self.reason = ""
        self.up = False
        self.up_since = 0.0
        self.stuck = False
        self._failure: Failure | None = None
        self._was_up = False
        self._conn = 0

    def __repr__(self) -> str:
        return f"<ConnectWatch {self.address} {self.state}{' stuck' if self.stuck else ''}>"

    def peers(self, _now: float) -> int:
        return int(self.up)

    def on_event(self, kind: zmq.Event, value: int, now: float) -> Change:
        """Take in one event of this endpoint; times are monotonic seconds."""
        if kind == zmq.Event.CONNECTED:
            self._failure, self.stuck, self._conn = None, False, value
        elif kind == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.state, self.reason, self.up, self.up_since = "connected", "", True, now
            return Up(self._conn)
        elif kind in _FAILED:
            self._failure = Failure(_FAILED[kind], value)
        elif kind == zmq.Event.DISCONNECTED:
            return self._on_disconnected()
        elif kind == zmq.Event.CLOSED:
            self.state, self.reason, self.stuck = "retrying", why_no_connection(self.address), True
        elif kind in (zmq.Event.CONNECT_RETRIED, zmq.Event.CONNECT_DELAYED):
            self.stuck = False
        return None

    def gave_up(self) -> None:
        """libzmq will not try again: say why as far as that is known. The owner connects anew."""
        if self._was_up:
            self.reason = why_dropped(self.address)

    def failed(self, reason: str) -> None:
        """It could not even be tried (the name does not resolve, say)."""
        self.state, self.reason, self.up, self.stuck = "retrying", reason, False, False

    def _on_disconnected(self) -> Down:
        self._was_up, self.up = self.up, False
        self.state, self.stuck = "retrying", True
        if self._was_up:
            self.reason = why_gone(self.address)
        else:
            self.reason = why_no_handshake("connect", self.address, self.expected, self._failure)
        self._failure = None
        return Down(self._conn, self._was_up)


@dataclass(slots=True)
class _Accepted:
    since: float
    up: bool = False


class BindWatch:
    """One `bind` endpoint: bound or down, and who is connected. `reason` outlives a failure by REASON_S."""

    method: Final = "bind"

    def __init__(self, address: str, expected: Expectation) -> None:
        self.address = address
        self.expected = expected
        self.state = "down"
        self.refusals = 0
        """Connections that ended before their handshake did."""
        self._reason = ""
        self._reason_at = 0.0
        self._failure: Failure | None = None
        self._conns: dict[int, _Accepted] = {}

    def __repr__(self) -> str:
        return f"<BindWatch {self.address} {self.state} conns={len(self._conns)}>"

    def peers(self, now: float) -> int:
        self._settle(now)
        return sum(conn.up for conn in self._conns.values())

    def reason_at(self, now: float) -> str:
        """The last failure in words, "" once it is long past."""
        return self._reason if self.state == "down" or now - self._reason_at < REASON_S else ""

    def bound(self) -> None:
        self.state, self._reason = "bound", ""

    def failed(self, reason: str, now: float) -> None:
        """The bind did not work."""
        self.state, self._reason, self._reason_at = "down", reason, now

    def on_event(self, kind: zmq.Event, value: int, now: float, refusal: str = "") -> Change:
        """Take in one event of this endpoint. `refusal`: the gate's last word, told when a peer was not let in."""
        if kind == zmq.Event.ACCEPTED:
            self._conns[value] = _Accepted(now)
        elif kind == zmq.Event.HANDSHAKE_SUCCEEDED:
            return self._on_handshake(now)
        elif kind in _FAILED:
            self._failure = Failure(_FAILED[kind], value)
            if self._failure.kind == "auth" and refusal:
                self._refused(refusal, now)
        elif kind == zmq.Event.DISCONNECTED:
            return self._on_disconnected(value, now, refusal)
        return None

    def _on_handshake(self, now: float) -> Change:
        self._settle(now)
        for fd, conn in self._conns.items():
            if not conn.up:
                conn.up = True
                return Up(fd)
        return None

    def _on_disconnected(self, fd: int, now: float, refusal: str) -> Change:
        conn = self._conns.pop(fd, None)
        failure, self._failure = self._failure, None
        if conn is None:
            return None
        if failure is not None and conn.up:
            if now - conn.since <= SETTLED_S:
                self._hand_on()
            conn.up = False  # an old one was only taken to be up, because we are late in hearing of its end
        if not conn.up:
            self.refusals += 1
            if not (failure and failure.kind == "auth" and refusal):
                self._refused(why_no_handshake("bind", self.address, self.expected, failure), now)
        return Down(fd, conn.up)

    def _hand_on(self) -> None:
        """The handshake that was put down to a connection which failed was another young one's."""
        for conn in self._conns.values():
            if not conn.up:
                conn.up = True
                return

    def _settle(self, now: float) -> None:
        """Old connections are up for certain; what they had was put down to younger ones, the youngest first."""
        wrong = [conn for conn in self._conns.values() if not conn.up and now - conn.since > SETTLED_S]
        young = [conn for conn in self._conns.values() if conn.up and now - conn.since <= SETTLED_S]
        for conn in wrong:
            conn.up = True
            if young:
                young.pop().up = False

    def _refused(self, reason: str, now: float) -> None:
        self._reason, self._reason_at = reason, now


EndpointWatch = ConnectWatch | BindWatch


class Switchboard:
    """Finds the endpoint that an event is about: by descriptor where one is known, else by address."""

    def __init__(self) -> None:
        self._by_fd: dict[int, EndpointWatch] = {}
        self._by_address: defaultdict[str, list[EndpointWatch]] = defaultdict(list)

    def put(self, address: str, watch: EndpointWatch) -> None:
        """Events of `address` (as handed to libzmq) are about `watch` from now on."""
        self.drop(watch)
        self._by_address[_normal(address)].append(watch)

    def drop(self, watch: EndpointWatch) -> None:
        """Events that are still under way for `watch` concern nobody any more."""
        for found in self._by_address.values():
            if watch in found:
                found.remove(watch)
        self._by_fd = {fd: other for fd, other in self._by_fd.items() if other is not watch}

    def find(self, kind: zmq.Event, value: int, address: str) -> EndpointWatch | None:
        if kind == zmq.Event.DISCONNECTED:
            return self._by_fd.pop(value, None)
        watch = self._by_name(kind, address)
        if watch is not None and kind in (zmq.Event.CONNECTED, zmq.Event.ACCEPTED):
            self._by_fd[value] = watch
        return watch

    def _by_name(self, kind: zmq.Event, address: str) -> EndpointWatch | None:
        method = _METHOD.get(kind)
        found = [w for w in self._by_address.get(_normal(address), ()) if method in (None, w.method)]
        if not found and method != "connect":
            # a bind to `*` or an interface is told with the address it was reached at
            port = address.rpartition(":")[2]
            found = [
                watch
                for known, watches in self._by_address.items()
                for watch in watches
                if watch.method == "bind" and known.startswith("tcp://") and known.rpartition(":")[2] == port
            ]
        return found[0] if found else None


_METHOD: Final = {
    zmq.Event.ACCEPTED: "bind",
    zmq.Event.LISTENING: "bind",
    zmq.Event.CONNECTED: "connect",
    zmq.Event.CONNECT_DELAYED: "connect",
    zmq.Event.CONNECT_RETRIED: "connect",
}


def _normal(address: str) -> str:
    """libzmq shows IPv4 inside IPv6 as `[::ffff:192.0.2.1]`, and leaves out the source address."""
    if address.startswith("tcp://"):
        target = address.removeprefix("tcp://").rpartition(";")[2]
        host, _, port = target.rpartition(":")
        host = host.removeprefix("[").removesuffix("]").removeprefix("::ffff:").lower()
        return f"tcp://{host}:{port}"
    return address
