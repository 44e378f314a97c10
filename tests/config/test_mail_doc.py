"""docs/mail.md is true: keys and defaults of the bridges for mail, keys of a meta frame, counted words, limits."""

from __future__ import annotations

import re
from pathlib import Path

from bridges.mail import limits, meta
from tests.config.tables import BASE, load
from tests.config.test_bridges_doc import rows, words
from tunnel.config.mail import MAIL
from tunnel.config.mail.smtp_server import RecipientModel
from tunnel.config.render import duration_text, size_text
from tunnel.limits import LOCAL_HWM, SPOOL_BYTES, SPOOL_EXPIRE_S

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "mail.md").read_text(encoding="utf-8")
COMMON = {"side", "kind"}


def minutes(seconds: float) -> str:
    return f"{seconds / 60:g}m"


def section(kind: str) -> str:
    return PAGE.split(f"\n## {kind}: ")[1].split("\n## ")[0]


def test_every_key_of_an_smtp_server() -> None:
    told = [word for row in rows(section("smtp-server"), "| key | says | default") for word in words(row[0])]
    assert sorted(told) == sorted(set(MAIL["smtp-server"].model.model_fields) - COMMON)


def test_every_kind_has_its_section() -> None:
    assert [kind for kind in MAIL if f"\n## {kind}: " not in PAGE] == []


def test_every_key_of_a_rule() -> None:
    told = [word for row in rows(section("smtp-server"), "| key of a rule | says | default") for word in words(row[0])]
    assert sorted(told) == sorted(RecipientModel.model_fields)


def test_defaults_of_an_smtp_server() -> None:
    told = {words(row[0])[0]: row[2] for row in rows(section("smtp-server"), "| key | says | default")}
    wanted = {
        "hwm": str(LOCAL_HWM),
        "accept": "`spooled`",
        "spool": f"{size_text(SPOOL_BYTES)}, {duration_text(SPOOL_EXPIRE_S)}",
        "max_message": size_text(limits.MAIL_DEFAULT_BYTES),
        "max_recipients": str(limits.RECIPIENTS),
        "connections": str(limits.SMTP_CONNECTIONS),
        "per_address": str(limits.SMTP_PER_ADDRESS),
        "timeout": minutes(limits.SMTP_COMMAND_S),
        "data_timeout": minutes(limits.SMTP_DATA_S),
        "answer_timeout": duration_text(limits.SMTP_ANSWER_S),
        "duplicates": "`unanswered`",
        "parse": "`false`",
        "require_tls": "`false`",
        "require_login": "`false`",
    }
    assert {key: told[key] for key in wanted} == wanted


def test_every_key_of_a_meta_frame() -> None:
    told = {words(row[0])[0]: row[1] for row in rows(PAGE, "| in `meta` | is")}
    assert told == meta.KEYS


def test_every_word_that_an_smtp_server_counts() -> None:
    source = "".join((ROOT / "bridges" / name).read_text() for name in ("smtp_server.py", "mail/smtp_session.py"))
    counted = {
        *re.findall(r'refused\["(\w+)"\]', source),
        *re.findall(r'count\("(\w+)"\)', source),
        *re.findall(r'_reason = "(\w+)"', source),
        *re.findall(r'_turn_down\(letter, "(\w+)"', source),
        "limit",
        "per_address",
        "tls",
        "gone",
        "reset",
    } - {"broken"}
    told = section("smtp-server").split("`refused` counts ")[1].split("; `detail`")[0]
    assert sorted(words(told)) == sorted(counted)


def test_limits() -> None:
    flat = " ".join(PAGE.split())
    for sentence in (
        f"more than {limits.GIVE_AGAIN_S:.0f} s or whoever had it is gone",
        f"{limits.GIVEN_BYTES >> 20} MiB of mails, or one larger one, are under way on each socket at a time, and "
        f"{limits.GIVEN_MAILS} at most",
        f"{limits.HOPS} Received fields",
        f"up to {limits.INLINE_BYTES >> 10} KiB in `mails.db`",
        f"longer than {limits.PARSE_BYTES >> 20} MiB, nested deeper than {limits.PARSE_DEPTH} levels, had more than "
        f"{limits.PARSE_PARTS} parts, or a header field of {limits.PARSE_FIELD_BYTES >> 10} KiB (`Content-...`: "
        f"{limits.PARSE_CONTENT_BYTES >> 10} KiB)",
        f"a mail, at most {limits.MAIL_BYTES >> 20}MiB",
    ):
        assert sentence in flat, sentence


def test_the_examples_are_right(tmp_path: Path) -> None:
    examples = PAGE.split("```yaml\n")[1:]
    assert examples
    for number, example in enumerate(examples):
        folder = tmp_path / str(number)
        folder.mkdir()
        routes = "  alarms: {pattern: pubsub, from: plant bind local, to: dmz bind local}\n"
        routes += "  tickets: {pattern: pipeline, from: plant bind local, to: dmz bind local}\n"
        routes += "  mails: {pattern: pipeline, from: dmz bind local, to: plant bind local}\n"
        table = load(folder, BASE + routes + example.split("```")[0])
        assert len(table.model.bridges) == 1
