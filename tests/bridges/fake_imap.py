"""An IMAP server that says what a test wants: for what no real one does when it is asked to.

    with FakeImap({1: b"...", 2: b"..."}) as server:
        server.answers["IDLE"] = lambda tag, rest: [b"+ idling", b"* BYE too many of you", HANG_UP]

It knows one folder, LOGIN and AUTHENTICATE, FETCH and STORE of UIDs, MOVE, IDLE. `lines` has all that was said to it.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

HANG_UP: Final = b"HANG UP"
"""In an answer: the connection ends there."""
Answer = Callable[[bytes, bytes], Sequence[bytes] | None]
"""(tag, what follows the command) → lines, or None: as usual."""


class FakeImap:
    def __init__(
        self, mails: Mapping[int, bytes] | None = None, capabilities: str = "IMAP4rev1 IDLE MOVE UIDPLUS"
    ) -> None:
        self.mails = dict(mails or {})
        self.capabilities = capabilities.encode()
        self.greeting = b"* OK ready"
        self.uidvalidity = 7
        self.uidnext: int | None = None
        self.lines: list[bytes] = []
        self.logins: list[bytes] = []
        """The SASL words of AUTHENTICATE, decoded."""
        self.refuses: Callable[[bytes], bytes | None] = lambda _words: None
        """The server's word for a login that it refuses."""
        self.answers: dict[str, Answer] = {}
        self.moved: list[int] = []
        self.seen: set[int] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeImap:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for one in tuple(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as heard:
            connection.sendall(self.greeting + b"\r\n")
            for line in heard:
                self.lines.append(line.rstrip(b"\r\n"))
                tag, _, rest = self.lines[-1].partition(b" ")
                word, _, rest = rest.partition(b" ")
                if word.upper() == b"UID":
                    word, _, rest = rest.partition(b" ")
                for told in self._answer(tag, word.upper().decode(errors="replace"), rest, heard, connection):
                    if told == HANG_UP:
                        return
                    connection.sendall(told + b"\r\n")
        self._open.discard(connection)

    def _answer(self, tag: bytes, word: str, rest: bytes, heard: object, connection: socket.socket) -> Sequence[bytes]:
        if word in self.answers:
            told = self.answers[word](tag, rest)
            if told is not None:
                return told
        ok = tag + b" OK done"
        if word == "CAPABILITY":
            return [b"* CAPABILITY " + self.capabilities, ok]
        if word == "LOGIN":
            no = self.refuses(rest)
            return [tag + b" NO " + no] if no is not None else [ok]
        if word == "AUTHENTICATE":
            connection.sendall(b"+ \r\n")
            words = base64.b64decode(heard.readline())  # type: ignore[attr-defined]
            self.logins.append(words)
            no = self.refuses(words)
            if no is not None and rest != b"PLAIN":
                connection.sendall(b"+ " + base64.b64encode(b'{"status":"401"}') + b"\r\n")
                heard.readline()  # type: ignore[attr-defined]
            return [tag + b" NO " + no] if no is not None else [ok]
        if word in ("SELECT", "EXAMINE"):
            uidnext = self.uidnext if self.uidnext is not None else max(self.mails, default=0) + 1
            told = [b"* %d EXISTS" % len(self.mails), b"* OK [UIDNEXT %d] next" % uidnext]
            if self.uidvalidity:
                told.append(b"* OK [UIDVALIDITY %d] valid" % self.uidvalidity)
            return [*told, tag + b" OK [READ-WRITE] done"]
        if word == "FETCH":
            return [*self._fetch(rest), ok]
        if word == "STORE":
            self.seen |= set(self._uids(rest.split()[0]))
            return [ok]
        if word == "MOVE":
            for uid in self._uids(rest.split()[0]):
                self.moved.append(uid)
                self.mails.pop(uid, None)
            return [ok]
        if word == "IDLE":
            return [b"+ idling"]
        if tag == b"DONE":
            idle = next(line for line in reversed(self.lines) if line.endswith(b"IDLE"))
            return [idle.split()[0] + b" OK done"]
        if word == "LOGOUT":
            return [b"* BYE see you", ok, HANG_UP]
        return [ok]

    def _uids(self, said: bytes) -> list[int]:
        found: list[int] = []
        top = max(self.mails, default=0)
        for piece in said.split(b","):
            first, _, last = piece.replace(b"*", b"%d" % top).partition(b":")
            low, high = sorted((int(first), int(last or first)))
            found += [uid for uid in sorted(self.mails) if low <= uid <= high]
        return found

    def _fetch(self, rest: bytes) -> list[bytes]:
        order = sorted(self.mails)
        told = []
        for uid in self._uids(rest.split()[0]):
            raw = self.mails[uid]
            parts = [b"UID %d" % uid]
            if b"FLAGS" in rest:
                parts.append(b"FLAGS (\\Seen)" if uid in self.seen else b"FLAGS ()")
            if b"RFC822.SIZE" in rest:
                parts.append(b"RFC822.SIZE %d" % self.size(uid))
            if b"INTERNALDATE" in rest:
                parts.append(b'INTERNALDATE "01-Jan-2026 12:00:00 +0100"')
            partial = re.search(rb"BODY\.PEEK\[\]<0\.(\d+)>", rest)
            if partial:
                raw = raw[: int(partial[1])]
                parts.append(b"BODY[]<0> {%d}\r\n%s" % (len(raw), raw))
            told.append(b"* %d FETCH (%s)" % (order.index(uid) + 1, b" ".join(parts)))
        return told

    def size(self, uid: int) -> int:
        return len(self.mails[uid])
