"""Who may connect: the one ZAP handler (ZeroMQ RFC 27) of the reactor's context, with a gate for each domain.

Every socket that binds has a domain of its own (`link:ADDRESS`, `route:NAME`) and ZAP_ENFORCE_DOMAIN, so that nothing
is let in that no gate has let in. A gate looks at the address, then at the mechanism, then at the key or password, and
counts what it refused. Passwords are compared, never kept or told.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import zmq
from zmq.utils import z85

from tunnel.config.plan import Allow, Secret
from tunnel.errors import LocalMisuseError
from tunnel.reactor import Reactor

Mechanism = Literal["NULL", "PLAIN", "CURVE"]
Reason = Literal["address", "mechanism", "key", "password"]

ENDPOINT: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_REQUEST_FRAMES: Final = 8
_REQUESTS_A_TURN: Final = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of one connection: let in as `user_id`, or refused for `reason`."""

    reason: Reason | None
    user_id: str = ""


class Gate:
    """Lets in or refuses the connections of one ZAP domain. Without `plain` and `who` the mechanism is NULL.

    `plain`: users and their passwords; the User-Id is the user's name. `who`: the User-Id for a CURVE public key
    (Z85), None refuses. `on_admitted` is told each address that was let in. Counts `admitted` and `refused` by reason;
    `last_refusal` is a sentence, "" before the first.
    """

    def __init__(
        self,
        allow: Allow,
        *,
        plain: Mapping[str, Secret] | None = None,
        who: Callable[[str], str | None] | None = None,
        on_admitted: Callable[[str], None] | None = None,
    ) -> None:
        if plain is not None and who is not None:
            raise LocalMisuseError("A gate is either PLAIN or CURVE, not both.")
        self.allow = allow
        self.mechanism: Mechanism = "PLAIN" if plain is not None else "CURVE" if who is not None else "NULL"
        self.admitted = 0
        self.refused: dict[Reason, int] = dict.fromkeys(("address", "mechanism", "key", "password"), 0)
        self.last_refusal = ""
        self._plain = plain
        self._who = who
        self._on_admitted = on_admitted

    def __repr__(self) -> str:
        return f"<Gate {self.mechanism} admitted={self.admitted} refused={sum(self.refused.values())}>"

    def judge(self, address: str, mechanism: str, credentials: Sequence[bytes]) -> Verdict:
        """Decide on one connection and count it. `address` as libzmq tells it; ipc peers have none of the IP kind."""
        verdict = self._judge(address, mechanism, credentials)
        if verdict.reason is None:
            self.admitted += 1
            if self._on_admitted is not None:
                self._on_admitted(address)
        else:
            self.refused[verdict.reason] += 1
            self.last_refusal = self._sentence(verdict.reason, address, mechanism, credentials)
        return verdict

    def _judge(self, address: str, mechanism: str, credentials: Sequence[bytes]) -> Verdict:
        if not may_connect(self.allow, address):
            return Verdict("address")
        if mechanism != self.mechanism:
            return Verdict("mechanism")
        if self._plain is not None:
            return _judge_plain(self._plain, credentials)
        if self._who is not None:
            public = _public_key(credentials)
            user_id = self._who(public) if public else None
            return Verdict("key") if user_id is None else Verdict(None, user_id)
        return Verdict(None)

    def _sentence(self, reason: Reason, address: str, mechanism: str, credentials: Sequence[bytes]) -> str:
        peer = address or "A local process"
        if reason == "address":
            return f"{peer} is not among the addresses that `allow` lets in."
        if reason == "mechanism":
            return f"{peer} came with {mechanism or 'no mechanism'} where {self.mechanism} is asked for."
        if reason == "key":
            return f"{peer} came with the unknown public key {_public_key(credentials) or '(malformed)'}."
        return f"{peer} came with an unknown user or a wrong password."


def may_connect(allow: Allow, address: str) -> bool:
    """Does `allow` let this address in? IPv4 addresses mapped into IPv6 count as IPv4; ipc peers always pass."""
    try:
        peer = ipaddress.ip_address(address)
    except ValueError:
        return not address or address.startswith("localhost:")  # ipc: `localhost:UID:GID:PID` (libzmq, SO_PEERCRED)
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    if allow.anyone:
        return True
    if not allow.networks:
        return peer.is_loopback
    return any(peer in network for network in allow.networks)


class Zap:
    """Answers libzmq's questions for every domain that was added; every other domain is refused."""

    def __init__(self, reactor: Reactor) -> None:
        self.unknown_domain = 0
        self._gates: dict[str, Gate] = {}
        self._socket = reactor.context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._watch = reactor.watch(self._socket, self._on_ready)

    def __repr__(self) -> str:
        return f"<Zap {' '.join(self._gates) or 'no domain'}>"

    def add(self, domain: str, gate: Gate) -> None:
        """Let `gate` decide for `domain`. Do it before the socket of that domain binds."""
        if domain in self._gates:
            raise LocalMisuseError(f"The ZAP domain {domain} has a gate already.")
        self._gates[domain] = gate

    def remove(self, domain: str) -> None:
        """Refuse everything that comes for `domain` from now on; connections that are in stay in."""
        self._gates.pop(domain, None)

    def close(self) -> None:
        """Answer nothing more: connections under way fail."""
        self._watch.close()
        self._socket.close()

    def _on_ready(self, _ready: int) -> None:
        for _ in range(_REQUESTS_A_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            reply = self._answer(frames)
            if reply:
                self._socket.send_multipart(reply, zmq.DONTWAIT)

    def _answer(self, frames: Sequence[bytes]) -> list[bytes]:
        """[routing id, empty, version, request, domain, address, routing id of the peer, mechanism, credentials...]"""
        if len(frames) < _REQUEST_FRAMES or frames[2] != _VERSION:
            return []
        peer, empty, version, request, domain, address, _identity, mechanism, *credentials = frames
        gate = self._gates.get(_text(domain))
        if gate is None:
            self.unknown_domain += 1
            return [peer, empty, version, request, b"400", b"no such domain", b"", b""]
        verdict = gate.judge(_text(address), _text(mechanism), credentials)
        if verdict.reason is None:
            return [peer, empty, version, request, b"200", b"OK", verdict.user_id.encode(), b""]
        return [peer, empty, version, request, b"400", verdict.reason.encode(), b"", b""]


def _judge_plain(users: Mapping[str, Secret], credentials: Sequence[bytes]) -> Verdict:
    if len(credentials) != 2:
        return Verdict("password")
    user = _text(credentials[0])
    known = users.get(user)
    # an unknown user takes as long as a wrong password
    right = hmac.compare_digest(credentials[1], (known or Secret("")).reveal().encode())
    return Verdict(None, user) if known is not None and right else Verdict("password")


def _public_key(credentials: Sequence[bytes]) -> str:
    return z85.encode(credentials[0]).decode() if len(credentials) == 1 and len(credentials[0]) == 32 else ""


def _text(frame: bytes) -> str:
    return frame.decode("utf-8", "replace")
