"""The keys that a sshd is offered: files (with pass phrases and certificates) and what the agent holds.

paramiko only; the openssh backend lets `ssh` find its own. What is left out on the way is told in words, because "no
key accepted" without what was tried helps nobody. Pass phrases never get into those words.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from tunnel.config.plan import SshPlan

DEFAULTS = (Path("~/.ssh/id_ed25519"), Path("~/.ssh/id_ecdsa"), Path("~/.ssh/id_rsa"))
_KINDS = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


@dataclass(slots=True)
class Identities:
    """Keys in the order in which they are offered, each with its name, and why others are not among them."""

    keys: list[tuple[str, paramiko.PKey]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def tried(self) -> str:
        """What a reason ends with."""
        offered = [name for name, _ in self.keys]
        said = [f"offered: {', '.join(offered)}" if offered else "there was none to offer", *self.left_out]
        return "; ".join(said)


def identities(plan: SshPlan, agent: paramiko.Agent | None) -> Identities:
    """The table's key files; or, where it names none, the agent's keys and the user's own files.

    A named file that is encrypted and has no pass phrase here may still be one that the agent holds.
    """
    found = Identities()
    held = {bytes(key): key for key in agent.get_keys()} if agent is not None else {}
    if not plan.identity:
        found.keys += [(_agents(key), key) for key in held.values()]
        if plan.agent and not held:
            found.left_out.append("the agent has none" if agent is not None else "no agent runs here (SSH_AUTH_SOCK)")
    for path in plan.identity or [path.expanduser() for path in DEFAULTS if path.expanduser().exists()]:
        _add(found, path, plan.passphrase.reveal() if plan.passphrase is not None else None, held)
    return found


def open_agent(plan: SshPlan) -> paramiko.Agent | None:
    """The agent of SSH_AUTH_SOCK, where the table allows it and one answers."""
    if not plan.agent:
        return None
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError):
        return None
    return agent if getattr(agent, "_conn", None) is not None else None


def _add(found: Identities, path: Path, passphrase: str | None, held: dict[bytes, paramiko.AgentKey]) -> None:
    try:
        key = _load(path, passphrase)
    except _Unusable as error:
        public = _public(path)
        if public in held:
            found.keys.append((f"{path} ({_agents(held[public])})", held[public]))
        else:
            found.left_out.append(f"{path} {error}")
        return
    certificate = path.with_name(path.name + "-cert.pub")
    name = f"{path} ({key.get_name()} {key.fingerprint})"
    if certificate.exists():
        try:
            certified = _load(path, passphrase)
            certified.load_certificate(str(certificate))
            found.keys.append((f"{certificate}", certified))
        except (ValueError, OSError, paramiko.SSHException) as error:
            found.left_out.append(f"{certificate} is no certificate of that key: {error}")
    found.keys.append((name, key))


class _Unusable(Exception):
    """Why a key file is not offered, as the rest of a sentence that begins with its name."""


def _load(path: Path, passphrase: str | None) -> paramiko.PKey:
    """With the pass phrase only where one is needed: what the failures say differs from kind to kind."""
    try:
        key = _any_kind(path, None)
        if key is None:
            raise _Unusable("is no private key that is understood here (ed25519, ecdsa, rsa)")
    except paramiko.PasswordRequiredException:
        if passphrase is None:
            raise _Unusable("needs a pass phrase, and the table gives none (passphrase)") from None
        key = _any_kind(path, passphrase)
        if key is None:
            raise _Unusable("does not open with the pass phrase of the table: it is wrong") from None
    except FileNotFoundError:
        raise _Unusable("does not exist") from None
    except OSError as error:
        raise _Unusable(f"cannot be read: {error.strerror or error}") from None
    return key


def _any_kind(path: Path, passphrase: str | None) -> paramiko.PKey | None:
    for kind in _KINDS:
        try:
            return kind.from_private_key_file(str(path), passphrase)
        except (paramiko.PasswordRequiredException, OSError):
            raise
        except (paramiko.SSHException, ValueError, TypeError):
            continue
    return None


def _public(path: Path) -> bytes:
    """The public half beside a key file, if there is one."""
    try:
        return base64.b64decode(path.with_name(path.name + ".pub").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return b""


def _agents(key: paramiko.PKey) -> str:
    return f"the agent's {key.get_name()} {key.fingerprint}"


def authenticate(
    transport: paramiko.Transport, user: str, offers: Sequence[tuple[str, paramiko.PKey]]
) -> Iterator[tuple[str, Exception | None]]:
    """Offers one key after another; yields each with what came of it, and ends with the one that got in."""
    for name, key in offers:
        try:
            more = transport.auth_publickey(user, key)
        except paramiko.AuthenticationException as error:
            yield name, error
            continue
        yield name, paramiko.AuthenticationException(f"more is wanted: {', '.join(more)}") if more else None
        return
