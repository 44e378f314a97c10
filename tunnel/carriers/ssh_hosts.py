"""Host keys, strictly: what known_hosts files say of a sshd, and the sentence when they do not say yes.

Names in the clear, hashed (`|1|salt|hash`), with wildcards and negations, `[host]:port`, and `@revoked` lines, as
sshd(8) describes them. Nothing is ever added: who meets an unknown key is told its fingerprint and the line to add.
`@cert-authority` lines are passed over: paramiko verifies no host certificates (the openssh backend does).
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunnel.errors import LinkError
from tunnel.limits import KNOWN_HOSTS_BYTES

DEFAULTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))


class HostKeyError(LinkError):
    """The sshd's key is unknown, another than before, or revoked."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line of a known_hosts file that names the host."""

    kind: str
    key: bytes
    file: Path
    line: int
    revoked: bool = False


def host_name(host: str, port: int) -> str:
    """How known_hosts files call it."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def fingerprint(key: bytes) -> str:
    """As OpenSSH prints it: `SHA256:...`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def files_of(given: Sequence[Path]) -> tuple[Path, ...]:
    """The table's, or the user's own and the machine's."""
    return tuple(given) or tuple(path.expanduser() for path in DEFAULTS)


def known_keys(files: Sequence[Path], name: str) -> list[KnownKey]:
    """Every line that names this host, and every revoked key that may be meant. A file that is missing has none."""
    return [known for file in files for known in _read(file, name)]


def verify(known: Sequence[KnownKey], name: str, files: Sequence[Path], kind: str, key: bytes) -> None:
    """Returns when a file says that this is the host's key; else raises HostKeyError with what to do."""
    for entry in known:
        if entry.revoked and entry.key == key:
            raise HostKeyError(
                f"the host key of {name} ({kind} {fingerprint(key)}) is revoked by {entry.file}:{entry.line}: "
                "do not trust that machine"
            )
    good = [entry for entry in known if not entry.revoked]
    if any(entry.key == key for entry in good):
        return
    if good:
        where = ", ".join(f"{entry.file}:{entry.line}" for entry in good)
        raise HostKeyError(
            f"the host key of {name} has changed: it is {kind} {fingerprint(key)} now, but {where} says otherwise. "
            "Somebody may be in between; if the machine was set up anew, replace that line by: "
            f"{line_to_add(name, kind, key)}"
        )
    raise HostKeyError(
        f"the host key of {name} is unknown: {kind} {fingerprint(key)}. Compare that with the machine's own "
        f"(ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there), then add to {files[0]}: {line_to_add(name, kind, key)}"
    )


def line_to_add(name: str, kind: str, key: bytes) -> str:
    return f"{name} {kind} {base64.b64encode(key).decode()}"


def _read(file: Path, name: str) -> Iterator[KnownKey]:
    try:
        if file.stat().st_size > KNOWN_HOSTS_BYTES:
            raise HostKeyError(f"{file} is longer than {KNOWN_HOSTS_BYTES} bytes: that is no known_hosts file")
        lines = file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostKeyError(f"{file} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if marker not in ("", "@revoked") or len(words) < 3 or not _names(words[0], name):
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except ValueError:
            continue
        yield KnownKey(words[1], key, file, number, bool(marker))


def _names(patterns: str, name: str) -> bool:
    """Whether the first field of a line means this host."""
    if patterns.startswith("|1|"):
        return _hashed(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        if fnmatch.fnmatchcase(name, pattern.removeprefix("!").replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hashed(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(word, validate=True) for word in pattern[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
