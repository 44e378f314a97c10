"""Messages from 0MQ become mails in the outbox: read, looked at, composed where there is a template, put on disk.

`take(number, frames, done)` may be fed by a 0MQ socket or by anything that numbers its messages: `done` is called once
the message is on disk, or refused for good. While `has_room` is False nothing more should be given.

Frames are [topic, meta, raw] or [meta, raw] without a template (bridges/mail/meta.py), and [topic, JSON, attachment...]
or [JSON, attachment...] with one. A SUB's messages always begin with their topic.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridges.mail import meta
from bridges.mail.addresses import Pattern, control_free, shown
from bridges.mail.compose import ComposeError, compose
from bridges.mail.fill import FillError
from bridges.mail.limits import ID_CHARACTERS, LARGE_BYTES, TAKE_AGAIN_S, TAKE_BYTES, TAKE_MAILS
from bridges.mail.outbox import Outbox
from bridges.mail.outbox_records import Mail
from bridges.mail.raw import RawError, prepared
from bridges.messages import run_of
from tunnel.config.mail.smtp_client_plan import SmtpClientPlan
from tunnel.errors import SpoolError
from tunnel.log import Log


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one message."""

    state: str
    """queued, repeated, refused, or failed: the disk did not take it."""
    id: str
    why: str = ""
    mail: int = 0
    """Its number in the outbox; 0: none."""


Done = Callable[[Verdict], None]


