"""Which keys a sshd is offered, and the words for those that are left out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import fingerprint, new_key, program
from tunnel.carriers.ssh_keys import Identities, identities, open_agent
from tunnel.config.plan import Secret, SshPlan


def plan(*identity: Path, passphrase: str | None = None, agent: bool = False) -> SshPlan:
    secret = None if passphrase is None else Secret(passphrase)
    return SshPlan("u", "h", 22, "1", identity=identity, passphrase=secret, agent=agent)


def found(plan: SshPlan) -> Identities:
    agent = open_agent(plan)
    try:
        return identities(plan, agent)
    finally:
        if agent is not None:
            agent.close()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A real ssh-agent; its socket."""
    path = f"/tmp/zt-agent-{os.getpid()}"
    process = subprocess.Popen([program("ssh-agent"), "-D", "-a", path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it listens
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    yield path
    process.terminate()
    process.wait()
    Path(path).unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("passphrase", ["", "open sesame"])
def test_key_files(tmp_path: Path, kind: str, passphrase: str) -> None:
    new_key(tmp_path / "key", kind, passphrase)
    told = found(plan(tmp_path / "key", passphrase=passphrase or None))
    assert [name for name, _ in told.keys] == [
        f"{tmp_path / 'key'} ({told.keys[0][1].get_name()} {fingerprint(tmp_path / 'key')})"
    ]


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_pass_phrase_that_is_missing_or_wrong_is_told_and_never_shown(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    new_key(path, kind, "open sesame")
    assert found(plan(path)).left_out == [f"{path} needs a pass phrase, and the table gives none (passphrase)"]
    told = found(plan(path, passphrase="wrong words"))
    assert told.left_out == [f"{path} does not open with the pass phrase of the table: it is wrong"]
    assert "wrong words" not in told.tried()


def test_files_that_are_missing_or_no_keys(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    told = found(plan(tmp_path / "missing", tmp_path / "text"))
    assert told.left_out == [
        f"{tmp_path / 'missing'} does not exist",
        f"{tmp_path / 'text'} is no private key that is understood here (ed25519, ecdsa, rsa)",
    ]
    assert told.tried().startswith("there was none to offer; ")


def test_a_certificate_beside_the_key_is_offered_first(tmp_path: Path) -> None:
    new_key(tmp_path / "ca")
    new_key(tmp_path / "key")
    sign = [program("ssh-keygen"), "-q", "-s", str(tmp_path / "ca"), "-I", "me", "-n", "u", f"{tmp_path / 'key'}.pub"]
    subprocess.run(sign, check=True, capture_output=True)
    names = [name for name, _ in found(plan(tmp_path / "key")).keys]
    assert len(names) == 2
    assert names[0] == f"{tmp_path / 'key'}-cert.pub"


def test_the_agents_keys_where_the_table_names_none(tmp_path: Path, agent: str) -> None:
    new_key(tmp_path / "key")
    subprocess.run([program("ssh-add"), "-q", str(tmp_path / "key")], check=True)
    names = [name for name, _ in found(plan(agent=True)).keys]
    assert f"the agent's ssh-ed25519 {fingerprint(tmp_path / 'key')}" in names
    assert all("agent" not in name for name, _ in found(plan(agent=False)).keys)


def test_the_agent_opens_an_encrypted_file_of_the_table(tmp_path: Path, agent: str) -> None:
    new_key(tmp_path / "plain")
    path = tmp_path / "key"
    new_key(path, passphrase="open sesame")
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho open sesame\n")
    askpass.chmod(0o700)
    environment = os.environ | {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run([program("ssh-add"), "-q", str(path)], check=True, env=environment, stdin=subprocess.DEVNULL)
    subprocess.run([program("ssh-add"), "-q", str(tmp_path / "plain")], check=True)
    assert [name for name, _ in found(plan(path, agent=True)).keys] == [
        f"{path} (the agent's ssh-ed25519 {fingerprint(path)})"
    ]


def test_an_agent_that_holds_nothing_or_is_not_there_is_told(agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the agent has none" in found(plan(agent=True)).left_out
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert "no agent runs here (SSH_AUTH_SOCK)" in found(plan(agent=True)).left_out
