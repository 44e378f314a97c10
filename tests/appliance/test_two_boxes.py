"""Two machines with a cable between them, the package on both: what its users would try by hand, in their order.

`make test-appliance`. The applications are processes beside each machine, in its network; they outlive its reboots.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.appliance.boxes import Box, boxes, package, skip_unless_bootable
from tests.apps import App, Apps, settled
from tests.journal import Verdict, compare, compare_requests
from tests.servers import Sshd, descendants, public
from tests.waiting import until
from tunnel.limits import EXIT_HWM

pytestmark = [
    pytest.mark.skipif(os.environ.get("APPLIANCE") != "full", reason="two machines: make test-appliance"),
    pytest.mark.timeout(1800),
]

OLD = "0.0.9~old"
RATE = 200
CLOSING = 10
"""What a PUSH may send into a connection that is just being closed, at this rate (docs/guarantees.md: about one)."""
LINK = """\
  - listen: dmz tcp://192.0.2.1:9440
    dial: plant tcp://192.0.2.1:9440
    allow: [192.0.2.2/32]
"""
TABLE = """\
version: 1
name: dmz
sides:
  dmz:
    key: keys/dmz.key
  plant:
    key: keys/plant.key
links:
{link}
routes:
  orders:
    pattern: reqrep
    from: dmz bind tcp://127.0.0.1:5555
    to: plant connect tcp://127.0.0.1:6555
    max_age: 20s
  ticks:
    pattern: pubsub
    from: plant connect tcp://127.0.0.1:6556
    to: dmz bind tcp://127.0.0.1:5556
  tasks:
    pattern: pipeline
    from: dmz bind tcp://127.0.0.1:5557
    to: plant bind tcp://127.0.0.1:6557
  kept:
    pattern: pipeline
    delivery: spooled
    from: dmz bind tcp://127.0.0.1:5558
    to: plant bind tcp://127.0.0.1:6558
  chat:
    pattern: pair
    from: dmz bind tcp://127.0.0.1:5559
    to: plant bind tcp://127.0.0.1:6559
    max_age: never
  echo:
    pattern: stream
    from: dmz bind tcp://127.0.0.1:5560
    to: plant connect tcp://127.0.0.1:6560
"""
ECHO_SERVER = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("127.0.0.1", 6560), Echo).serve_forever()
"""
ECHO_CLIENT = """
import socket
with socket.create_connection(("127.0.0.1", 5560), 10) as s:
    s.sendall(b"through both machines\\n"); print(s.makefile().readline(), end="")
"""


@dataclass
class Traffic:
    """Numbered messages on every pattern, from applications beside both machines."""

    dmz: Apps
    plant: Apps

    def __post_init__(self) -> None:
        far, near = self.plant.start, self.dmz.start
        self.service = far("rep", "bind tcp://127.0.0.1:6555", name="service")
        self.asker = near("req", "connect tcp://127.0.0.1:5555", name="asker", rate=50, timeout_s=5)
        self.feed = far("pub", "bind tcp://127.0.0.1:6556", name="feed", rate=RATE, topics=["a"])
        self.viewer = near("sub", "connect tcp://127.0.0.1:5556", name="viewer", topics=["a"])
        self.tasks = near("push", "connect tcp://127.0.0.1:5557", name="tasks", rate=RATE)
        self.worker = far("pull", "connect tcp://127.0.0.1:6557", name="worker")
        self.kept = near("push", "connect tcp://127.0.0.1:5558", name="kept", rate=RATE)
        self.keeper = far("pull", "connect tcp://127.0.0.1:6558", name="keeper")
        self.one = near("pair", "connect tcp://127.0.0.1:5559", name="one", rate=50)
        self.other = far("pair", "connect tcp://127.0.0.1:6559", name="other", rate=50)
        self.senders = (self.asker, self.feed, self.tasks, self.kept, self.one, self.other)
        self.receivers = (self.service, self.asker, self.viewer, self.worker, self.keeper, self.one, self.other)
        for apps in (self.dmz, self.plant):
            apps.opened()

    def go(self) -> None:
        for app in self.senders:
            app.go()

    def stop(self) -> None:
        for app in self.senders:
            app.stop()

    def flows(self, more: int = 50) -> None:
        """Every pattern brings `more` messages from now on."""
        goals = {app: app.received() + more for app in self.receivers}
        until(
            lambda: all(app.received() >= goal for app, goal in goals.items()),
            60,
            lambda: {app.options.name: (app.received(), goal) for app, goal in goals.items()},
        )

    def settled(self) -> None:
        settled(lambda: [app.received() for app in self.receivers], 3, 60)

    def verdicts(self) -> dict[str, Verdict]:
        """Route → what became of its messages, since the beginning."""
        ways: dict[str, tuple[App, App]] = {
            "tasks": (self.tasks, self.worker),
            "kept": (self.kept, self.keeper),
            "ticks": (self.feed, self.viewer),
            "chat": (self.one, self.other),
            "chat back": (self.other, self.one),
        }
        return {way: compare(sent.journal.of("S"), got.journal.of("R")) for way, (sent, got) in ways.items()}


