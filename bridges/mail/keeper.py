"""What a Mailbox, in its thread, and a Keeper, on the loop, say to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from bridges.mail.imap_client import Listing

FLAGS: Final = {"seen": "\\Seen"}
"""What `after` sets, where that is no keyword."""


class Standstill(Exception):
    """A person must decide; the sentence says what."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Keeper wants next."""

    bodies: Sequence[int] = ()
    """Mails to be fetched now."""
    room: int = 0
    """So many more may be listed, if there is nothing to fetch."""
    after: int = 0
    """... those behind this UID."""
    last: int | None = None
    """To be fetched if there is nothing else to do."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What is to be done on the server."""

    mark: Sequence[int] = ()
    """As `after` says."""
    quarantine: Sequence[int] = ()


class Keeper(Protocol):
    """Who decides, on the loop. SpoolError, of each: the disk failed, and it is to be asked again later."""

    async def opened(self, uidvalidity: int, uidnext: int, highest: int) -> None:
        """The folder is open. Standstill: not like this."""

    async def wanted(self) -> Wanted: ...

    async def listed(self, listing: Listing) -> None: ...

    async def came(self, mails: Mapping[int, Mapping[bytes, Any]], asked: Sequence[int]) -> None:
        """Of the mails that were asked for, those that are there."""

    async def set_back(self, uid: int) -> None:
        """Not to be fetched again before all others were."""

    async def unreadable(self, uid: int, why: str) -> None:
        """The server does not give it, or what it gives cannot be read."""

    async def orders(self) -> Orders: ...

    async def carried_out(self, uids: Sequence[int], *, quarantined: bool) -> None: ...

    async def not_carried_out(self, uid: int, why: str) -> None: ...

    async def synced(self) -> float:
        """All is done that there was; it is to be asked again within so many seconds."""

    def state(self, state: str, reason: str) -> None:
        """connecting, up, retrying, refused, stopped; "": no reason."""
