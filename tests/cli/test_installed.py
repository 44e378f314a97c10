"""keygen and init for the installed service: what root makes below /etc/ztunnel, the service can read."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from tests.cli.test_keys import PUBLIC
from tunnel import cli, keys, places
from tunnel.errors import KeyFileError

NOBODY = pwd.getpwnam("nobody")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to the service's user")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /etc/ztunnel, not made yet; the service's user is nobody, root's umask a strict one."""
    folder = tmp_path / "etc"
    monkeypatch.setattr(places, "INSTALLED", folder)
    monkeypatch.setattr("tunnel.files.INSTALLED", folder)
    monkeypatch.setattr(places, "SERVICE_USER", NOBODY.pw_name)
    monkeypatch.setattr(keys, "SERVICE_USER", NOBODY.pw_name)
    monkeypatch.setattr(places, "_UNITS", (tmp_path / "unit",))
    before = os.umask(0o077)
    yield folder
    os.umask(before)


def ztunnel(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([*map(str, arguments)])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def access(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_init_makes_everything_fit_for_the_service(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = ztunnel(capsys, "init", etc, "--name", "dmz", "--side", "dmz", "--trust", f"plant={PUBLIC}")
    assert code == 0
    assert access(etc) == (0, 0, 0o755)
    assert access(etc / "dmz.yaml") == (0, 0, 0o644)
    assert access(etc / "keys") == (0, NOBODY.pw_gid, 0o750)
    assert access(etc / "keys/dmz.key_secret") == (NOBODY.pw_uid, NOBODY.pw_gid, 0o600)
    for side in ("dmz", "plant"):
        assert access(etc / f"keys/{side}.key") == (0, 0, 0o644)
    assert "The secret one stays on this box and was given to the user nobody" in told
    assert told.endswith(f"    ztunnel check {etc}/dmz.yaml\n    ztunnel up {etc}/dmz.yaml\n")


def test_with_the_unit_it_tells_of_systemd(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (etc.parent / "unit").touch()
    _, told, _ = ztunnel(capsys, "init", etc, "--name", "dmz", "--side", "dmz", "--trust", f"plant={PUBLIC}")
    assert told.endswith(f"    ztunnel check {etc}/dmz.yaml\n    systemctl enable --now ztunnel@dmz\n")
    _, told, _ = ztunnel(capsys, "init", etc / "b", "--name", "dmz", "--side", "dmz", "--trust", f"plant={PUBLIC}")
    assert told.endswith(f"    ztunnel up {etc}/b/dmz.yaml\n"), "the unit does not look there"


@pytest.mark.parametrize("detach", [[], ["-d"]])
def test_root_leaves_it_to_the_unit(
    etc: Path, detach: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (etc, etc / "deep"):
        folder.mkdir()
        (folder / "dmz.yaml").write_text("version: 2\n")
    assert "run by systemd" not in ztunnel(capsys, "up", etc / "dmz.yaml", *detach)[2], "no unit is installed"
    (etc.parent / "unit").touch()
    code, _, told = ztunnel(capsys, "up", etc / "dmz.yaml", *detach)
    assert code == 2
    assert f"{etc}/dmz.yaml is run by systemd, as the user nobody: `systemctl start ztunnel@dmz`" in told
    assert "`runuser -u nobody -- ztunnel up dmz` to see it in the foreground" in told
    assert "run by systemd" not in ztunnel(capsys, "up", etc / "deep/dmz.yaml", *detach)[2], (
        "the unit does not look there"
    )
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    assert "run by systemd" not in ztunnel(capsys, "up", etc / "dmz.yaml", *detach)[2]


@pytest.mark.parametrize("out", ["keys", ".", "deep/er"])
def test_keygen(etc: Path, out: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    etc.mkdir(mode=0o755)
    monkeypatch.chdir(etc)
    code, told, _ = ztunnel(capsys, "keygen", "dmz", "-o", out)
    assert code == 0
    assert "was given to the user nobody" in told
    assert access(etc / out / "dmz.key_secret") == (NOBODY.pw_uid, NOBODY.pw_gid, 0o600)
    if out != ".":
        assert access(etc / out) == (0, NOBODY.pw_gid, 0o750)


def test_the_secret_is_nobodys_else_before_it_is_written(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        found = os.fstat(descriptor)
        seen.append((stat.S_IMODE(found.st_mode), found.st_size, uid, gid))

    monkeypatch.setattr(os, "fchown", fchown)
    keys.write_pair(etc / "keys", "dmz")
    assert seen == [(0o600, 0, NOBODY.pw_uid, NOBODY.pw_gid)]


def test_elsewhere_nothing_is_given_away(etc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, told, _ = ztunnel(capsys, "init", tmp_path / "mine", "--side", "dmz")
    assert "given" not in told
    assert access(tmp_path / "mine/keys/dmz.key_secret") == (0, 0, 0o600)
    assert access(tmp_path / "mine/keys") == (0, 0, 0o700), "as the umask says"


def test_without_the_services_user_nothing_changes(
    etc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "SERVICE_USER", "nobody-at-all")
    _, told, _ = ztunnel(capsys, "init", etc, "--side", "dmz")
    assert "given" not in told
    assert access(etc / "keys/dmz.key_secret") == (0, 0, 0o600)


def test_a_secret_that_the_service_cannot_read_is_told_when_init_is_said_again(
    etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ztunnel(capsys, "init", etc, "--side", "dmz")
    secret = etc / "keys/dmz.key_secret"
    assert "chown" not in ztunnel(capsys, "init", etc, "--side", "dmz")[1]
    os.chown(secret, 0, 0)
    told = ztunnel(capsys, "init", etc, "--side", "dmz")[1]
    assert f"The service runs as nobody and cannot read the secret one: chown nobody {secret}" in told
    assert access(secret) == (0, 0, 0o600), "left as it is"


def test_doctor_tells_of_it_too(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ztunnel(capsys, "init", etc, "--side", "dmz", "--trust", f"plant={PUBLIC}")
    (line,) = (line for line in ztunnel(capsys, "doctor", etc / "ztunnel.yaml")[1].splitlines() if " keys " in line)
    assert line.split()[0] == "ok"
    secret = etc / "keys/dmz.key_secret"
    os.chown(secret, 0, 0)
    (line,) = (line for line in ztunnel(capsys, "doctor", etc / "ztunnel.yaml")[1].splitlines() if " keys " in line)
    assert line.split()[0] == "warn"
    assert line.endswith(f"chown nobody {secret}")


def as_user(uid: int, path: Path) -> str:
    """What a user is told who reads a secret key."""
    end, other = os.pipe()
    if (child := os.fork()) == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        try:
            keys.read_pair(path)
        except KeyFileError as error:
            os.write(other, str(error).encode())
        os._exit(0)
    os.close(other)
    os.waitpid(child, 0)
    with os.fdopen(end) as told:
        return told.read()


def test_who_may_not_read_a_key_is_told_who_runs_and_what_to_do(etc: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to("/tmp/pytest-of-root"):
            folder.chmod(0o755)
    os.umask(0o022)
    installed, mine = keys.write_pair(etc / "keys", "dmz")[1], keys.write_pair(tmp_path / "my keys", "dmz")[1]
    assert as_user(NOBODY.pw_uid, installed) == ""
    os.chown(installed, 0, 0)
    assert as_user(NOBODY.pw_uid, installed) == (
        f"the key file {installed} cannot be read by nobody, who runs this: run: chown nobody {installed}."
    )
    assert as_user(4711, installed) == (
        f"the key file {installed} cannot be read by uid 4711, who runs this: run it as root; "
        f"the service itself must be able to read it, by: chown nobody {installed}."
    )
    assert as_user(NOBODY.pw_uid, mine) == (
        f"the key file {mine} cannot be read by nobody, who runs this: "
        f"run it as the user whose file it is, or: chown nobody '{mine}'."
    )
