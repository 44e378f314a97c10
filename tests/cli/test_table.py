"""check, schema and render as a person meets them: in a process of their own, by what they print and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.tables import BASE, with_keys, write
from tests.config.wrong_tables import WRONG
from tunnel.config import load_table, plan_for


def ztunnel(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ZTUNNEL_")}
    return subprocess.run(
        [sys.executable, "-m", "tunnel.cli", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(root), "ZTUNNEL_RUNTIME_DIR": "/run/zt-test", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_check_says_a_sentence_a_route_and_needs_no_secret_key(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    done = ztunnel(tmp_path, "check", "dmz.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "orders: REQ applications at dmz → REP applications at plant, "
        "confirmed, block, at most 5s old, dialled by plant",
        "ticks: PUB applications at plant → SUB applications at dmz, confirmed, drop-oldest, dialled by plant",
        "dmz.yaml is right.",
    ]


def test_check_tells_every_problem_and_ends_with_2(tmp_path: Path) -> None:
    wrong = next(wrong for wrong in WRONG if wrong.name == "many problems at once")
    write(tmp_path, wrong.text)
    done = ztunnel(tmp_path, "check", "dmz.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    places = [line.removeprefix("ztunnel: ").split(": ")[0] for line in done.stderr.splitlines()]
    assert places == [f"dmz.yaml:{line}:{column}" for line, column, _ in wrong.expected]


def test_check_as_json(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    found = json.loads(ztunnel(tmp_path, "check", "dmz.yaml", "--json").stdout)
    assert (found["table"], found["sides"], found["problems"], found["checked_as"]) == ("dmz", ["dmz", "plant"], [], [])
    write(tmp_path, BASE.replace("5s", "5"))
    done = ztunnel(tmp_path, "check", "dmz.yaml", "--json")
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert {key: problem[key] for key in ("file", "line", "column", "path")} == {
        "file": "dmz.yaml",
        "line": 21,
        "column": 14,
        "path": "routes.orders.max_age",
    }


def test_check_plans_the_side_whose_key_is_here(tmp_path: Path) -> None:
    path = with_keys(tmp_path)
    assert ztunnel(tmp_path, "check", "dmz.yaml").stdout.endswith(
        "checked as dmz and plant, whose secret key is here.\n"
    )
    path.write_text(
        path.read_text().replace("to: dmz bind tcp://127.0.0.1:5556", "to: {side: dmz, bind: ipc://a, group: nix}")
    )
    done = ztunnel(tmp_path, "check", "dmz.yaml")
    assert done.returncode == 2
    assert "routes.ticks.to.group: this box has no group 'nix'." in done.stderr
    assert ztunnel(tmp_path, "check", "dmz.yaml", "--as", "plant").returncode == 0


def test_check_warns_of_a_key_that_is_not_fit_and_refuses_it_with_as(tmp_path: Path) -> None:
    with_keys(tmp_path)
    (tmp_path / "keys/dmz.key_secret").chmod(0o644)
    done = ztunnel(tmp_path, "check", "dmz.yaml")
    assert done.returncode == 0
    assert "not checked as dmz: the secret key" in done.stderr
    assert "chmod 600" in done.stderr
    done = ztunnel(tmp_path, "check", "dmz.yaml", "--as", "dmz")
    assert done.returncode == 2
    assert "run: chmod 600" in done.stderr


def test_check_prints_warnings_apart(tmp_path: Path) -> None:
    write(tmp_path, BASE.replace("dial: plant tcp://127.0.0.1:9440", "dial: plant tcp://127.0.0.1:9441"))
    done = ztunnel(tmp_path, "check", "dmz.yaml")
    assert done.returncode == 0
    assert (
        done.stderr == "warning: dmz.yaml:12:11: links[0].dial: plant dials port 9441, but dmz listens at port 9440.\n"
    )


def test_check_ports(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    lines = ztunnel(tmp_path, "check", "dmz.yaml", "--ports").stdout.splitlines()
    assert lines[0].split() == ["SIDE", "ADDRESS", "FOR", "LET", "IN", "PROVEN", "BY"]
    assert lines[1].split() == [
        "dmz",
        "listens",
        "tcp://127.0.0.1:9440",
        "link",
        "with",
        "plant",
        "this",
        "box",
        "CURVE",
        "key",
        "of",
        "plant",
    ]
    assert len(lines) == 7
    found = json.loads(ztunnel(tmp_path, "check", "dmz.yaml", "--ports", "--json").stdout)
    assert [opening["address"] for opening in found["opens"]] == [
        f"tcp://127.0.0.1:{port}" for port in (9440, 5555, 5556)
    ]
    assert [call["to"] for call in found["calls"]] == [f"tcp://127.0.0.1:{port}" for port in (9440, 6555, 6556)]


def test_the_table_left_out_is_the_one_in_this_folder(tmp_path: Path) -> None:
    assert ztunnel(tmp_path, "check").returncode == 2
    write(tmp_path, BASE, "ztunnel.yaml")
    assert ztunnel(tmp_path, "check").returncode == 0


@pytest.mark.parametrize(
    "arguments", [("check", "none.yaml"), ("check", "."), ("check", "a b"), ("render", "none.yaml", "--as", "x")]
)
def test_what_is_no_table_is_told_without_a_traceback(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = ztunnel(tmp_path, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_schema(tmp_path: Path) -> None:
    done = ztunnel(tmp_path, "schema")
    assert done.returncode == 0
    assert json.loads(done.stdout)["title"] == "ztunnel route table"


def test_render(tmp_path: Path) -> None:
    path = with_keys(tmp_path)
    done = ztunnel(tmp_path, "render", "dmz.yaml", "--as", "dmz")
    assert done.returncode == 0
    assert "6555" not in done.stdout
    rendered = load_table(write(tmp_path, done.stdout, "rendered.yaml"))
    assert plan_for(rendered, "dmz").routes == plan_for(load_table(path), "dmz").routes


@pytest.mark.parametrize(
    ("arguments", "words"), [((), "Say --as dmz or plant."), (("--as", "dmx"), "Did you mean 'dmz'?")]
)
def test_render_for_no_side(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    write(tmp_path, BASE)
    done = ztunnel(tmp_path, "render", "dmz.yaml", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
