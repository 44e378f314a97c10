"""A short run of the fuzz target in link_frames.py, the same seeds each time; and that it would notice."""

from __future__ import annotations

import pytest

from tests.fuzz.link_frames import DOWN, UP, attack
from tunnel.link import wire
from tunnel.link.wire import Kind


@pytest.mark.parametrize("first", range(0, 1500, 500))
def test_attacks_are_borne(first: int) -> None:
    for seed in range(first, first + 500):
        attack(seed)


def test_every_kind_of_frame_is_in_the_corpus() -> None:
    kinds = {wire.kind_of(parts) for _, parts in UP + DOWN}
    assert kinds == set(Kind)


def test_a_missing_check_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a reader that believes every frame to have a kind, and a known one."""
    monkeypatch.setattr(wire, "kind_of", lambda parts: {int(kind): kind for kind in Kind}[parts[0][0]])
    with pytest.raises((KeyError, IndexError)):
        attack_all(1500)


def attack_all(count: int) -> None:
    for seed in range(count):
        attack(seed)
