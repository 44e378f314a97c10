"""TLS of https:// links: contexts from certificate files, made anew when the files change, and errors in words.

A file that is broken while it is replaced does not take the old certificate away: the last good context stays in use,
and `problem` says what is wrong with the new one.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tunnel.config.plan import TlsPlan
from tunnel.errors import LinkError, LocalError

_VERIFY: Final = {
    9: "its certificate is not valid yet: are both clocks right?",
    10: "its certificate has expired",
    62: "its certificate is for another name than {name}",
    64: "its certificate is for another name than {name}",
}
_NO_TRUST: Final = frozenset({2, 18, 19, 20, 21})
"""X509_V_ERR_*: unknown issuer, self-signed, and their kin (openssl-verification-options(1))."""
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "the server asks for a client certificate (tls: cert and key)",
    "ALERT_UNKNOWN_CA": "the other end does not know the CA of our certificate",
    "ALERT_BAD_CERTIFICATE": "the other end does not accept our certificate",
    "ALERT_CERTIFICATE_EXPIRED": "our certificate has expired, the other end says",
    "WRONG_VERSION_NUMBER": "what answers there does not speak TLS: is it http:// ?",
    "HTTP_REQUEST": "plain HTTP came to the TLS port",
}


class Contexts:
    """The current context of a TlsPlan, looked at anew for every connection."""

    def __init__(self, tls: TlsPlan, make: Callable[[TlsPlan], ssl.SSLContext]) -> None:
        self._tls = tls
        self._make = make
        self._files = [file for file in (tls.cert, tls.key, tls.ca) if file is not None]
        self._stamp: object = None
        self._context: ssl.SSLContext | None = None
        self.problem = ""
        """Why the newest files are not in use; empty when they are."""

    def current(self) -> ssl.SSLContext:
        """LocalError: there is no good one yet; the sentence names the file."""
        stamp = [_stamp_of(file) for file in self._files]
        if self._context is None or stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = self._make(self._tls)
                self.problem = ""
            except (OSError, ValueError) as error:  # SSLError is an OSError
                self.problem = f"the certificate files {', '.join(map(str, self._files))} cannot be used: {error}"
        if self._context is None:
            raise LocalError(self.problem)
        return self._context


def dial_context(tls: TlsPlan) -> ssl.SSLContext:
    """What a dialler trusts: the machine's CAs, `ca` alone, or whatever the pin (checked after the handshake) says."""
    context = ssl.create_default_context(cafile=None if tls.ca is None else str(tls.ca))
    if tls.pin:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context


def listen_context(tls: TlsPlan) -> ssl.SSLContext:
    """The server's certificate, and the CA that signs its clients' if there is one."""
    if tls.cert is None:
        raise ValueError("https needs tls: {cert, key}")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.cert, tls.key)
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def check_pin(tls: TlsPlan, certificate: bytes | None) -> None:
    """LinkError: there are pins, and the certificate (DER) is none of them."""
    if not tls.pin:
        return
    found = hashlib.sha256(certificate or b"").hexdigest()
    if found not in {pin.replace(":", "").lower() for pin in tls.pin}:
        raise LinkError(f"the server's certificate is not the pinned one; its SHA-256 is {found}")


def in_words(error: ssl.SSLError, name: str) -> str:
    """What is wrong, for `status`; `name` is the one that the certificate should have."""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code in _NO_TRUST:
            return "its certificate is signed by a CA that is not trusted here (tls: ca or pin)"
        return _VERIFY.get(code, f"its certificate is refused: {error.verify_message}").format(name=name)
    words = f"{error.reason or ''} {error}".upper()
    return next((said for alert, said in _ALERTS.items() if alert in words), f"the TLS handshake failed: {error}")


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
