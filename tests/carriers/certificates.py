"""Certificates for tests, as files: a CA and what it signs (trustme)."""

from __future__ import annotations

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def pin(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.cert.read_text())).hexdigest()

    @property
    def pair(self) -> tuple[Path, Path]:
        return self.cert, self.key


class Authority:
    """A CA; `path` is its certificate."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, *names: str, file: str = "server", expired: bool = False) -> Files:
        """A certificate for these names (127.0.0.1 and localhost when there are none)."""
        until = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) if expired else None
        leaf = self._ca.issue_cert(*(names or ("127.0.0.1", "localhost")), not_after=until)
        files = Files(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        leaf.cert_chain_pems[0].write_to_path(str(files.cert))
        leaf.private_key_pem.write_to_path(str(files.key))
        return files
