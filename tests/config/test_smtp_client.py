"""What a table says of an smtp-client, what its process is told, what is said of it; and docs/mail.md is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bridges.mail import limits
from bridges.mail.fill import Filling
from bridges.mail.retry import Schedule
from tests.config.tables import BASE, load, with_keys
from tunnel.config import load_table, plan_for
from tunnel.config.bridge_plan import BridgePlan
from tunnel.config.describe import bridge_sentence, ports
from tunnel.config.mail.smtp_client import SmtpClient, TemplateModel
from tunnel.config.mail.smtp_client_plan import RETRY, RETRY_TEXT, SmtpClientPlan, TemplatePlan
from tunnel.config.render import duration_text, render, size_text
from tunnel.limits import LOCAL_HWM, SPOOL_BYTES, SPOOL_EXPIRE_S

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "mail.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## smtp-client")[1].split("\n## ")[0]
ROUTE = "  mails: {pattern: pipeline, from: dmz bind local, to: plant bind local}\n"
LITTLE = (
    "kind: smtp-client\nzmq: PULL connect route:mails\nrelay: tcp://mail.example.com:25\nallow_to: '*@example.com'\n"
)
MUCH = """\
kind: smtp-client
zmq: REP bind tcp://127.0.0.1:5000
relay: [tcp://mail.example.com:465, tcp://192.0.2.7:587]
allow_to: any
tls: {mode: starttls, server_name: mail}
login: {user: me, password: {file: secrets/mail}}
hostname: box.example.com
from: alarms@example.com
max_recipients: 7
max_message: 1MiB
trace: true
reply: result
remember: 1d
retry: 10s,1m*3
expire: never
rate: 100/1m
connections: 2
timeout: 30s
spool: {max: 1GiB, expire: 1d}
template: {subject: '{a}', text: '{b.c}', to: ['{to}', 'x@example.com'], from: '{from}', attachments: frames}
"""


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")
    monkeypatch.setenv("ZTUNNEL_STATE_DIR", "/var/zt-test")


def text_of(lines: str) -> str:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    return f"{BASE}{ROUTE}bridges:\n  post:\n    side: plant\n{body}"


def plan_of(folder: Path, lines: str) -> BridgePlan[Any]:
    secret = folder / "secrets" / "mail"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    (plan,) = plan_for(load_table(with_keys(folder, text_of(lines))), "plant").bridges
    return plan


def test_of_which_little_is_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, LITTLE)
    own: SmtpClientPlan = plan.own
    assert own == SmtpClientPlan(
        hostname=own.hostname,
        state=own.state,
        relay=("tcp://mail.example.com:25",),
        allow_to=("*@example.com",),
    )
    assert own.hostname
    assert own.state.file("mails") == Path("/var/zt-test/dmz.plant/spool/bridge-post/mails.db")
    assert (plan.process, plan.kind, plan.zmq.route) == ("bridge-post", "smtp-client", "mails")
    assert [own.mode_at(port) for port in (25, 587, 465)] == ["offered", "offered", "implicit"]


def test_of_which_everything_is_said(tmp_path: Path) -> None:
    own: SmtpClientPlan = plan_of(tmp_path, MUCH).own
    assert own.login is not None
    assert own.login.password.reveal() == "hunter2"
    assert "hunter2" not in repr(own)
    assert own.tls is not None
    assert own == SmtpClientPlan(
        hostname="box.example.com",
        state=own.state,
        relay=("tcp://mail.example.com:465", "tcp://192.0.2.7:587"),
        allow_to=None,
        sender="alarms@example.com",
        tls=own.tls,
        tls_mode="starttls",
        login=own.login,
        recipients=7,
        retry=Schedule(((10, 1), (60, 3))),
        expire_s=None,
        rate=(100, 60),
        connections=2,
        timeout_s=30,
        max_bytes=1 << 20,
        trace=True,
        result=True,
        remember_s=86400,
        template=TemplatePlan(
            Filling("{a}"), Filling("{b.c}"), None, (Filling("{to}"), Filling("x@example.com")), Filling("{from}"), True
        ),
    )
    assert (own.state.max_bytes, own.state.expire_s, own.tls.server_name) == (1 << 30, 86400, "mail")
    assert {SmtpClientPlan("h", own.state, login=own.login).mode_at(port) for port in (25, 587)} == {"starttls"}


def test_what_is_said_of_it(tmp_path: Path) -> None:
    table = load(tmp_path, text_of(LITTLE))
    sentence = "PULL of route mails → mail by tcp://mail.example.com:25, to *@example.com, at plant"
    assert bridge_sentence(table, "post") == f"post: {sentence}"
    direct = load(tmp_path, text_of(LITTLE.replace("relay: tcp://mail.example.com:25", "direct: true")))
    assert "mail to each domain's own servers" in bridge_sentence(direct, "post")
    assert "to anybody, JSON by a template" in bridge_sentence(load(tmp_path, text_of(MUCH)), "post")


def test_it_is_in_the_firewall_list(tmp_path: Path) -> None:
    told = str(ports(load(tmp_path, text_of(MUCH))))
    assert "tcp://192.0.2.7:587" in told
    assert "mail server of post" in told


def test_rendered_it_is_the_same(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, MUCH)
    (tmp_path / "plant.yaml").write_text(render(load_table(tmp_path / "dmz.yaml"), "plant"))
    (again,) = plan_for(load_table(tmp_path / "plant.yaml"), "plant").bridges
    assert again == plan


# --- docs/mail.md ----------------------------------------------------------------------------------------------------


def rows(head: str) -> list[list[str]]:
    table = SECTION.split(f"{head} |", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def test_every_key_and_default() -> None:
    told = {row[0].strip("`"): row[2] for row in rows("| key | says | default")}
    names = {field.alias or name for name, field in SmtpClient.model_fields.items()}
    assert set(told) == names
    plan = SmtpClientPlan("h", None)  # type: ignore[arg-type]
    assert plan.retry == RETRY
    assert plan.expire_s is not None
    assert plan.remember_s is not None
    wanted = {
        "hwm": str(LOCAL_HWM),
        "direct": "`false`",
        "max_recipients": str(plan.recipients),
        "max_message": size_text(plan.max_bytes),
        "bare_newlines": "`refuse`",
        "trace": "`false`",
        "reply": "`queued`",
        "remember": duration_text(plan.remember_s),
        "retry": f"`{RETRY_TEXT}`",
        "expire": duration_text(plan.expire_s),
        "connections": str(plan.connections),
        "timeout": f"{plan.timeout_s / 60:g}m",
        "spool": f"{size_text(SPOOL_BYTES)}, {duration_text(SPOOL_EXPIRE_S)}",
    }
    assert {name: told[name] for name in wanted} == wanted
    (template,) = [row[1] for row in rows("| key | says | default") if row[0] == "`template`"]
    assert all(f"`{field.alias or name}" in template for name, field in TemplateModel.model_fields.items())


def test_words_that_are_counted() -> None:
    source = "".join(
        path.read_text()
        for path in (Path(limits.__file__).parent / "intake.py", Path(limits.__file__).parents[1] / "smtp_client.py")
    )
    counted = {*re.findall(r'RefusedMessageError\(\s*"(\w+)"', source), *re.findall(r'dropped\["(\w+)"\]', source)}
    told = {word for row in rows("| `dropped`") for word in re.findall(r"`(\w+)`", row[0])}
    assert told == counted


def test_limits() -> None:
    flat = " ".join(SECTION.split())
    for sentence in (
        f"{limits.SEND_RESULT_S:g} s at most",
        f"rests, {limits.SEND_REST_MIN_S:g} s to {limits.SEND_REST_MAX_S / 60:g} min",
        f"Tried again every {limits.SEND_PAUSE_S / 60:g} min",
        f"for {limits.SEND_MAILS} mails each",
        f"at most {limits.SEND_CONNECTIONS_MOST};",
        f"at most {limits.MAIL_BYTES >> 20}MiB",
        f"twice that, {limits.SEND_DOT_S / 60:g} min at most",
    ):
        assert sentence in flat


def test_the_example_is_right(tmp_path: Path) -> None:
    example = SECTION.split("```yaml\n")[1].split("```")[0]
    table = load(tmp_path, BASE + ROUTE + example)
    assert (list(table.model.bridges), table.warnings) == (["alarms"], ())
