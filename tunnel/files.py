"""Files and folders that the command line makes for good: tables, keys.

A file appears whole or not at all, and nothing is overwritten. Below /etc/ztunnel, made by root, it is made fit for the
service, which runs as a user of its own (tunnel/places.py): secrets are that user's, the rest it may read, whatever
root's umask is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tunnel.places import INSTALLED, service_account

SECRET: Final = 0o600
PUBLIC: Final = 0o644
_FOLDER: Final = 0o755
_KEYS_FOLDER: Final = 0o750


def create(path: Path, text: str, mode: int) -> None:
    """Write a new file, on disk when this returns. OSError: it is there already, or cannot be written."""
    account = service_account(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if account and mode == SECRET:
                os.fchown(descriptor, account.pw_uid, account.pw_gid)
            if account:
                os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def make_folder(folder: Path, *, for_keys: bool = False) -> None:
    """Make a folder and those above it, where they are missing. Below /etc/ztunnel one for keys is the service's to
    read, and nobody else's."""
    for path in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        path.mkdir(exist_ok=True)
        if account := service_account(path):
            private = for_keys and path == folder and path.resolve() != INSTALLED.resolve()
            os.chown(path, 0, account.pw_gid if private else 0)
            path.chmod(_KEYS_FOLDER if private else _FOLDER)
