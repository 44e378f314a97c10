"""known_hosts: what is a match, what is revoked, and what the one who meets an unknown key is told."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from tests.servers import fingerprint as keygen_fingerprint
from tests.servers import new_key, program, public
from tunnel.carriers.ssh_hosts import HostKeyError, fingerprint, host_name, known_keys, line_to_add, verify


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, bytes]:
    new_key(tmp_path / "key")
    kind, text = public(tmp_path / "key").split()
    return kind, base64.b64decode(text)


def check(file: Path, name: str, key: tuple[str, bytes]) -> str:
    """ "" when it is the host's, else the complaint."""
    try:
        verify(known_keys([file], name), name, [file], *key)
    except HostKeyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("field", "name", "good"),
    [
        ("dmz", "dmz", True),
        ("DMZ", "dmz", True),
        ("a,dmz,b", "dmz", True),
        ("[dmz]:2222", "[dmz]:2222", True),
        ("dmz", "[dmz]:2222", False),
        ("[dmz]:2222", "dmz", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com,!b.example.com", "b.example.com", False),
        ("[*.example.com]:22?2", "[a.example.com]:2222", True),
        ("other", "dmz", False),
        ("|1|nonsense", "dmz", False),
    ],
)
def test_names(tmp_path: Path, key: tuple[str, bytes], field: str, name: str, good: bool) -> None:
    file = tmp_path / "known"
    file.write_text(f"# a comment\n\n{line_to_add(field, *key)} and a comment\n")
    assert (check(file, name, key) == "") is good


@pytest.mark.parametrize("name", ["dmz.example.com", "[dmz.example.com]:2222", "[::1]:2222"])
def test_hashed_by_ssh_keygen(tmp_path: Path, key: tuple[str, bytes], name: str) -> None:
    file = tmp_path / "known"
    file.write_text(line_to_add(name, *key) + "\n")
    subprocess.run([program("ssh-keygen"), "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert name not in file.read_text()
    assert check(file, name, key) == ""
    assert "unknown" in check(file, "other", key)


def test_an_unknown_key_is_told_with_its_fingerprint_and_the_line_that_makes_it_known(
    tmp_path: Path, key: tuple[str, bytes]
) -> None:
    file = tmp_path / "missing"
    told = check(file, "[dmz]:2222", key)
    assert fingerprint(key[1]) == keygen_fingerprint(tmp_path / "key")
    assert fingerprint(key[1]) in told
    assert f"add to {file}: " in told
    file.write_text(told.rpartition(f"{file}: ")[2] + "\n")
    assert check(file, "[dmz]:2222", key) == ""


def test_a_changed_key_is_told_with_the_line_that_says_otherwise(tmp_path: Path, key: tuple[str, bytes]) -> None:
    new_key(tmp_path / "other")
    file = tmp_path / "known"
    file.write_text(f"# first\nelse {public(tmp_path / 'other')}\ndmz {public(tmp_path / 'other')}\n")
    told = check(file, "dmz", key)
    assert "has changed" in told
    assert f"{file}:3 says otherwise" in told


def test_a_revoked_key_is_refused_even_where_another_line_knows_it(tmp_path: Path, key: tuple[str, bytes]) -> None:
    file = tmp_path / "known"
    file.write_text(f"{line_to_add('dmz', *key)}\n@revoked * {key[0]} {line_to_add('', *key).split()[-1]}\n")
    assert f"revoked by {file}:2" in check(file, "dmz", key)


def test_authorities_and_broken_lines_are_passed_over(tmp_path: Path, key: tuple[str, bytes]) -> None:
    file = tmp_path / "known"
    file.write_text(f"@cert-authority {line_to_add('dmz', *key)}\ndmz ssh-ed25519\ndmz ssh-ed25519 !!!\n")
    assert "unknown" in check(file, "dmz", key)


def test_a_file_that_cannot_be_read_is_no_missing_file(tmp_path: Path) -> None:
    with pytest.raises(HostKeyError, match="cannot be read"):
        known_keys([tmp_path], "dmz")


def test_host_names() -> None:
    assert host_name("DMZ", 22) == "dmz"
    assert host_name("dmz", 2222) == "[dmz]:2222"
    assert host_name("::1", 2222) == "[::1]:2222"
