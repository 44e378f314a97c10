"""What becomes of mails in an outbox as time passes: given up, dropped, forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from bridges.mail.limits import SEND_REMEMBERED, SEND_TIDY_ROWS
from bridges.mail.outbox import OPEN, Outbox, close, forget
from bridges.mail.outbox_records import OVER, SENDING, WAITING, Change

OPEN_JOBS: Final = (WAITING, SENDING)


async def expired(outbox: Outbox, before: float, limit: int = SEND_TIDY_ROWS) -> list[int]:
    """Jobs that were taken before that, and are not being sent."""

    def work(db: sqlite3.Connection) -> list[int]:
        rows = db.execute("SELECT job FROM jobs WHERE state = ? AND since < ? LIMIT ?", (WAITING, before, limit))
        return [job for (job,) in rows]

    return await outbox.db.ask(work)


async def give_up(outbox: Outbox, jobs: Sequence[int], why: str, now: float) -> int:
    """They go no more; what the server said last stays. How many recipients that ends."""

    def work(db: sqlite3.Connection) -> tuple[int, Change]:
        ended = 0
        total = Change()
        for job in jobs:
            found = db.execute("SELECT mail FROM jobs WHERE job = ? AND state = ?", (job, WAITING)).fetchone()
            if found is None:
                continue
            ended += db.execute(
                "UPDATE recipients SET state = iif(state = 'unknown', state, 'failed'), at = ?, "
                "words = ? || iif(words = '', '', ': ' || words) WHERE mail = ? AND job = ? "
                f"AND {OPEN}",
                (now, why, found[0], job),
            ).rowcount
            db.execute("UPDATE jobs SET state = ? WHERE job = ?", (OVER, job))
            _, change = close(db, found[0], now)
            total = Change(total.jobs - 1, total.bytes + change.bytes, total.dead + change.dead)
        return ended, total

    return await outbox.order(outbox.db.do(work))


async def tidy(
    outbox: Outbox, sent_before: float | None, dead_before: float | None, dead_bytes: int
) -> tuple[int, int]:
    """Forget ids of mails that ended before that, and what failed before that (or is more than `dead_bytes`).

    (dead letters dropped, ids forgotten before their time)
    """
    outbox.oldest = await outbox.db.ask(_oldest)

    def work(db: sqlite3.Connection) -> tuple[tuple[int, int], Change]:
        if sent_before is not None:
            db.execute(
                "DELETE FROM mails WHERE number IN (SELECT number FROM mails WHERE state = 'sent' AND ended < ? "
                "LIMIT ?)",
                (sent_before, SEND_TIDY_ROWS),
            )
        (sent,) = db.execute("SELECT count(*) FROM mails WHERE state = 'sent'").fetchone()
        early = min(max(0, sent - SEND_REMEMBERED), SEND_TIDY_ROWS)
        db.execute(
            "DELETE FROM mails WHERE number IN (SELECT number FROM mails WHERE state = 'sent' ORDER BY ended LIMIT ?)",
            (early,),
        )
        dropped = change = 0
        if dead_before is not None:
            old = db.execute(
                "SELECT number FROM mails WHERE state IN ('dead', 'refused') AND ended < ? LIMIT ?",
                (dead_before, SEND_TIDY_ROWS),
            )
            for (number,) in old.fetchall():
                change += forget(db, number).bytes
                dropped += 1
        held = "FROM mails JOIN bodies ON mail = number WHERE state IN ('dead', 'refused')"
        (size,) = db.execute(f"SELECT coalesce(sum(length(bytes)), 0) {held}").fetchone()
        over = size - dead_bytes
        if over > 0:
            for number, length in db.execute(f"SELECT number, length(bytes) {held} ORDER BY ended").fetchall():
                if over <= 0:
                    break
                over -= length
                change += forget(db, number).bytes
                dropped += 1
        return (dropped, early), Change(0, change, -dropped)

    return await outbox.order(outbox.db.do(work))


def _oldest(db: sqlite3.Connection) -> float | None:
    first = (db.execute("SELECT min(since) FROM jobs WHERE state = ?", (state,)).fetchone()[0] for state in OPEN_JOBS)
    return min((float(since) for since in first if since is not None), default=None)
