"""Processes that own a spool and are killed, and disks that lose power: what was told durable is there, once.

Real here: the processes, SIGKILL, the files. Simulated: the power cut (tests/spool_disk.c keeps what was fsynced) and
the fsync that fails and forgets.
"""

from __future__ import annotations

import errno
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType

import pytest

from tests.spool_child import body_of, live
from tests.spools import Owner
from tests.waiting import until
from tunnel.spool import Spool

ROUNDS = 40
POWER_CUTS = 12


@dataclass
class Ledger:
    """What the children of one spool have told, and what is wrong with what is found afterwards."""

    path: Path
    durable: int = 0
    done: int = 0
    identity: bytes = b""
    wrong: list[str] = field(default_factory=list)

    def hear(self, told: bytes) -> None:
        for line in told.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue  # the child died while it said that
            word, number = line.split()
            if word == b"next":
                if int(number) <= self.durable:
                    self.wrong.append(f"row {self.durable} was durable, and the next one is {int(number)}")
                self.durable = max(
                    self.durable, int(number) - 1
                )  # whoever opens a spool takes what is there for durable
            if word == b"durable":
                self.durable = max(self.durable, int(number))
            if word == b"done":
                self.done = max(self.done, int(number))

    def audit(self) -> None:
        owner = Owner(self.path)
        try:
            rows, spool = owner.read_all(), owner.spool
            numbers = [row.number for row in rows]
            if self.identity not in (b"", spool.id):
                self.wrong.append("another file")
            self.identity = spool.id
            missing = set(range(self.done + 1, self.durable + 1)) - set(numbers)
            if missing:
                self.wrong.append(f"{len(missing)} rows told durable are missing, the first is {min(missing)}")
            if numbers != list(range(spool.first, spool.next)):
                self.wrong.append(
                    f"rows {numbers[:1]}..{numbers[-1:]}, {len(numbers)} of them, do not follow each other"
                )
            if spool.next <= self.durable:
                self.wrong.append(f"row {self.durable} was durable, and the next one is {spool.next}")
            self.wrong += [f"row {row.number} is garbled" for row in rows if row.body != body_of(spool.id, row.number)]
            self.durable = spool.durable
        finally:
            owner.close()


def fork_and_kill(path: Path, how: str, chance: random.Random, ledger: Ledger) -> None:
    """A child that lives for up to 60 ms of work (counted in bytes of what it tells), then SIGKILL."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(theirs, 1)
        calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        try:
            live(path, how, calls, calls.put)
        finally:
            os._exit(1)
    os.close(theirs)
    told = b""
    enough = 10 ** chance.uniform(0.5, 3.5)
    while len(told) < enough:
        piece = os.read(ours, 100)
        assert piece, "the child ended by itself"
        told += piece
    os.kill(child, signal.SIGKILL)
    while piece := os.read(ours, 65536):
        told += piece
    os.close(ours)
    os.waitpid(child, 0)
    ledger.hear(told)


def test_kill_at_any_moment(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spool")
    chance = random.Random(os.urandom(8))
    for _ in range(ROUNDS):
        fork_and_kill(ledger.path, "honest", chance, ledger)
        ledger.audit()
        assert not ledger.wrong
    assert ledger.durable > 10 * ROUNDS


def test_control_rows_told_durable_early_are_missed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "spool")
    chance = random.Random(1)
    for _ in range(ROUNDS):
        fork_and_kill(ledger.path, "early", chance, ledger)
        ledger.audit()
    assert any("missing" in wrong for wrong in ledger.wrong)


def test_kill_between_commit_and_callback(tmp_path: Path) -> None:
    """The child dies in the moment in which it would have been told: its row is there, once, and nobody was told."""
    path = tmp_path / "spool"
    for expected in range(1, 6):
        child = os.fork()
        if child == 0:
            try:
                calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
                live(path, "honest", calls, die_of_news)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        owner = Owner(path)
        numbers = [row.number for row in owner.read_all()]
        assert numbers == list(range(1, owner.spool.next))
        assert len(numbers) >= expected
        owner.close()


def die_of_news(call: MethodType) -> None:
    """In the spool's thread, after a commit, when the loop would be called."""
    spool: Spool = call.__self__
    if spool._reports[-1].durable > spool.durable:
        os.kill(os.getpid(), signal.SIGKILL)


# --- power cuts ------------------------------------------------------------------------------------------------------


