"""`ztunnel up`: start a side and stay with it (`Foreground`), or start it and leave it (`detached`).

Staying means: show the logs of all its processes, say when it is ready, answer systemd, and end it in order when told
to or when this process dies.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tunnel.errors import LocalError, NotRunningError
from tunnel.limits import DOWN_S, READY_S
from tunnel.programs import KEEPER
from tunnel.supervise import carriers, daemon, logs, places, status
from tunnel.supervise.daemon import Supervisor
from tunnel.supervise.notify import Notifier
from tunnel.supervise.places import Running
from tunnel.supervise.status import Status

if TYPE_CHECKING:
    from tunnel.config.plan import Plan

_TURN_S: Final = 0.1
_ASK_STARTING_S: Final = 0.25
_ASK_RUNNING_S: Final = 5.0
_EXPLAIN_S: Final = 3.0
"""Not ready after this time: say why."""


def detached(plan: Plan, timeout_s: float) -> Status:
    """Start, wait until every local socket is open, leave it running. LocalError: not in time, with the reasons."""
    running, process = daemon.start(plan, follow=False)
    return wait_ready(running, timeout_s, still_there=lambda: _check(running, process))


def wait_ready(running: Running, timeout_s: float, *, still_there: Callable[[], None] = lambda: None) -> Status:
    """Wait until every local socket is open and every process runs. LocalError: not in time, with the reasons."""

    def good(now: Status) -> bool:
        still_there()
        return is_ready(now) or any(p["crash_loop"] for p in now["processes"])

    try:
        _, last = status.wait_for(running, good, timeout_s)
    except NotRunningError:
        still_there()
        raise
    if last is not None and is_ready(last):
        return last
    raise LocalError(
        f"{running} is started, but not ready: {' '.join(why_not_ready(running, last))} "
        f"It keeps trying: `ztunnel status` and `ztunnel logs` tell more, `ztunnel down` ends it."
    )


def is_ready(now: Status) -> bool:
    """All local sockets, link ports and ports of bridges are open, all processes run (the keeper is RUNNING after its
    first second)."""
    running = all(p["state"] == "RUNNING" for p in now["processes"] if p["name"] != KEEPER)
    return bool(now["ready"]) and running and not carriers.shut(now["carriers"]) and not status.shut(now["bridges"])


def why_not_ready(running: Running, now: Status | None) -> list[str]:
    """Sentences; never none."""
    reasons: list[str] = []
    if now is not None:
        reasons = status.closed(now) or status.degraded(now)
        if not now["routes"]:
            last = logs.last_lines(running.folder / places.LOGS / "device.log", 1)
            reasons += [f"The device's last words: {line}" for line in last]
    return reasons or ["some local sockets are not open yet."]


class Foreground:
    """A side that lives as long as this process. `say`: our own sentences, with their level; `show`: log lines as they
    come.

    systemd is told that it is ready when it is, and READY_S after the start at the latest, with what is missing in the
    status line: whoever waits for a start (a boot, an upgrade, a reload) waits no longer than that.
    """

    def __init__(
        self, plan: Plan, notifier: Notifier, say: Callable[[str, str], None], show: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._notifier = notifier
        self._say = say
        self._show = show
        self._signals: list[int] = []
        self._ready = False
        self._started = False
        """As systemd knows it."""
        self._explained = ""

    def run(self) -> None:
        """Until a signal, `ztunnel down` or the supervisor's end. LocalError: it ended by itself."""
        before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            running, process = daemon.start(self._plan, follow=True)
            self._tails = logs.Tails(running.folder)
            self._stay(running, process)
            self._end(running, process)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stay(self, running: Running, process: subprocess.Popen[bytes]) -> None:
        started = time.monotonic()
        ask_at = started
        while not self._signals and process.poll() is None:
            self._show_logs()
            if time.monotonic() >= ask_at:
                self._ask(running, time.monotonic() - started)
                ask_at = time.monotonic() + self._pause_s()
            time.sleep(_TURN_S)

    def _ask(self, running: Running, age_s: float) -> None:
        try:
            now = status.read(running)
        except NotRunningError:
            return
        if is_ready(now) and not self._ready:
            self._ready = True
            self._show_logs()
            self._say(ready_line(now), "info")
        elif not self._ready and age_s > _EXPLAIN_S:
            self._explain(" ".join(why_not_ready(running, now)))
        missing = "" if self._ready or not self._explained else f"; not ready yet: {self._explained}"
        self._notifier.status(summary(now) + missing)
        if not self._started and (self._ready or age_s > READY_S):
            self._started = True
            self._notifier.ready()
        if not status.silent(now):
            self._notifier.watchdog()

    def _explain(self, reasons: str) -> None:
        if reasons != self._explained:
            self._explained = reasons
            self._say(f"not ready yet: {reasons}", "warn")

    def _pause_s(self) -> float:
        pause_s = _ASK_RUNNING_S if self._ready else _ASK_STARTING_S
        return min(pause_s, self._notifier.watchdog_s or pause_s)

    def _end(self, running: Running, process: subprocess.Popen[bytes]) -> None:
        """Orderly; a second signal, or too long a wait, ends it at once."""
        self._notifier.stopping()
        asked = bool(self._signals)
        if asked and process.poll() is None:
            self._say("stopping (once more ends it at once).", "info")
            Supervisor(running).shut_down()
        deadline = time.monotonic() + DOWN_S
        while process.poll() is None:
            if len(self._signals) > 1 or time.monotonic() > deadline:
                self._say("ended at once: what was under way may be lost.", "warn")
                process.kill()  # its processes get TERM from the kernel
                process.wait()
            self._show_logs()
            time.sleep(_TURN_S)
        self._show_logs()
        if not asked:
            _check(running, process)
        self._say("stopped.", "info")

    def _show_logs(self) -> None:
        for line in self._tails.read():
            self._show(line)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals.append(number)


def ready_line(now: Status) -> str:
    """What `up`, `up -d` and `restart` say at their end."""
    links = "".join(f", link to {link['peer']} {link['state']}" for link in now["links"])
    return f"ready: {now['table']} side {now['side']}: the local sockets of {len(now['routes'])} routes are open{links}"


def summary(now: Status) -> str:
    """One line: `demo side plant: 4 of 4 routes ready, link to dmz up`."""
    if now["error"]:
        return f"{now['table']} side {now['side']}: {now['error']}"
    routes = now["routes"].values()
    parts = [f"{sum(r['state'] == 'ready' for r in routes)} of {len(routes)} routes ready"]
    parts += [f"link to {link['peer']} {link['state']}" for link in now["links"]]
    return f"{now['table']} side {now['side']}: {', '.join(parts)}"


def _check(running: Running, process: subprocess.Popen[bytes]) -> None:
    """LocalError when supervisord ended by itself, other than in order (`ztunnel down` from elsewhere)."""
    code = process.poll()
    if code is None or code == 0:
        return
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    words = daemon.first_words(running)
    raise LocalError(f"the supervisor of {running} ended by itself ({how}). {words}".strip())
