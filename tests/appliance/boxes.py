"""Debian machines for tests: a debootstrap tree booted by systemd-nspawn, with a network namespace of its own.

A `Box` is a whole machine to the package: its own systemd, users, files, reboots and power cuts. Its network is a
namespace that this file makes, with one cable to another box and no way to anywhere else. Applications run on the
host's side in the same namespace (`Box.applications`): they outlive the box's reboots, as machines beside it would.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "appliance"
SUITE: Final = "bookworm"
PACKAGES: Final = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "procps",
    "iproute2",
    "libstdc++6",
    "openssh-client",
    "man-db",
)
"""What a box has before the package comes: any Debian's, and what the package needs, for no box reaches a mirror."""
NEEDED: Final = ("systemd-nspawn", "debootstrap", "ip", "nsenter", "unshare")
OUTER: Final = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
"""The environment of commands on this machine: Debian keeps half of NEEDED where not every PATH looks."""
INNER_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S: Final = 60.0


def run(*command: str | Path, timeout_s: float = 60, check: bool = True, **more: object) -> str:
    """A command's output, both kinds; AssertionError with it where it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        env=OUTER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        **more,  # type: ignore[call-overload]
    )
    said: str = done.stdout.decode(errors="replace")
    assert not check or done.returncode == 0, f"{shlex.join(map(str, command))}: exit {done.returncode}\n{said}"
    return said


def skip_unless_bootable() -> None:
    """Skips the test, with the reason, where no machine can be booted at all."""
    if os.geteuid() != 0:
        pytest.skip("booting a machine needs root")
    missing = [program for program in NEEDED if shutil.which(program, path=OUTER["PATH"]) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not here (Debian: apt-get install systemd-container debootstrap iproute2)")
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
    )
    if tried.returncode != 0:
        pytest.skip(f"no namespaces or mounts here, so nothing can be booted: {tried.stderr.decode().strip()}")


def debian() -> Path:
    """The tree that boxes are copied from; made once a checkout, from this machine's own mirror."""
    script = "".join(PACKAGES).encode()
    tree = BUILD / f"{SUITE}-{hashlib.sha256(script).hexdigest()[:8]}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            half_made = tree.with_suffix(".making")
            shutil.rmtree(half_made, ignore_errors=True)
            include = ",".join(PACKAGES)
            run(
                *(
                    "env",
                    "DPKG_FORCE=unsafe-io",
                    "debootstrap",
                    "--variant=minbase",
                    f"--include={include}",
                    SUITE,
                    half_made,
                    _mirror(),
                ),
                timeout_s=900,
            )
            for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"):
                (half_made / "etc/systemd/system" / unit).symlink_to("/dev/null")
            half_made.rename(tree)
    return tree