class Losses:
    """What each step cost, route by route: the verdicts are of all that was ever sent."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.before = dict.fromkeys(traffic.verdicts(), (0, 0, 0, 0))

    def since(self, step: str) -> dict[str, tuple[int, int, int, int]]:
        """(lost, repeated, reordered, alien) of each route since the last call."""
        now = {way: verdict.faults for way, verdict in self.traffic.verdicts().items()}
        grown = {way: tuple(a - b for a, b in zip(now[way], self.before[way], strict=True)) for way in now}
        self.before = now
        print(f"{step}: {grown}")
        return grown  # type: ignore[return-value]


def test_what_a_user_would_do_by_hand(tmp_path: Path) -> None:
    skip_unless_bootable()
    old, new = package(OLD), package()
    with boxes(tmp_path, "dmz", "plant", debs=[old, new]) as (dmz, plant):
        first_hour(dmz, plant, old)
        with traffic_between(tmp_path, dmz, plant) as traffic:
            traffic.go()
            traffic.flows()
            stream_crosses(dmz)
            losses = Losses(traffic)
            nothing_else_listens(dmz, plant)
            a_reboot(dmz, traffic, losses, near=True)
            a_reboot(plant, traffic, losses, near=False)
            power_cut_of_the_far_machine(plant, traffic, losses)
            power_cut_of_the_near_machine(dmz, plant, traffic, losses)
            upgrade(plant, new, traffic, losses, near=False)
            upgrade(dmz, new, traffic, losses, near=True)
            stream_crosses(dmz)
            a_process_that_hangs(dmz, traffic, losses)
            over_ssh(tmp_path, dmz, plant, traffic)
            over_http(dmz, plant, traffic)
            traffic.stop()
            asked = compare_requests(traffic.asker.journal, traffic.service.journal)
            print(asked)
            assert not asked.mistaken
            assert not asked.carried_out_twice


def first_hour(dmz: Box, plant: Box, deb: Path) -> None:
    """Install, `init`, the printed line on the other box, addresses, enable."""
    for box in (dmz, plant):
        box.run(f"apt-get install -y /root/{deb.name}", timeout_s=180)
    line = printed_line(dmz.run("ztunnel init /etc/ztunnel --name dmz --side dmz"))
    back = printed_line(plant.run(line))
    told = dmz.run(back)
    assert "systemctl enable --now ztunnel@dmz" in told
    assert (dmz.tree / "etc/ztunnel/dmz.yaml").read_text() == (plant.tree / "etc/ztunnel/dmz.yaml").read_text()
    for box in (dmz, plant):
        put_table(box, LINK)
        assert "orders: REQ applications at dmz" in box.run("ztunnel check dmz")
    for box in (dmz, plant):
        box.run("systemctl enable --now ztunnel@dmz")
    for box in (dmz, plant):
        box.run("ztunnel wait tasks --for link")
        assert f"dmz side {box.name}: " in box.run("ztunnel status")


def nothing_else_listens(dmz: Box, plant: Box) -> None:
    """Beyond loopback there is the one port, and at the side that dials nothing."""
    for box, expected in ((dmz, {"192.0.2.1:9440"}), (plant, set())):
        open_ports = {line.split()[3] for line in box.run("ss -tlnH").splitlines()}
        assert {port for port in open_ports if not port.startswith(("127.0.0.1:", "[::1]:"))} == expected


def a_reboot(box: Box, traffic: Traffic, losses: Losses, *, near: bool) -> None:
    traffic.flows()
    box.reboot()
    is_back(box)
    all_flows_and_settles(traffic)
    at_most(losses.since(f"reboot of {box.name}"), CLOSING if near else 0)


def power_cut_of_the_far_machine(plant: Box, traffic: Traffic, losses: Losses) -> None:
    traffic.flows()
    plant.power_cut()
    plant.boot()
    is_back(plant)
    all_flows_and_settles(traffic)
    at_most(losses.since("power cut of plant"), EXIT_HWM, repeated=EXIT_HWM)


def power_cut_of_the_near_machine(dmz: Box, plant: Box, traffic: Traffic, losses: Losses) -> None:
    """What is on its disk when the other box is away arrives after a power cut, all of it, once, in order."""
    traffic.stop()
    traffic.settled()
    losses.since("before the power cut of dmz")
    plant.run("systemctl stop ztunnel@dmz")
    sent = traffic.kept.sent()
    traffic.kept.go()
    until(lambda: traffic.kept.sent() >= sent + 1000, 60, "a thousand are sent")
    traffic.kept.stop()
    waiting = traffic.kept.sent() - sent
    until(lambda: kept_on_disk(dmz) >= waiting, 30, lambda: f"{kept_on_disk(dmz)} of {waiting} on disk")
    dmz.power_cut()
    dmz.boot()
    is_back(dmz)
    plant.run("systemctl start ztunnel@dmz")
    traffic.settled()
    grown = losses.since("power cut of dmz")
    assert grown["kept"] == (0, 0, 0, 0)
    assert kept_on_disk(dmz) == 0
    traffic.go()


def upgrade(box: Box, deb: Path, traffic: Traffic, losses: Losses, *, near: bool) -> None:
    traffic.flows()
    pid = box.main_pid("ztunnel@dmz")
    said = box.run(f"apt-get install -y /root/{deb.name}", timeout_s=180)
    assert f"over ({OLD})" in said
    assert "Unknown option" not in said
    assert box.run("dpkg-query -W -f '${Version}' ztunnel") == deb.name.split("_")[1]
    until(lambda: box.main_pid("ztunnel@dmz") not in (0, pid), 60, "it is restarted")
    is_back(box)
    assert "name: dmz" in box.run("cat /etc/ztunnel/dmz.yaml")  # the user's table is as it was
    all_flows_and_settles(traffic)
    at_most(losses.since(f"upgrade of {box.name}"), CLOSING if near else 0)


def a_process_that_hangs(dmz: Box, traffic: Traffic, losses: Losses) -> None:
    """systemd's watchdog ends a side whose device does not answer any more, and starts it anew."""
    folder = dmz.tree / "etc/systemd/system/ztunnel@dmz.service.d"
    folder.mkdir(parents=True)
    (folder / "watchdog.conf").write_text("[Service]\nWatchdogSec=6\n")
    dmz.run("systemctl daemon-reload; systemctl restart ztunnel@dmz")
    pid = dmz.main_pid("ztunnel@dmz")
    device = json.loads(dmz.run("ztunnel status --json"))["device_pid"]
    sent = traffic.tasks.sent()
    dmz.run(f"kill -STOP {device}")
    until(lambda: dmz.main_pid("ztunnel@dmz") not in (0, pid), 60, "systemd ends it")
    assert "watchdog" in dmz.run("journalctl -q -o cat -u ztunnel@dmz | grep -i watchdog")
    is_back(dmz)
    all_flows_and_settles(traffic)
    grown = losses.since("a device that hangs")
    # killed: what it had not read is lost, with what the kernel held; nothing is mixed up
    at_most(grown, traffic.tasks.sent() - sent, repeated=0)


