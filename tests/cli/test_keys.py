"""keygen and init as a person meets them."""

from __future__ import annotations

import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_table import ztunnel
from tunnel.config import load_table, read_plan
from tunnel.keys import read_public


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


def told_to_run(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The arguments of the one line that is for the other box."""
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("    ztunnel init "))
    return shlex.split(line)[1:]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("first", "second", "sides"),
    [
        ("dmz", "plant", ("dmz", "plant")),
        ("plant", "dmz", ("dmz", "plant")),
        ("hall-7", "dmz", ("dmz", "hall-7")),
        ("dmz", "hall-7", ("dmz", "hall-7")),
        ("east", "west", ("east", "west")),
    ],
)
def test_init_on_two_boxes(tmp_path: Path, first: str, second: str, sides: tuple[str, str]) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    line = told_to_run(ztunnel(near, "init", "t", "--name", "tie", "--side", first))
    guessed = second in line
    if not guessed:  # the first box could not know what the other is called
        (near / "t/tie.yaml").unlink()
        line[line.index("--side") + 1] = second
    assert line[:6] == ["init", "t", "--name", "tie", "--side", second]
    assert sorted(contents(near / "t/keys")) == [f"{first}.key", f"{first}.key_secret"]
    line = told_to_run(ztunnel(far, *line))
    assert line[:6] == ["init", "t", "--name", "tie", "--side", first]
    done = ztunnel(near, *line)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        "The keys are complete here. Next: write your addresses into t/tie.yaml, the same on both boxes, and then\n"
        "    ztunnel check t/tie.yaml\n"
        "    ztunnel up t/tie.yaml\n"
    )
    assert ("ztunnel init" in done.stdout) is not guessed, "the other box has done its part"
    assert (near / "t/tie.yaml").read_bytes() == (far / "t/tie.yaml").read_bytes()
    plans = [read_plan(box / "t/tie.yaml") for box in (near, far)]
    assert [plan.side for plan in plans] == [first, second]
    assert plans[0].peer_keys[second] == (plans[1].own.public,)
    assert plans[1].peer_keys[first] == (plans[0].own.public,)
    assert load_table(near / "t/tie.yaml").sides == sides


def test_said_again_init_changes_nothing_and_tells_the_line_again(tmp_path: Path) -> None:
    first = ("init", "t", "--side", "dmz")
    line = told_to_run(ztunnel(tmp_path, *first))
    before = contents(tmp_path)
    assert told_to_run(ztunnel(tmp_path, *first)) == line
    assert contents(tmp_path) == before
    far = tmp_path / "far"
    far.mkdir()
    back = told_to_run(ztunnel(far, *line))
    before = contents(far)
    assert told_to_run(ztunnel(far, *line)) == back
    assert contents(far) == before
    ztunnel(tmp_path, *back)
    before = contents(tmp_path)
    again = ztunnel(tmp_path, *back)
    assert "if it has not been done yet" in again.stdout
    assert told_to_run(again) == line
    assert contents(tmp_path) == before


def test_init_that_was_cut_short_is_completed(tmp_path: Path) -> None:
    ztunnel(tmp_path, "init", "t", "--side", "dmz")
    before = contents(tmp_path)
    (tmp_path / "t/keys/dmz.key").unlink()
    assert ztunnel(tmp_path, "init", "t", "--side", "dmz").returncode == 0
    assert contents(tmp_path) == before


PUBLIC, OTHER = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trust", f"plant={PUBLIC}"], "--trust needs --side: which side is this box?"),
        (["--side", "dmz", "--trust", "plant"], "--trust is SIDE=KEY"),
        (["--side", "dmz", "--trust", PUBLIC.replace("=", "-")], "--trust is SIDE=KEY"),
        (["--side", "dmz", "--trust", f"Plant={PUBLIC}"], "--trust: 'Plant' is no name"),
        (["--side", "dmz", "--trust", f"={PUBLIC}"], "--trust: '' is no name"),
        (["--side", "dmz", "--trust", f"plant={PUBLIC[:-1]}"], "copy the line from the other box again"),
        (["--side", "dmz", "--trust", "plant=" + "#" * 40], "what follows is no public key"),
        (["--side", "dmz", "--trust", "plant="], "what follows is no public key"),
        (["--side", "dmz", "--trust", f"dmz={PUBLIC}"], "--trust dmz: that is this box's own side"),
        (["--side", "dmz", "--trust", f"a={PUBLIC}", "--trust", f"a={OTHER}"], "two different keys of a"),
        (
            ["--side", "dmz", "--trust", f"a={PUBLIC}", "--trust", f"b={OTHER}"],
            "these are dmz, a and b: say one --trust",
        ),
        (["--side", "dmz", "--name", "No"], "'No' is no name"),
        (["--side", "dmz", "--name", "../x"], "'../x' is no name"),
        (["--name", ""], "'' is no name"),
        (["--side", "dmz", "--name", "x" * 65], "at most 64 characters"),
    ],
)
def test_a_wrong_init_writes_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = ztunnel(tmp_path, "init", "t", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert PUBLIC[:-1] not in done.stderr
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--side", "dmz", "--trust", f"plant={OTHER}"], "plant.key holds another key of plant than --trust says"),
        (["--side", "dmz", "--trust", f"hall={OTHER}"], "has no side hall; its sides are dmz and plant"),
        (["--side", "hall"], "has no side hall; its sides are dmz and plant"),
        (["--side", "plant"], "plant.key is here without its secret half, so this is not the box of plant"),
        (["--side", "dmz", "--name", "second"], "exists already and is not overwritten; for a new table with these"),
        ([], "exists already and is not overwritten"),
        (["--name", "second"], "exists already and is not overwritten"),
    ],
)
def test_what_is_there_is_never_overwritten(tmp_path: Path, arguments: list[str], words: str) -> None:
    for _ in range(2):  # the second time the key is there, and is the same
        assert ztunnel(tmp_path, "init", "t", "--side", "dmz", "--trust", f"plant={PUBLIC}").returncode == 0
    before = contents(tmp_path)
    done = ztunnel(tmp_path, "init", "t", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert contents(tmp_path) == before


def test_ones_own_key_under_the_name_of_the_other_side_is_refused(tmp_path: Path) -> None:
    ztunnel(tmp_path, "init", "t", "--side", "dmz")
    own = read_public(tmp_path / "t/keys/dmz.key")
    done = ztunnel(tmp_path, "init", "t", "--side", "dmz", "--trust", f"plant={own}")
    assert done.returncode == 2
    assert "--trust plant: that is the key of dmz, this box's own" in done.stderr


def test_more_sides_of_a_table_that_has_them(tmp_path: Path) -> None:
    ztunnel(tmp_path, "init", "t", "--side", "dmz", "--trust", f"plant={PUBLIC}")
    table = tmp_path / "t/ztunnel.yaml"
    table.write_text(table.read_text().replace("  plant:\n", "  hall:\n    key: keys/hall.key\n  plant:\n"))
    assert told_to_run(ztunnel(tmp_path, "init", "t", "--side", "dmz"))[3] == "hall"
    trust = ["--trust", f"plant={PUBLIC}", "--trust", f"hall={OTHER}", "--trust", f"hall={OTHER}"]
    done = ztunnel(tmp_path, "init", "t", "--side", "dmz", *trust)
    assert "t/keys/hall.key: the public key of hall." in done.stdout
    assert read_public(tmp_path / "t/keys/hall.key") == OTHER


@pytest.mark.parametrize("name", ["12", "true", "null", "1e5", "7.", "no", "a.b-c_d", "0x1f"])
def test_any_name_can_be_the_tables(tmp_path: Path, name: str) -> None:
    assert ztunnel(tmp_path, "init", ".", "--name", name).returncode == 0
    assert load_table(tmp_path / f"{name}.yaml").name == name


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
    assert "complete" not in done.stdout, "nobody knows what that table needs"
    assert (tmp_path / "ztunnel.yaml").read_text() == "# mine\n"
    assert (tmp_path / "keys/dmz.key_secret").exists()


def test_init_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a file")
    done = ztunnel(tmp_path, "init", "t", "--side", "dmz")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
