"""A real sshd on a free port of loopback, with keys of its own, for the benchmarks."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.process import MeasureError, Process, wait_for_port
from demo.ports import free_ports


@dataclass(frozen=True)
class Server:
    """A running sshd, and what lets us in."""

    port: int
    user: str
    identity: Path
    known_hosts: Path

    @property
    def command(self) -> list[str]:
        """ssh to it, without anything of this user's own configuration; the host to the end of it."""
        options = {
            "Port": self.port,
            "User": self.user,
            "IdentityFile": self.identity,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "Compression": "no",
        }
        return ["ssh", "-F", "none", *(f"-o{name}={value}" for name, value in options.items()), "127.0.0.1"]


@cache
def program() -> str | None:
    """sshd, which is not in everybody's PATH."""
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """One for the length of the context."""
    sshd = program()
    if sshd is None:
        raise MeasureError("sshd is not installed (apt-get install openssh-server)")
    (port,) = free_ports(1)
    home = folder / f"sshd-{port}"
    home.mkdir(mode=0o700)
    host_key, identity = home / "host_key", home / "identity"
    for key in (host_key, identity):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (home / "authorized_keys").write_text(identity.with_suffix(".pub").read_text())
    known_hosts = home / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {host_key.with_suffix('.pub').read_text()}")
    (home / "sshd_config").write_text(
        "\n".join(
            (
                f"Port {port}",
                "ListenAddress 127.0.0.1",
                f"HostKey {host_key}",
                f"AuthorizedKeysFile {home / 'authorized_keys'}",
                f"PidFile {home / 'pid'}",
                "PermitRootLogin prohibit-password",
                "PasswordAuthentication no",
                "StrictModes no",
                "UsePAM no",
                "",
            )
        )
    )
    with suppress(PermissionError):
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # Debian's sshd, run by root, separates privileges there
    with Process("sshd", [sshd, "-D", "-e", "-f", str(home / "sshd_config")], folder):
        wait_for_port(port)
        yield Server(port, getpass.getuser(), identity, known_hosts)
