"""keygen and init as a person meets them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.cli.test_table import ztunnel
from tunnel.config import load_table, read_plan


def test_keygen(tmp_path: Path) -> None:
    done = ztunnel(tmp_path, "keygen", "dmz")
    assert done.returncode == 0
    assert "keys/dmz.key: the public key of dmz; copy it" in done.stdout
    assert stat.S_IMODE((tmp_path / "keys/dmz.key_secret").stat().st_mode) == 0o600
    assert ztunnel(tmp_path, "keygen", "plant", "-o", "elsewhere").returncode == 0
    assert (tmp_path / "elsewhere/plant.key").exists()


def test_keygen_does_not_overwrite(tmp_path: Path) -> None:
    ztunnel(tmp_path, "keygen", "dmz")
    before = (tmp_path / "keys/dmz.key_secret").read_bytes()
    done = ztunnel(tmp_path, "keygen", "dmz")
    assert done.returncode == 2
    assert "exists already and is not overwritten" in done.stderr
    assert (tmp_path / "keys/dmz.key_secret").read_bytes() == before


@pytest.mark.parametrize("side", ["DMZ", "../dmz", "", "a b", "-x"])
def test_keygen_of_no_name(tmp_path: Path, side: str) -> None:
    done = ztunnel(tmp_path, "keygen", "--", side)
    assert done.returncode == 2
    assert "is no name" in done.stderr
    assert not (tmp_path / "keys").exists()


def test_init_for_both_sides_can_be_checked_and_run_at_once(tmp_path: Path) -> None:
    done = ztunnel(tmp_path, "init", "t")
    assert done.returncode == 0
    checked = ztunnel(tmp_path, "check", "t/ztunnel.yaml")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert ztunnel(tmp_path / "t", "check").returncode == 0
    assert "--as dmz" in done.stdout


def test_init_on_two_boxes(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    done = ztunnel(tmp_path, "init", "near", "--side", "dmz")
    assert done.returncode == 0
    assert "copy near/keys/dmz.key to keys/ on the box of plant" in done.stdout
    assert "near/keys/dmz.key_secret stays here" in done.stdout
    assert sorted(path.name for path in (near / "keys").iterdir()) == ["dmz.key", "dmz.key_secret"]
    assert ztunnel(tmp_path, "init", "far", "--side", "plant").returncode == 0
    told = ztunnel(tmp_path, "check", "near/ztunnel.yaml")
    assert told.returncode == 2
    assert "keys/plant.key is not there" in told.stderr
    (near / "keys/plant.key").write_bytes((far / "keys/plant.key").read_bytes())
    (far / "keys/dmz.key").write_bytes((near / "keys/dmz.key").read_bytes())
    assert read_plan(near / "ztunnel.yaml").side == "dmz"
    assert read_plan(far / "ztunnel.yaml").side == "plant"
    assert (near / "ztunnel.yaml").read_text() == (far / "ztunnel.yaml").read_text()


def test_init_for_a_side_of_another_name(tmp_path: Path) -> None:
    assert ztunnel(tmp_path, "init", "t", "--side", "hall-7").returncode == 0
    ztunnel(tmp_path, "keygen", "dmz", "-o", "other")
    (tmp_path / "t/keys/dmz.key").write_bytes((tmp_path / "other/dmz.key").read_bytes())
    assert load_table(tmp_path / "t/ztunnel.yaml").sides == ("dmz", "hall-7")


def test_init_leaves_a_table_alone(tmp_path: Path) -> None:
    (tmp_path / "ztunnel.yaml").write_text("# mine\n")
    done = ztunnel(tmp_path, "init", ".")
    assert done.returncode == 2
    assert "exists already and is not overwritten" in done.stderr
    done = ztunnel(tmp_path, "init", ".", "--side", "dmz")
    assert done.returncode == 0
    assert "left as it is" in done.stdout
    assert (tmp_path / "ztunnel.yaml").read_text() == "# mine\n"
    assert (tmp_path / "keys/dmz.key_secret").exists()


def test_init_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a file")
    done = ztunnel(tmp_path, "init", "t", "--side", "dmz")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
