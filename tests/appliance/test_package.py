"""The package on a machine of its own: built, looked over, installed, started, used, removed, purged.

One story in one test, so that it is built and booted once; each step is a function. `make test-appliance` runs it on
two machines and to the end.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import bcrypt
import pytest
import trustme

from tests.appliance.boxes import Box, boxes, package, run, skip_unless_bootable
from tests.waiting import until

LARGEST_MIB = 12
TABLE = """\
version: 1
name: {name}
sides:
  dmz:
    key: keys/dmz.key
  plant:
    key: keys/plant.key{secret}
links:
  - listen: dmz tcp://127.0.0.1:944
    dial: plant tcp://127.0.0.1:944
routes:
  tasks:
    pattern: pipeline
    delivery: spooled
    from:
      side: dmz
      bind: ipc://tasks.ipc
      mode: "0660"
      group: operators
    to: plant bind tcp://127.0.0.1:557
  weights:
    pattern: pipeline
    from: dmz bind local
    to: plant bind tcp://127.0.0.1:558
bridges:
  scale:
    side: dmz
    kind: tcp-server
    listen: tcp://127.0.0.1:401
    frame:
      kind: line
    zmq: PUSH connect route:weights
"""
MAIL = """\
  post:
    side: dmz
    kind: smtp-server
    listen: tcp://127.0.0.1:25
    tls:
      cert: mail/cert.pem
      key: keys/mail.pem
    users: keys/users
    require_login: true
    zmq: PUSH connect route:mail
    recipients:
      known:
        match: "*@example.test"
        known: mail/known
  out:
    side: plant
    kind: smtp-client
    zmq: PULL connect route:mail
    direct: true
    allow_to: "*@example.test"
"""
"""More bridges of TABLE: mail that comes to one half leaves at the other."""
MAIL_ROUTE = """\
  mail:
    pattern: pipeline
    delivery: spooled
    from: dmz bind local
    to: plant bind local
bridges:
"""
PYTHON = "/usr/lib/ztunnel/bin/python3 -I -c"
PUSH = """
import sys, zmq
socket = zmq.Context().socket(zmq.PUSH)
socket.immediate = 1
socket.connect("ipc:///run/ztunnel-ipc/dmz/tasks.ipc")
poller = zmq.Poller(); poller.register(socket, zmq.POLLOUT)
if not poller.poll(3000): sys.exit("this user is not let in")
socket.send(b"by a file")
"""
PULL = """
import sys, zmq
socket = zmq.Context().socket(zmq.PULL)
socket.connect(sys.argv[1])
print(socket.recv().decode() if socket.poll(20000) else "nothing came")
"""
SEND = """
import smtplib, ssl, sys
raw = b"Subject: an alarm\\r\\n\\r\\n" + (b"x" * 76 + b"\\r\\n") * int(sys.argv[1])
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as client:
    client.starttls(context=ssl.create_default_context(cafile="/etc/ztunnel/mail/ca.pem"))
    client.login("ups", "let me in")
    for to in ("nobody@example.test", "ups@example.test"):
        try:
            client.sendmail("a@example.test", [to], raw)
            print(to, "taken")
        except smtplib.SMTPRecipientsRefused as error:
            print(to, error.recipients[to][0])
"""
SINK = """
import asyncio, dns.message, dns.rdatatype, dns.rrset
from aiosmtpd.smtp import SMTP

RECORDS = {("example.test.", "MX"): "10 mx.example.test.", ("mx.example.test.", "A"): "127.0.0.2"}

class Names(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, who):
        asked = dns.message.from_wire(data)
        reply = dns.message.make_response(asked)
        name, kind = asked.question[0].name, dns.rdatatype.to_text(asked.question[0].rdtype)
        if (str(name), kind) in RECORDS:
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", kind, RECORDS[str(name), kind]))
        self.transport.sendto(reply.to_wire(), who)

class Mails:
    async def handle_DATA(self, server, session, envelope):
        came.put_nowait((envelope.mail_from, *envelope.rcpt_tos, len(envelope.content)))
        return "250 ok"

