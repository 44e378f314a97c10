"""An orderly stop of one half under load, again and again: what `restart`, an upgrade and a reboot do."""

from __future__ import annotations

import pytest

from tests.apps import settled
from tests.faults.rig import FULL, QUICK, SIDES, Rig
from tests.journal import Verdict, compare
from tests.waiting import until

RESTARTS = 20 if FULL else 4
RATE = 1000
IN_FLIGHT_S = 0.005
"""What a PUSH sends into a connection that is just being closed is lost with it: so long a closing may take at most."""
ROUTES = """
tasks:
  pattern: pipeline
  from: dmz bind {tasks}
  to: plant bind {workers}
kept:
  pattern: pipeline
  delivery: spooled
  from: dmz bind {kept}
  to: plant bind {keepers}
"""


@pytest.mark.parametrize("side", SIDES)
def test_an_orderly_restart_costs_at_most_what_was_on_its_way_into_a_closing_socket(rig: Rig, side: str) -> None:
    rig.write_routes(ROUTES.format(**{name: rig.ipc(name) for name in ("tasks", "workers", "kept", "keepers")}))
    limits = [*QUICK, "PING_IDLE_S=0.5", "SILENCE_S=1.5"]
    rig.start(limits=limits)
    senders = [rig.apps.start("push", f"connect {rig.ipc(name)}", name=name, rate=RATE) for name in ("tasks", "kept")]
    takers = [rig.apps.start("pull", f"connect {rig.ipc(name)}") for name in ("workers", "keepers")]
    rig.apps.opened()
    for sender in senders:
        sender.go()
    for _ in range(RESTARTS):
        goals = [taker.received() + RATE // 2 for taker in takers]
        until(lambda goals=goals: all(t.received() >= g for t, g in zip(takers, goals, strict=True)), 30, rig.told)
        half = rig.halves[side]
        assert half.stop() == 0
        half.start(limits=limits)
        rig.up()
    for sender in senders:
        sender.stop()
    settled(lambda: [taker.received() for taker in takers], 2, 30)
    for sender, taker in zip(senders, takers, strict=True):
        verdict: Verdict = compare(sender.journal.of("S"), taker.journal.of("R"))
        print(f"{side} restarted {RESTARTS} times, {sender.options.name}: {verdict}")
        assert not verdict.alien
        assert not verdict.reordered
        assert not verdict.repeated
        assert len(verdict.lost) <= (RESTARTS * RATE * IN_FLIGHT_S if side == "dmz" else 0), str(verdict)
