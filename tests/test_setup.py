"""scripts/setup, scripts/test and .ci/run, run as they are in small checkouts of their own.

Nothing is installed here: the virtual environment's python is a spy that writes down what it is asked and answers as
told, so these tests need no network.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

SPY = """#!/bin/bash
case "$*" in
    "-m pip install"*)
        echo "$*" >>{folder}/asked
        [ ! -e {folder}/no-network ] || {{ echo "no route to host"; exit 1; }} ;;
    "setup.py build_ext"*)
        echo "$*" >>{folder}/asked
        [ -e {folder}/no-compiler ] || touch "tunnel/pump/_pump{suffix}" ;;
    "-m venv"*) echo "$*" >>{folder}/asked; mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
    *ensurepip*) [ ! -e {folder}/no-venv ] ;;
    *Python.h*) [ ! -e {folder}/no-headers ] ;;
    *sys.version_info*) [ ! -e {folder}/too-old ] ;;
    *os.path.realpath*) echo /usr/bin/python3.11 ;;
    "-c import pip") true ;;
    *) exec {python} "$@" ;;
esac
"""


class Checkout:
    """A small checkout with the real scripts and a python that only pretends to install and compile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = folder / "tree"
        self.path = folder / "bin"
        (self.tree / "tunnel" / "pump").mkdir(parents=True)
        (self.tree / "tunnel" / "pump" / "_pump.pyx").write_text("# pump\n")
        (self.tree / "setup.py").write_text("")
        (self.tree / "pyproject.toml").write_text('[build-system]\nrequires = ["setuptools>=1", "Cython"]\n')
        shutil.copytree(ROOT / "scripts", self.tree / "scripts")
        self.path.mkdir()
        spy = SPY.format(folder=folder, python=sys.executable, suffix=SUFFIX)
        self.program("python3", spy)
        for name in (
            "bash",
            "sh",
            "env",
            "dirname",
            "cat",
            "sha256sum",
            "cut",
            "cp",
            "mkdir",
            "touch",
            "rm",
            "flock",
            "true",
        ):
            (self.path / name).symlink_to(shutil.which(name) or name)
        self.program("gcc", "#!/bin/sh\n")
        self.program("id", "#!/bin/sh\necho 0\n")

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def is_so(self, condition: str, yes: bool = True) -> None:
        """One of the spy's conditions: no-network, no-compiler, no-venv, no-headers, too-old."""
        if yes:
            (self.folder / condition).touch()
        else:
            (self.folder / condition).unlink()

    def setup(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path), "PYTHON": "python3", "HOME": str(self.folder)}
        command = [str(self.path / "bash"), "scripts/setup"]
        return subprocess.run(command, cwd=self.tree, env=environment, capture_output=True, text=True, timeout=60)

    def asked(self) -> list[str]:
        """What python was asked to install, compile or make since the last call."""
        notes = self.folder / "asked"
        lines = notes.read_text().splitlines() if notes.exists() else []
        notes.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_first_setup_installs_everything_and_the_second_nothing(checkout: Checkout) -> None:
    first = checkout.setup()
    assert first.returncode == 0, first.stderr
    venv, tools, package, pump = checkout.asked()
    assert venv.startswith("-m venv")
    assert tools.endswith("setuptools>=1 Cython")
    assert package.endswith("--no-build-isolation --editable .[dev]")
    assert pump.startswith("setup.py build_ext --inplace")

    second = checkout.setup()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert checkout.asked() == []


def test_a_changed_pump_is_compiled_again_without_the_network(checkout: Checkout) -> None:
    checkout.setup()
    checkout.asked()
    checkout.is_so("no-network")
    (checkout.tree / "tunnel" / "pump" / "_pump.pyx").write_text("# another pump\n")
    assert checkout.setup().returncode == 0
    assert [line.split()[0] for line in checkout.asked()] == ["setup.py"]


def test_an_included_part_of_the_pump_counts_too(checkout: Checkout) -> None:
    (checkout.tree / "tunnel" / "pump" / "part.pxi").write_text("# part\n")
    checkout.setup()
    checkout.asked()
    (checkout.tree / "tunnel" / "pump" / "part.pxi").write_text("# another part\n")
    checkout.setup()
    assert [line.split()[0] for line in checkout.asked()] == ["setup.py"]


def test_changed_requirements_are_installed_again(checkout: Checkout) -> None:
    checkout.setup()
    checkout.asked()
    with (checkout.tree / "pyproject.toml").open("a") as file:
        file.write("# and another library\n")
    checkout.setup()
    assert sum(line.startswith("-m pip install") for line in checkout.asked()) == 2


def test_a_pump_that_was_removed_comes_back(checkout: Checkout) -> None:
    checkout.setup()
    checkout.asked()
    (checkout.tree / "tunnel" / "pump" / f"_pump{SUFFIX}").unlink()
    checkout.setup()
    assert [line.split()[0] for line in checkout.asked()] == ["setup.py"]