async def main():
    global came
    came, loop = asyncio.Queue(), asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Names, ("127.0.0.1", 53))
    await loop.create_server(lambda: SMTP(Mails(), hostname="mx.example.test"), "127.0.0.2", 25)
    print("listening", flush=True)
    for _ in range(2):
        print(*await came.get(), flush=True)
    await asyncio.sleep(1)

asyncio.run(main())
"""
"""A domain with one mail server: its names, and what came to it."""
SCALE = 'import socket; s = socket.create_connection(("127.0.0.1", 401)); s.sendall(b"12.5 kg\\n"); s.recv(1)'


@pytest.mark.timeout(1200)
def test_a_package_from_its_build_to_its_purge(tmp_path: Path) -> None:
    skip_unless_bootable()
    deb = package()
    nothing_wrong_with(deb)
    with boxes(tmp_path, "dmz", debs=[deb]) as (box,):
        before = files_of(box)
        is_installed(box, deb)
        manuals_and_completions(box)
        a_broken_table_says_where(box)
        tables_run_as_units(box)
        nothing_was_complained_of(box)
        hardened(box)
        a_table_that_is_never_ready(box)
        an_upgrade_waits_for_nobody(box, deb)
        messages_cross(box)
        mail_crosses(box)
        is_started_again(box)
        the_target_is_all_of_them(box)
        is_ready_all_the_same(box)
        is_removed(box)
        comes_back(box, deb)
        is_purged(box, before)


def nothing_wrong_with(deb: Path) -> None:
    if shutil.which("lintian") is None:
        pytest.fail("lintian is not here (Debian: apt-get install lintian)")
    assert run("lintian", "--profile", "debian", "--fail-on", "error,warning", "--allow-root", deb, timeout_s=300) == ""
    assert deb.stat().st_size < LARGEST_MIB * 2**20
    held = run("dpkg-deb", "-c", deb).splitlines()
    assert any("tunnel/pump/_pump.cpython" in line for line in held)
    for unwanted in ("/pip/", "__pycache__", "/tests/", ".pyx", "activate"):
        assert not [line for line in held if unwanted in line]


def is_installed(box: Box, deb: Path) -> None:
    said = box.run(f"apt-get install -y /root/{deb.name}", timeout_s=180)
    assert "Setting up ztunnel" in said
    assert re.fullmatch(r"ztunnel \d+\.\d+\.\d+", box.run("ztunnel --version").strip())
    assert box.run("systemctl is-enabled ztunnel.target").strip() == "enabled"
    assert box.run("stat -c '%a %U %G' /etc/ztunnel/keys /run/ztunnel /run/ztunnel-ipc").splitlines() == [
        "750 root ztunnel",
        "1775 root ztunnel",
        "1775 root ztunnel",
    ]
    assert "key" in box.run("ztunnel check example", check=False)  # it lacks its keys, and says so


def manuals_and_completions(box: Box) -> None:
    for page, words in {"ztunnel": ("EXIT STATUS", "ztunnel mail retry"), "ztunnel.yaml": ("max_age",)}.items():
        told = box.run(f"MANWIDTH=100 man {page}")
        assert [word for word in words if word not in told] == []
    for typed, word in {"ztunnel sta": "status", "ztunnel mail pau": "pause"}.items():
        last = len(typed.split()) - 1
        told = box.run(
            f"bash -c '. /usr/share/bash-completion/completions/ztunnel; COMP_WORDS=({typed}); COMP_CWORD={last}; "
            f'$(complete -p ztunnel | grep -o "_[a-z_]*" | head -n1) ztunnel; echo ${{COMPREPLY[@]}}\''
        )
        assert told.strip() == word
    # zsh looks at the first line only
    assert box.run("head -n 1 /usr/share/zsh/vendor-completions/_ztunnel").strip() == "#compdef ztunnel"


def a_broken_table_says_where(box: Box) -> None:
    put(box, "broken", "version: 1\nsides:\n  dmz:\n    kye: keys/dmz.key\n")
    box.run("systemctl start --no-block ztunnel@broken")
    status = until(
        lambda: found(r"/etc/ztunnel/broken.yaml:4:5: .*kye", box.run("systemctl status -n 5 ztunnel@broken || true")),
        30,
        lambda: box.run("systemctl status ztunnel@broken || true"),
    )
    assert status
    # tried again for ever: mended, it comes up by itself, or as here says what is wrong next
    put(box, "broken", "version: 1\nsides:\n  dmz:\n    key: keys/none.key\n")
    until(lambda: "keys/none.key" in box.run("systemctl status -n 5 ztunnel@broken || true"), 30, "tried again")
    box.run("systemctl stop ztunnel@broken; rm /etc/ztunnel/broken.yaml")


def tables_run_as_units(box: Box) -> None:
    """Two sides on this one machine: one with its key in a file, one with a credential of systemd's."""
    box.run("groupadd operators; usermod -aG operators ztunnel; useradd -G operators weigher; useradd stranger")
    box.run("cd /etc/ztunnel && ztunnel keygen dmz -o keys && ztunnel keygen plant -o keys")
    box.run("mkdir -p -m 700 /etc/credstore")
    box.run("install -m 600 /etc/ztunnel/keys/plant.key_secret /etc/credstore/ztunnel.plant")
    box.run("rm /etc/ztunnel/keys/plant.key_secret")
    put(box, "dmz", TABLE.format(name="dmz", secret=""))
    put(box, "plant", TABLE.format(name="plant", secret="\n    secret:\n      credential: ztunnel.plant"))
    (box.tree / "etc/ztunnel/plant.env").write_text("ZTUNNEL_SIDE=plant\n")  # this box holds both secrets
    box.run("systemctl enable --now ztunnel@dmz ztunnel@plant", timeout_s=60)
    # ready: every local socket is open
    for port in (944, 557, 558, 401):
        assert f"127.0.0.1:{port} " in box.run("ss -tlnH")
    until(lambda: "2 of 2 routes ready" in box.run("systemctl status ztunnel@dmz"), 30, "the status line")
    assert "dmz side dmz: ready" in box.run("ztunnel status dmz")  # root's, without any variable set
    assert box.run("ztunnel wait tasks --for link -t plant") == ""
    for name in ("dmz", "plant"):  # one with its key in a file; one with a credential, and a variable
        box.run(f"systemctl reload ztunnel@{name}")
        assert box.run(f"ztunnel reload {name}").strip() == "nothing changes"
    owners = set(box.run("ps -o user= -C python3").split())
    assert owners == {"ztunnel"}


