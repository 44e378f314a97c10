"""Pauses between attempts: decorrelated jitter, for ever, reset only by calm (pitfalls: back-off that gives up)."""

from __future__ import annotations

from tunnel.limits import REDIAL_CALM_S, REDIAL_MAX_S, REDIAL_MIN_S, REDIAL_UP_S


class Backoff:
    """Each pause is drawn between the least and three times the last, and never above the most."""

    def __init__(self, least_s: float = REDIAL_MIN_S, most_s: float = REDIAL_MAX_S) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._last_s = least_s

    def pause(self, chance: float, calm_s: float = 0.0) -> float:
        """`chance` in [0, 1); `calm_s`: how long it was up before. Seconds to wait."""
        if calm_s >= REDIAL_CALM_S:
            self._last_s = self._least_s
        elif calm_s >= REDIAL_UP_S:
            self._last_s = min(self._last_s, REDIAL_UP_S)
        top = min(self._most_s, 3 * self._last_s)
        self._last_s = self._least_s + chance * (top - self._least_s)
        return self._last_s
