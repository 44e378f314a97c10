"""The keeper's rules, without processes: lists and times in, names out."""

from __future__ import annotations

from typing import Any

from tunnel.limits import CRASH_LOOP, REVIVE_CALM_S, REVIVE_MAX_S, REVIVE_MIN_S
from tunnel.supervise.keeper import Keeper


def process(name: str = "device", state: str = "RUNNING", pid: int = 1, **other: Any) -> dict[str, Any]:
    defaults = {"exitstatus": 1, "spawnerr": "", "stop": 1000}
    return {"name": name, "statename": state, "pid": pid if state == "RUNNING" else 0, **defaults, **other}


def test_what_runs_is_left_alone() -> None:
    keeper = Keeper()
    assert keeper.look([process()], 0.0) == []
    assert keeper.next_due() is None


def test_one_that_ran_calmly_is_started_again_at_once() -> None:
    keeper = Keeper()
    keeper.look([process()], 0.0)
    assert keeper.look([process(state="EXITED")], REVIVE_CALM_S) == ["device"]


def test_the_pause_doubles_up_to_its_limit_and_never_ends() -> None:
    keeper, now, pauses = Keeper(), 0.0, []
    for death in range(40):
        keeper.look([process(pid=death + 1)], now)
        assert keeper.look([process(state="EXITED")], now) == []
        due = keeper.next_due()
        assert due is not None
        pauses.append(due - now)
        assert keeper.look([process(state="EXITED")], due - 0.01) == []
        assert keeper.look([process(state="EXITED")], due) == ["device"]
        keeper.started("device")
        now = due
    assert [round(p, 3) for p in pauses[:4]] == [REVIVE_MIN_S, 2 * REVIVE_MIN_S, 4 * REVIVE_MIN_S, 8 * REVIVE_MIN_S]
    assert round(pauses[-1], 3) == REVIVE_MAX_S
    assert keeper.report()["device"]["restarts"] == 40


def test_a_start_that_fails_counts_as_a_death() -> None:
    keeper, now = Keeper(), 0.0
    for _ in range(3):
        keeper.look([process(state="FATAL", exitstatus=0, spawnerr="can't find command")], now)
        due = keeper.next_due()
        assert due is not None
        assert keeper.look([process(state="FATAL", exitstatus=0, spawnerr="can't find command")], due) == ["device"]
        keeper.started("device")
        now = due
    assert keeper.report()["device"]["crash_loop"]
    assert keeper.report()["device"]["last_exit"] == "can't find command"


def test_a_crash_loop_is_shown_and_ends_with_calm() -> None:
    keeper, now = Keeper(), 0.0
    for death in range(CRASH_LOOP):
        assert not keeper.report().get("device", {}).get("crash_loop", False)
        keeper.look([process(pid=death + 1)], now)
        keeper.look([process(state="EXITED")], now)
        now += 100
        assert keeper.look([process(state="EXITED")], now) == ["device"]
        keeper.started("device")
    assert keeper.report()["device"]["crash_loop"]
    keeper.look([process(pid=99)], now)
    keeper.look([process(pid=99)], now + REVIVE_CALM_S - 1)
    assert keeper.report()["device"]["crash_loop"]
    keeper.look([process(pid=99)], now + REVIVE_CALM_S)
    assert not keeper.report()["device"]["crash_loop"]


def test_what_a_person_stopped_stays_stopped() -> None:
    keeper = Keeper()
    keeper.look([process()], 0.0)
    for state in ("STOPPING", "STOPPED"):
        assert keeper.look([process(state=state)], 1000.0) == []
    assert keeper.next_due() is None


def test_a_process_that_came_back_by_other_hands_is_not_started_twice() -> None:
    keeper = Keeper()
    keeper.look([process(pid=1)], 0.0)
    keeper.look([process(state="EXITED")], 1.0)
    assert keeper.look([process(pid=2)], 50.0) == []
    assert keeper.next_due() is None


def test_siblings_have_lives_of_their_own() -> None:
    keeper = Keeper()
    both = [process("a", pid=1), process("b", pid=2)]
    keeper.look(both, 0.0)
    keeper.look([process("a", "EXITED"), both[1]], 1.0)
    assert keeper.look([process("a", "EXITED"), both[1]], 10.0) == ["a"]
    assert keeper.report()["b"]["restarts"] == 0


def test_removed_processes_are_forgotten() -> None:
    keeper = Keeper()
    keeper.look([process("a"), process("b")], 0.0)
    keeper.look([process("b")], 1.0)
    assert list(keeper.report()) == ["b"]


def test_a_keeper_that_starts_late_revives_what_lies_dead() -> None:
    keeper = Keeper()
    keeper.look([process(state="EXITED")], 0.0)
    assert keeper.look([process(state="EXITED")], REVIVE_MIN_S) == ["device"]


def test_a_signal_is_told_from_an_exit() -> None:
    keeper = Keeper()
    keeper.look([process("a", "EXITED", exitstatus=-1), process("b", "EXITED", exitstatus=3)], 0.0)
    report = keeper.report()
    assert report["a"]["last_exit"].startswith("killed by a signal")
    assert report["b"]["last_exit"] == "exit status 3"