def hardened(box: Box) -> None:
    said = box.run("systemd-analyze security --no-pager ztunnel@dmz")
    exposure = re.search(r"Overall exposure level for ztunnel@dmz.service: ([\d.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= 1.7  # as docs/security.md says


def a_table_that_is_never_ready(box: Box) -> None:
    text = TABLE.format(name="waits", secret="").replace(":944", ":945").replace("127.0.0.1:401", "192.0.2.99:402")
    put(
        box,
        "waits",
        text.replace("    frame:", "    allow: any\n    frame:").replace("ipc://tasks.ipc", "ipc://other.ipc"),
    )
    box.run("systemctl enable ztunnel@waits; systemctl start --no-block ztunnel@waits")
    until(lambda: "192.0.2.99:402" in box.run("ztunnel status waits", check=False), 30, "it says what is missing")


def an_upgrade_waits_for_nobody(box: Box, deb: Path) -> None:
    """Also not for a table that is not ready yet, and every table gets the new code."""
    assert box.run("systemctl is-active ztunnel@waits || true").strip() == "activating"
    before = [box.main_pid(f"ztunnel@{name}") for name in ("dmz", "plant", "waits")]
    said = box.run(f"apt-get install -y --reinstall /root/{deb.name}", timeout_s=60)
    assert "Unknown option" not in said
    until(
        lambda: not {box.main_pid(f"ztunnel@{name}") for name in ("dmz", "plant", "waits")} & {0, *before},
        30,
        lambda: f"all are restarted: {before}",
    )
    until(
        lambda: box.run("systemctl is-active ztunnel@dmz ztunnel@plant || true").split() == ["active"] * 2, 30, "ready"
    )


def is_ready_all_the_same(box: Box) -> None:
    """systemd waits 30 s at most; the status line and the journal say what is missing, the boot is over."""
    until(lambda: box.run("systemctl is-active ztunnel@waits || true").strip() == "active", 45, "it counts as started")
    assert "not ready yet: bridge scale is retrying" in box.run("systemctl status ztunnel@waits")
    assert "not ready yet" in box.run("journalctl -q -o cat -p warning -u ztunnel@waits")
    assert box.run("systemctl is-system-running || true").strip() == "running"
    box.run("systemctl reload ztunnel@waits", timeout_s=20)
    box.run("systemctl disable --now ztunnel@waits")


def messages_cross(box: Box) -> None:
    put_script(box, PUSH=PUSH, PULL=PULL, SCALE=SCALE)
    refused = box.run(f'runuser -u stranger -- {PYTHON} "$(cat /root/PUSH)"', check=False)
    assert "this user is not let in" in refused
    assert box.run(f'runuser -u weigher -- {PYTHON} "$(cat /root/PUSH)"') == ""
    assert box.run(f'{PYTHON} "$(cat /root/PULL)" tcp://127.0.0.1:557').strip() == "by a file"
    weighing = subprocess.Popen([*box.inside, f'timeout 30 {PYTHON} "$(cat /root/SCALE)"'])
    try:
        assert box.run(f'{PYTHON} "$(cat /root/PULL)" tcp://127.0.0.1:558').strip() == "12.5 kg"
    finally:
        weighing.kill()
        weighing.wait()


def mail_crosses(box: Box) -> None:
    """In by port 25 with a login, over a spooled route, out to the server that the DNS names: all as the unit is."""
    for name, secret in (("dmz", ""), ("plant", "\n    secret:\n      credential: ztunnel.plant")):
        text = TABLE.format(name=name, secret=secret)
        put(box, name, text.replace("bridges:\n", MAIL_ROUTE) + MAIL)
    certificates(box)
    (box.tree / "etc/resolv.conf").unlink(missing_ok=True)
    (box.tree / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    put_script(box, SEND=SEND, SINK=SINK)
    command = [*box.inside, f'timeout 60 {PYTHON} "$(cat /root/SINK)"']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:  # ends by itself
        assert sink.stdout is not None
        assert sink.stdout.readline() == "listening\n"
        box.run("systemctl reload ztunnel@dmz ztunnel@plant")
        until(lambda: "127.0.0.1:25 " in box.run("ss -tlnH"), 20, lambda: box.run("ztunnel status dmz", check=False))
        for lines in (10, 4000):  # in the database; in a file beside it
            said = box.run(f'{PYTHON} "$(cat /root/SEND)" {lines}').splitlines()
            assert said == ["nobody@example.test 550", "ups@example.test taken"]
            size = len("Subject: an alarm\r\n\r\n") + 78 * lines
            came = sink.stdout.readline()
            assert came == f"a@example.test ups@example.test {size}\n", box.run("ztunnel status plant", check=False)
    for name, bridge in (("dmz", "post"), ("plant", "out")):
        listed = f"ztunnel mail ls {bridge} -t {name} --state open --json"
        until(
            lambda listed=listed: json.loads(box.run(listed))["mails"] == [], 20, lambda listed=listed: box.run(listed)
        )
        store = f"/var/lib/ztunnel/{name}.{name}/spool/bridge-{bridge}"
        assert box.run(f"stat -c '%U %a' {store} {store}/mails.db").split("\n")[:2] == ["ztunnel 700", "ztunnel 600"]
    at_25 = box.run("ss -tlnpH 'sport = :25'")
    assert box.run(f"ps -o user= -p {found('(?<=pid=)[0-9]+', at_25)}").strip() == "ztunnel", at_25


def certificates(box: Box) -> None:
    """What mail needs below /etc/ztunnel: root's, and the service's group may read it."""
    folder, keys = box.tree / "etc/ztunnel/mail", box.tree / "etc/ztunnel/keys"
    folder.mkdir()
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(keys / "mail.pem")
    (folder / "known").write_text("ups@example.test\n")
    (keys / "users").write_text(f"ups:{bcrypt.hashpw(b'let me in', bcrypt.gensalt(4)).decode()}\n")
    box.run("cd /etc/ztunnel/keys && chgrp ztunnel mail.pem users && chmod 640 mail.pem users")


def nothing_was_complained_of(box: Box) -> None:
    """Levels reach the journal: what is well is info."""
    said = box.run("journalctl -q -o cat -u ztunnel@dmz -u ztunnel@plant")
    assert "device started side=dmz" in said
    assert "<6>" not in said
    assert box.run("journalctl -q -o cat -p err -u ztunnel@dmz -u ztunnel@plant") == ""
    assert "broken.yaml:4:5" in box.run("journalctl -q -o cat -p err -u ztunnel@broken")


def is_started_again(box: Box) -> None:
    pid = box.main_pid("ztunnel@dmz")
    box.run(f"kill -9 {pid}")
    until(lambda: box.main_pid("ztunnel@dmz") not in (0, pid), 30, "it is started again")
    until(lambda: box.run("systemctl is-active ztunnel@dmz || true").strip() == "active", 30, "it is ready again")


def the_target_is_all_of_them(box: Box) -> None:
    both = "systemctl is-active ztunnel@dmz ztunnel@plant || true"
    box.run("systemctl stop ztunnel.target")
    until(lambda: box.run(both).split() == ["inactive", "inactive"], 40, "both stop")
    until(lambda: box.run("pgrep -u ztunnel", check=False) == "", 40, "nothing of it runs")
    box.run("systemctl start ztunnel.target")
    until(
        lambda: box.run(both).split() == ["active", "active"],
        30,
        lambda: box.run("systemctl status 'ztunnel@*' || true"),
    )


def is_removed(box: Box) -> None:
    box.run("apt-get remove -y ztunnel", timeout_s=120)
    assert box.run("pgrep -u ztunnel", check=False) == ""
    assert box.run("ls /usr/lib/ztunnel /usr/bin/ztunnel 2>/dev/null", check=False) == ""
    assert box.run("ls /etc/ztunnel/dmz.yaml /etc/ztunnel/keys/dmz.key_secret /var/lib/ztunnel/dmz.dmz")


def comes_back(box: Box, deb: Path) -> None:
    """Installed again after a removal, all that was enabled runs again."""
    box.run(f"apt-get install -y /root/{deb.name}", timeout_s=180)
    both = "systemctl is-active ztunnel@dmz ztunnel@plant || true"
    until(
        lambda: box.run(both).split() == ["active", "active"],
        30,
        lambda: box.run("systemctl status 'ztunnel@*' || true"),
    )


def is_purged(box: Box, before: set[str]) -> None:
    box.run("apt-get purge -y ztunnel", timeout_s=120)
    assert box.run("getent passwd ztunnel; getent group ztunnel", check=False) == ""
    logs = (
        "/var/log/",
        "/var/cache/",
        "/var/lib/dpkg/",
        "/etc/credstore/",
    )  # apt's, dpkg's, and what we put there by hand
    left = {path for path in files_of(box) - before if not path.startswith(logs)}
    assert not {path for path in left if "ztunnel" in path}
    assert box.run("find / -xdev -nouser -o -xdev -nogroup") == ""
    assert box.run("systemctl list-units --plain --no-legend 'ztunnel*'") == ""


def files_of(box: Box) -> set[str]:
    return set(box.run("find / -xdev -path /proc -prune -o -print; find /run").splitlines())


def put(box: Box, table: str, text: str) -> None:
    (box.tree / f"etc/ztunnel/{table}.yaml").write_text(text)


def put_script(box: Box, **scripts: str) -> None:
    for name, text in scripts.items():
        (box.tree / "root" / name).write_text(text)


def found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[0] if match else None
