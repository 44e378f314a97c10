"""One message as pieces, as a drain would have made them."""

from __future__ import annotations

import pytest
import zmq

from tunnel import pump
from tunnel.limits import FRAGMENT_BYTES, REFERENCE_BYTES


@pytest.mark.parametrize(
    "frames",
    [[b""], [b"x"], [b"a", b"", b"c"], [b"x" * REFERENCE_BYTES, b"tail"], [b"head", b"y" * (3 * FRAGMENT_BYTES)]],
    ids=lambda frames: "+".join(str(len(frame)) for frame in frames),
)
def test_it_reads_back_as_it_was(frames: list[bytes]) -> None:
    pieces = pump.pack(frames)
    assert [piece.more for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert sum(piece.messages for piece in pieces) == 1
    assert all(piece.size == sum(map(len, piece.segments)) <= FRAGMENT_BYTES for piece in pieces)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        push.bind("inproc://pack")
        pull.connect("inproc://pack")
        fed = pump.feed(push, [segment for piece in pieces for segment in piece.segments])
        assert (fed.status, fed.messages) == (pump.DONE, 1)
        assert pull.recv_multipart() == frames


def test_large_frames_are_not_copied() -> None:
    body = b"x" * REFERENCE_BYTES
    (piece,) = pump.pack([memoryview(body)])
    assert any(isinstance(segment, memoryview) and segment.obj is body for segment in piece.segments)
