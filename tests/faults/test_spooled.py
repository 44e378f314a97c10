"""kill -9 of halves of a spooled route under load, again and again: what was on the near half's disk arrives.

What was on disk at each death is read from the file itself. 5 deaths each; 20 with FAULTS=full.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps import settled
from tests.faults.on_disk import messages
from tests.faults.rig import FULL, QUICK, SIDES, Rig
from tests.journal import Verdict, compare
from tests.waiting import elapse, until
from tunnel.limits import EXIT_HWM

DEATHS = 20 if FULL else 5
ENTRY_QUEUE = 3000
"""Messages that two high-water marks and the kernel's buffers hold before the near half's entry, at most."""
EXIT_QUEUE = EXIT_HWM + 2 * 64
"""... and behind the far half's exit."""
LIMITS = [*QUICK, "PING_IDLE_S=0.5", "SILENCE_S=1.5"]


class Spooled:
    """A spooled pipeline from the half `near` to the other, under load."""

    def __init__(self, rig: Rig, near: str, **how: list[str]) -> None:
        self.rig, self.how = rig, how
        self.near = rig.halves[near]
        self.far = rig.halves[next(side for side in SIDES if side != near)]
        rig.write_routes(f"""
tasks:
  pattern: pipeline
  delivery: spooled
  from: {near} bind {rig.ipc("tasks")}
  to: {self.far.side} bind {rig.ipc("workers")}
  window: 256KiB
""")
        rig.start(limits=LIMITS, **how)
        self.producer = rig.apps.start("push", f"connect {rig.ipc('tasks')}", name="p", rate=2500, size=500)
        self.worker = rig.apps.start("pull", f"connect {rig.ipc('workers')}")
        self.were_on_disk: set[tuple[str, int]] = set()
        self.undelivered = 0
        """On disk at a death, and not yet with the worker."""
        self.may_repeat = 0
        rig.apps.opened()
        self.producer.go()
        self.flows()

    def flows(self) -> None:
        goal = self.worker.received() + 100
        until(lambda: self.worker.received() >= goal, 30, lambda: self.rig.told())

    def file(self) -> Path:
        state = Path(self.rig.environment["ZTUNNEL_STATE_DIR"])
        return state / f"t.{self.near.side}" / "spool" / "tasks" / f"{self.far.side}.db"

    def look_at_disk(self) -> None:
        found = set(messages(self.file()))
        self.were_on_disk |= found
        delivered = {("p", seq) for seq in self.worker.journal.of("R").get("p", [])}
        self.undelivered += len(found - delivered)

    def caught_up(self) -> None:
        """The backlog is small: whatever went again has gone, and was counted."""
        until(lambda: self.spool()["units"] < 50, 30, lambda: self.spool())

    def spool(self) -> dict[str, int]:
        return dict(self.near.route("tasks")["spools"][self.far.side])

    def build_up(self) -> None:
        """Some time under load, half of the time with a link that was just cut."""
        elapse(0.2 + 0.4 * random.random())
        if random.random() < 0.5:
            self.rig.relay.cut()
            elapse(0.1 * random.random())

    def kill(self, *sides: str) -> None:
        for side in sides:
            self.rig.halves[side].kill()
        if self.near.side in sides:
            self.look_at_disk()

    def start(self, *sides: str) -> None:
        for side in sides:
            self.rig.halves[side].start(limits=LIMITS, **self.how)
        self.rig.up()

    def finish(self) -> Verdict:
        self.producer.stop()
        until(lambda: not self.spool()["units"], 40, lambda: self.rig.told())
        settled(self.worker.received, 1.0, 40)
        self.may_repeat += int(self.near.route("tasks")["may_repeat"])
        verdict = compare(self.producer.journal.of("S"), self.worker.journal.of("R"))
        print(f"{verdict}; {self.undelivered} undelivered on disk at deaths; may_repeat {self.may_repeat}")
        return verdict


