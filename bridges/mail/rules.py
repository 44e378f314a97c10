"""Which recipient goes where: the rules of a table, in order, and the files of addresses that some of them have."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bridges.mail.addresses import FIELDS, Pattern, parts
from bridges.mail.limits import KNOWN_BYTES
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.mail.smtp_server_plan import RulePlan


class LookupTroubleError(Exception):
    """Whether a recipient is known cannot be said at the moment."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where mails go that one message can tell of."""

    rule: str
    topic: bytes
    zmq: ZmqPlan


class Rules:
    """The rules of one bridge."""

    def __init__(self, plans: tuple[RulePlan, ...]) -> None:
        self._rules = [(plan, [Pattern(text) for text in plan.match]) for plan in plans]
        self._files = {plan.known: KnownFile(plan.known) for plan in plans if plan.known is not None}

    def find(self, address: str) -> Destination | None:
        """The first rule that an address fits; None: there is none. LookupTroubleError: nobody can say."""
        for plan, patterns in self._rules:
            if any(pattern.fits(address) for pattern in patterns):
                if plan.known is not None and not self._files[plan.known].has(address):
                    continue
                return Destination(plan.name, topic_of(plan.topic, address), plan.zmq)
        return None

    def serves(self, address: str) -> bool:
        """Whether there is a rule for its domain: its user is unknown; else we are no relay."""
        return any(pattern.fits_domain(address) for _, patterns in self._rules for pattern in patterns)


def topic_of(template: str, address: str) -> bytes:
    """A topic, with the parts of an address in it."""
    found = parts(address)
    for field in FIELDS:
        template = template.replace(f"{{{field}}}", getattr(found, field))
    return template.encode()


class KnownFile:
    """A file of addresses or patterns, one a line, # begins a comment; read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._exact: set[tuple[str, str]] = set()
        self._patterns: list[Pattern] = []

    def has(self, address: str) -> bool:
        self._refresh()
        found = parts(address)
        return (found.local, found.domain) in self._exact or any(pattern.fits(address) for pattern in self._patterns)

    def _refresh(self) -> None:
        try:
            now = os.stat(self._path)
            stamp = now.st_mtime_ns, now.st_size, now.st_ino
            if stamp == self._stamp:
                return
            if now.st_size > KNOWN_BYTES:
                raise LookupTroubleError(f"{self._path} has {now.st_size} bytes; {KNOWN_BYTES} is the most.")
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LookupTroubleError(f"{self._path} cannot be read: {error}.") from None
        exact: set[tuple[str, str]] = set()
        patterns: list[Pattern] = []
        for number, line in enumerate(text.splitlines(), 1):
            word = line.partition("#")[0].strip()
            if not word:
                continue
            try:
                if "*" in word or "?" in word:
                    patterns.append(Pattern(word))
                else:  # in a set: a regex each would take seconds, for a file of many
                    found = parts(Pattern.looked_at(word))
                    exact.add((found.local, found.domain))
            except ValueError as error:
                raise LookupTroubleError(f"{self._path}:{number}: {error}") from None
        self._stamp, self._exact, self._patterns = stamp, exact, patterns