def package(version: str | None = None) -> Path:
    """The package of this checkout, built once; with `version`, the same one under another version's name."""
    built = BUILD / "deb"
    built.mkdir(parents=True, exist_ok=True)
    with (BUILD / "deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, now = built / "stamp", _state_of_checkout()
        if not stamp.exists() or stamp.read_text() != now:
            run(ROOT / "packaging/build", built, timeout_s=900)
            stamp.write_text(now)
        (deb,) = (path for path in built.glob("ztunnel_*.deb") if "~" not in path.name)
        if version is None:
            return deb
        other = built / f"ztunnel_{version}_{deb.stem.rpartition('_')[2]}.deb"
        unpacked = built / "other"
        shutil.rmtree(unpacked, ignore_errors=True)
        run("dpkg-deb", "-R", deb, unpacked)
        control = unpacked / "DEBIAN/control"
        lines = control.read_text().splitlines()
        control.write_text(
            "\n".join(f"Version: {version}" if line.startswith("Version:") else line for line in lines) + "\n"
        )
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", unpacked, other)
        shutil.rmtree(unpacked)
        return other


class Box:
    """One machine. `namespace` is the name of its network; `run` needs it booted."""

    def __init__(self, name: str, folder: Path, debs: Sequence[Path] = ()) -> None:
        self.name = name
        self.tree = folder / name
        self.namespace = f"zt{os.getpid()}-{name}"
        self._log = (folder / f"{name}.console").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        run("cp", "-a", debian(), self.tree, timeout_s=300)
        (self.tree / "etc/hostname").write_text(f"{name}\n")
        for deb in debs:
            shutil.copy(deb, self.tree / "root")
        run("ip", "netns", "add", self.namespace)
        self.outside("ip", "link", "set", "lo", "up")

    def __repr__(self) -> str:
        return f"<Box {self.name}>"

    def boot(self) -> Box:
        """Switch it on; returns when its systemd says that everything is started (or that something failed)."""
        self._process = subprocess.Popen(
            [
                *("systemd-nspawn", "--boot", "--quiet", f"--directory={self.tree}", f"--machine={self.namespace}"),
                *("--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off"),
                f"--network-namespace-path=/run/netns/{self.namespace}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env=OUTER,
        )
        self.booted()
        return self

    def booted(self) -> str:
        """Waits for the end of the boot; systemd's own word for how it went."""
        deadline = time.monotonic() + BOOT_S
        word = ""
        while word not in ("running", "degraded"):
            assert time.monotonic() < deadline, f"{self.name} does not come up: {word!r}\n{self.console()}"
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                word = self.run("systemctl is-system-running || true", timeout_s=10, check=False).strip()
            time.sleep(0.1)
        return word

    def run(self, script: str, timeout_s: float = 60, check: bool = True) -> str:
        """What a root shell on it prints."""
        return run(*self.inside, script, timeout_s=timeout_s, check=check)

    def main_pid(self, unit: str) -> int:
        """As the box counts; 0 while the unit has none."""
        return int(self.run(f"systemctl show -P MainPID {unit}").strip() or 0)

    def reboot(self) -> None:
        """In order, as `reboot` does it; returns when it is up again."""
        assert self._process is not None
        self.run("systemctl --no-block reboot")
        # nspawn starts it again by itself only where /run is a file system of its own; here it ends, and we do
        self._process.wait(BOOT_S)
        self.boot()

    def power_cut(self) -> None:
        """Every process on it is gone at once; what was written stays, as on a disk."""
        if self._process is not None and self._process.poll() is None:
            leader = self._leader()
            for pid in filter(None, (self._process.pid, leader)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            until(lambda: not leader or not Path(f"/proc/{leader}").exists(), 20, f"{self.name} is off")

    def outside(self, *command: str, **more: object) -> str:
        """A command of the host's, in the box's network."""
        return run("ip", "netns", "exec", self.namespace, *command, **more)  # type: ignore[arg-type]

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a shell script so that root runs it on the box."""
        environment = (
            f"PATH={INNER_PATH}",
            "HOME=/root",
            "LANG=C.UTF-8",
            "TERM=dumb",
            "DEBIAN_FRONTEND=noninteractive",
        )
        return ("nsenter", "-t", str(self._leader()), "-a", "--", "env", "-i", *environment, "/bin/sh", "-c")

    @property
    def beside(self) -> tuple[str, ...]:
        """What to put before an application's command so that it runs in the box's network."""
        return ("ip", "netns", "exec", self.namespace)

    def console(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-3000:]

    def remove(self) -> None:
        self.power_cut()
        self._log.close()
        run("ip", "netns", "del", self.namespace, check=False)
        shutil.rmtree(self.tree, ignore_errors=True)

    def _leader(self) -> int:
        """The pid, here, of its systemd; 0 while it has none."""
        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"{self.name} is not running\n{self.console()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else 0


@contextlib.contextmanager
def boxes(folder: Path, *names: str, debs: Sequence[Path] = ()) -> Iterator[list[Box]]:
    """Booted boxes; two of them have a cable between them: 192.0.2.1 and 192.0.2.2."""
    with contextlib.ExitStack() as removing:  # each of them, also where another one's removal fails
        made: list[Box] = []
        for name in names:
            made.append(Box(name, folder, debs))
            removing.callback(made[-1].remove)
        if len(made) == 2:
            _cable(*made)
        for box in made:
            box.boot()
        yield made


def _cable(one: Box, other: Box) -> None:
    ends = [f"zt{os.getpid() % 100_000}{letter}" for letter in "ab"]
    run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for box, end, address in zip((one, other), ends, ("192.0.2.1", "192.0.2.2"), strict=True):
        run("ip", "link", "set", end, "netns", box.namespace, "name", "eth0")
        box.outside("ip", "address", "add", f"{address}/24", "dev", "eth0")
        box.outside("ip", "link", "set", "eth0", "up")


def _mirror() -> str:
    """Where this machine's own apt gets Debian's packages from."""
    said = run("apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
    for line in said.splitlines():
        suite, component, uri = line.split()
        if (suite, component) == (SUITE, "main"):
            return uri
    pytest.skip(f"apt on this machine knows no mirror of Debian {SUITE}: run apt-get update")


def _state_of_checkout() -> str:
    """Changes when a file of the package does."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT)
    seen = hashlib.sha256()
    for name in sorted(listed.split("\0")):
        path = ROOT / name
        if name and path.is_file() and not name.startswith(("tests/", "benchmarks/")):
            seen.update(name.encode() + b"\0" + path.read_bytes())
    return seen.hexdigest() + sys.version
