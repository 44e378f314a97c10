"""Pauses between attempts: they grow, they have a top, they never end, and only calm resets them."""

from __future__ import annotations

from random import Random

from tunnel.limits import REDIAL_CALM_S, REDIAL_MAX_S, REDIAL_MIN_S, REDIAL_UP_S
from tunnel.link.backoff import Backoff


def test_the_first_pause_is_short() -> None:
    assert Backoff().pause(0.0) == REDIAL_MIN_S
    assert Backoff().pause(0.999) < 3 * REDIAL_MIN_S


def test_pauses_grow_to_the_top_and_stay_within_it_for_ever() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(0.999) for _ in range(100)]
    assert pauses[:5] == sorted(pauses[:5])
    assert REDIAL_MAX_S * 0.99 < max(pauses) <= REDIAL_MAX_S


def test_two_diallers_do_not_move_in_step() -> None:
    random = Random(1)
    one, two = Backoff(), Backoff()
    pairs = [(one.pause(random.random()), two.pause(random.random())) for _ in range(20)]
    assert all(a != b for a, b in pairs)
    assert all(REDIAL_MIN_S <= pause <= REDIAL_MAX_S for pair in pairs for pause in pair)


def test_only_calm_resets_and_having_been_up_shortens() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.pause(0.999)
    assert backoff.pause(0.999, calm_s=REDIAL_UP_S / 2) > REDIAL_MAX_S * 0.99
    assert REDIAL_UP_S < backoff.pause(0.999, calm_s=REDIAL_CALM_S / 2) <= 3 * REDIAL_UP_S
    assert backoff.pause(0.999, calm_s=REDIAL_CALM_S) < 3 * REDIAL_MIN_S
