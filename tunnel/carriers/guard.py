"""Keeps a link's listener alive when strangers connect faster than descriptors last.

libzmq accepts whatever comes, and once the process is out of descriptors its I/O thread spins: the listening socket
stays readable, accept fails, 500,000 times a second (measured, 4.3.5). Unbinding would end the accepted connections
too. So we hold the listening socket ourselves (ZMQ_USE_FD) and, under pressure, hang a classic BPF filter on it: new
SYNs are ignored, what is established goes on. What waits in the accept queue already still has to be accepted; for
that there is a ballast of descriptors, larger than the queue, which is let go (a filter without it leaves the thread
spinning: measured). Silent connections are reaped by HANDSHAKE_IVL; then the ballast is taken back and the port opens.

First only the addresses from which a dialler proved its key lately may still come in; when that does not suffice, none.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import resource
import socket as sockets
import struct
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, Final

import zmq

from tunnel.limits import (
    DESCRIPTOR_RESERVE,
    HANDSHAKE_S,
    LISTEN_BACKLOG,
    LISTEN_HANDSHAKES,
    LISTEN_KNOWN,
)
from tunnel.monitor import MonitorEvent
from tunnel.reactor import Reactor

_CALM_S: Final = 1.0
_REVIEW_S: Final = 0.2
"""How often an open port looks for pressure that no event tells of, and one that is not, whether it may open again."""
_BALLAST: Final = LISTEN_BACKLOG + 16
_YOUNG_S: Final = HANDSHAKE_S + 0.5
"""After this a connection that is still there has finished its handshake: HANDSHAKE_IVL ends the others."""
_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27

_Instruction = tuple[int, int, int, int]
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_NETWORK_HEADER: Final = 0xFFF0_0000  # SKF_NET_OFF: the filter of a TCP socket sees the TCP header at 0
_ETHERTYPE: Final = 0xFFFF_F000  # SKF_AD_OFF + SKF_AD_PROTOCOL
_DROP: Final[_Instruction] = (_RETURN, 0, 0, 0)
_PASS: Final[_Instruction] = (_RETURN, 0, 0, 0xFFFF_FFFF)  # the whole packet: less would trim it


class Level(IntEnum):
    """Whose new connections the port lets in."""

    OPEN = 0
    KNOWN = 1
    SHUT = 2


class Guard:
    """Watches the connections of one listening socket, which it owns from now on."""

    def __init__(self, reactor: Reactor, port: sockets.socket) -> None:
        self.level = Level.OPEN
        self.times_shut = 0
        self.connections = 0
        """Accepted and still there."""
        self.refused: dict[str, int] = dict.fromkeys(("key", "mechanism", "handshake", "timeout"), 0)
        """Refused by libzmq before ZAP was asked: `key` did not have our public key, `handshake` spoke something else
        or hung up, `timeout` was silent."""
        self._reactor = reactor
        self._port = port
        self._filterable = sys.platform == "linux" and port.family in (sockets.AF_INET, sockets.AF_INET6)
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._null = os.open(os.devnull, os.O_RDONLY)
        self._ballast: list[int] = []
        self._young: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """Descriptor → when it was accepted, and how many handshakes had succeeded by then."""
        self._succeeded: deque[float] = deque()  # when handshakes were finished, within _YOUNG_S
        self._successes = 0
        self._failed = 0  # HANDSHAKE_FAILED whose DISCONNECTED is still to come
        self._known: OrderedDict[str, None] = OrderedDict()
        self._take_ballast()
        self._timer: asyncio.TimerHandle = reactor.call_later(_CALM_S, self._review)

    def __repr__(self) -> str:
        return f"<Guard {self.level.name} connections={self.connections} handshakes={self.handshakes}>"

    @property
    def handshakes(self) -> int:
        """Connections that have not finished their handshake (those of diallers that did are never counted)."""
        self._forget_old()
        return max(0, len(self._young) - len(self._succeeded))

    def status(self) -> dict[str, Any]:
        """{lets_in: open|known|shut, handshakes, times_shut, can_filter}."""
        return {
            "lets_in": self.level.name.lower(),
            "handshakes": self.handshakes,
            "times_shut": self.times_shut,
            "can_filter": self._filterable,
        }

    def proved(self, address: str) -> None:
        """A dialler from this address proved its key: under pressure it may still come in."""
        self._known[address] = None
        self._known.move_to_end(address)
        if len(self._known) > LISTEN_KNOWN:
            self._known.popitem(last=False)

    def on_event(self, event: MonitorEvent) -> None:
        """Every event of the listener's monitor, in order."""
        match event.kind:
            case zmq.Event.ACCEPTED:
                self.connections += 1
                self._young[event.value] = (self._reactor.now(), self._successes)
                self._young.move_to_end(event.value)
                self._press()
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                self._succeeded.append(self._reactor.now())
                self._successes += 1
            case zmq.Event.DISCONNECTED:
                self._on_disconnected(event.value)
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._fail(_PROTOCOL_FAILURES.get(event.value, "handshake"))
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._fail("timeout" if event.value == zmq.EAGAIN else "handshake")
            case zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._failed += 1  # the gate counted it

    def close(self) -> None:
        """Close the listening socket (libzmq closes its own copy) and give every descriptor back."""
        self._timer.cancel()
        self._port.close()
        self._drop_ballast()
        os.close(self._null)

    def _on_disconnected(self, descriptor: int) -> None:
        self.connections -= 1
        _, successes_then = self._young.pop(descriptor, (0.0, -1))
        # garbage is dropped without a HANDSHAKE_FAILED; as no handshake succeeded since, it was not this one's end
        if self._failed:
            self._failed -= 1
        elif successes_then == self._successes:
            self.refused["handshake"] += 1
        if not self._young:
            self._failed = 0

    def _fail(self, reason: str) -> None:
        self.refused[reason] += 1
        self._failed += 1

    def _forget_old(self) -> None:
        horizon = self._reactor.now() - _YOUNG_S
        while self._young and next(iter(self._young.values()))[0] < horizon:
            self._young.popitem(last=False)
        while self._succeeded and self._succeeded[0] < horizon:
            self._succeeded.popleft()

    def _press(self) -> None:
        """Let fewer in when that is needed. Never lets more in."""
        wanted = self._wanted_level(1.0)
        if wanted > self.level:
            self._set_level(wanted)

    def _review(self) -> None:
        """By the clock: let fewer in, or, once half of the pressure is gone, more."""
        self._press()
        if self.level is Level.SHUT and self._take_ballast() and self._wanted_level(0.5) < Level.SHUT:
            self._set_level(Level.KNOWN)
        if self.level is Level.KNOWN and self._wanted_level(0.5) is Level.OPEN:
            self._set_level(Level.OPEN)
        self._timer = self._reactor.call_later(_CALM_S if self.level is Level.OPEN else _REVIEW_S, self._review)

    def _wanted_level(self, share: float) -> Level:
        """What the pressure asks for, where `share` of the bounds counts as pressure."""
        handshakes = self.handshakes
        lowest_free = self._lowest_free_descriptor()
        if lowest_free >= self._limit - DESCRIPTOR_RESERVE or handshakes >= 2 * LISTEN_HANDSHAKES * share:
            return Level.SHUT
        margin = DESCRIPTOR_RESERVE + LISTEN_BACKLOG / 2 / share
        if lowest_free >= self._limit - margin or handshakes >= LISTEN_HANDSHAKES * share:
            return Level.KNOWN
        return Level.OPEN

    def _set_level(self, level: Level) -> None:
        self.times_shut += self.level is Level.OPEN
        self.level = level
        if self._filterable:
            if level is Level.OPEN:
                self._port.setsockopt(sockets.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            else:
                _attach(self._port, drop_all() if level is Level.SHUT else drop_all_but(self._known))
        if level is Level.SHUT:
            self._drop_ballast()

    def _lowest_free_descriptor(self) -> int:
        """The number that the next accept would get: the limit, when there is none."""
        try:
            descriptor = os.dup(self._null)
        except OSError:
            return self._limit
        os.close(descriptor)
        return descriptor

    def _take_ballast(self) -> bool:
        """Hold _BALLAST descriptors (fewer under a very low limit), or none: False."""
        wanted = min(_BALLAST, self._limit // 3)
        while len(self._ballast) < wanted:
            try:
                self._ballast.append(os.dup(self._null))
            except OSError:
                break
            if self._ballast[-1] >= self._limit - DESCRIPTOR_RESERVE:
                break
        else:
            return True
        self._drop_ballast()
        return False

    def _drop_ballast(self) -> None:
        while self._ballast:
            os.close(self._ballast.pop())


def drop_all() -> list[_Instruction]:
    """The filter that ignores every packet."""
    return [_DROP]


def drop_all_but(addresses: Iterable[str]) -> list[_Instruction]:
    """The filter that ignores every packet that does not come from one of these addresses (IPv4, IPv6, mapped)."""
    four: list[_Instruction] = [(_LOAD, 0, 0, _NETWORK_HEADER + 12)]
    six: list[_Instruction] = []
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if isinstance(address, ipaddress.IPv4Address):
            four += [(_JUMP_EQUAL, 0, 1, int(address)), _PASS]
        else:
            six += _pass_six(address)
    four.append(_DROP)
    six.append(_DROP)
    # a conditional jump reaches 255 instructions at most: enough for LISTEN_KNOWN addresses
    return [(_LOAD, 0, 0, _ETHERTYPE), (_JUMP_EQUAL, 0, len(four), 0x0800), *four, *six]


def _pass_six(address: ipaddress.IPv6Address) -> list[_Instruction]:
    """Pass when the four words of the source address are these; else fall through behind this block."""
    words = struct.unpack(">4I", address.packed)
    block: list[_Instruction] = []
    for index, word in enumerate(words):
        to_end = 2 * (3 - index) + 1
        block += [(_LOAD, 0, 0, _NETWORK_HEADER + 8 + 4 * index), (_JUMP_EQUAL, 0, to_end, word)]
    return [*block, _PASS]


def _attach(port: sockets.socket, program: Sequence[_Instruction]) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    port.setsockopt(sockets.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HL", len(program), ctypes.addressof(buffer)))


_PROTOCOL_FAILURES: Final[dict[int, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "key",
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: "mechanism",
}
