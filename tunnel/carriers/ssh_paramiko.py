"""The SSH carrier's own backend: paramiko in this process.

dial: what the device connects to the private socket becomes a channel each; listen: what the sshd takes in becomes a
connection to the private socket each. What blocks (connecting, logging in, opening a channel) is done in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable
from typing import Final

import paramiko

from tunnel.carriers.ipc import open_port
from tunnel.carriers.ssh_base import Counts, SshError, held, split_target
from tunnel.carriers.ssh_hosts import HostKeyError, files_of, fingerprint, host_name, known_keys, verify
from tunnel.carriers.ssh_keys import authenticate, identities, open_agent
from tunnel.carriers.ssh_pipe import Pipe
from tunnel.carriers.ssh_transport import ChannelRefused, Transport
from tunnel.config.plan import CarrierPlan, SshPlan
from tunnel.errors import LocalError
from tunnel.limits import HANDSHAKE_S, SSH_ALIVE_COUNT, SSH_ALIVE_S, SSH_CONNECT_S, SSH_CONNECTIONS

_PROHIBITED: Final = 1
"""SSH_OPEN_ADMINISTRATIVELY_PROHIBITED"""

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # its reasons are told by us
logging.getLogger("paramiko").propagate = False


class ParamikoBackend:
    """Sessions by paramiko, one at a time."""

    def __init__(self, plan: CarrierPlan, ssh: SshPlan, counts: Counts) -> None:
        self._plan = plan
        self._ssh = ssh
        self._target = split_target(ssh.target)
        self._counts = counts
        counts.server = f"{ssh.host}:{ssh.port}"
        self._loop = asyncio.get_running_loop()
        self._port: socket.socket | None = None
        self._session: Transport | None = None
        self._has_session = threading.Condition()
        self._ended = asyncio.Event()
        self._pipes: set[Pipe] = set()
        self._lock = threading.Lock()
        self._closed = False

    # --- the private socket ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._plan.role == "dial":
            try:
                self._port = open_port(str(self._plan.socket), None, None)
            except OSError as error:
                raise LocalError(f"{self._plan.socket} cannot be opened: {error.strerror}.") from None
            self._loop.add_reader(self._port, self._on_device)

    def _on_device(self) -> None:
        assert self._port is not None
        with contextlib.suppress(OSError):
            sock, _ = self._port.accept()
            if self._counts.connections >= SSH_CONNECTIONS:
                self._counts.refuse("too-many", f"{SSH_CONNECTIONS} connections are open: the next one was refused")
                sock.close()
            else:
                _thread(self._serve_device, sock)

    def _serve_device(self, sock: socket.socket) -> None:
        with self._has_session:
            self._has_session.wait_for(lambda: self._session is not None or self._closed, HANDSHAKE_S)
            session = self._session
        if session is None:
            sock.close()
            return
        try:
            channel = session.open_to(self._target)
        except ChannelRefused as refused:
            self._counts.refuse(*_why(refused, self._ssh))
            sock.close()
        except (paramiko.SSHException, OSError, EOFError):  # the session ended; its reason is told by `ended`
            sock.close()
        else:
            self._counts.reason = ""
            self._carry(channel, sock)

    def _serve_sshd(self, channel: paramiko.Channel, origin: str) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if not _allowed(self._plan, origin):
                raise _Refused("address", f"{origin} is not in the link's allow")
            if self._counts.connections >= SSH_CONNECTIONS:
                raise _Refused("too-many", f"{SSH_CONNECTIONS} connections are open: the next one was refused")
            sock.settimeout(HANDSHAKE_S)
            try:
                sock.connect(str(self._plan.socket))
            except OSError as error:
                raise _Refused("device", f"the device does not listen at {self._plan.socket}: {error}") from None
        except _Refused as refused:
            self._counts.refuse(refused.word, str(refused))
            sock.close()
            channel.close()
        else:
            self._counts.reason = ""
            self._carry(channel, sock)

    def _carry(self, channel: paramiko.Channel, sock: socket.socket) -> None:
        with self._lock:
            pipe = Pipe(channel, sock, self._counts, self._forget)
            self._pipes.add(pipe)
            late = self._session is None
        if late:
            pipe.cut()

    def _forget(self, pipe: Pipe) -> None:
        with self._lock:
            self._pipes.discard(pipe)

    # --- the session -------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        self._ended.clear()
        session = await asyncio.to_thread(self._open)
        if self._closed:
            session.close()
            return
        with self._has_session:
            self._session = session
            self._has_session.notify_all()
        if not session.is_active():
            self._ended.set()
        _thread(_ping, session)

    async def ended(self) -> str:
        session = self._session
        assert session is not None
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), SSH_ALIVE_S)
                return _farewell(session, self._counts.server)
            try:
                silent_s = session.silent_s()
            except OSError:
                continue
            if silent_s > SSH_ALIVE_S * SSH_ALIVE_COUNT:
                return f"nothing came from the sshd {self._counts.server} for {silent_s:.0f} s: the connection is dead"

    async def hang_up(self) -> None:
        with self._has_session:
            session, self._session = self._session, None
        with self._lock:
            pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cut()
        if session is not None:
            with contextlib.suppress(OSError):
                session.tcp.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(session.close)

    async def close(self) -> None:
        with self._has_session:
            self._closed = True
            self._has_session.notify_all()
        if self._port is not None:
            self._loop.remove_reader(self._port)
            self._port.close()
            self._plan.socket.unlink(missing_ok=True)

    def _on_end(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._ended.set)

    def _open(self) -> Transport:
        """The whole way to a session that is logged in; blocks. Raises SshError."""
        ssh = self._ssh
        name, files = host_name(ssh.host, ssh.port), files_of(ssh.known_hosts)
        where = self._counts.server
        sock = _connect(ssh, self._plan.source)
        try:
            session = Transport(sock, self._on_end)
            try:
                known = known_keys(files, name)
                _prefer(session, [entry.kind for entry in known if not entry.revoked])
                session.start_client(timeout=SSH_CONNECT_S)
                key = session.get_remote_server_key()
                self._counts.host_key = fingerprint(key.asbytes())
                verify(known, name, files, key.get_name(), key.asbytes())
            except HostKeyError as error:
                raise SshError(str(error)) from None
            except (paramiko.SSHException, OSError, EOFError) as error:
                raise SshError(f"no SSH session with {where}: {_text(error)}") from None
            self._log_in(session)
            if self._plan.role == "listen":
                self._listen(session)
            if self._closed:  # meanwhile, and nobody waits for this thread
                raise SshError("the carrier was closed")
            return session
        except BaseException:
            sock.close()
            raise

    def _log_in(self, session: Transport) -> None:
        ssh, where = self._ssh, self._counts.server
        agent = open_agent(ssh)
        try:
            found = identities(ssh, agent)
            last: Exception | None = None
            for _name, last in authenticate(session, ssh.user, found.keys):
                if last is None:
                    return
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise SshError(
                f"{where} ended the login of {ssh.user}: {session.goodbye or _text(error)}; {found.tried()}"
            ) from None
        finally:
            if agent is not None:
                agent.close()
        more = f"; {_text(last)}" if last is not None and "more is wanted" in str(last) else ""
        raise SshError(f"{where} accepted no key of {ssh.user}{more}; {found.tried()}")

    def _listen(self, session: Transport) -> None:
        try:
            session.forward(self._target, lambda channel, origin: _thread(self._serve_sshd, channel, origin))
        except SshError as error:
            raise SshError(held(self._counts.server, self._ssh.target, str(error))) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise SshError(f"{self._counts.server} ended the session: {_text(error)}") from None


class _Refused(Exception):
    """A connection that came in by the sshd and is not carried."""

    def __init__(self, word: str, sentence: str) -> None:
        super().__init__(sentence)
        self.word = word


def _why(refused: ChannelRefused, ssh: SshPlan) -> tuple[str, str]:
    at = f"{ssh.host}:{ssh.port}"
    if refused.code == _PROHIBITED:
        return (
            "forward",
            f"the sshd {at} does not allow connections to {ssh.target}: see AllowTcpForwarding, permitopen",
        )
    return "target", f"the sshd {at} could not connect to {ssh.target}: {refused or 'no reason given'}"


def _connect(ssh: SshPlan, source: str | None) -> socket.socket:
    where = f"{ssh.host}:{ssh.port}"
    try:
        sock = socket.create_connection((ssh.host, ssh.port), SSH_CONNECT_S, (source, 0) if source else None)
    except socket.gaierror as error:
        raise SshError(f"the name {ssh.host} is not known: {error.strerror}") from None
    except ConnectionRefusedError:
        raise SshError(f"connection refused by {where}: no sshd listens there") from None
    except TimeoutError:
        raise SshError(f"{where} did not answer within {SSH_CONNECT_S:g} s") from None
    except OSError as error:
        raise SshError(f"no way to {where}: {error.strerror or error}") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _prefer(session: Transport, kinds: list[str]) -> None:
    """Ask for the kinds of host key that the files know, so that a sshd with several shows one of them."""
    options = session.get_security_options()
    first = [name for kind in kinds for name in (["rsa-sha2-512", "rsa-sha2-256"] if kind == "ssh-rsa" else [kind])]
    options.key_types = tuple(sorted(options.key_types, key=lambda name: name not in first))


def _allowed(plan: CarrierPlan, origin: str) -> bool:
    """Named networks are enforced on the address that the sshd tells; without any, its own setting is what counts."""
    if plan.allow.anyone or not plan.allow.networks:
        return True
    try:
        address = ipaddress.ip_address(origin)
    except ValueError:
        return False
    return any(address in network for network in plan.allow.networks)


def _farewell(session: Transport, server: str) -> str:
    error = session.get_exception()
    if session.goodbye:
        return f"the sshd {server} ended the session: {session.goodbye}"
    if error is None or isinstance(error, EOFError):
        return f"the sshd {server} hung up"
    return f"the connection to {server} was lost: {_text(error)}"


def _text(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _ping(session: Transport) -> None:
    """Ask for an answer now and then: what comes, or does not, is seen in `silent_s`."""
    pause = threading.Event()
    while session.is_active():
        with contextlib.suppress(paramiko.SSHException, OSError, EOFError):
            session.global_request("keepalive@openssh.com", wait=True)
        pause.wait(SSH_ALIVE_S)


def _thread(run: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=run, args=arguments, name=f"ssh {run.__name__}", daemon=True).start()


def complaint(ssh: SshPlan, source: str | None) -> str | None:
    """What is wrong with the host key that this sshd shows now; None: nothing, or there is no direct way to it."""
    name, files = host_name(ssh.host, ssh.port), files_of(ssh.known_hosts)
    try:
        sock = _connect(ssh, source)
        with contextlib.closing(Transport(sock, lambda: None)) as session:
            known = known_keys(files, name)
            _prefer(session, [entry.kind for entry in known])
            session.start_client(timeout=SSH_CONNECT_S)
            key = session.get_remote_server_key()
            verify(known, name, files, key.get_name(), key.asbytes())
    except HostKeyError as error:
        return str(error)
    except (SshError, paramiko.SSHException, OSError, EOFError):
        pass
    return None