class RefusedMessageError(ValueError):
    """No mail for us; the sentence says why."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind
        """The word that is counted."""


class Intake:
    """`answers`: who sent a message is told (REP). Then nothing is kept that he was told is not taken."""

    def __init__(
        self,
        plan: SmtpClientPlan,
        outbox: Outbox,
        log: Log,
        *,
        table: str,
        topics: bool,
        answers: bool,
        destination_of: Callable[[str], str],
        on_change: Callable[[], None],
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """Messages that were refused, by reason."""
        self.taken = self.repeated = 0
        self.trouble = ""
        """Why nothing is taken now."""
        self._plan = plan
        self._outbox = outbox
        self._log = log
        self._table = table
        self._topics = topics
        self._answers = answers
        self._destination_of = destination_of
        self._on_change = on_change
        self._allowed = None if plan.allow_to is None else [Pattern(text) for text in plan.allow_to]
        self._under_way: dict[int, int] = {}
        """Bytes of messages on their way to the disk, by number."""
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def has_room(self) -> bool:
        return (
            not self.trouble
            and self._bytes < TAKE_BYTES
            and len(self._under_way) < TAKE_MAILS
            and self._outbox.bytes + self._bytes < self._plan.state.max_bytes
        )

    def take(self, number: int, frames: Sequence[bytes], done: Done) -> None:
        """One message; `number` is the caller's, and in no use at the moment."""
        size = sum(map(len, frames))
        self._under_way[number] = size
        self._bytes += size
        task = asyncio.get_running_loop().create_task(self._take(number, frames, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take_own(self, said: Mapping[str, Any], raw: bytes) -> tuple[Mail, int]:
        """A mail that this bridge sends itself, whatever template it has; and its number in the outbox.

        RefusedMessageError, SpoolError: it was not taken, and nothing is put aside.
        """
        try:
            mail = self._of_raw(said, raw)
        except (meta.MetaError, RawError) as error:
            raise RefusedMessageError("malformed", str(error)) from None
        if self._outbox.bytes + self._bytes >= self._plan.state.max_bytes:
            raise SpoolError(f"{self._outbox.bytes} bytes of mails lie here, which is all that spool: max lets.")
        self._look_at_disk(len(mail.raw))
        taken = await self._outbox.put(mail, time.time())
        self.taken += 1
        return mail, taken.number

    def allowed_by(self, address: str) -> str:
        """The pattern of allow_to that lets mail to it go, or "any"; "": none does."""
        if self._allowed is None:
            return "any"
        return next((pattern.text for pattern in self._allowed if pattern.fits(address)), "")

    async def close(self) -> None:
        """What was taken gets to the disk, if that takes it at once."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=TAKE_AGAIN_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, number: int, frames: Sequence[bytes], done: Done) -> None:
        try:
            verdict = await self._decided(frames)
        finally:
            self._bytes -= self._under_way.pop(number)
        if verdict.state == "refused":
            self._log.warning("refused", id=verdict.id or None, reason=verdict.why)
        done(verdict)
        self._on_change()

    async def _decided(self, frames: Sequence[bytes]) -> Verdict:
        try:
            large = sum(map(len, frames)) >= LARGE_BYTES  # tens of megabytes take a second to be looked at
            mail = await asyncio.to_thread(self.mail_of, frames) if large else self.mail_of(frames)
        except RefusedMessageError as error:
            return await self._refused(frames, error)
        while True:
            try:
                self._look_at_disk(len(mail.raw))
                taken = await self._outbox.put(mail, time.time())
            except SpoolError as error:
                self._stopped(str(error))
                if self._answers:  # he tries again; until then nobody does
                    asyncio.get_running_loop().call_later(TAKE_AGAIN_S, self._going_on)
                    return Verdict("failed", mail.id, str(error))
                await asyncio.sleep(TAKE_AGAIN_S)
                continue
            self._going_on()
            if taken.verdict == "other":
                sentence = f"the id {shown(mail.id)} was another mail's before: nothing is sent."
                return await self._refused(frames, RefusedMessageError("id", sentence), mail.id)
            self.taken += not taken.verdict
            self.repeated += bool(taken.verdict)
            return Verdict(taken.verdict or "queued", mail.id, mail=taken.number)

    async def _refused(self, frames: Sequence[bytes], error: RefusedMessageError, mail_id: str = "") -> Verdict:
        """Whoever sent it is told; or it is put aside, where a person finds it."""
        self.dropped[error.kind] += 1
        verdict = Verdict("refused", mail_id, str(error))
        while not self._answers:
            try:
                self._look_at_disk(sum(map(len, frames)))
                await self._outbox.put_aside(uuid.uuid4().hex, run_of([list(frames)]), str(error), time.time())
                self._going_on()
                break
            except SpoolError as trouble:
                self._stopped(str(trouble))
                await asyncio.sleep(TAKE_AGAIN_S)
        return verdict

    def _look_at_disk(self, size: int) -> None:
        if not self._outbox.db.has_space(size + self._bytes):
            raise SpoolError(f"{self._outbox.db.path.parent}: the disk is nearly full.")

    def _stopped(self, why: str) -> None:
        if self.trouble != why:
            self._log.warning("disk", reason=why)
        self.trouble = why
        self._on_change()

    def _going_on(self) -> None:
        if self.trouble:
            self.trouble = ""
            self._on_change()

    # --- what a message says -----------------------------------------------------------------------------------------

    def mail_of(self, frames: Sequence[bytes]) -> Mail:
        """The mail that this message is. RefusedMessageError: none that goes out here."""
        try:
            return self._composed(frames) if self._plan.template is not None else self._raw(frames)
        except meta.MetaError as error:
            raise RefusedMessageError("malformed", str(error)) from None
        except (RawError, ComposeError, FillError) as error:
            raise RefusedMessageError("malformed", str(error)) from None

    def _raw(self, frames: Sequence[bytes]) -> Mail:
        if self._topics or len(frames) > 2:
            frames = frames[1:]
        if len(frames) < 2:
            raise RefusedMessageError("malformed", "a mail is [meta, raw] or [topic, meta, raw]; frames are missing.")
        head, raw, *more = frames
        said = meta.read(head)
        if more and "parsed" not in said:
            raise RefusedMessageError("malformed", f"{len(more)} frames too many: after raw comes nothing here.")
        return self._of_raw(said, raw)

    def _of_raw(self, said: Mapping[str, Any], raw: bytes) -> Mail:
        if self._plan.sender is not None:
            said = {"from": self._plan.sender, **said}
        sender, to = meta.envelope(said)
        self._look_at(to)
        self._look_at_size(len(raw))
        out = prepared(raw, normalise=self._plan.normalise, hop=self._table if self._plan.trace else None)
        self._look_at_size(len(out))
        digest = _digest(sender.encode(), *(address.encode() for address in sorted(to)), b"", raw)
        return self._mail(said, sender, to, out, digest, utf8=said.get("utf8") is True)

    def _composed(self, frames: Sequence[bytes]) -> Mail:
        template = self._plan.template
        assert template is not None
        if self._topics or (len(frames) > 1 and not frames[0].lstrip().startswith(b"{")):
            frames = frames[1:]
        if not frames:
            raise RefusedMessageError("malformed", "a message is [JSON] or [topic, JSON]; the JSON is missing.")
        self._look_at_size(sum(map(len, frames)))
        said = meta.read(frames[0])
        mail_id = self._id(said)
        composed = compose(
            template,
            said,
            frames[1:],
            sender=self._plan.sender,
            mail_id=mail_id,
            hostname=self._plan.hostname,
            hop=self._table,
            now=time.time(),
        )
        self._look_at(composed.to)
        self._look_at_size(len(composed.raw))
        named = said.get("id") is not None
        return self._mail({"id": mail_id}, composed.sender, composed.to, composed.raw, _digest(*frames), named)

    def _mail(
        self,
        said: Mapping[str, Any],
        sender: str,
        to: Sequence[str],
        raw: bytes,
        digest: bytes,
        named: bool | None = None,
        *,
        utf8: bool = False,
    ) -> Mail:
        by_destination: dict[str, list[str]] = {}
        for address in to:
            by_destination.setdefault(self._destination_of(address), []).append(address)
        return Mail(
            id=self._id(said),
            named=said.get("id") is not None if named is None else named,
            digest=digest,
            sender=sender,
            to={destination: tuple(found) for destination, found in by_destination.items()},
            raw=raw,
            utf8=utf8 or not "".join((sender, *to)).isascii(),
        )

    def _id(self, said: Mapping[str, Any]) -> str:
        """The caller's, or one that nobody else has."""
        found = said.get("id")
        if found is None:
            return uuid.uuid4().hex
        if not isinstance(found, str) or not 1 <= len(found) <= ID_CHARACTERS or not control_free(found):
            most = f"1 to {ID_CHARACTERS} characters"
            raise RefusedMessageError("malformed", f"an id is text of {most}, none of them a control character.")
        return found

    def _look_at(self, to: Sequence[str]) -> None:
        if len(to) > self._plan.recipients:
            most = self._plan.recipients
            raise RefusedMessageError("recipients", f"the mail has {len(to)} recipients; {most} is the most.")
        for address in to:
            if not self.allowed_by(address):
                sentence = f"no mail goes to {shown(address)}: allow_to does not fit it."
                raise RefusedMessageError("forbidden", sentence)

    def _look_at_size(self, size: int) -> None:
        if size > self._plan.max_bytes:
            most = self._plan.max_bytes
            raise RefusedMessageError("too_large", f"the mail has {size} bytes; {most} is the most.")


def _digest(*pieces: bytes) -> bytes:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(len(piece).to_bytes(8) + piece)
    return found.digest()
