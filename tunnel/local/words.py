"""What happened to a local endpoint, in sentences for `status` and the log. Pure: knows monitor events as numbers only.

0MQ is silent about swapped ends and foreign security, so what libzmq 4.3.5 tells in each case was measured with real
sockets (tests/local/test_wrong_pairs.py holds it); `why_no_handshake` reads those signs.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import Final

import zmq

PARTNERS: Final[dict[str, tuple[str, ...]]] = {
    "ROUTER": ("REQ", "DEALER", "ROUTER"),
    "DEALER": ("REP", "DEALER", "ROUTER"),
    "XSUB": ("PUB", "XPUB"),
    "XPUB": ("SUB", "XSUB"),
    "PULL": ("PUSH",),
    "PUSH": ("PULL",),
    "PAIR": ("PAIR",),
}
"""Socket types that each of ours may be connected with (libzmq, mechanism_t::check_socket_type)."""

MECHANISM_MISMATCH: Final = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
CRYPTOGRAPHIC: Final = int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC)


@dataclass(frozen=True, slots=True)
class Expectation:
    """Whom an end waits for: `partners` such as "a REQ or DEALER socket", `mechanism` NULL, PLAIN or CURVE."""

    partners: str
    mechanism: str

    @property
    def security(self) -> str:
        return "without CURVE or PLAIN" if self.mechanism == "NULL" else f"with {self.mechanism}"

    def __str__(self) -> str:
        return f"{self.partners} {self.security}"


def expectation(socket: str, mechanism: str) -> Expectation:
    """Whom an end with this socket type and this security mechanism can talk to."""
    return Expectation(_one_of(PARTNERS[socket]), mechanism)


def _one_of(names: tuple[str, ...]) -> str:
    article = "an" if names[0][0] in "AEIOUX" else "a"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"{article} {listed} socket"


@dataclass(frozen=True, slots=True)
class Failure:
    """A HANDSHAKE_FAILED event. kind: no_detail (value: errno), protocol (ZMTP error), auth (ZAP status)."""

    kind: str
    value: int


def why_no_handshake(method: str, address: str, expected: Expectation, failure: Failure | None) -> str:
    """Why a connection ended before its handshake did. `failure` is None when libzmq gave no reason at all.

    Two sockets that do not fit turn each other away: who is first gets no reason from libzmq, the other sees the
    connection closed. Which of the two we are is chance, so both are told in the same words, true of either.
    """
    who = f"Something listens at {address}, but" if method == "connect" else f"Something connected to {address}, but"
    if failure is None or (failure.kind == "no_detail" and failure.value not in (errno.EAGAIN, errno.ETIMEDOUT)):
        if expected.mechanism == "CURVE" and method == "connect":
            return (
                f"{who} it did not prove to be {expected} that knows our key: "
                "is `server` its public key, or are the ends of the route swapped?"
            )
        return f"{who} it did not prove to be {expected}: are the ends of the route swapped?"
    if failure.kind == "auth":
        if method == "connect":
            return f"{who} it refuses us (ZAP status {failure.value}): is our address, key or password known there?"
        return f"{who} it was refused: its address, key or password is not let in here."
    if failure.kind == "protocol":
        if failure.value == MECHANISM_MISMATCH:
            return f"{who} with another security than ours: {expected} was expected."
        if failure.value == CRYPTOGRAPHIC:
            return f"{who} its keys do not fit: it does not know our public key, or we do not know its."
        return f"{who} it breaks the 0MQ protocol (error {failure.value:#x}): {expected} was expected."
    return f"{who} it did not speak 0MQ in time: {expected} was expected."


def why_no_connection(address: str) -> str:
    """Why a connect found nobody. libzmq does not tell the errno; for ipc the file does."""
    path = ipc_path(address)
    if path is None:
        return f"Nobody answers at {address}: is the application running, and may this machine reach it?"
    if path.startswith("@"):
        return f"Nobody listens at {address}: is the application running?"
    if not os.path.exists(path):
        return f"There is no {path}: the application that binds it is not running."
    if not os.access(path, os.W_OK):
        return f"{path} may not be opened by this user: give its group write permission (mode, group)."
    return f"Nobody listens at {path}: the application that bound it is gone."


def why_gone(address: str) -> str:
    return f"The application at {address} closed the connection; it is tried again."


def why_dropped(address: str) -> str:
    """libzmq ended a good connection for an error of protocol, which it never mends by itself."""
    return (
        f"The connection to {address} was ended because of what it carried: a frame far over `max_message`, "
        "or no 0MQ. It is made anew."
    )


def why_bind_failed(address: str, code: int) -> str:
    """errno of a failed bind → a sentence."""
    if code == errno.EADDRINUSE:
        return f"{address} is in use: another process, or another route, has bound it."
    if code == errno.EACCES:
        return f"{address} may not be bound by this user: ports below 1024 and other people's folders need permission."
    if code in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"{address} is no address of this machine."
    if code == errno.ENOENT:
        return f"The folder of {address} does not exist."
    if code == errno.ENAMETOOLONG:
        return f"The path of {address} is too long for a unix socket."
    return f"{address} could not be bound: {zmq.strerror(code)}."


def ipc_path(address: str) -> str | None:
    """The path of an `ipc://` address (`@name` when abstract), else None."""
    return address.removeprefix("ipc://") if address.startswith("ipc://") else None