@pytest.mark.parametrize("near", SIDES)
def test_deaths_of_the_near_half_lose_and_repeat_nothing_that_was_on_disk(rig: Rig, near: str) -> None:
    run = Spooled(rig, near)
    for _ in range(DEATHS):
        run.build_up()
        run.kill(near)
        run.start(near)
        run.flows()
    verdict = run.finish()
    assert run.undelivered, "nothing was on disk when it died: this shows nothing"
    assert not run.were_on_disk & set(verdict.lost)
    assert not verdict.repeated, verdict
    assert not verdict.reordered, verdict
    assert not verdict.alien, verdict
    assert len(verdict.lost) <= DEATHS * ENTRY_QUEUE, verdict


@pytest.mark.parametrize("near", SIDES)
def test_deaths_of_the_far_half_take_along_its_exit_queue_and_repeats_are_counted(rig: Rig, near: str) -> None:
    run = Spooled(rig, near)
    for _ in range(DEATHS):
        run.build_up()
        run.kill(run.far.side)
        run.start(run.far.side)
        run.flows()
    verdict = run.finish()
    assert len(verdict.lost) <= DEATHS * EXIT_QUEUE, verdict
    assert len(verdict.repeated) <= run.may_repeat, verdict
    assert not verdict.reordered, verdict
    assert not verdict.alien, verdict


def test_deaths_of_both_halves(rig: Rig) -> None:
    run = Spooled(rig, "plant")
    lost_with_far = 0
    for _ in range(DEATHS):
        run.build_up()
        run.caught_up()
        run.may_repeat += int(run.near.route("tasks")["may_repeat"])
        run.kill(*random.sample(SIDES, 2))
        lost_with_far += EXIT_QUEUE
        run.start(*SIDES)
        run.flows()
    verdict = run.finish()
    assert len(run.were_on_disk & set(verdict.lost)) <= lost_with_far, verdict
    assert len(verdict.repeated) <= run.may_repeat, verdict
    assert not verdict.reordered, verdict


def test_everything_was_killed_and_what_was_on_disk_arrives_later(rig: Rig) -> None:
    run = Spooled(rig, "dmz")
    run.kill("plant")
    elapse(0.5)
    run.producer.stop()
    elapse(0.3)
    run.kill("dmz")
    run.worker.kill()
    waiting = [seq for _, seq in messages(run.file())]
    assert len(waiting) > 100
    worker = rig.apps.start("pull", f"connect {rig.ipc('workers')}")
    worker.opened()
    run.start(*SIDES)
    until(lambda: worker.received() >= len(waiting), 30, lambda: rig.told())
    settled(worker.received, 0.5, 10)
    assert worker.journal.of("R")["p"] == waiting


@pytest.mark.parametrize("without", ["spool_count", "spool_first"])
def test_deaths_of_the_near_half_show_without_the_protection(rig: Rig, without: str) -> None:
    run = Spooled(rig, "plant", without=[without])
    for _ in range(5):
        run.build_up()
        run.rig.relay.cut()
        run.kill("plant")
        run.start("plant")
        run.flows()
    verdict = run.finish()
    assert verdict.repeated or run.were_on_disk & set(verdict.lost), "the control shows nothing"


# --- a disk that fills -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 24 MiB; only root can make one."""
    folder = Path(tempfile.mkdtemp(prefix="zts"))
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder]).returncode:
        shutil.rmtree(folder)
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def test_a_full_disk_stops_reading_loses_nothing_and_goes_on(rig: Rig, small_disk: Path) -> None:
    rig.environment["ZTUNNEL_STATE_DIR"] = str(small_disk)
    run = Spooled(rig, "plant")
    run.kill("dmz")
    run.producer.tell("rate 20000")
    until(lambda: run.near.route("tasks")["state"] == "degraded", 60, lambda: str(run.near.route("tasks")))
    assert run.near.route("tasks")["spools"]["dmz"]["state"] in ("full", "failing"), run.near.route("tasks")
    settled(run.producer.sent, 0.5, 20)  # it stands still: nothing more is read
    run.start("dmz")
    run.flows()
    until(lambda: run.near.route("tasks")["state"] == "ready", 30, lambda: str(run.near.route("tasks")))
    verdict = run.finish()
    assert len(verdict.lost) <= EXIT_QUEUE, verdict
    assert len(verdict.repeated) <= run.may_repeat, verdict
    assert not verdict.reordered, verdict
