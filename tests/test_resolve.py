"""Names to numbers: what passes unchanged, what is looked up, and that a dead name server stops nobody."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tunnel import resolve as module
from tunnel.errors import LocalError
from tunnel.reactor import run
from tunnel.resolve import is_numeric, resolve

UNCHANGED = [
    "tcp://127.0.0.1:5555",
    "tcp://[2001:db8::1]:5555",
    "tcp://[fe80::1%eth0]:5555",
    "tcp://*:5555",
    "tcp://*:*",
    "tcp://10.0.0.1:0;10.0.0.2:5555",
    "ipc:///run/x",
    "ipc://@abstract",
    "inproc://x",
]


def once(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return run(main())


@pytest.mark.parametrize("endpoint", UNCHANGED)
def test_numbers_and_other_schemes_pass_without_a_lookup(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_lookup(*_: Any, **__: Any) -> None:
        raise AssertionError("a lookup")

    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)
    assert once(lambda: resolve(endpoint)) == (endpoint,)


def test_a_name_becomes_numbers() -> None:
    found = once(lambda: resolve("tcp://localhost:5555"))
    assert found
    assert set(found) <= {"tcp://127.0.0.1:5555", "tcp://[::1]:5555"}


def test_order_brackets_and_no_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["2001:db8::1", "192.0.2.1", "2001:db8::1", "192.0.2.2"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (text, 0)) for text in answers])
    assert once(lambda: resolve("tcp://10.0.0.1:0;name:1")) == (
        "tcp://10.0.0.1:0;[2001:db8::1]:1",
        "tcp://10.0.0.1:0;192.0.2.1:1",
        "tcp://10.0.0.1:0;192.0.2.2:1",
    )


@pytest.mark.parametrize("name", ["no.such.name.invalid", "a..b", "x" * 300])
def test_a_name_that_does_not_resolve_is_told(name: str) -> None:
    with pytest.raises(LocalError, match=f"The host name {name} could not be resolved: .*numeric address"):
        once(lambda: resolve(f"tcp://{name}:5555"))


def test_a_dead_name_server_stops_neither_the_loop_nor_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many questions for one name cost one thread, and each ends in time."""
    answer = threading.Event()
    asked: list[str] = []

    def never(host: str, *_: Any, **__: Any) -> None:
        asked.append(host)
        answer.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(module, "RESOLVE_S", 0.2)

    async def main() -> float:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        beating = asyncio.ensure_future(beat())
        lookups = await asyncio.gather(*(resolve("tcp://dead:1") for _ in range(10)), return_exceptions=True)
        beating.cancel()
        assert all(isinstance(one, LocalError) and "did not answer" in str(one) for one in lookups)
        assert beats >= 5
        return time.monotonic()

    ended = run(main())
    assert time.monotonic() - ended < 2, "the thread was waited for"
    assert asked == ["dead"]
    answer.set()


def test_a_late_answer_serves_the_next_question(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    asked: list[str] = []

    def slow(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        answer.wait(30)
        return [(0, 0, 0, "", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    monkeypatch.setattr(module, "RESOLVE_S", 0.1)

    async def main() -> None:
        with pytest.raises(LocalError):
            await resolve("tcp://slow:1")
        question = asyncio.ensure_future(resolve("tcp://slow:1"))
        await asyncio.sleep(0)
        answer.set()
        assert await question == ("tcp://192.0.2.1:1",)

    run(main())
    assert asked == ["slow"]


def test_is_numeric() -> None:
    assert is_numeric("*")
    assert is_numeric("::1")
    assert not is_numeric("eth0")
    assert not is_numeric("300.1.1.1")
