"""CURVE keys in files: zmq certificates (as czmq and `zmq.auth` write them), read and written.

SIDE.key holds the public half, SIDE.key_secret both halves; the secret's file is 0600 from its first moment (below
/etc/ztunnel it is the service's user's, see files.py), and one that others may read is refused. A key is 40 characters
of Z85 (rfc.zeromq.org/spec/32). Knows files and keys, nothing of tables. No message, log or repr ever holds a secret.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from tunnel.errors import KeyFileError
from tunnel.files import PUBLIC, SECRET, create, make_folder
from tunnel.limits import KEY_FILE_BYTES
from tunnel.places import SERVICE_USER, is_installed, user_name

_Z85: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}", re.ASCII)
_LINE: Final = re.compile(r"""\s*(public-key|secret-key)\s*=\s*(["']?)(\S*?)\2\s*""", re.ASCII)
_TOO_OPEN: Final = stat.S_IRWXG | stat.S_IRWXO

_PUBLIC_TEXT: Final = """\
#   ZeroMQ CURVE Public Certificate, written by ztunnel on {day}
#   This half may be seen by everybody. Copy it to the other boxes of the table.

metadata
    name = {name}
curve
    public-key = "{public}"
"""
_SECRET_TEXT: Final = """\
#   ZeroMQ CURVE **Secret** Certificate, written by ztunnel on {day}
#   DO NOT PROVIDE THIS FILE TO OTHER USERS nor change its permissions. It never leaves this box.

metadata
    name = {name}
curve
    public-key = "{public}"
    secret-key = "{secret}"
"""


class Secret(str):
    """Text that prints masked; `reveal()` gives it. Never log, format or serialise the revealed text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"

    def __str__(self) -> str:
        return "****"

    def __format__(self, spec: str) -> str:
        return "****"

    def reveal(self) -> str:
        return str.__str__(self)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, both Z85 (40 characters)."""

    public: str
    secret: Secret


def is_z85(text: str) -> bool:
    """Whether the text can be a key: 40 characters of Z85 that stand for 32 bytes."""
    if not _Z85.fullmatch(text):
        return False
    try:
        z85.decode(text.encode())
    except Exception:  # overflow of a group, told differently by different versions
        return False
    return True


def read_public(path: Path) -> str:
    """The public key (Z85) of a certificate file. Raises KeyFileError."""
    found = _fields(path, _read(path))
    if "public-key" not in found:
        raise KeyFileError(f"{path} holds no public-key; it is not a zmq certificate (ztunnel keygen writes one).")
    return _key(path, "public-key", found["public-key"])


def read_pair(path: Path) -> KeyPair:
    """The pair of a secret certificate file. Raises KeyFileError, also when others may read the file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(_cannot_read(path, error)) from None
    if stat.S_ISREG(mode) and mode & _TOO_OPEN:
        raise KeyFileError(
            f"the secret key {path} may be read by others (mode {stat.S_IMODE(mode):04o}); "
            f"run: chmod 600 {shlex.quote(str(path))}"
        )
    return pair_from_text(_read(path), str(path))


def pair_from_text(text: str, origin: str) -> KeyPair:
    """A pair from the text of a secret certificate, or from the 40 characters of a secret key alone.

    `origin` is named in errors: a path, a credential or a variable. Raises KeyFileError.
    """
    if is_z85(text.strip()):
        secret = Secret(text.strip())
        return KeyPair(public_of(secret, origin), secret)
    found = _fields(origin, text)
    if "secret-key" not in found:
        raise KeyFileError(f"{origin} holds no secret-key; the file with the secret half ends in .key_secret.")
    secret = Secret(_key(origin, "secret-key", found["secret-key"]))
    public = public_of(secret, origin)
    if found.get("public-key", public) != public:
        raise KeyFileError(f"the two halves in {origin} do not belong together; make a new pair with ztunnel keygen.")
    return KeyPair(public, secret)


def public_of(secret: Secret, origin: str) -> str:
    """The public half (Z85) of a secret key."""
    try:
        return zmq.curve_public(secret.reveal().encode()).decode()
    except (zmq.ZMQError, ValueError):
        raise KeyFileError(f"the secret key in {origin} is not a CURVE key.") from None


def write_pair(folder: Path, side: str) -> tuple[Path, Path]:
    """Make a new pair: FOLDER/SIDE.key and FOLDER/SIDE.key_secret (0600). Overwrites nothing. Raises KeyFileError."""
    public_path, secret_path = pair_paths(folder, side)
    for path in (secret_path, public_path):
        if os.path.lexists(path):
            raise KeyFileError(f"{path} exists already and is not overwritten; move it away, or name another folder.")
    public, secret = (key.decode() for key in zmq.curve_keypair())
    _write(secret_path, _SECRET_TEXT, side, public, secret)
    try:
        _write(public_path, _PUBLIC_TEXT, side, public)
    except KeyFileError:
        secret_path.unlink()
        raise
    return public_path, secret_path


def write_public(folder: Path, side: str, public: str) -> Path:
    """Write FOLDER/SIDE.key for a key that is known already. Overwrites nothing. Raises KeyFileError."""
    path, _ = pair_paths(folder, side)
    _write(path, _PUBLIC_TEXT, side, public)
    return path


def find_pair(folder: Path, side: str) -> KeyPair | None:
    """The pair that lies in the folder; None: neither half does. Of the public half nothing is needed but that it
    belongs to the secret one, where it is there. Raises KeyFileError."""
    public_path, secret_path = pair_paths(folder, side)
    if os.path.lexists(secret_path):
        pair = read_pair(secret_path)
        if os.path.lexists(public_path) and read_public(public_path) != pair.public:
            raise KeyFileError(
                f"{public_path} is not the public half of {secret_path}; move away the one that does not belong here."
            )
        return pair
    if os.path.lexists(public_path):
        raise KeyFileError(
            f"{public_path} is here without its secret half, so this is not the box of {side}: "
            "say another --side, or move that file away to make new keys here."
        )
    return None


def pair_paths(folder: Path, side: str) -> tuple[Path, Path]:
    """Where the two halves of a side are: public, secret."""
    public = folder / f"{side}.key"
    return public, secret_beside(public)


def secret_beside(public_path: Path) -> Path:
    """Where the secret half of a public certificate is by default: `dmz.key` → `dmz.key_secret`."""
    return public_path.with_name(public_path.name + "_secret")


def _write(path: Path, text: str, side: str, public: str, secret: str = "") -> None:
    words = {"day": datetime.now(UTC).date().isoformat(), "name": side, "public": public}
    try:
        make_folder(path.parent, for_keys=True)
        create(path, text.format(**words, secret=secret), SECRET if secret else PUBLIC)
    except OSError as error:
        raise KeyFileError(f"cannot write keys to {path.parent}: {error.strerror}.") from None


def _read(path: Path) -> str:
    try:
        if not path.is_file() and path.exists():  # a folder, a device, a pipe: opening may wait for ever
            raise KeyFileError(f"{path} is not a file.")
        with path.open("rb") as file:
            text = file.read(KEY_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(_cannot_read(path, error)) from None
    if len(text) > KEY_FILE_BYTES:
        raise KeyFileError(f"{path} is too long for a key; it is not a zmq certificate.")
    return text.decode("utf-8", "replace")


def _cannot_read(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"the key file {path} is not there; make it with ztunnel keygen, or copy it from the box that has it."
    if isinstance(error, PermissionError):
        return f"the key file {path} cannot be read by {user_name(os.geteuid())}, who runs this: {_remedy(path)}."
    return f"the key file {path} cannot be read: {(error.strerror or 'unknown reason').lower()}."


def _remedy(path: Path) -> str:
    """For a file that this user may not read."""
    runs, named = user_name(os.geteuid()), shlex.quote(str(path))
    if not is_installed(path):
        return f"run it as the user whose file it is, or: chown {runs} {named}"
    if runs == SERVICE_USER:
        return f"run: chown {SERVICE_USER} {named}"
    return f"run it as root; the service itself must be able to read it, by: chown {SERVICE_USER} {named}"


def _fields(origin: Path | str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match and found.setdefault(match[1], match[3]) != match[3]:
            raise KeyFileError(f"{origin} holds two different {match[1]}s.")
    return found


def _key(origin: Path | str, field: str, text: str) -> str:
    if not is_z85(text):
        raise KeyFileError(f"the {field} in {origin} is damaged: it is not 40 characters of Z85.")
    return text
