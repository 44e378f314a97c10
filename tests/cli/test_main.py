"""The frame of the command line: help, usage errors, and how errors become exit codes and sentences."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
import typer

from tunnel import __version__, cli
from tunnel.errors import KeyFileError, LocalError, NotRunningError, Problem, TableError, ZtunnelError


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunnel.cli", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_and_help() -> None:
    assert run("--version").stdout == f"ztunnel {__version__}\n"
    shown = run("--help")
    assert shown.returncode == 0
    running = ("up", "down", "status", "ls", "reload", "logs", "restart", "wait", "top", "doctor", "tap", "probe")
    for command in (*running, "check", "schema", "render", "bridge-test"):
        assert f" {command} " in shown.stdout
    assert "--timeout" in run("up", "-h").stdout


@pytest.mark.parametrize("arguments", [["nonsense"], ["up", "--nonsense"], ["status", "a", "b"], ["wait"], []])
def test_a_wrong_command_line_is_exit_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_every_module_is_there_and_registers() -> None:
    assert cli.MODULES
    for name in cli.MODULES:
        assert callable(importlib.import_module(name).register)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ZtunnelError("it went wrong."), 1, "ztunnel: it went wrong.\n"),
        (LocalError("in use."), 1, "ztunnel: in use.\n"),
        (KeyFileError("too open."), 2, "ztunnel: too open.\n"),
        (NotRunningError("not here."), 3, "ztunnel: not here.\n"),
        (
            TableError([Problem("a.yaml", 1, 2, "", "b"), Problem("a.yaml", 1, 1, "x", "a")]),
            2,
            "a.yaml:1:1: x: a\na.yaml:1:2: b\n",
        ),
        (ValueError("surprise"), 1, "ztunnel: this is a bug in ztunnel: ValueError: surprise."),
    ],
)
def test_errors_become_exit_codes_and_sentences(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    def build() -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command()(fails)
        return app

    monkeypatch.delenv("ZTUNNEL_DEBUG", raising=False)
    monkeypatch.setattr(cli, "build", build)
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == code
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    monkeypatch.setenv("ZTUNNEL_DEBUG", "1")
    with pytest.raises(SystemExit):
        cli.main([])
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, ValueError)


def test_starting_imports_nothing_heavy() -> None:
    """Completion and `--help` are quick: no 0MQ, no validation library until a command needs it."""
    heavy = "[m for m in ('zmq', 'pydantic', 'supervisor', 'asyncio') if m in sys.modules]"
    script = f"import sys, tunnel.cli; tunnel.cli.build(); print({heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
