"""When must a bound PAIR socket be made anew? Pure.

A PAIR takes one peer; a second one that connects too early is turned into an orphan: its connection stands, and
nothing it sends ever arrives, not even after the first has gone. Too early is also: while messages of the first are
still unread (measured, libzmq 4.3.5: a peer that restarts is orphaned in 35 of 50 cases when nobody reads in between).
A PAIR that has a pipe can be written to, and we write to none that we do not know of; so "no POLLOUT" tells an orphan
for certain.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    KEEP = "keep"
    """Nothing to do."""
    LATER = "later"
    """An orphan waits, but the messages of its predecessor are still unread: ask again soon."""
    REOPEN = "reopen"
    """Nothing is unread and the only peers are orphans: close the socket and open another."""


class PairPeers:
    """Which of the connections of one bound PAIR has its pipe. Connections are any ids."""

    def __init__(self) -> None:
        self.attached: int | None = None
        self._others: list[int] = []
        self._certain: set[int] = set()
        """Those that came while another was served: orphans for certain, whatever POLLOUT says."""

    def __repr__(self) -> str:
        return f"<PairPeers attached={self.attached} others={len(self._others)}>"

    @property
    def orphans(self) -> int:
        """Connections beyond the one that is served."""
        return len(self._others)

    def up(self, conn: int) -> None:
        """A peer's handshake succeeded: ask `judge` next."""
        self._others.append(conn)
        if self.attached is not None:
            self._certain.add(conn)

    def down(self, conn: int) -> None:
        """A connection ended: ask `judge` a little later, for libzmq tells of it before it hands over what it had."""
        self._certain.discard(conn)
        if conn == self.attached:
            self.attached = None
        elif conn in self._others:
            self._others.remove(conn)

    def judge(self, *, readable: bool, writable: bool) -> Verdict:
        """With the socket's POLLIN and POLLOUT as they are now, and nothing written since the last peer went."""
        if self.attached is not None or not self._others:
            return Verdict.KEEP
        served = [conn for conn in self._others if conn not in self._certain]
        if writable and served:
            self.attached = served[-1]
            self._others.remove(self.attached)
            return Verdict.KEEP
        return Verdict.LATER if readable else Verdict.REOPEN
