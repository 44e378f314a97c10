"""The marks of large messages: chosen once, by the first, and no connection stops for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.tunnel_pair import Tunnel
from tunnel.limits import EXIT_HWM, KIB, LEAST_HWM, LOCAL_HWM, MIB
from tunnel.patterns.marks import Marks, narrowed


class Socket:
    """Notes the marks that it is given."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, int]] = []

    def setsockopt(self, option: int, value: int) -> None:
        self.marks.append((option, value))


@pytest.mark.parametrize(
    ("size", "mark"),
    [(0, LOCAL_HWM), (64, LOCAL_HWM), (64 * KIB, 256), (128 * KIB, 128), (MIB, 16), (100 * MIB, LEAST_HWM)],
)
def test_so_many_fit(size: int, mark: int) -> None:
    assert narrowed(LOCAL_HWM, 16 * MIB, size) == mark


def note(first: tuple[int, int], given: int | None = None) -> list[tuple[int, int]]:
    marks, socket = Marks(given), Socket()
    untyped: Any = socket
    if marks.entry_open:
        marks.entered(untyped, *first)
    if marks.exit_open:
        marks.leaving(untyped, *first)
    assert (marks.entry_open, marks.exit_open) == (False, False)
    return socket.marks


def test_large_first_messages_narrow_both() -> None:
    assert note((MIB, 1)) == [(zmq.RCVHWM, 16), (zmq.SNDHWM, 16)]


def test_small_first_messages_and_marks_of_the_table_change_nothing() -> None:
    assert note((64_000, 1000)) == []
    assert note((MIB, 1), given=10) == []


def test_an_entry_that_has_already_read_much_is_left_alone() -> None:
    assert note((9 * MIB, 9)) == [(zmq.SNDHWM, 16)]


def test_a_new_socket_begins_anew() -> None:
    marks, socket = Marks(None), Socket()
    untyped: Any = socket
    marks.leaving(untyped, MIB, 1)
    assert (marks.exit, marks.exit_open) == (16, False)
    marks.forget()
    assert (marks.exit, marks.exit_open) == (EXIT_HWM, True)


@pytest.mark.parametrize(
    "sent",
    [[(MIB, 3), (64, 2000), (MIB, 40), (64, 2000)], [(64, 3), (MIB, 40), (64, 2000), (MIB, 40)]],
    ids=["large first", "small first"],
)
def test_a_route_goes_on_when_sizes_change(tmp_path: Path, sent: list[tuple[int, int]]) -> None:
    tunnel = Tunnel(tmp_path)
    try:
        tunnel.write(
            {"r": {"pattern": "pipeline", "from": f"dmz bind {tunnel.ipc('n')}", "to": f"plant bind {tunnel.ipc('f')}"}}
        )
        tunnel.start()
        push = tunnel.app(zmq.PUSH, "connect", tunnel.ipc("n"))
        pull = tunnel.app(zmq.PULL, "connect", tunnel.ipc("f"))
        for size, count in sent:
            for number in range(count):
                push.send(number.to_bytes(4, "little") + bytes(size - 4))
                if size == MIB or number % 500 == 499:
                    pull_all(pull, number + 1 if size != MIB else 1, size)
            if size != MIB and count % 500:
                pull_all(pull, count % 500, size)
    finally:
        tunnel.close()


def pull_all(pull: zmq.Socket[bytes], count: int, size: int) -> None:
    for _ in range(min(count, 500)):
        assert len(pull.recv()) == size
