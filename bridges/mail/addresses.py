"""Mail addresses: which are let through, and which pattern of a table they fit. Pure.

An address that came from outside is a line of somebody else's protocol in waiting: CR, LF, NUL and other control
characters are refused here, before any library sees them (smtplib and aiosmtplib cut them without a word).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bridges.mail.limits import ADDRESS_BYTES

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u00a1-\U0010ffff-]+"
_LOCAL: Final = re.compile(rf'(?:{_ATOM}(?:\.{_ATOM})*|"(?:[^"\\]|\\.)*")')
_DOMAIN: Final = re.compile(
    r"(?:[A-Za-z0-9\u00a1-\U0010ffff_-]+(?:\.[A-Za-z0-9\u00a1-\U0010ffff_-]+)*\.?|\[[0-9A-Za-z:.-]+\])"
)
_PATTERN: Final = re.compile(r"[^\s@]+@[^\s@]+")

FIELDS: Final = ("local", "tag", "domain")
"""Parts of an address, for templates: `{tag}` of ups+west@example.com is west."""


class AddressError(ValueError):
    """This is no address; the sentence says why, and shows nothing that could break a line."""


def checked(address: str) -> str:
    """The address, if it is one that may stand in MAIL FROM and RCPT TO. AddressError: it is not."""
    if _CONTROLS.search(address):
        raise AddressError(f"an address has a control character in it: {shown(address)}")
    if len(address.encode()) > ADDRESS_BYTES:
        raise AddressError(f"an address is longer than {ADDRESS_BYTES} bytes: {shown(address)}")
    local, at, domain = address.rpartition("@")
    if not at:
        raise AddressError(f"an address has no @: {shown(address)}")
    if not _LOCAL.fullmatch(local) or not _DOMAIN.fullmatch(domain):
        raise AddressError(f"this is no mail address: {shown(address)}")
    return address


def shown(text: str, most: int = 80) -> str:
    """As it may stand in a sentence or a log."""
    return ascii(text[:most]) + ("..." if len(text) > most else "")


def control_free(text: str) -> bool:
    """Whether a header may hold it."""
    return _CONTROLS.search(text) is None


@dataclass(frozen=True, slots=True)
class Parts:
    """`local+tag@domain`, in small letters; `tag` is "" where there is none."""

    local: str
    tag: str
    domain: str


def parts(address: str) -> Parts:
    """Of an address that was checked."""
    local, _, domain = address.lower().rpartition("@")
    user, _, tag = local.partition("+") if not local.startswith('"') else (local, "", "")
    return Parts(user, tag, domain.removesuffix("."))


class Pattern:
    """A glob over addresses: `*` and `?` stand for anything but @, upper and lower case are the same.

    Where the pattern has no +, the sub-address of an address is not looked at: `ups@*` fits `ups+west@example.com`.
    """

    def __init__(self, text: str) -> None:
        """ValueError: it does not look like an address."""
        self.text = self.looked_at(text)
        local, _, domain = text.lower().partition("@")
        self._whole_local = "+" in local
        self._local, self._domain = _glob(local), _glob(domain)

    def __repr__(self) -> str:
        return f"<Pattern {self.text}>"

    @staticmethod
    def looked_at(text: str) -> str:
        """The text of a pattern. ValueError: it is none."""
        if not _PATTERN.fullmatch(text) or _CONTROLS.search(text):
            raise ValueError(
                f"{shown(text)} is no pattern for addresses; write for example 'ups@*' or '*@example.com'."
            )
        return text

    def fits(self, address: str) -> bool:
        """An address that was checked."""
        found = parts(address)
        local = f"{found.local}+{found.tag}" if self._whole_local and found.tag else found.local
        return bool(self._local.fullmatch(local) and self._domain.fullmatch(found.domain))

    def fits_domain(self, address: str) -> bool:
        """Whether its domain alone fits."""
        return bool(self._domain.fullmatch(parts(address).domain))


def _glob(text: str) -> re.Pattern[str]:
    return re.compile("".join({"*": "[^@]*", "?": "[^@]"}.get(letter, re.escape(letter)) for letter in text))