class Disk:
    """A folder below tests/spool_disk.c: children write to it, `cut` leaves only what was fsynced."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.live, self.shadow, self.fault = folder / "live", folder / "shadow", folder / "fault"
        self.live.mkdir()
        self.shadow.mkdir()
        self.environment = os.environ | {
            "LD_PRELOAD": str(library),
            "DISK_FOLDER": str(self.live),
            "DISK_SHADOW": str(self.shadow),
            "DISK_FAULT": str(self.fault),
        }

    def child(self, how: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.spool_child", str(self.live / "spool"), how]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE)

    def break_(self, call: str, number: int) -> None:
        order = self.fault.with_suffix(".new")
        order.write_text(f"{call} {number}")
        order.rename(self.fault)

    def mend(self) -> None:
        self.fault.unlink()

    def cut(self) -> None:
        """What was not fsynced is gone. The names of files are kept: SQLite and the spool fsync their folder."""
        for path in self.live.iterdir():
            synced = self.shadow / path.name
            if synced.exists():
                shutil.copyfile(synced, path)
            else:
                path.write_bytes(b"")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here: power cuts cannot be simulated")
    built = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).with_name("spool_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl", "-lpthread"], check=True)
    return built


@pytest.fixture
def disk(tmp_path: Path, library: Path) -> Disk:
    return Disk(tmp_path, library)


def told_by(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    assert child.stdout is not None
    while line := child.stdout.readline():
        yield line
    raise AssertionError("the child ended by itself")


def kill(child: subprocess.Popen[bytes], ledger: Ledger) -> None:
    child.kill()
    assert child.stdout is not None
    ledger.hear(child.stdout.read())
    child.wait()
    child.stdout.close()


def live_and_cut(disk: Disk, how: str, ledger: Ledger, lines: int) -> None:
    child = disk.child(how)
    for _, line in zip(range(lines), told_by(child), strict=False):
        ledger.hear(line)
    kill(child, ledger)
    disk.cut()
    ledger.audit()


def test_power_cuts_at_any_moment(disk: Disk) -> None:
    ledger = Ledger(disk.live / "spool")
    chance = random.Random(os.urandom(8))
    for _ in range(POWER_CUTS):
        live_and_cut(disk, "honest", ledger, chance.randrange(2, 150))
        assert not ledger.wrong
        for path in disk.live.iterdir():  # the audit ran without the library: what it left is on disk
            shutil.copyfile(path, disk.shadow / path.name)
    assert ledger.durable > 5 * POWER_CUTS


def test_control_without_fsync_a_power_cut_is_noticed(disk: Disk) -> None:
    ledger = Ledger(disk.live / "spool")
    for _ in range(POWER_CUTS):  # one cut may come when everything happens to be on disk
        live_and_cut(disk, "unsynced", ledger, 100)
        if any("missing" in wrong for wrong in ledger.wrong):
            return
    pytest.fail("no cut lost anything")


def killed_on_a_broken_disk(disk: Disk, how: str) -> Ledger:
    """fsync fails, the process is killed; the next one opens the file on a disk that works, then the power goes."""
    ledger = Ledger(disk.live / "spool")
    child = disk.child(how)
    told = told_by(child)
    while ledger.durable < 20:
        ledger.hear(next(told))
    disk.break_("fsync", errno.EIO)
    until_quiet(child, ledger)
    kill(child, ledger)
    disk.mend()
    live_and_cut(disk, how, ledger, 1)
    return ledger


def test_what_is_found_in_the_wal_is_not_trusted(disk: Disk) -> None:
    assert not killed_on_a_broken_disk(disk, "honest").wrong


def test_control_a_wal_that_is_trusted_is_missed(disk: Disk) -> None:
    wrong = ""
    try:
        wrong = str(killed_on_a_broken_disk(disk, "trusting").wrong)
    except AssertionError as error:  # it tells rows durable that the failed fsync had left in the cache
        wrong = str(error)
    assert any(found in wrong for found in ("missing", "goes on telling", "was durable, and the next one is")), wrong


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
@pytest.mark.parametrize("cut", [False, True], ids=["goes-on", "then-power-cut"])
def test_a_disk_that_fails_and_forgets(disk: Disk, call: str, cut: bool) -> None:
    """EIO for a while: nothing is told durable meanwhile; afterwards it goes on by itself, and nothing is missing."""
    ledger = Ledger(disk.live / "spool")
    child = disk.child("honest")
    told = told_by(child)
    while ledger.durable < 20:
        ledger.hear(next(told))
    disk.break_(call, errno.EIO)
    until_quiet(child, ledger)
    disk.mend()
    before = ledger.durable
    while ledger.durable < before + 200:
        ledger.hear(next(told))
    kill(child, ledger)
    if cut:
        disk.cut()
    ledger.audit()
    assert not ledger.wrong


def until_quiet(child: subprocess.Popen[bytes], ledger: Ledger) -> None:
    """The child says nothing any more: its spool has no room."""
    assert child.stdout is not None
    pipe = child.stdout.fileno()
    os.set_blocking(pipe, False)
    quiet = 0

    def silent() -> bool:
        nonlocal quiet
        piece = child.stdout.read() if child.stdout else b""
        ledger.hear(piece or b"")
        quiet = 0 if piece else quiet + 1
        return quiet > 15

    until(silent, 20, "the child goes on telling rows durable on a broken disk")
    os.set_blocking(pipe, True)
