"""What becomes of the mails of one folder: the Keeper that its Mailbox asks, on the loop, over Books and Giving."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from bridges.mail import meta
from bridges.mail.bookkeeping import Books, Kept, Position, State
from bridges.mail.giving import Giving, Letter
from bridges.mail.imap_client import Listing
from bridges.mail.keeper import FLAGS, Orders, Standstill, Wanted
from bridges.mail.ledger import Counts, Ledger, Mail
from bridges.mail.limits import (
    IMAP_FETCH_BYTES,
    IMAP_FETCH_MAILS,
    IMAP_HELD_BYTES,
    IMAP_MARK_MAILS,
    IMAP_SET_BACK_S,
    IMAP_WINDOW,
)
from bridges.mail.parse import parsed
from tunnel.config.mail.imap import ImapPlan
from tunnel.config.values import tcp
from tunnel.log import Log

_REPLACED: Final = {"skip": "those that came before are skipped", "reprocess": "its mails are handed over again"}


class Folder:
    """See `bridges.mail.keeper.Keeper`."""

    def __init__(self, plan: ImapPlan, name: str, books: Books, giving: Giving, counts: Counts, log: Log) -> None:
        self.name = name
        self._plan = plan
        self._books = books
        self._giving = giving
        self._counts = counts
        self._log = log
        self.wake: Callable[[], None] = lambda: None
        """Its Mailbox is to look again."""
        self._loop = asyncio.get_running_loop()
        self._position = Position(0, 0, 0)
        self._ledger = Ledger(name, books, lambda: self.wake(), self.has_room, self._disk_failed)
        self.settle = self._ledger.settle
        self._behind = 0
        """Mails that were not listed yet."""
        self._loaded = False
        self.paused = False
        self.told = "connecting"
        self.reason = ""
        self.trouble = ""
        """What was the matter with a mail last."""
        self._box = hashlib.sha256(json.dumps([plan.user, tcp(plan.connect[0]).host, name]).encode()).hexdigest()[:16]
        self._waits_for_room = False

    def __repr__(self) -> str:
        return f"<Folder {self.name} {self.told} {self._position} mails={len(self._ledger.mails)}>"

    def status(self) -> dict[str, Any]:
        return {
            "state": self.told,
            "reason": self.reason,
            "uidvalidity": self._position.uidvalidity,
            "last_uid": self._position.upto,
            "backlog": self._behind + self._ledger.count(State.LISTED, State.GIVEN),
            "to_mark": self._ledger.count(State.TAKEN, State.BAD),
            "trouble": self.trouble,
        }

    def has_room(self) -> None:
        """Less is held than before. It is called for when there is a good deal of it: each time ends an IDLE."""
        much = len(self._ledger.mails) <= IMAP_WINDOW * 3 // 4 and self._giving.held_bytes <= IMAP_HELD_BYTES * 3 // 4
        if self._waits_for_room and much:
            self._waits_for_room = False
            self.wake()

    # --- the Keeper: the folder --------------------------------------------------------------------------------------

    def state(self, state: str, reason: str) -> None:
        if state != self.told or reason != self.reason:
            tell = self._log.info if state in ("up", "connecting") else self._log.warning
            tell(state, folder=self.name, **({"reason": reason} if reason else {}))
        self.told, self.reason = state, reason

    async def opened(self, uidvalidity: int, uidnext: int, highest: int) -> None:
        top = max(uidnext - 1, highest)
        known = await self._books.position(self.name)
        if known is None and not self._books.was_lost:
            await self._begin(Position(uidvalidity, top if self._plan.since == "now" else 0, 0))
        elif known is None:
            await self._anew(uidvalidity, top, "the database was lost")
        elif known.uidvalidity != uidvalidity:
            await self._anew(uidvalidity, top, f"its UIDVALIDITY was {known.uidvalidity} and is {uidvalidity}")
        elif 0 < uidnext <= known.upto:
            await self._anew(uidvalidity, top, f"its last UID was {known.upto} and is {top}")
        elif not self._loaded:
            self._position = known
            for uid, size, state, attempts in await self._books.mails(self.name, uidvalidity):
                found = State.LISTED if state is State.GIVEN else state
                self._ledger.mails[uid] = Mail(uidvalidity, uid, size, found, attempts, repeats=state is State.GIVEN)
        self._loaded = True

    async def _anew(self, uidvalidity: int, top: int, what: str) -> None:
        """The server numbers its mails anew, so what we know of them is worth nothing."""
        rule = self._plan.rebaseline
        if rule == "stop":
            raise Standstill(
                f"{self.name} was renumbered ({what}), and nobody can tell which mails were handed over; "
                "say rebaseline: skip or reprocess"
            )
        self._log.warning("rebaseline", folder=self.name, reason=what, then=_REPLACED[rule])
        await self._begin(Position(uidvalidity, top, 0) if rule == "skip" else Position(uidvalidity, 0, top))

    async def _begin(self, position: Position) -> None:
        await self._books.begin(self.name, position)
        for mail in self._ledger.mails.values():
            if mail.letter is not None:
                self._giving.drop(mail.letter)
        self._ledger.mails.clear()
        self._position = position

    # --- the Keeper: mails -------------------------------------------------------------------------------------------

    async def wanted(self) -> Wanted:
        self._waits_for_room = False
        if self.paused:
            return Wanted()
        bodies: list[int] = []
        stumbled: int | None = None
        size, now = 0, self._loop.time()
        for mail in self._ledger.mails.values():
            if mail.state is not State.LISTED or mail.letter is not None or mail.rests_until > now:
                continue
            held = self._giving.held_bytes + size
            if (held and held + mail.size > IMAP_HELD_BYTES) or len(bodies) >= IMAP_FETCH_MAILS:
                self._waits_for_room = not bodies
                break
            if mail.stumbled:
                stumbled = stumbled or mail.uid
                continue
            if bodies and size + mail.size > IMAP_FETCH_BYTES:
                break
            bodies.append(mail.uid)
            size += mail.size
        room = max(0, IMAP_WINDOW - len(self._ledger.mails))
        self._waits_for_room |= not room
        return Wanted(tuple(bodies), 0 if self._waits_for_room else room, self._position.upto, stumbled)

    async def listed(self, listing: Listing) -> None:
        position = self._position
        kept: list[Kept] = []
        for found in listing.mails:
            if found.uid <= position.marked_upto and self._bears_mark(found.flags):
                self._counts.skipped["marked_before"] += 1
                continue
            large = found.size > self._plan.max_message_bytes
            if large:
                self._tell_bad(found.uid, "too_large", f"it has {found.size} bytes")
            if not large or self._plan.quarantine is not None:
                kept.append(Kept(found.uid, found.size, State.BAD if large else State.LISTED))
        await self._books.listed(self.name, position.uidvalidity, listing.upto, kept)
        self._position = position._replace(upto=listing.upto)
        self._behind = listing.behind
        for row in kept:
            self._ledger.mails[row.uid] = Mail(position.uidvalidity, row.uid, row.size, row.state)

    async def came(self, mails: Mapping[int, Mapping[bytes, Any]], asked: Sequence[int]) -> None:
        here = [self._ledger.mails[uid] for uid in asked if uid in self._ledger.mails]
        gone = [mail for mail in here if mail.uid not in mails]
        self._counts.skipped["gone"] += len(gone)  # somebody else has moved them, or deleted them
        good: list[Mail] = []
        for mail in here:
            if mail.uid in mails:
                raw = mails[mail.uid][b"BODY[]<0>"] or b""
                if len(raw) > self._plan.max_message_bytes:  # the server had said less
                    await self._put_aside(mail, "too_large", f"it has more than {self._plan.max_message_bytes} bytes")
                else:
                    good.append(mail)
        await self._ledger.finish(gone)
        await self._books.note(
            self.name, self._position.uidvalidity, [mail.kept._replace(state=State.GIVEN) for mail in good]
        )
        for mail in good:
            mail.state = State.GIVEN
            await self._give(mail, mails[mail.uid])

    async def _give(self, mail: Mail, data: Mapping[bytes, Any]) -> None:
        raw: bytes = data[b"BODY[]<0>"] or b""
        self._counts.fetched += 1
        self._counts.fetched_bytes += len(raw)
        mail.letter = Letter(
            await self._frames(mail, raw, data),
            taken=lambda: self._taken(mail),
            refused=lambda why: self._refused(mail, why),
            failed=lambda why: self._failed(mail, why),
            repeats=mail.repeats,
        )
        mail.repeats = True
        self._giving.put(mail.letter)

    async def _frames(self, mail: Mail, raw: bytes, data: Mapping[bytes, Any]) -> list[bytes]:
        """[topic, meta, raw], and attachments with `parse`: the one place that makes them."""
        date = data.get(b"INTERNALDATE")
        told: dict[str, Any] = {
            "id": f"{self._box}.{self._position.uidvalidity}.{mail.uid}",
            "size": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "received": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "account": self._plan.user,
            "folder": self.name,
            "uidvalidity": self._position.uidvalidity,
            "uid": mail.uid,
            "flags": [word for word in map(_text, data.get(b"FLAGS") or ()) if word != "\\Recent"],
            "date": date.isoformat() if isinstance(date, datetime) else None,
        }
        topic = self._plan.topic if self._plan.topic is not None else self.name.encode()
        if not self._plan.parse:
            return [topic, meta.frame_of(told), raw]
        told["parsed"], attachments = await asyncio.to_thread(parsed, raw)
        return [topic, meta.frame_of(told), raw, *attachments]

    async def set_back(self, uid: int) -> None:
        mail = self._ledger.mails.get(uid)
        if mail is not None:
            mail.stumbled = True
            mail.rests_until = self._loop.time() + min(self._plan.poll_s, IMAP_SET_BACK_S)

    async def unreadable(self, uid: int, why: str) -> None:
        mail = self._ledger.mails.get(uid)
        if mail is not None and mail.state is State.LISTED:
            self._failed_again(mail, f"it cannot be fetched: {why}")
            await self._judge(mail, why)

    async def synced(self) -> float:
        now = self._loop.time()
        rests = (mail.rests_until - now for mail in self._ledger.mails.values() if mail.letter is None)
        return min((rest for rest in rests if rest > 0), default=self._plan.poll_s)

    # --- the Keeper: what is to be done on the server ----------------------------------------------------------------

    async def orders(self) -> Orders:
        now = self._loop.time()

        def some(state: State) -> tuple[int, ...]:
            mails = self._ledger.mails.values()
            ready = (one.uid for one in mails if one.state is state and one.noted and one.rests_until <= now)
            return tuple(islice(ready, IMAP_MARK_MAILS))

        return Orders(some(State.TAKEN), some(State.BAD))

    async def carried_out(self, uids: Sequence[int], *, quarantined: bool) -> None:
        if quarantined:
            self._counts.quarantined += len(uids)
        else:
            self._counts.marked += len(uids)
        await self._ledger.finish([self._ledger.mails[uid] for uid in uids if uid in self._ledger.mails])

    async def not_carried_out(self, uid: int, why: str) -> None:
        """After `attempts` it is left as it is: what matters, that it was handed over, is in our own books."""
        mail = self._ledger.mails.get(uid)
        if mail is None:
            return
        self._failed_again(mail, why)
        if mail.attempts >= self._plan.attempts:
            self._counts.skipped["unmarked" if mail.state is State.TAKEN else "left"] += 1
            await self._ledger.finish([mail])
        else:
            await self._books.note(self.name, mail.uidvalidity, [mail.kept])

    # --- answers -----------------------------------------------------------------------------------------------------

    def _taken(self, mail: Mail) -> None:
        mail.state, mail.letter, mail.attempts = State.TAKEN, None, 0
        if self._plan.after == "none":
            self._ledger.surely(lambda: self._ledger.finish([mail]))
        else:
            mail.noted = False
            self._ledger.surely(lambda: self._ledger.note(mail))

    def _refused(self, mail: Mail, why: str) -> None:
        """It is fetched again when the others are through."""
        mail.letter, mail.state = None, State.LISTED
        self._failed_again(mail, f"it was refused: {why}")
        self._ledger.surely(lambda: self._judge(mail, f"it was refused: {why}"))

    def _failed(self, mail: Mail, why: str) -> bool:
        """True: give it again."""
        self._failed_again(mail, why)
        again = mail.attempts < self._plan.attempts
        if not again:
            mail.letter, mail.state = None, State.LISTED
        self._ledger.surely(lambda: self._judge(mail, why))
        return again

    def _failed_again(self, mail: Mail, why: str) -> None:
        mail.attempts += 1
        mail.rests_until = self._loop.time() + self._plan.poll_s
        self.trouble = f"UID {mail.uid}: {why}"
        self._log.warning("failed", folder=self.name, uid=mail.uid, attempts=mail.attempts, reason=why)

    async def _judge(self, mail: Mail, why: str) -> None:
        """It failed once more."""
        if mail.attempts >= self._plan.attempts:
            await self._put_aside(mail, "failed", why)
        else:
            await self._books.note(self.name, mail.uidvalidity, [mail.kept])

    async def _put_aside(self, mail: Mail, word: str, why: str) -> None:
        """To quarantine; where there is none, it stays where it is, and is not looked at again."""
        self._tell_bad(mail.uid, word, why)
        if self._plan.quarantine is None:
            await self._ledger.finish([mail])
            return
        mail.state, mail.attempts, mail.rests_until, mail.noted = State.BAD, 0, 0.0, False
        await self._ledger.note(mail)

    def _disk_failed(self, why: str) -> None:
        self.trouble = why

    def _tell_bad(self, uid: int, word: str, why: str) -> None:
        self._counts.skipped[word] += 1
        self.trouble = f"UID {uid}: {why}"
        then = f"to {self._plan.quarantine}" if self._plan.quarantine is not None else "it stays where it is"
        self._log.warning("put aside", folder=self.name, uid=uid, reason=why, then=then)

    def _bears_mark(self, flags: Sequence[bytes]) -> bool:
        """Whether it was done with, as far as the server knows."""
        mark = FLAGS.get(self._plan.after, self._plan.mark if self._plan.after == "keyword" else "")
        return bool(mark) and mark.lower().encode() in (flag.lower() for flag in flags)


def _text(flag: object) -> str:
    return flag.decode("ascii", "replace") if isinstance(flag, bytes) else str(flag)
