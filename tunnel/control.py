"""Every process's control socket: a unix socket (0600) with one JSON object a line each way.

    → {"do": "status"}
    ← {"ok": true, "side": "plant", ...}   or   {"ok": false, "error": "a sentence", "exit_code": 2}

`ControlServer` is the asyncio side (inside a process), `ask` the blocking client (the command line, tests). Requests,
replies, clients and waiting are all bounded; a client that does not read holds up nobody but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import json
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunnel.errors import LocalError, NotRunningError, Problem, TableError, UsageError, ZtunnelError
from tunnel.limits import (
    CONTROL_CLIENTS,
    CONTROL_IDLE_S,
    CONTROL_REPLY_BYTES,
    CONTROL_REQUEST_BYTES,
    CONTROL_TIMEOUT_S,
    IPC_PATH_BYTES,
)

Reply = dict[str, Any]
Command = Callable[[dict[str, Any]], Awaitable[Reply] | Reply]


class ControlServer:
    """Answers `commands` (name → function of the whole request) on the unix socket `path`.

    A command returns the reply without `ok`; a ZtunnelError that it raises becomes `{"ok": false, "error": ...}`.
    """

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self.path = path
        self._commands = dict(commands)
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the socket. LocalError: the path is too long, in use, or cannot be made."""
        listener = _listen(self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=CONTROL_REQUEST_BYTES)

    async def close(self) -> None:
        """Stop answering and remove the socket's file. Safe to call twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:  # not the socket of a successor
                self.path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= CONTROL_CLIENTS:
            writer.write(_line(_failure(f"more than {CONTROL_CLIENTS} control connections are open: try again.")))
            writer.close()
            return
        self._clients.add(task)
        try:
            while line := await asyncio.wait_for(reader.readline(), CONTROL_IDLE_S):
                writer.write(_line(await self._answer(line)))
                await asyncio.wait_for(writer.drain(), CONTROL_IDLE_S)
        except ValueError:  # asyncio's word for a line above the limit
            writer.write(_line(_failure(f"a request is at most {CONTROL_REQUEST_BYTES} bytes.")))
        except (TimeoutError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _answer(self, line: bytes) -> Reply:
        try:
            request = json.loads(line)
            command = self._commands[request["do"]]
        except (ValueError, TypeError):
            return _failure('a request is one JSON object a line, such as {"do": "status"}.')
        except KeyError:
            return _failure(f"there is no such command here; there are {', '.join(sorted(self._commands))}.")
        try:
            reply = command(request)
            if inspect.isawaitable(reply):
                reply = await reply
        except ZtunnelError as error:
            problems = [asdict(problem) for problem in error.problems] if isinstance(error, TableError) else []
            return _failure(str(error), error.exit_code) | ({"problems": problems} if problems else {})
        except Exception as error:  # the process goes on; the one who asked is told
            return _failure(f"this is a bug in ztunnel: {type(error).__name__}: {error}")
        return {"ok": True, **reply}


def ask(path: Path, do: str, timeout_s: float = CONTROL_TIMEOUT_S, **arguments: Any) -> Reply:
    """Ask the process behind `path` and wait for its reply, `timeout_s` in all.

    NotRunningError: nobody listens there, or no answer in time. A refusal (`ok` false) is raised as ZtunnelError, or
    UsageError where the process says that the request is wrong, TableError with every problem of a table.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            client.connect(os.fspath(path))
            client.sendall(_line({"do": do, **arguments}))
            reply = json.loads(_read_line(client, deadline))
    except TimeoutError as error:
        raise NotRunningError(f"the process behind {path} did not answer within {timeout_s:g} s.") from error
    except (FileNotFoundError, ConnectionError) as error:
        raise NotRunningError(f"nothing answers at {path}: the process is not running.") from error
    except PermissionError as error:
        raise NotRunningError(f"{path} may not be opened by this user: run it as the one who started it.") from error
    except (OSError, ValueError) as error:
        raise NotRunningError(f"the process behind {path} gave no usable answer: {error}.") from error
    if not isinstance(reply, dict):
        raise NotRunningError(f"the process behind {path} gave no usable answer.")
    if not reply.get("ok"):
        if reply.get("problems"):
            raise TableError([Problem(**problem) for problem in reply["problems"]])
        kind = {2: UsageError, 3: NotRunningError}.get(reply.get("exit_code", 1), ZtunnelError)
        raise kind(str(reply.get("error", "the process refused without a reason.")))
    return reply


def number_in(request: dict[str, Any], key: str, default: int) -> int:
    """A number of a request, which is none below 0; anything else counts as not said."""
    value = request.get(key, default)
    return value if type(value) is int and value >= 0 else default


def _listen(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > IPC_PATH_BYTES:
        raise LocalError(
            f"{path}: longer than the {IPC_PATH_BYTES} bytes a unix socket may have; set a shorter runtime folder."
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        before = os.umask(0o177)  # so that it is 0600 from its first moment
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        listener.listen(CONTROL_CLIENTS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = "another process answers there already" if error.errno == errno.EADDRINUSE else error.strerror
        raise LocalError(f"the control socket {path} could not be opened: {reason}.") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on any more; leave everything else alone."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONTROL_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            pass


def _read_line(client: socket.socket, deadline: float) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        client.settimeout(left)
        got = client.recv(64 * 1024)
        if not got:
            raise ConnectionResetError
        line += got
        if len(line) > CONTROL_REPLY_BYTES:
            raise ValueError(f"its reply is longer than {CONTROL_REPLY_BYTES} bytes")
    return bytes(line)


def _failure(sentence: str, exit_code: int = 1) -> Reply:
    return {"ok": False, "error": sentence, "exit_code": exit_code}


def _line(message: Reply) -> bytes:
    return json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"
