"""/etc/ztunnel/NAME.env: its syntax, which files are believed, and who gets at what is in them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tunnel import places
from tunnel.cli import pick
from tunnel.limits import VARIABLES_BYTES
from tunnel.service_variables import parse, service_variables
from tunnel.supervise.places import Running

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to another user")
NOBODY = pwd.getpwnam("nobody")


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("PORT=5555", {"PORT": "5555"}),
        ("A=1\nB=2\n\nA=3\n", {"A": "3", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("# A=1\n; B=2\n  C = 3  \n", {"C": "3"}),
        ("A=\nB=  \nC=''\n", {"A": "", "B": "", "C": ""}),
        ("A=x # no comment", {"A": "x # no comment"}),
        ("A=a=b", {"A": "a=b"}),
        ("A='a \"b\" \\n'\nB=2", {"A": 'a "b" \\n', "B": "2"}),
        ('A="a \'b\' \\" \\\\ \\$x \\n"\nB=2', {"A": "a 'b' \" \\ $x \\n", "B": "2"}),
        ("A='x' \"y\" z", {"A": "xyz"}),
        ("A='two\nlines'\nB=2", {"A": "two\nlines", "B": "2"}),
        ("A=a\"b\"'c'", {"A": "a\"b\"'c'"}),
        ("A=a\\ b\\\\c", {"A": "a b\\c"}),
        ("A=one \\\ntwo\nB=2", {"A": "one two", "B": "2"}),
        ('A="one \\\ntwo"\nB=2', {"A": "one two", "B": "2"}),
        ("no assignment\n1A=1\nA-B=2\nexport C=3\n=4\nD=5", {"D": "5"}),
        ('A="open\nB=2', {"A": '"open', "B": "2"}),
        ("A=x\\", {}),
        ("A=\0\nB=2", {"B": "2"}),
    ],
)
def test_the_syntax(text: str, variables: dict[str, str]) -> None:
    assert parse(text) == variables


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /etc/ztunnel, with a table and its variables; the environment is put back afterwards."""
    folder = tmp_path / "etc"
    (folder / "deep").mkdir(parents=True)
    monkeypatch.setattr(places, "INSTALLED", folder)
    monkeypatch.setattr(pick, "INSTALLED", folder)
    monkeypatch.setattr(places, "SERVICE_USER", NOBODY.pw_name)
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"], "SHELLS": "shell"})
    for table in ("t.yaml", "deep/t.yaml"):
        (folder / table).write_text("version: 1\n")
        (folder / table).with_suffix(".env").write_text("PORT=5555\nSHELLS=file\n")
        (folder / table).with_suffix(".env").chmod(0o600)
    return folder


def test_which_file(etc: Path) -> None:
    assert service_variables(etc / "t.yaml") == {"PORT": "5555", "SHELLS": "file"}
    assert service_variables(etc / "deep/t.yaml") == {}, "the unit does not look there"
    assert service_variables(etc / "u.yaml") == {}


def test_what_is_not_read(etc: Path, tmp_path: Path) -> None:
    file = etc / "t.env"
    file.write_bytes(b"A=\xff\n")
    assert service_variables(etc / "t.yaml") == {}
    file.write_text("A=1\n" + "#" * VARIABLES_BYTES)
    assert service_variables(etc / "t.yaml") == {}
    file.rename(tmp_path / "kept")
    file.symlink_to(tmp_path / "kept")
    (tmp_path / "kept").write_text("A=1")
    assert service_variables(etc / "t.yaml") == {}
    file.unlink()
    os.mkfifo(file)
    assert service_variables(etc / "t.yaml") == {}
    file.unlink()
    file.mkdir()
    assert service_variables(etc / "t.yaml") == {}


@as_root
def test_root_believes_its_own_files_only(etc: Path) -> None:
    (etc / "t.env").chmod(0o620)
    assert service_variables(etc / "t.yaml") == {}
    (etc / "t.env").chmod(0o640)
    assert service_variables(etc / "t.yaml")
    os.chown(etc / "t.env", NOBODY.pw_uid, -1)
    assert service_variables(etc / "t.yaml") == {}


@pytest.mark.parametrize("named", ["t", "FILE"])
def test_they_are_defaults_for_what_the_shell_has_not_set(etc: Path, named: str) -> None:
    pick.table_file(str(etc / "t.yaml") if named == "FILE" else named)
    assert (os.environ["PORT"], os.environ["SHELLS"]) == ("5555", "shell")


def test_the_side_may_be_among_them(etc: Path) -> None:
    (etc / "t.env").write_text("ZTUNNEL_SIDE=plant\n")
    assert pick.side_meant(None) is None
    pick.table_file("t")
    assert (pick.side_meant(None), pick.side_meant("dmz")) == ("plant", "dmz")


def test_check_sees_them(etc: Path) -> None:
    assert pick.named_table(str(etc / "t.yaml")) == etc / "t.yaml"
    assert os.environ["PORT"] == "5555"


@as_root
@pytest.mark.parametrize(("owner", "told"), [(0, True), (NOBODY.pw_uid, True), (4711, False)])
def test_who_is_told_before_root_becomes_that_user(
    etc: Path, owner: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record is what any user wrote: one that names an installed table must not get root's file."""
    side = Running(etc / "run", "t", "dmz", etc / "t.yaml", os.getpid(), 1.0, {}, owner)
    seen: list[bool] = []
    monkeypatch.setattr("tunnel.supervise.places.find", lambda *_, **__: side)
    monkeypatch.setattr("tunnel.supervise.places.act_for", lambda _: seen.append("PORT" in os.environ))
    pick.running_side("t", None)
    assert seen == [told]
    assert ("PORT" in os.environ) == told
