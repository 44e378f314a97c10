"""The C programs under native/: compiled with gcc when they changed, run on the very libzmq that pyzmq has loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import zmq

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "native"
BUILD = HERE / "build"
PROGRAMS = ("sender", "receiver", "requester", "replier", "half", "source", "sink", "bytes")


class BuildError(RuntimeError):
    """The benchmark programs cannot be built; the message says what to install."""


@cache
def libzmq() -> Path:
    """The file of the libzmq that this process runs on."""
    zmq.Context.instance()
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and Path(path[0]).name.startswith("libzmq"):
            return Path(path[0])
    raise BuildError("pyzmq runs on a libzmq that is no file of its own; install pyzmq's wheel or Debian's python3-zmq")


@cache
def program(name: str) -> Path:
    """The compiled program, built when a source is newer."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise BuildError("the benchmarks need a C compiler (on Debian: apt-get install gcc libc6-dev)")
    BUILD.mkdir(exist_ok=True)
    target = BUILD / name
    sources = [SOURCES / f"{name}.c", SOURCES / "bench.c"]
    newest = max(path.stat().st_mtime for path in [*sources, SOURCES / "bench.h"])
    if not target.exists() or target.stat().st_mtime < newest:
        fresh = target.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(fresh), *map(str, sources), "-ldl"]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise BuildError(f"{compiler} could not build {name}:\n{built.stderr}")
        fresh.replace(target)
    return target


def command(name: str, *arguments: str) -> list[str]:
    """The command line of one native program."""
    return [str(program(name)), f"lib={libzmq()}", *arguments]
