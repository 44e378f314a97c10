"""What a table says of a mailbox, and what its process and a person are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
import yaml

from tests.config.tables import BASE, with_keys
from tunnel.config import Table, load_table, plan_for
from tunnel.config.describe import Call, bridge_sentence, ports
from tunnel.config.mail.imap import ImapPlan
from tunnel.config.plan import TlsPlan
from tunnel.config.render import render
from tunnel.errors import TableError
from tunnel.keys import Secret

ROUTES = """\
  alarms: {pattern: pipeline, from: plant bind local, to: dmz bind local}
"""
LITTLE = """\
kind: imap
connect: tcp://mail.example.com:993
login: {user: ops, password: {env: ZT_MAIL}}
zmq: PUSH connect route:alarms
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")
    monkeypatch.setenv("ZTUNNEL_STATE_DIR", "/var/lib/zt-test")
    monkeypatch.setenv("ZT_MAIL", "hunter2")


def loaded(folder: Path, lines: str) -> Table:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    return load_table(with_keys(folder, f"{BASE}{ROUTES}bridges:\n  box:\n    side: plant\n{body}"))


def plan_of(folder: Path, lines: str) -> ImapPlan:
    (plan,) = plan_for(loaded(folder, lines), "plant").bridges
    assert plan.kind == "imap"
    assert isinstance(plan.own, ImapPlan)
    return plan.own


def test_little_is_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LITTLE)
    assert plan == ImapPlan(
        connect=("tcp://mail.example.com:993",),
        mode="implicit",
        tls=TlsPlan(),
        user="ops",
        password=Secret("hunter2"),
        token_command=(),
        folders=("INBOX",),
        file=Path("/var/lib/zt-test/dmz.plant/spool/bridge-box/mailbox.db"),
    )
    assert "hunter2" not in repr(plan)


def test_everything_is_said(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    plan = plan_of(
        tmp_path,
        """\
kind: imap
connect: tcp://192.0.2.7:143
tls: {ca: ca.pem, server_name: mail.example.com}
login: {user: ops, token_command: [/usr/bin/token, --for, ops]}
zmq: PUB connect route:ticks-not-used
folder: [inbox, Alarms/West]
topic: hex:00ff
after: {keyword: $Done}
since: all
rebaseline: reprocess
quarantine: Failed
attempts: 9
timeout: 2m
poll: 90s
idle: false
max_message: 1MiB
parse: true
""".replace("PUB connect route:ticks-not-used", "DEALER connect tcp://127.0.0.1:4003"),
    )
    assert plan == ImapPlan(
        connect=("tcp://192.0.2.7:143",),
        mode="starttls",
        tls=TlsPlan(ca=tmp_path / "ca.pem", server_name="mail.example.com"),
        user="ops",
        password=None,
        token_command=("/usr/bin/token", "--for", "ops"),
        folders=("INBOX", "Alarms/West"),
        file=Path("/var/lib/zt-test/dmz.plant/spool/bridge-box/mailbox.db"),
        topic=b"\x00\xff",
        after="keyword",
        mark="$Done",
        since="all",
        rebaseline="reprocess",
        quarantine="Failed",
        attempts=9,
        again_s=120.0,
        poll_s=90.0,
        idle=False,
        max_message_bytes=1 << 20,
        parse=True,
    )


@pytest.mark.parametrize(
    ("after", "reads_only"), [("none", True), ("none\nquarantine: Failed", False), ("seen", False), ("delete", False)]
)
def test_when_the_folder_is_only_read(tmp_path: Path, after: str, reads_only: bool) -> None:
    assert plan_of(tmp_path, f"{LITTLE}after: {after}").reads_only is reads_only


@pytest.mark.parametrize(
    "tls", ["tls: {mode: none, insecure: true}", "connect: tcp://127.0.0.1:143\ntls: {mode: none}"]
)
def test_without_tls_where_that_is_said_aloud(tmp_path: Path, tls: str) -> None:
    lines = LITTLE.replace("connect: tcp://mail.example.com:993\n", "") if "connect" in tls else LITTLE
    plan = plan_of(tmp_path, lines + tls)
    assert (plan.mode, plan.tls) == ("none", None)


def test_a_password_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZT_MAIL")
    with pytest.raises(TableError, match=r"bridges\.box\.login\.password: the variable ZT_MAIL is not set"):
        plan_of(tmp_path, LITTLE)


def test_in_words(tmp_path: Path) -> None:
    table = loaded(tmp_path, f"{LITTLE}after: {{move: Done}}\nfolder: [INBOX, Alarms]")
    assert bridge_sentence(table, "box") == (
        "box: mail in INBOX and Alarms of ops at tcp://mail.example.com:993 → PUSH to route alarms, "
        "then moved to Done, at plant"
    )
    assert Call("plant", "tcp://mail.example.com:993", "mailbox of box") in ports(table).calls


@pytest.mark.parametrize("after", ["delete", "{move: Done}"])
def test_a_warning_where_nobody_answers(tmp_path: Path, after: str) -> None:
    lines = LITTLE.replace("PUSH connect route:alarms", "PUB bind tcp://127.0.0.1:4003")
    (warning,) = loaded(tmp_path, f"{lines}after: {after}").warnings
    assert "a mail that no subscriber hears" in str(warning)
    assert loaded(tmp_path, lines).warnings == ()


def test_rendered_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    (tmp_path / "secret").chmod(0o600)
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    table = loaded(tmp_path, LITTLE.replace("{env: ZT_MAIL}", "{file: secret}") + "tls: {ca: ca.pem}")
    text = render(table, "plant")
    elsewhere = tmp_path / "sub" / "plant.yaml"
    elsewhere.parent.mkdir()
    assert yaml.safe_load(text)["bridges"]["box"]["kind"] == "imap"
    assert "hunter2" not in text
    (tmp_path / "rendered.yaml").write_text(text)
    assert plan_for(load_table(tmp_path / "rendered.yaml"), "plant").bridges == plan_for(table, "plant").bridges
    assert "imap" not in render(table, "dmz")
