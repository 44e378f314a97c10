"""What `ztunnel mail` asks of an outbox: list, show, send again, drop. All in the database's thread, in one place."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from bridges.mail.outbox import Outbox, forget
from bridges.mail.outbox_records import OVER, SENDING, WAITING, Change
from tunnel.errors import UsageError

Row = dict[str, Any]
STATES: Final = ("open", "dead", "refused", "sent")
"""Of mails; `open` are those that are to be sent."""
_COLUMNS: Final = "number, id, state, sender, size, born, ended, why, named"


async def listed(outbox: Outbox, state: str | None, after: int, limit: int) -> list[Row]:
    """Mails above a number; without `state` all but those that were sent."""

    def work(db: sqlite3.Connection) -> list[Row]:
        which = "state = ?" if state else "state <> 'sent'"
        arguments = (after, state, limit) if state else (after, limit)
        found = db.execute(
            f"SELECT {_COLUMNS} FROM mails WHERE number > ? AND {which} ORDER BY number LIMIT ?", arguments
        ).fetchall()
        return [_row(db, row, short=True) for row in found]

    return await outbox.db.ask(work)


async def shown(outbox: Outbox, number: int) -> tuple[Row, bytes]:
    """A mail with everything that is known of it, and its bytes, b"" where they are gone."""

    def work(db: sqlite3.Connection) -> tuple[Row, bytes]:
        found = db.execute(f"SELECT {_COLUMNS} FROM mails WHERE number = ?", (number,)).fetchone()
        if found is None:
            raise UsageError(f"there is no mail {number} here; `ztunnel mail ls` shows those that are.")
        body = db.execute("SELECT bytes FROM bodies WHERE mail = ?", (number,)).fetchone()
        return _row(db, found, short=False), b"" if body is None else bytes(body[0])

    return await outbox.db.ask(work)


async def again(outbox: Outbox, numbers: Sequence[int] | None, now: float) -> tuple[int, list[int]]:
    """Those that wait are due now, those that failed are queued anew; None: all of them.

    (how many, the numbers of refused messages among them, which the bridge has to look at again)
    """

    def work(db: sqlite3.Connection) -> tuple[tuple[int, list[int]], Change]:
        count, refused, total = 0, [], Change()
        for number in _chosen(db, numbers, ("open", "dead", "refused")):
            (state,) = db.execute("SELECT state FROM mails WHERE number = ?", (number,)).fetchone()
            if state == "refused":
                refused.append(number)
                continue
            opened = db.execute(
                "UPDATE recipients SET state = 'queued' WHERE mail = ? AND state = 'failed'", (number,)
            ).rowcount
            reopened = db.execute(
                "UPDATE jobs SET state = ?, attempts = 0, since = ? WHERE mail = ? AND state = ? AND EXISTS (SELECT 1 "
                "FROM recipients r WHERE r.mail = jobs.mail AND r.job = jobs.job AND r.state <> 'sent')",
                (WAITING, now, number, OVER),
            ).rowcount
            db.execute("UPDATE jobs SET due = ? WHERE mail = ? AND state = ?", (now, number, WAITING))
            if state == "dead":
                db.execute("UPDATE mails SET state = 'open', ended = NULL WHERE number = ?", (number,))
            count += 1 if opened or reopened or state == "open" else 0
            total = Change(total.jobs + reopened, 0, total.dead - (state == "dead"))
        return (count, refused), total

    return await outbox.order(outbox.db.do(work))


async def dropped(outbox: Outbox, numbers: Sequence[int] | None) -> tuple[int, int]:
    """Gone for good, but those that are being sent at this moment; None: all that failed or were refused.

    (how many went, how many are being sent)
    """

    def work(db: sqlite3.Connection) -> tuple[tuple[int, int], Change]:
        count, busy, total = 0, 0, Change()
        for number in _chosen(db, numbers, STATES if numbers is not None else ("dead", "refused")):
            if db.execute("SELECT 1 FROM jobs WHERE mail = ? AND state = ?", (number, SENDING)).fetchone():
                busy += 1
                continue
            (state,) = db.execute("SELECT state FROM mails WHERE number = ?", (number,)).fetchone()
            (jobs,) = db.execute("SELECT count(*) FROM jobs WHERE mail = ? AND state < ?", (number, OVER)).fetchone()
            freed = forget(db, number)
            count += 1
            dead = state in ("dead", "refused")
            total = Change(total.jobs - jobs, total.bytes + freed.bytes, total.dead - dead)
        return (count, busy), total

    return await outbox.order(outbox.db.do(work))


def _chosen(db: sqlite3.Connection, numbers: Sequence[int] | None, states: Sequence[str]) -> list[int]:
    if numbers is None:
        marks = ",".join("?" * len(states))
        return [n for (n,) in db.execute(f"SELECT number FROM mails WHERE state IN ({marks}) ORDER BY number", states)]
    found: list[int] = []
    for number in numbers:
        if db.execute("SELECT 1 FROM mails WHERE number = ?", (number,)).fetchone() is None:
            raise UsageError(f"there is no mail {number} here; `ztunnel mail ls` shows those that are.")
        found.append(number)
    return found


def _row(db: sqlite3.Connection, row: Sequence[Any], *, short: bool) -> Row:
    number, mail_id, state, sender, size, born, ended, why, named = row
    recipients = db.execute(
        "SELECT address, state, words, at FROM recipients WHERE mail = ? ORDER BY address", (number,)
    ).fetchall()
    jobs = db.execute("SELECT state, due, attempts FROM jobs WHERE mail = ?", (number,)).fetchall()
    due = min((due for job, due, _ in jobs if job == WAITING), default=None)
    words = why or next((w for _, s, w, _ in recipients if w and s != "sent"), "")
    found = {
        "number": number,
        "id": mail_id,
        "state": _told(state, [s for _, s, _, _ in recipients], any(job == SENDING for job, _, _ in jobs)),
        "from": sender,
        "to": [address for address, *_ in recipients[: 5 if short else None]],
        "recipients": len(recipients),
        "size": size,
        "born": born,
        "due": due,
        "attempts": max((attempts for *_, attempts in jobs), default=0),
        "why": words,
    }
    if not short:
        states = [{"address": a, "state": s, "words": w, "at": at} for a, s, w, at in recipients]
        found |= {"ended": ended, "named": bool(named), "states": states}
    return found


def _told(state: str, recipients: Sequence[str], sending: bool) -> str:
    """One word for a mail: what its recipients' states come to."""
    if state != "open":
        return {"dead": "failed"}.get(state, state)
    if sending:
        return "sending"
    return next((word for word in ("unknown", "deferred") if word in recipients), "queued")
