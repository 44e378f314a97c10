"""A folder of a mailbox, in a thread of its own: connect, look, fetch, mark, wait; and again, for ever.

It decides nothing: which mails are wanted, and what became of them, is a Keeper's, who lives on the loop. Whatever goes
wrong ends the connection, and after a pause there is another: 2 s at first, half as much again each time up to 60 s,
and 2 s again only when a whole round has succeeded, up to the moment when there is nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from bridges.mail import token
from bridges.mail.imap_client import Client, why_broken
from bridges.mail.imap_wire import No, Refused, select_on, shown
from bridges.mail.keeper import FLAGS, Keeper, Orders, Standstill, Wanted
from bridges.mail.limits import IMAP_IDLE_S, IMAP_PAUSE_GROWTH, IMAP_PAUSE_MAX_S, IMAP_PAUSE_S, IMAP_REFUSED_S
from tunnel.config.mail.imap import ImapPlan
from tunnel.errors import SpoolError
from tunnel.keys import Secret

T = TypeVar("T")
logging.getLogger("imapclient").setLevel(logging.WARNING)  # at DEBUG it tells passwords


class Mailbox:
    """One folder's thread."""

    def __init__(self, plan: ImapPlan, folder: str, keeper: Keeper, loop: asyncio.AbstractEventLoop) -> None:
        self._plan = plan
        self._folder = folder
        self._keeper = keeper
        self._loop = loop
        self._stopping = False
        self._closed = False
        self._client: Client | None = None
        self._token: Secret | None = None
        self._pause_s = IMAP_PAUSE_S
        self._farewell = ""
        """What the server said when it hung up."""
        self._one_by_one = False
        self._suspects: set[int] = set()
        """Mails at which a connection broke."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name=f"imap {folder}", daemon=True)

    def __repr__(self) -> str:
        return f"<Mailbox {self._folder}{' stopping' if self._stopping else ''}>"

    # --- on the loop -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        if not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"!")

    async def close(self, within_s: float) -> None:
        """Carry out what is left, and hang up; at once when the time is over."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, within_s)
        if self._thread.is_alive() and self._client is not None:
            self._client.cut()
            await asyncio.to_thread(self._thread.join, within_s)
        if not self._thread.is_alive() and not self._closed:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the loop is gone
            while not self._stopping:
                try:
                    self._session()
                except (Refused, token.TokenError) as error:
                    self._rest("refused", str(error), IMAP_REFUSED_S)
                except Standstill as error:
                    self._rest("stopped", str(error), IMAP_REFUSED_S)
                except (No, SpoolError) as error:
                    self._rest("retrying", str(error), self._next_pause())
                except Exception as error:  # whatever a library makes of a server's words, this thread goes on
                    self._rest("retrying", why_broken(error, self._farewell), self._next_pause())
                finally:
                    self._client = None

    def _session(self) -> None:
        """From the connection to its end."""
        client = self._enter()
        try:
            opened = client.open(self._folder, reads_only=self._plan.reads_only)
            self._ask(self._keeper.opened(opened.uidvalidity, opened.uidnext, client.highest()[0]))
            self._tell("up", "")
            while True:
                self._empty()  # whatever comes from now on wakes us
                busy = self._carry_out(client)
                if self._stopping:
                    break
                if self._fetch(client) or busy:
                    continue
                self._pause_s, self._one_by_one = IMAP_PAUSE_S, False
                rest_s = self._ask(self._keeper.synced())
                client.wait(self._wake_read, min(rest_s, self._plan.poll_s, IMAP_IDLE_S), idle=self._plan.idle)
            client.close(orderly=True)
        except BaseException:
            self._farewell = client.farewell
            client.close()
            raise

    def _enter(self) -> Client:
        """Connected and logged in. A token that is refused is asked for anew, once."""
        self._farewell = ""
        fresh = self._token is None
        secret = self._secret()
        try:
            return self._connected(secret)
        except Refused:
            self._token = None
            if fresh or not self._plan.token_command:
                raise
        return self._connected(self._secret())

    def _connected(self, secret: Secret) -> Client:
        self._client = client = Client(self._plan)
        try:
            client.enter(secret)
        except BaseException:
            self._farewell = client.farewell
            client.close()
            raise
        return client

    def _secret(self) -> Secret:
        if self._plan.password is not None:
            return self._plan.password
        if self._token is None:
            self._token = token.token(self._plan.token_command)
        return self._token

    def _fetch(self, client: Client) -> bool:
        """List some, or fetch some. False: there is nothing, or no room for it."""
        wanted: Wanted = self._ask(self._keeper.wanted())
        if wanted.bodies:
            self._fetch_bodies(client, wanted.bodies)
            return True
        listing = client.list(wanted.after, wanted.room) if wanted.room else None
        if listing is not None:
            self._ask(self._keeper.listed(listing))
        elif wanted.last is not None:
            self._fetch_bodies(client, [wanted.last])
        return listing is not None or wanted.last is not None

    def _fetch_bodies(self, client: Client, uids: Sequence[int]) -> None:
        """All in one go; one by one where that does not succeed.

        A connection that breaks may be a mail's fault, at which the server stumbles: after that all are fetched one by
        one, and one at which it breaks again has failed if another one comes through.
        """
        if self._one_by_one and len(uids) > 1:
            for uid in uids:
                self._fetch_bodies(client, [uid])
            return
        try:
            mails = client.bodies(uids, self._plan.max_message_bytes)
        except (client.AbortError, OSError):
            if len(uids) == 1:
                self._suspects.add(uids[0])
                self._ask(self._keeper.set_back(uids[0]))
            self._one_by_one = True
            raise
        except Exception as error:  # what IMAPClient cannot read is raised as anything
            if len(uids) == 1:
                self._ask(self._keeper.unreadable(uids[0], shown(error)))
                return
            for uid in uids:
                self._fetch_bodies(client, [uid])
            return
        self._ask(self._keeper.came(mails, uids))
        suspects, self._suspects = self._suspects - {*uids}, set()
        for uid in suspects:
            self._ask(self._keeper.unreadable(uid, "the connection breaks when it is fetched"))

    def _carry_out(self, client: Client) -> bool:
        """What is to be done on the server; False: nothing."""
        orders: Orders = self._ask(self._keeper.orders())
        for uids, quarantine in ((orders.mark, False), (orders.quarantine, True)):
            if uids:
                self._carry_out_some(client, uids, quarantine)
        return orders != Orders()

    def _carry_out_some(self, client: Client, uids: Sequence[int], quarantine: bool) -> None:
        try:
            self._mark(client, uids, quarantine)
        except No as error:
            if len(uids) == 1:
                self._ask(self._keeper.not_carried_out(uids[0], str(error)))
            else:
                for uid in uids:
                    self._carry_out_some(client, [uid], quarantine)
            return
        self._ask(self._keeper.carried_out(uids, quarantined=quarantine))

    def _mark(self, client: Client, uids: Sequence[int], quarantine: bool) -> None:
        after = self._plan.after
        if quarantine:
            client.put_away(uids, str(self._plan.quarantine))
        elif after == "move":
            client.put_away(uids, self._plan.mark)
        elif after == "delete":
            client.delete(uids)
        else:
            client.flag(uids, FLAGS.get(after, self._plan.mark))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The Keeper, on the loop."""
        try:
            return asyncio.run_coroutine_threadsafe(question, self._loop).result()
        except RuntimeError as error:  # the loop is closed
            question.close()
            raise asyncio.CancelledError from error

    def _tell(self, state: str, reason: str) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._keeper.state, state, reason)

    def _rest(self, state: str, reason: str, pause_s: float) -> None:
        self._tell(state, reason)
        until = time.monotonic() + pause_s * random.uniform(0.75, 1.25)
        while not self._stopping and (left := until - time.monotonic()) > 0:
            select_on([self._wake_read], left)
            self._empty()

    def _next_pause(self) -> float:
        pause, self._pause_s = self._pause_s, min(IMAP_PAUSE_MAX_S, self._pause_s * IMAP_PAUSE_GROWTH)
        return pause

    def _empty(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
