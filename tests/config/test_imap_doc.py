"""docs/mail.md is true of imap: every key, default, limit and counted word that there is, and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from bridges.mail import limits
from tests.config.tables import BASE, load
from tests.config.test_bridges_doc import rows, words
from tunnel.config import values
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.mail.imap import SOCKETS, ImapPlan
from tunnel.config.mail.imap_model import Imap, ImapLogin, ImapTls
from tunnel.config.render import duration_text, size_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "mail.md").read_text(encoding="utf-8").split("## imap:")[1].split("\n## ")[0]
FLAT = " ".join(PAGE.split())
KEYS = rows(PAGE, "| key | says | default")


def test_every_key() -> None:
    told = [word for row in KEYS for word in words(row[0])]
    assert sorted(told) == sorted(Imap.model_fields)


def test_keys_of_keys() -> None:
    said = {words(row[0])[0]: row[1] for row in KEYS}
    for key, model in (("tls", ImapTls), ("login", ImapLogin)):
        for name in model.model_fields:
            assert f"`{name}" in said[key], name


def test_sockets() -> None:
    (said,) = (row[1] for row in KEYS if words(row[0]) == ["zmq"])
    assert said.endswith(f"of {', '.join(SOCKETS)}")


def test_defaults() -> None:
    plan = {field.name: field.default for field in dataclasses.fields(ImapPlan)}
    wanted = {
        "hwm": str(next(field.default for field in dataclasses.fields(ZmqPlan) if field.name == "hwm")),
        "folder": f"`{Imap.model_fields['folder'].default[0]}`",
        "after": f"`{plan['after']}`",
        "since": f"`{plan['since']}`",
        "rebaseline": f"`{plan['rebaseline']}`",
        "attempts": str(plan["attempts"]),
        "timeout": duration_text(plan["again_s"]),
        "idle": f"`{str(plan['idle']).lower()}`",
        "max_message": size_text(plan["max_message_bytes"]),
    }
    told = {words(row[0])[0]: row[2] for row in KEYS}
    assert {name: told[name] for name in wanted} == wanted
    assert values.duration(told["poll"]) == plan["poll_s"]


def test_limits() -> None:
    for sentence in (
        f"a list of {limits.IMAP_FOLDERS} at most",
        f"{limits.MAIL_BYTES >> 20}MiB at most",
        f"IDLE is begun anew every {limits.IMAP_IDLE_S / 60:g} min",
        f"after {limits.IMAP_PAUSE_S:g} s, half as much again each time up to {limits.IMAP_PAUSE_MAX_S:g} s",
        f"tried again after {limits.IMAP_REFUSED_S / 60:g} min",
        f"{limits.TOKEN_S:g} s and {limits.TOKEN_BYTES >> 10} KiB at most",
        f"At most {limits.IMAP_WINDOW} mails a folder, and {limits.IMAP_HELD_BYTES >> 20} MiB of mails a bridge",
    ):
        assert sentence in FLAT, sentence
    assert (limits.IMAP_COMMAND_S, limits.IMAP_PAUSE_GROWTH) == (60, 1.5)  # a minute, half as much again


def test_every_word_that_is_counted() -> None:
    source = (ROOT / "bridges" / "mail" / "folder.py").read_text()
    counted = {*re.findall(r'skipped\["(\w+)"', source), *re.findall(r'else "(left)"\]', source)}
    counted |= set(re.findall(r'(?:_put_aside|_tell_bad)\([^"\n]*"(\w+)"', source))
    assert sorted(words(row[0])[0] for row in rows(PAGE, "| `skipped` | mails")) == sorted(counted)


def test_the_example_is_right(tmp_path: Path) -> None:
    example = PAGE.split("```yaml\n")[1].split("```")[0]
    route = "  tickets: {pattern: pipeline, from: plant bind local, to: dmz bind local}\n"
    table = load(tmp_path, BASE + route + example)
    assert (list(table.model.bridges), table.warnings) == (["tickets"], ())
