"""What only the SSH carrier has: its reasons in words with a real sshd, both backends and both roles, and its cuts."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.carriers.ends import run_within, until
from tests.carriers.through import SSH_WAYS, Through, ssh_dial, ssh_listen, ssh_plan
from tests.servers import Sshd, fingerprint, new_key, public
from tests.waiting import free_port
from tunnel.carriers import Lane, ssh_openssh, ssh_paramiko
from tunnel.carriers.ssh import SshCarrier
from tunnel.config.plan import Allow, CarrierPlan, Secret

BACKENDS = ["paramiko", "openssh"]
both = pytest.mark.parametrize("backend", BACKENDS)


@asynccontextmanager
async def running(plan: CarrierPlan) -> AsyncIterator[SshCarrier]:
    carrier = SshCarrier(plan)
    await carrier.start()
    try:
        yield carrier
    finally:
        await carrier.close()


def reason_of(plan: CarrierPlan, state: str = "retrying") -> str:
    """What status says once it has a reason."""
    told: dict[str, Any] = {}

    async def body() -> None:
        async with running(plan) as carrier:
            await until(lambda: carrier.status()["reason"], 15)
            told.update(carrier.status())

    run_within(body())
    assert told["state"] == state
    return str(told["reason"])


def over(make: Callable[[], Through], body: Callable[[Through], Any], within_s: float = 60) -> None:
    async def main() -> None:
        ends = make()
        try:
            await body(ends)
        finally:
            ends.close()
            await ends.shut()

    run_within(main(), within_s)


# --- reasons ---------------------------------------------------------------------------------------------------------


@both
def test_an_unknown_host_key(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    told = reason_of(ssh_plan(sshd, "dial", tmp_path / "d", "1", known_hosts=(tmp_path / "none",), backend=backend))
    assert fingerprint(sshd.host_key) in told
    assert told.endswith(f"add to {tmp_path / 'none'}: [127.0.0.1]:{sshd.port} {public(sshd.host_key)}")


@both
def test_a_changed_host_key(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    new_key(tmp_path / "old")
    known = tmp_path / "known"
    known.write_text(f"# old\n[127.0.0.1]:{sshd.port} {public(tmp_path / 'old')}\n")
    told = reason_of(ssh_plan(sshd, "dial", tmp_path / "d", "1", known_hosts=(known,), backend=backend))
    assert "has changed" in told
    assert fingerprint(sshd.host_key) in told
    assert f"{known}:2 says otherwise" in told


@both
def test_a_revoked_host_key(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    known = tmp_path / "known"
    known.write_text(f"{sshd.known_hosts.read_text()}@revoked * {public(sshd.host_key)}\n")
    told = reason_of(ssh_plan(sshd, "dial", tmp_path / "d", "1", known_hosts=(known,), backend=backend))
    assert "revoked" in told
    assert fingerprint(sshd.host_key) in told


@both
def test_no_key_is_accepted(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    stranger = tmp_path / "stranger"
    new_key(stranger)
    told = reason_of(ssh_plan(sshd, "dial", tmp_path / "d", "1", identity=(stranger,), backend=backend))
    assert f"127.0.0.1:{sshd.port} accepted no key of {sshd.user}" in told
    assert f"offered: {stranger}" in told
    assert fingerprint(stranger) in told


@both
@pytest.mark.parametrize("passphrase", [None, "wrong words"])
def test_a_pass_phrase_that_is_missing_or_wrong(
    sshd: Sshd, tmp_path: Path, backend: str, passphrase: str | None
) -> None:
    key = tmp_path / "locked"
    new_key(key, passphrase="open sesame")
    secret = None if passphrase is None else Secret(passphrase)
    plan = ssh_plan(sshd, "dial", tmp_path / "d", "1", identity=(key,), passphrase=secret, backend=backend)
    told = reason_of(plan)
    assert str(key) in told
    assert "pass phrase" in told
    assert "wrong words" not in told
    assert "wrong words" not in repr(plan)


@both
def test_a_pass_phrase_that_opens_the_key(tmp_path: Path, backend: str) -> None:
    with Sshd(tmp_path / "sshd") as sshd:
        key = tmp_path / "locked"
        new_key(key, passphrase='it\'s "open" $HOME')
        sshd.authorized_keys.write_text(public(key) + "\n")
        secret = Secret('it\'s "open" $HOME')

        async def body(ends: Through) -> None:
            await ends.open()
            ends.listen()
            await ends.pair()

        over(lambda: ssh_dial(sshd, tmp_path, identity=(key,), passphrase=secret, backend=backend), body)
    assert [path.name for path in tmp_path.iterdir() if "askpass" in path.name] == []


@both
def test_nobody_listens(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    plan = ssh_plan(sshd, "dial", tmp_path / "d", "1", port=free_port(), backend=backend)
    assert plan.ssh is not None
    assert f"connection refused by 127.0.0.1:{plan.ssh.port}" in reason_of(plan)


@both
def test_a_name_that_is_not_known(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    plan = ssh_plan(sshd, "dial", tmp_path / "d", "1", host="no-such-host.invalid", backend=backend)
    assert "the name no-such-host.invalid is not known" in reason_of(plan)


@both
def test_what_listens_is_no_sshd(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(10)
        plan = ssh_plan(sshd, "dial", tmp_path / "d", "1", port=other.getsockname()[1], backend=backend)

        async def body() -> None:
            async with running(plan) as carrier:
                client, _ = await asyncio.to_thread(other.accept)
                client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                client.close()
                await until(lambda: carrier.status()["reason"], 15)
                assert f"127.0.0.1:{other.getsockname()[1]}" in carrier.status()["reason"]

        run_within(body())


@both
def test_the_target_is_down_and_comes_up(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    async def body(ends: Through) -> None:
        await ends.open()
        carrier = ends.carriers[0]
        _, spy = ends.dial()
        await until(lambda: len(spy.losses) == 2)
        status = carrier.status()
        assert status["state"] == "up"
        assert "could not connect to" in status["reason"]
        assert status["refused"]["target"] >= 1
        ends.listen()
        await ends.pair()
        await until(lambda: carrier.status()["reason"] == "")
        assert carrier.status()["connections"] == 2

    over(lambda: ssh_dial(sshd, tmp_path, backend=backend), body)


@both
def test_an_account_that_may_forward_nothing(tmp_path: Path, backend: str) -> None:
    with Sshd(tmp_path / "sshd", {"AllowTcpForwarding": "no", "AllowStreamLocalForwarding": "no"}) as sshd:
        port = free_port()

        async def body() -> None:
            async with running(ssh_plan(sshd, "dial", tmp_path / "d", f"127.0.0.1:{port}", backend=backend)) as carrier:
                await until(lambda: carrier.status()["state"] == "up")
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(tmp_path / "d"))
                    await until(lambda: carrier.status()["refused"])
                assert f"does not allow connections to 127.0.0.1:{port}" in carrier.status()["reason"]
                assert carrier.status()["refused"] == {"forward": 1}

        run_within(body())
        told = reason_of(ssh_plan(sshd, "listen", tmp_path / "link", f"127.0.0.1:{port}", backend=backend))
        assert f"127.0.0.1:{port}" in told
        assert "permitlisten" in told


@both
def test_a_remote_port_that_is_held_and_let_go(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            target = f"127.0.0.1:{holder.getsockname()[1]}"
            carrier = SshCarrier(ssh_plan(sshd, "listen", tmp_path / "link", target, backend=backend))
            await carrier.start()
            await until(lambda: carrier.status()["reason"], 15)
        assert (
            f"did not open {target}: another program or an old session of ours holds it" in carrier.status()["reason"]
        )
        await until(lambda: carrier.status()["state"] == "listening", 15)
        assert carrier.status()["reason"] == ""
        await carrier.close()

    run_within(body())


def test_allow_is_enforced_where_it_can_be_and_else_refused(sshd: Sshd, tmp_path: Path) -> None:
    from ipaddress import ip_network

    allow = Allow(networks=(ip_network("192.0.2.0/24"),))

    async def body(ends: Through) -> None:
        await ends.open()
        ends.listen()
        _, spy = ends.dial()
        await until(lambda: len(spy.losses) == 2)
        assert ends.carriers[0].status()["refused"]["address"] >= 1
        assert "127.0.0.1 is not in the link's allow" in ends.carriers[0].status()["reason"]

    def narrow() -> Through:
        ends = ssh_listen(sshd, tmp_path)
        carrier = ends.carriers[0]
        assert isinstance(carrier, SshCarrier)
        ends.carriers = [SshCarrier(replace(carrier.plan, allow=allow))]
        return ends

    over(narrow, body)
    plan = replace(ssh_plan(sshd, "listen", tmp_path / "link", "1", backend="openssh"), allow=allow)
    assert "cannot tell who connects" in reason_of(plan)


# --- how it travels --------------------------------------------------------------------------------------------------


@both
def test_a_unix_socket_at_the_sshd_is_opened(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    """Dialled by the other test body; here the sshd makes one."""

    def make() -> Through:
        plan = ssh_plan(sshd, "listen", tmp_path / "link", str(tmp_path / "there"), backend=backend)
        return Through(tmp_path / "link", f"ipc://{tmp_path}/there", [SshCarrier(plan)])

    async def body(ends: Through) -> None:
        await ends.open()
        ends.listen()
        dialled, _, control, _ = await ends.pair()
        assert dialled.send(Lane.DATA, [b"x" * 1_000_000])
        await until(lambda: ends.spy.received[-1][2] == [b"x" * 1_000_000])
        assert ends.listener is not None
        assert ends.listener.send(control, [b"y"])

    over(make, body)


@both
def test_both_ends_by_way_of_the_sshd(sshd: Sshd, tmp_path: Path, backend: str) -> None:
    """Neither box listens: one has the sshd open a port, the other goes there through the sshd."""
    port = free_port()

    def make() -> Through:
        listen = ssh_plan(sshd, "listen", tmp_path / "link", f"127.0.0.1:{port}", backend=backend)
        dial = ssh_plan(sshd, "dial", tmp_path / "d", f"127.0.0.1:{port}", backend=backend)
        return Through(tmp_path / "link", f"ipc://{tmp_path}/d", [SshCarrier(listen), SshCarrier(dial)])

    async def body(ends: Through) -> None:
        await ends.open()
        ends.listen()
        await ends.pair()

    over(make, body)


def test_status_counts_bytes_and_connections(sshd: Sshd, tmp_path: Path) -> None:
    async def body(ends: Through) -> None:
        await ends.open()
        ends.listen()
        dialled, _, _, _ = await ends.pair()
        carrier = ends.carriers[0]
        dialled.send(Lane.DATA, [b"x" * 1_000_000])
        await until(lambda: carrier.status()["bytes_in"] > 1_000_000)
        status = carrier.status()
        assert status["connections"] == 2
        assert status["detail"] == {
            "backend": "paramiko",
            "server": f"127.0.0.1:{sshd.port}",
            "host_key": fingerprint(sshd.host_key),
        }
        dialled.close()
        await until(lambda: carrier.status()["connections"] == 0)

    over(lambda: ssh_dial(sshd, tmp_path), body)


def test_a_reader_that_stands_still_holds_up_only_its_own_connection(sshd: Sshd, tmp_path: Path) -> None:
    """Bounded by the channel's window, and every byte there in the end; half a close is passed on."""
    size = 30_000_000
    data = os.urandom(1_000_000)

    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as target:
            plan = ssh_plan(sshd, "dial", tmp_path / "d", f"127.0.0.1:{target.getsockname()[1]}")
            async with running(plan) as carrier:
                await until(lambda: carrier.status()["state"] == "up")
                slow, quick = (socket.socket(socket.AF_UNIX) for _ in range(2))
                loop = asyncio.get_running_loop()
                ends = []
                for client in (slow, quick):
                    client.connect(str(tmp_path / "d"))
                    ends.append((await asyncio.to_thread(target.accept))[0])
                for each in (slow, quick, *ends):
                    each.setblocking(False)

                async def pour() -> None:
                    for _ in range(size // len(data)):
                        await loop.sock_sendall(ends[0], data)
                    ends[0].shutdown(socket.SHUT_WR)

                pouring = loop.create_task(pour())
                for turn in range(50):  # while nobody reads the other one
                    await loop.sock_sendall(ends[1], b"%2d" % turn)
                    assert await loop.sock_recv(quick, 100) == b"%2d" % turn
                assert not pouring.done()
                assert carrier.status()["bytes_out"] < 8_000_000
                got = bytearray()
                while chunk := await loop.sock_recv(slow, 1_000_000):
                    got += chunk
                await pouring
                assert bytes(got) == data * (size // len(data))
                await loop.sock_sendall(slow, b"still open this way")
                assert await loop.sock_recv(ends[0], 100) == b"still open this way"
                for each in (slow, quick, *ends):
                    each.close()
                await until(lambda: carrier.status()["connections"] == 0)

    run_within(body())


# --- cuts ------------------------------------------------------------------------------------------------------------


async def comes_back(ends: Through) -> None:
    """As a link does it: dialled again until it is up."""
    carrier = ends.carriers[0]

    async def once() -> bool:
        dialled, spy = ends.dial()
        await until(lambda: spy.is_up or spy.losses, 15, carrier.status)
        if not spy.is_up:
            dialled.close()
            await asyncio.sleep(0.05)
        return spy.is_up

    deadline = asyncio.get_running_loop().time() + 20
    while not await once():
        assert asyncio.get_running_loop().time() < deadline, carrier.status()


def kill_sessions(sshd: Sshd) -> None:
    for pid in sshd.sessions():
        os.kill(pid, signal.SIGKILL)


def restart(sshd: Sshd) -> None:
    sshd.restart()


@pytest.mark.parametrize("cut", [kill_sessions, restart])
@pytest.mark.parametrize("way", sorted(SSH_WAYS))
def test_a_cut_session_comes_back_by_itself(tmp_path: Path, way: str, cut: Callable[[Sshd], None]) -> None:
    with Sshd(tmp_path / "sshd") as sshd:

        async def body(ends: Through) -> None:
            await ends.open()
            carrier = ends.carriers[0]
            ends.listen()
            for _ in range(2):
                _, spy, _, _ = await ends.pair()
                await asyncio.to_thread(cut, sshd)
                await until(lambda spy=spy: len(spy.losses) == 2, 15)  # type: ignore[misc]
                await comes_back(ends)
                assert carrier.status()["reason"] == ""

        over(lambda: SSH_WAYS[way](sshd, tmp_path), body)
        assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("way", sorted(SSH_WAYS))
def test_a_session_that_falls_silent_is_given_up(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ssh_paramiko, ssh_openssh):
        monkeypatch.setattr(module, "SSH_ALIVE_S", 1.0)
        monkeypatch.setattr(module, "SSH_ALIVE_COUNT", 1)
    with Sshd(tmp_path / "sshd") as sshd:

        async def body(ends: Through) -> None:
            await ends.open()
            ends.listen()
            _, spy, _, _ = await ends.pair()
            stopped = sshd.sessions()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            await until(
                lambda: "nothing came from the sshd" in ends.carriers[0].status()["reason"],
                20,
                lambda: ends.carriers[0].status(),
            )
            for pid in stopped:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: len(spy.losses) == 2)
            await comes_back(ends)

        over(lambda: SSH_WAYS[way](sshd, tmp_path), body)


def test_a_channel_of_a_session_that_is_over_is_not_waited_for(tmp_path: Path) -> None:
    """A link that dials in the moment between its end and the next session would stand still for 5 s."""
    with Sshd(tmp_path / "sshd") as sshd:

        async def body() -> None:
            async with running(ssh_plan(sshd, "dial", tmp_path / "d", "127.0.0.1:1")) as carrier:
                await until(lambda: carrier.status()["state"] == "up")
                session = carrier._backend._session  # type: ignore[attr-defined]
                await asyncio.to_thread(sshd.stop)
                await until(lambda: not session.is_active())
                with pytest.raises(EOFError, match="is over"):
                    await asyncio.wait_for(asyncio.to_thread(session.open_to, ("127.0.0.1", 1)), 2)

        run_within(body())


def test_the_private_socket_is_private(sshd: Sshd, tmp_path: Path) -> None:
    async def body() -> None:
        for backend in BACKENDS:
            async with running(ssh_plan(sshd, "dial", tmp_path / "d", "1", backend=backend)) as carrier:
                await until(lambda carrier=carrier: carrier.status()["state"] == "up")  # type: ignore[misc]
                assert stat.S_IMODE((tmp_path / "d").stat().st_mode) & 0o077 == 0
            assert not (tmp_path / "d").exists()

    run_within(body())
