"""The check of a stream itself: what a path loses, repeats, swaps or changes turns it red, and nothing else does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.faults.load import Conversation
from tests.streams import Service, connected
from tests.waiting import until

Meddle = Callable[[list[bytes]], list[bytes]]
"""Three blocks that arrived in a row → what is handed on in their place."""


class Path:
    """A TCP path that meddles, once, with what the one who connects says."""

    def __init__(self, target: str, meddle: Meddle) -> None:
        self._target, self._meddle = target, meddle
        self._service = Service(self._serve)
        self.address = self._service.address

    def _serve(self, client: socket.socket) -> None:
        with connected(self._target) as target:
            back = threading.Thread(target=carry, args=(target, client))
            back.start()
            blocks = [client.recv(80, socket.MSG_WAITALL) for _ in range(30)]
            blocks[10:13] = self._meddle(blocks[10:13])
            target.sendall(b"".join(blocks))
            carry(client, target)
            back.join()

    def close(self) -> None:
        self._service.close()


def carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def spoken() -> Iterator[Callable[[Meddle], Conversation]]:
    opened: list[Conversation | Path] = []

    def speak(meddle: Meddle) -> Conversation:
        talk = Conversation("")
        path = Path(talk.target, meddle)
        opened.extend([talk, path])
        talk.entry = path.address
        talk.go()
        until(lambda: all(end.heard > 5_000 for end in talk.ends), 20, lambda: talk.ends)
        talk.finish(20)
        return talk

    yield speak
    for each in opened:
        each.close()


def test_a_path_that_changes_nothing_is_clean(spoken: Callable[[Meddle], Conversation]) -> None:
    assert spoken(lambda blocks: blocks).faults == ""


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        pytest.param(lambda b: [b[0], b[2]], "120 came where 110 was due", id="lost"),
        pytest.param(lambda b: [b[0], b[0], *b[1:]], "100 came where 110 was due", id="repeated"),
        pytest.param(lambda b: [b[0], b[2], b[1]], "120 came where 110 was due", id="reordered"),
        pytest.param(lambda b: [b[0], b"\xff" * 8 + b[1][8:], b[2]], f"{2**64 - 1} came where 110", id="changed"),
        pytest.param(lambda b: [b[0], b[1][1:], b[2]], "came where 110 was due", id="a byte lost"),
    ],
)
def test_a_path_that_meddles_is_found_out(spoken: Callable[[Meddle], Conversation], meddle: Meddle, said: str) -> None:
    assert said in spoken(meddle).faults


def test_a_second_connection_is_not_the_same_conversation(spoken: Callable[[Meddle], Conversation]) -> None:
    talk = spoken(lambda blocks: blocks)
    with connected(talk.target) as other:
        other.shutdown(socket.SHUT_WR)
        until(lambda: len(talk.ends) == 3, 10, "it was accepted")
    assert talk.faults
