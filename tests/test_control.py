"""tunnel.control: a real unix socket, with the server on a loop in a thread as it runs inside a process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from tunnel.control import ControlServer, Reply, ask
from tunnel.errors import LocalError, NotRunningError, UsageError, ZtunnelError
from tunnel.limits import CONTROL_CLIENTS, CONTROL_REQUEST_BYTES


async def _slow(request: dict[str, Any]) -> Reply:
    await asyncio.sleep(request["seconds"])
    return {"slept": True}


def _wrong_table(request: dict[str, Any]) -> Reply:
    raise UsageError("dmz.yaml:3:1: no such key.")


def _fails(request: dict[str, Any]) -> Reply:
    raise LocalError("address in use.")


def _bug(request: dict[str, Any]) -> Reply:
    raise ZeroDivisionError("oops")


COMMANDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "status": lambda request: {"side": "dmz", "pid": 7},
    "echo": lambda request: {"got": request},
    "big": lambda request: {"text": "x" * 3_000_000},
    "slow": _slow,
    "wrong": _wrong_table,
    "fails": _fails,
    "bug": _bug,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "device.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ControlServer(path, COMMANDS)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
    yield server
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_question_is_answered(server: ControlServer, path: Path) -> None:
    assert ask(path, "status") == {"ok": True, "side": "dmz", "pid": 7}
    assert ask(path, "echo", text="ü\n", n=1)["got"] == {"do": "echo", "text": "ü\n", "n": 1}
    assert len(ask(path, "big", timeout_s=5)["text"]) == 3_000_000


def test_only_the_owner_may_ask(server: ControlServer, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("do", "kind", "exit_code", "words"),
    [
        ("wrong", UsageError, 2, "no such key"),
        ("fails", ZtunnelError, 1, "address in use"),
        ("bug", ZtunnelError, 1, "this is a bug in ztunnel: ZeroDivisionError: oops"),
        ("nonsense", ZtunnelError, 1, "there is no such command here"),
    ],
)
def test_a_refusal_is_raised_with_its_exit_code(
    server: ControlServer, path: Path, do: str, kind: type[ZtunnelError], exit_code: int, words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        ask(path, do)
    assert caught.value.exit_code == exit_code
    assert ask(path, "status")["ok"], "the process goes on"


def test_nobody_there_is_not_running(path: Path) -> None:
    with pytest.raises(NotRunningError, match="is not running"):
        ask(path, "status")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NotRunningError, match="is not running"):
        ask(path, "status")


def test_a_silent_process_is_given_up_in_time(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        began = time.monotonic()
        with pytest.raises(NotRunningError, match=r"within 0\.3 s"):
            ask(path, "status", timeout_s=0.3)
        assert time.monotonic() - began < 1.0


def test_a_dripping_reply_does_not_stretch_the_time(path: Path) -> None:
    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for _ in range(100):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return
                time.sleep(0.02)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        began = time.monotonic()
        with pytest.raises(NotRunningError):
            ask(path, "status", timeout_s=0.3)
        assert time.monotonic() - began < 1.0
        thread.join()


def _raw(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(path))
    return client


@pytest.mark.parametrize(
    "line", [b"\n", b"{}\n", b"[]\n", b'{"do": []}\n', b'{"do": 1}\n', b"\xff\xfe\n", b"GET / HTTP/1.1\r\n"]
)
def test_garbage_is_answered_with_a_sentence(server: ControlServer, path: Path, line: bytes) -> None:
    with _raw(path) as client:
        client.sendall(line)
        reply = json.loads(client.makefile().readline())
    assert reply["ok"] is False
    assert reply["error"].endswith(".")


def test_several_questions_on_one_connection(server: ControlServer, path: Path) -> None:
    with _raw(path) as client:
        lines = client.makefile()
        for _ in range(3):
            client.sendall(b'{"do": "status"}\n')
            assert json.loads(lines.readline())["side"] == "dmz"


def test_a_request_without_end_is_cut_off(server: ControlServer, path: Path) -> None:
    with _raw(path) as client:
        client.sendall(b"x" * (CONTROL_REQUEST_BYTES * 3))
        reply = json.loads(client.makefile().readline())
        assert "at most" in reply["error"]
    assert ask(path, "status")["ok"]


def test_a_slow_command_holds_up_nobody(server: ControlServer, path: Path) -> None:
    with _raw(path) as client:
        client.sendall(b'{"do": "slow", "seconds": 30}\n')
        assert ask(path, "status")["ok"]


def test_too_many_clients_are_told_and_places_come_free(server: ControlServer, path: Path) -> None:
    clients = [_raw(path) for _ in range(CONTROL_CLIENTS)]
    for client in clients:
        client.sendall(b'{"do": "status"}\n')
        client.makefile().readline()
    with pytest.raises(ZtunnelError, match="control connections are open"):
        ask(path, "status")
    for client in clients:
        client.close()

    def free() -> bool:
        try:
            return bool(ask(path, "status")["ok"])
        except ZtunnelError:
            return False

    until(free, 5, "the places came free")


def test_a_stale_socket_file_is_replaced_and_the_file_goes_at_close(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def run() -> None:
        server = ControlServer(path, COMMANDS)
        await server.start()
        reply = await asyncio.to_thread(ask, path, "status")
        assert reply["ok"]
        await server.close()
        await server.close()

    asyncio.run(run())
    assert not path.exists()


def test_a_living_socket_is_not_taken_over(server: ControlServer, path: Path) -> None:
    with pytest.raises(LocalError, match="another process answers there already"):
        asyncio.run(ControlServer(path, {}).start())
    assert ask(path, "status")["ok"]


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(LocalError, match="could not be opened"):
        asyncio.run(ControlServer(path, {}).start())
    assert path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="longer than"):
        asyncio.run(ControlServer(tmp_path / ("x" * 120), {}).start())


def test_the_successors_socket_is_not_removed(path: Path) -> None:
    async def run() -> None:
        first = ControlServer(path, COMMANDS)
        await first.start()
        os.unlink(path)
        second = ControlServer(path, COMMANDS)
        await second.start()
        await first.close()
        assert path.exists()
        await second.close()

    asyncio.run(run())
