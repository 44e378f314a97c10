"""Which recipient goes where, and files of known ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridges.mail import addresses
from bridges.mail.rules import KnownFile, LookupTroubleError, Rules
from tunnel.config.bridge_plan import ZmqPlan
from tunnel.config.mail.smtp_server_plan import RulePlan

ZMQ = ZmqPlan("PUSH", ())


def test_the_first_rule_that_fits() -> None:
    rules = Rules(
        (
            RulePlan("night", ("ops+night@*",), "pager.{domain}", ZMQ),
            RulePlan("ops", ("ops@*", "root@*"), "{local}.{tag}", ZMQ),
            RulePlan("rest", ("*@example.com",), "rest", ZMQ),
        )
    )
    found = {
        address: destination and (destination.rule, destination.topic)
        for address in ("OPS+night@a.b", "ops+x@a.b", "root@a.b", "Any+t@example.com", "any@a.b")
        if (destination := rules.find(address)) or True
    }
    assert found == {
        "OPS+night@a.b": ("night", b"pager.a.b"),
        "ops+x@a.b": ("ops", b"ops.x"),
        "root@a.b": ("ops", b"root."),
        "Any+t@example.com": ("rest", b"rest"),
        "any@a.b": None,
    }


@pytest.mark.parametrize("text", ["a@b.c\nnot an address\n", "\udcff"])
def test_a_file_that_cannot_be_used_is_trouble_and_not_unknown(tmp_path: Path, text: str) -> None:
    known = tmp_path / "known"
    known.write_bytes(text.encode("utf-8", "surrogateescape"))
    rules = Rules((RulePlan("r", ("*@*",), "r", ZMQ, known),))
    with pytest.raises(LookupTroubleError, match="known"):
        rules.find("a@b.c")
    known.write_text("a@b.c\n")
    assert rules.find("a@b.c") is not None
    assert rules.find("b@b.c") is None


def test_a_long_file_of_known_ones_needs_no_regex_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "known"
    known.write_text("".join(f"user{number}@example.com\n" for number in range(5000)) + "*@wild.example.com\n")
    compiled: list[str] = []
    glob = addresses._glob
    monkeypatch.setattr(addresses, "_glob", lambda text: compiled.append(text) or glob(text))
    made = KnownFile(known)
    assert made.has("User4999+tag@Example.com")
    assert made.has("anybody@wild.example.com")
    assert not made.has("user5000@example.com")
    assert len(compiled) == 2