def test_without_a_network_it_says_so_and_tries_again_next_time(checkout: Checkout) -> None:
    checkout.is_so("no-network")
    result = checkout.setup()
    assert result.returncode == 1
    assert "no route to host" in result.stderr
    assert "pip could not install" in result.stderr
    checkout.is_so("no-network", False)
    assert checkout.setup().returncode == 0


def test_a_pump_that_does_not_compile_is_no_failure_and_is_told_once(checkout: Checkout) -> None:
    checkout.is_so("no-compiler")
    first = checkout.setup()
    assert first.returncode == 0
    assert "uses the pure Python one" in first.stdout
    assert "apt-get install gcc libc6-dev python3-dev" in first.stdout
    checkout.asked()
    second = checkout.setup()
    assert (second.returncode, second.stdout) == (0, "")
    assert checkout.asked() == []


def test_an_old_python_is_refused(checkout: Checkout) -> None:
    checkout.is_so("too-old")
    result = checkout.setup()
    assert result.returncode == 1
    assert "Python 3.11 or newer is needed" in result.stderr


def test_debians_missing_parts_are_installed_as_root(checkout: Checkout) -> None:
    checkout.is_so("no-venv")
    checkout.is_so("no-headers")
    mend = f'rm -f {checkout.folder}/no-venv {checkout.folder}/no-headers; echo "$@" >{checkout.folder}/apt'
    checkout.program("apt-get", f"#!/bin/bash\n{mend}\n")
    result = checkout.setup()
    assert result.returncode == 0, result.stderr
    assert "installing python3-venv python3-dev with apt-get" in result.stdout
    assert (checkout.folder / "apt").read_text().split()[-2:] == ["python3-venv", "python3-dev"]


def test_without_root_it_says_what_to_install(checkout: Checkout) -> None:
    checkout.is_so("no-venv")
    checkout.program("apt-get", "#!/bin/sh\nexit 1\n")
    checkout.program("id", "#!/bin/sh\necho 1000\n")
    result = checkout.setup()
    assert result.returncode == 1
    assert "as root: apt-get install python3-venv" in result.stderr


def test_missing_headers_alone_cost_only_the_compiled_pump(checkout: Checkout) -> None:
    checkout.is_so("no-headers")
    checkout.is_so("no-compiler")
    result = checkout.setup()
    assert result.returncode == 0
    assert "came without its headers" in result.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_target_of_the_makefile_is_explained() -> None:
    said = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [word for word in ("make demo", "make test", "make bench", "make lint") if word not in said] == []


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/test", ".ci/run"])
def test_the_scripts_are_executable(script: str) -> None:
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR


class Suite:
    """A checkout with a suite of its own, to see what scripts/test makes of its outcome."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tests").mkdir(parents=True)
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        (folder / "pyproject.toml").write_text(
            '[tool.pytest.ini_options]\nmarkers = ["serial: alone"]\naddopts = "-q"\n'
        )

    def run(self, parallel: str, serial: str | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
        text = f"import pytest\n\ndef test_parallel():\n    {parallel}\n"
        if serial:
            text += f"\n@pytest.mark.serial\ndef test_serial():\n    {serial}\n"
        (self.folder / "tests" / "test_it.py").write_text(text)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"ZTUNNEL_VENV": sys.prefix}
        command = ["scripts/test", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=100)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path / "suite")


def test_a_good_suite_ends_with_the_closing_line_of_pytest(suite: Suite) -> None:
    result = suite.run("pass", "import os; assert 'PYTEST_XDIST_WORKER' not in os.environ")
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout.splitlines()[-1]


def test_a_suite_without_timing_sensitive_tests_is_fine(suite: Suite) -> None:
    assert suite.run("pass").returncode == 0


@pytest.mark.parametrize(
    ("parallel", "serial", "which"),
    [("assert False", "pass", "parallel"), ("pass", "assert False", "serial")],
    ids=["in parallel", "timing-sensitive"],
)
def test_what_fails_twice_is_a_failure(suite: Suite, parallel: str, serial: str, which: str) -> None:
    result = suite.run(parallel, serial, "-n0")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-2:] == [
        f"failed twice: tests/test_it.py::test_{which}",
        "1 passed, 1 failed, 0 skipped",
    ]


def test_what_passes_alone_is_named_and_no_failure(suite: Suite) -> None:
    flaky = "from pathlib import Path; first = not Path('seen').exists(); Path('seen').touch(); assert not first"
    result = suite.run(flaky, "pytest.skip()", "-n1")
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-2:] == [
        "failed once under load, passed alone: tests/test_it.py::test_parallel",
        "1 passed, 0 failed, 1 skipped",
    ]


@pytest.mark.parametrize(
    ("parallel", "workers"),
    [
        ("pass\n\n@pytest.mark.parametrize('n', range(6))\ndef test_six(n):\n    assert False", 0),
        ("import os; os._exit(1)", 1),
        ("pass\n\nimport missing", 0),
    ],
    ids=["six failed", "a process died", "a module cannot be imported"],
)
def test_no_second_chance(suite: Suite, parallel: str, workers: int) -> None:
    result = suite.run(parallel, None, f"-n{workers}")
    assert result.returncode != 0
    assert "second chance, alone" not in result.stdout
    assert "there were failures" in result.stderr
