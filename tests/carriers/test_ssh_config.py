"""The openssh backend with a configuration of its own: other names and ports for a Host, and jump hosts, all real."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.carriers.ends import run_within, until
from tests.carriers.test_ssh import comes_back, over, reason_of, running
from tests.carriers.through import Through, ssh_dial, ssh_listen, ssh_plan
from tests.servers import Sshd, fingerprint, new_key
from tests.waiting import free_port
from tests.waiting import until as until_then
from tunnel.carriers import Lane
from tunnel.carriers.ssh_openssh import _SECRET, _askpass
from tunnel.config.plan import Secret

WAYS: dict[str, Callable[..., Through]] = {"dial": ssh_dial, "listen": ssh_listen}
ways = pytest.mark.parametrize("way", WAYS)


@dataclass
class Jump:
    """`dmz`, which the configuration knows, behind `gate`, which nobody else can tell."""

    gate: Sshd
    dmz: Sshd
    file: Path

    def write(self, gate: dict[str, Any] | None = None, dmz: dict[str, Any] | None = None) -> None:
        known = {"HostName": "127.0.0.1", "Port": self.gate.port, "User": self.gate.user}
        known |= {"IdentityFile": self.gate.identity, "UserKnownHostsFile": self.gate.known_hosts}
        beyond = {"HostName": "127.0.0.1", "Port": self.dmz.port, "User": "somebody-else", "ProxyJump": "gate"}
        hosts = {"gate": known | (gate or {}), "dmz": beyond | (dmz or {})}
        lines = [
            f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in all_.items())
            for name, all_ in hosts.items()
        ]
        self.file.write_text("".join(lines))

    def how(self, **more: Any) -> dict[str, Any]:
        """What the table says: no port, and the name that only the configuration knows."""
        return {"host": "dmz", "port": 22, "config": self.file, "backend": "openssh", **more}


@pytest.fixture
def jump(sshd: Sshd, tmp_path: Path) -> Iterator[Jump]:
    with Sshd(tmp_path / "gate") as gate:
        made = Jump(gate, sshd, tmp_path / "config")
        made.write()
        yield made


async def carries(ends: Through) -> None:
    await ends.open()
    ends.listen()
    dialled, spy, control, _ = await ends.pair()
    assert dialled.send(Lane.DATA, [b"x" * 1_000_000])
    await until(lambda: ends.spy.received[-1][2] == [b"x" * 1_000_000])
    assert ends.listener is not None
    assert ends.listener.send(control, [b"y"])
    await until(lambda: spy.received == [(Lane.CONTROL, [b"y"])])


@ways
def test_a_host_of_the_configuration(sshd: Sshd, tmp_path: Path, way: str) -> None:
    """Its HostName and Port count; its User does not, because the address names one."""
    config = tmp_path / "config"
    config.write_text(f"Host dmz\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User somebody-else\n")

    async def body(ends: Through) -> None:
        await carries(ends)
        detail = ends.carriers[0].status()["detail"]
        assert detail == {
            "backend": "openssh",
            "server": f"127.0.0.1:{sshd.port}",
            "host_key": fingerprint(sshd.host_key),
        }

    over(lambda: WAYS[way](sshd, tmp_path, host="dmz", port=22, config=config, backend="openssh"), body)


def test_the_address_s_own_port_counts_where_it_says_one(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host dmz\n  HostName 127.0.0.1\n  Port {free_port()}\n")
    over(lambda: ssh_dial(sshd, tmp_path, host="dmz", config=config, backend="openssh"), carries)


@ways
def test_through_a_jump_host(jump: Jump, tmp_path: Path, way: str) -> None:
    async def body(ends: Through) -> None:
        await carries(ends)
        status = ends.carriers[0].status()
        assert status["detail"]["server"] == f"127.0.0.1:{jump.dmz.port}"
        assert status["detail"]["host_key"] == fingerprint(jump.dmz.host_key)
        assert (status["state"], status["reason"], status["connections"]) == (
            "up" if way == "dial" else "listening",
            "",
            2,
        )
        assert jump.gate.sessions()

    over(lambda: WAYS[way](jump.dmz, tmp_path, **jump.how()), body)
    until_then(lambda: not jump.gate.sessions(), 10, "the ssh to the jump host ends with the carrier")


@ways
def test_a_jump_host_that_is_cut_and_comes_back(jump: Jump, tmp_path: Path, way: str) -> None:
    async def body(ends: Through) -> None:
        await ends.open()
        ends.listen()
        _, spy, _, _ = await ends.pair()
        for pid in jump.gate.sessions():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(spy.losses) == 2, 15)
        await comes_back(ends)

    over(lambda: WAYS[way](jump.dmz, tmp_path, **jump.how()), body)


def test_what_is_wrong_at_the_jump_host_is_told_of_it(jump: Jump, tmp_path: Path) -> None:
    gate, stranger, nobody = f"127.0.0.1:{jump.gate.port}", tmp_path / "stranger", free_port()
    new_key(stranger)

    def told(**how: Any) -> str:
        return reason_of(ssh_plan(jump.dmz, "dial", tmp_path / "d", "1", **jump.how(**how)))

    jump.write(gate={"UserKnownHostsFile": "/dev/null"})
    unknown = told()
    assert f"the host key of [127.0.0.1]:{jump.gate.port} is unknown: {fingerprint(jump.gate.host_key)}" in unknown
    assert f"add to the known_hosts that ssh's configuration has for it what ssh-keyscan -p {jump.gate.port}" in unknown
    jump.write(gate={"IdentityFile": stranger, "IdentitiesOnly": "yes"})
    refused = told(identity=())
    assert f"{gate} accepted no key of {jump.gate.user}; offered: {stranger}" in refused
    jump.write(gate={"Port": nobody})
    assert told() == f"connection refused by 127.0.0.1:{nobody}: no sshd listens there"
    jump.write(gate={"HostName": "no-such-host.invalid"})
    assert told() == "the name no-such-host.invalid is not known"
    jump.write(dmz={"Port": nobody})
    assert told() == f"the jump host {gate} could not connect to 127.0.0.1:{nobody}: Connection refused"


def test_what_is_wrong_beyond_the_jump_host_is_told_of_that(jump: Jump, tmp_path: Path) -> None:
    def told(**how: Any) -> str:
        return reason_of(ssh_plan(jump.dmz, "dial", tmp_path / "d", "1", **jump.how(**how)))

    dmz, none = f"127.0.0.1:{jump.dmz.port}", tmp_path / "none"
    unknown = told(known_hosts=(none,))
    assert f"the host key of [127.0.0.1]:{jump.dmz.port} is unknown: {fingerprint(jump.dmz.host_key)}" in unknown
    assert f"add to {none} what ssh-keyscan -p {jump.dmz.port} 127.0.0.1 prints" in unknown
    assert f"{dmz} accepted no key of {jump.dmz.user}; offered: {jump.gate.identity}" in told(
        identity=(jump.gate.identity,)
    )


def test_no_pass_phrase_for_whoever_else_asks(jump: Jump, tmp_path: Path) -> None:
    """A jump host that wants a password, or whose key is unknown, makes `ssh` ask; the answer is for our key alone."""
    locked = tmp_path / "locked"
    new_key(locked, passphrase="open sesame")
    jump.write(gate={"UserKnownHostsFile": "/dev/null"})
    how = jump.how(identity=(locked,), passphrase=Secret("open sesame"))
    assert "is unknown" in reason_of(ssh_plan(jump.dmz, "dial", tmp_path / "d", "1", **how))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Enter passphrase for key '/k': ", b"open sesame\n"),
        ("root@127.0.0.1's password: ", b""),
        ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", b""),
    ],
)
def test_what_the_askpass_program_answers(tmp_path: Path, question: str, answer: bytes) -> None:
    program = _askpass(tmp_path)
    said = subprocess.run([program, question], env={_SECRET: "open sesame"}, capture_output=True, check=False)
    assert (said.stdout, said.returncode) == (answer, 0 if answer else 1)


def test_bytes_that_are_not_counted_are_not_told(sshd: Sshd, tmp_path: Path) -> None:
    async def body() -> None:
        async with running(ssh_plan(sshd, "dial", tmp_path / "d", "1", backend="openssh")) as carrier:
            await until(lambda: carrier.status()["state"] == "up")
            assert (carrier.status()["bytes_in"], carrier.status()["bytes_out"]) == (None, None)

    run_within(body())