def over_ssh(folder: Path, dmz: Box, plant: Box, traffic: Traffic) -> None:
    """The same table inside SSH, with both back ends, by an sshd beside the dmz machine; hardening lets it."""
    (folder / "sshd").mkdir()
    sshd = Sshd(folder / "sshd", {"ListenAddress": "192.0.2.1:2222"})
    command = sshd.command()
    serving = subprocess.Popen([*dmz.beside, *command], stderr=(folder / "sshd.log").open("wb"))
    try:
        for name, text in {
            "id": sshd.identity.read_text(),
            "known_hosts": f"[192.0.2.1]:2222 {public(sshd.host_key)}\n",
        }.items():
            (plant.tree / f"etc/ztunnel/keys/{name}").write_text(text)
        plant.run("chown ztunnel /etc/ztunnel/keys/id; chmod 600 /etc/ztunnel/keys/id")
        plant.run("chmod 644 /etc/ztunnel/keys/known_hosts")
        for backend in ("paramiko", "openssh"):
            link = (
                "  - listen: dmz tcp://127.0.0.1:9440\n    dial:\n      side: plant\n"
                f"      address: ssh://{sshd.user}@192.0.2.1:2222/127.0.0.1:9440\n"
                "      ssh:\n        identity: keys/id\n        known_hosts: keys/known_hosts\n"
                f"        backend: {backend}\n"
            )
            reloaded(dmz, plant, link, "ssh")
            traffic.flows()
    finally:
        for pid in (*descendants(serving.pid), serving.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        serving.wait()


def over_http(dmz: Box, plant: Box, traffic: Traffic) -> None:
    address = "http://192.0.2.1:8080/link"
    reloaded(dmz, plant, f"  - listen: dmz {address}\n    dial: plant {address}\n    allow: [192.0.2.2/32]\n", "http")
    traffic.flows()


def reloaded(dmz: Box, plant: Box, link: str, scheme: str) -> None:
    """Both take in a table with this link, and it is up."""
    for box in (dmz, plant):
        put_table(box, link)
        box.run("systemctl reload ztunnel@dmz")
    until(
        lambda: carried_by(plant, scheme),
        60,
        lambda: plant.run("ztunnel status; journalctl -q -o cat -n 20 -u ztunnel@dmz", check=False),
    )


def carried_by(box: Box, scheme: str) -> bool:
    status = json.loads(box.run("ztunnel status --json", check=False))
    carriers = [carrier["scheme"] for carrier in status["carriers"]]
    return carriers == [scheme] and all(link["state"] == "up" for link in status["links"])


def all_flows_and_settles(traffic: Traffic) -> None:
    """Everything flows again; then a pause in which all that is under way arrives, and on."""
    traffic.flows()
    traffic.stop()
    traffic.settled()
    traffic.go()


def at_most(grown: dict[str, tuple[int, int, int, int]], lost: int, *, repeated: int = 0) -> None:
    """What a step may cost the routes that wait for their consumers (docs/guarantees.md); nothing is ever mixed up."""
    assert all(faults[2:] == (0, 0) for faults in grown.values()), grown
    for way in ("tasks", "kept"):
        assert grown[way][0] <= lost, grown
        assert grown[way][1] <= repeated, grown


def is_back(box: Box) -> None:
    """Nobody touched it, and its unit is ready."""
    until(lambda: box.run("systemctl is-active ztunnel@dmz || true").strip() == "active", 60, lambda: state(box))
    assert box.run("systemctl list-units --state=failed --plain --no-legend 'ztunnel*'") == ""


def state(box: Box) -> str:
    return box.run("systemctl status -l ztunnel@dmz; journalctl -q -n 30 -u ztunnel@dmz", check=False)


def kept_on_disk(box: Box) -> int:
    return sum(int(spool["messages"]) for spool in json.loads(box.run("ztunnel spool ls --json"))["spools"])


def stream_crosses(dmz: Box) -> None:
    assert dmz.outside("python3", "-c", ECHO_CLIENT).strip() == "through both machines"


def printed_line(said: str) -> str:
    """The one line to copy."""
    (line,) = re.findall(r"^\s+(ztunnel init .*)$", said, re.MULTILINE)
    return str(line)


def put_table(box: Box, link: str) -> None:
    (box.tree / "etc/ztunnel/dmz.yaml").write_text(TABLE.format(link=link))


@contextlib.contextmanager
def traffic_between(folder: Path, dmz: Box, plant: Box) -> Iterator[Traffic]:
    echo = subprocess.Popen([*plant.beside, "python3", "-c", ECHO_SERVER])
    apps = []
    try:
        for box in (dmz, plant):
            (folder / f"apps-{box.name}").mkdir()
            apps.append(Apps(folder / f"apps-{box.name}", box.beside))
        yield Traffic(*apps)
    finally:
        for some in apps:
            some.close()
        echo.kill()
        echo.wait()
