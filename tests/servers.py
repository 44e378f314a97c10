"""Real servers for tests: each a process of its own on a free port, with its own files, ended with the test.

    with Sshd(folder) as sshd:      # folder: tmp_path, or any other that is the test's own
        sshd.port, sshd.known_hosts, sshd.identity ...

A test that needs a server whose program is missing is skipped, and says so (`scripts/servers` installs them).
"""

from __future__ import annotations

import contextlib
import getpass
import grp
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from imapclient import IMAPClient

from tests.waiting import free_port, until
from tunnel.supervise.child import die_with_parent

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def program(name: str) -> str:
    """Where a server's program is; skips the test where it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed: scripts/servers installs it")
    return found


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


class Server:
    """A server's process: started, killed, started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = folder / f"{type(self).__name__.lower()}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What is run, in the foreground."""
        raise NotImplementedError

    def start(self) -> None:
        """Returns when it answers on its port."""
        parent = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),  # an interrupted test run leaves nothing behind
            )
        until(lambda: self.alive() and answers(self.port), 10, lambda: f"{self.command()[0]}: {self.tail()}")

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Ends it and everything that it started, at once."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else "no log"

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sshd(Server):
    """An OpenSSH server with a host key of its own; lets in the user who runs the tests, with `identity`.

    `options`: lines of its configuration, before ours (the first one said is the one that counts).
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.program = program("sshd")
        self.user = getpass.getuser()
        self.options = dict(options or {})
        self.host_key = folder / "host_key"
        self.identity = folder / "id_ed25519"
        self.known_hosts = folder / "known_hosts"
        self.authorized_keys = folder / "authorized_keys"
        if not self.host_key.exists():
            new_key(self.host_key)
            new_key(self.identity)
        self.authorized_keys.write_text(public(self.identity) + "\n")
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public(self.host_key)}\n")

    def command(self) -> list[str]:
        config = self.folder / "sshd_config"
        lines = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(self.authorized_keys),
            "PidFile": "none",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "MaxStartups": "200",
            "LogLevel": "VERBOSE",
        }
        config.write_text("".join(f"{key} {value}\n" for key, value in [*self.options.items(), *lines.items()]))
        if os.geteuid() == 0:  # where sshd drops its privileges to; Debian's own service makes it
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        return [self.program, "-D", "-e", "-f", str(config)]

    def stop(self) -> None:
        """Its sessions too: sshd gives each a process group of its own."""
        sessions = [] if self.process is None else descendants(self.process.pid)
        super().stop()
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def sessions(self) -> list[int]:
        """Processes that serve clients."""
        return [] if self.process is None else descendants(self.process.pid)


class Nginx(Server):
    """An nginx before an HTTP port of this machine. `tls`: certificate and key of its own; `upgrade`: WebSocket is let
    through, else requests only, buffered; `cut_s`: silent connections are cut after so long."""

    def __init__(
        self,
        folder: Path,
        backend: int,
        tls: tuple[Path, Path] | None = None,
        upgrade: bool = True,
        cut_s: float = 60,
        location: str = "",
    ) -> None:
        super().__init__(folder)
        self.program = program("nginx")
        self.backend, self.tls, self.upgrade, self.cut_s, self.location = backend, tls, upgrade, cut_s, location

    def command(self) -> list[str]:
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        secure = f"ssl_certificate {self.tls[0]}; ssl_certificate_key {self.tls[1]};" if self.tls else ""
        upgrade = 'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";'
        location = self.location or (
            f"proxy_pass http://127.0.0.1:{self.backend}; proxy_http_version 1.1; proxy_read_timeout {self.cut_s:g}s; "
            f"proxy_send_timeout {self.cut_s:g}s; {upgrade if self.upgrade else ''}"
        )
        config = self.folder / "nginx.conf"
        config.write_text(
            f"""{"user root;" if os.geteuid() == 0 else ""} daemon off; pid {self.folder}/nginx.pid;
            error_log stderr warn; worker_processes 1; events {{ worker_connections 512; }}
            http {{ access_log off; {temporary}
              server {{ listen 127.0.0.1:{self.port}{" ssl" if self.tls else ""}; {secure}
                location / {{ {location} }} }} }}"""
        )
        return [self.program, "-e", "stderr", "-p", str(self.folder), "-c", str(config)]


class Haproxy(Server):
    """An HAProxy before an HTTP port of this machine; what is silent for `cut_s` is cut. `pem`: certificate and key."""

    def __init__(self, folder: Path, backend: int, cut_s: float = 60, pem: Path | None = None, rule: str = "") -> None:
        super().__init__(folder)
        self.program = program("haproxy")
        self.backend, self.cut_s, self.pem, self.rule = backend, cut_s, pem, rule

    def command(self) -> list[str]:
        cut = f"{int(self.cut_s * 1000)}ms"
        config = self.folder / "haproxy.cfg"
        config.write_text(
            "global\n maxconn 200\n"
            f"defaults\n mode http\n timeout connect 5s\n timeout client {cut}\n timeout server {cut}\n"
            f" timeout tunnel {cut}\n"
            f"frontend in\n bind 127.0.0.1:{self.port}{f' ssl crt {self.pem}' if self.pem else ''}\n {self.rule}\n"
            " default_backend out\n"
            f"backend out\n server one 127.0.0.1:{self.backend}\n"
        )
        return [self.program, "-db", "-f", str(config)]


class Squid(Server):
    """A squid that lets CONNECT through; with `user`, only for that one and `password`; with `deny`, for nobody."""

    def __init__(self, folder: Path, user: str = "", password: str = "", deny: bool = False) -> None:
        if os.geteuid() == 0:  # it will not be root, and the tests' folders are root's alone
            folder = Path(tempfile.mkdtemp(prefix="squid-"))
            shutil.chown(folder, "proxy", "proxy")
        super().__init__(folder)
        self.program = program("squid")
        self.user, self.password, self.deny = user, password, deny

    def command(self) -> list[str]:
        lines = [
            f"http_port 127.0.0.1:{self.port}",
            f"pid_filename {self.folder}/squid.pid",
            "access_log none",
            f"cache_log {self.folder}/cache.log",
            f"coredump_dir {self.folder}",
            "cache deny all",
            "shutdown_lifetime 0 seconds",
            "connect_timeout 3 seconds",
        ]
        if os.geteuid() == 0:
            lines += ["cache_effective_user proxy", "cache_effective_group proxy"]
        if self.user:
            helper = self.folder / "users"
            known = f"{self.user} {self.password}"
            helper.write_text(
                f'#!/bin/sh\nwhile read -r line; do [ "$line" = "{known}" ] && echo OK || echo ERR; done\n'
            )
            helper.chmod(0o755)
            lines += [f"auth_param basic program {helper}", "auth_param basic children 1"]
            lines += ["acl known proxy_auth REQUIRED", "http_access allow known"]
        lines.append("http_access deny all" if self.deny or self.user else "http_access allow all")
        config = self.folder / "squid.conf"
        config.write_text("\n".join(lines) + "\n")
        return [self.program, "-N", "-n", self.name, "-f", str(config)]

    @property
    def name(self) -> str:
        """Of its shared memory, which outlives a kill."""
        return f"zt{self.port}"

    def stop(self) -> None:
        super().stop()
        for left in Path("/dev/shm").glob(f"{self.name}-*"):
            left.unlink(missing_ok=True)

    def __exit__(self, *told: object) -> None:
        super().__exit__(*told)
        if os.geteuid() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


class Postfix(Server):
    """A Postfix of its own: its configuration, queue and data lie in a folder of its own below /tmp, for its processes
    drop root's rights. It takes mail for example.com and delivers it to `mails()`; or hands everything on to
    `relay_to`, an SMTP port of this machine. `options`: lines of main.cf, after ours (the last one said counts).
    """

    MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

    def __init__(self, folder: Path, *, relay_to: int | None = None, options: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.program = program("postfix")
        if os.geteuid() != 0:
            pytest.skip("Postfix starts as root only")
        self.home = Path(tempfile.mkdtemp(prefix="zt-postfix", dir="/tmp"))
        self.home.chmod(0o755)
        self.relay_to = relay_to
        self.options = dict(options or {})
        owner = pwd.getpwnam("postfix")
        for name in ("data", "boxes"):
            (self.home / name).mkdir()
            os.chown(self.home / name, owner.pw_uid, owner.pw_gid)
        (self.home / "queue").mkdir()
        self._owner = owner

    def command(self) -> list[str]:
        deliver = {
            "virtual_mailbox_domains": "example.com",
            "virtual_mailbox_base": str(self.home / "boxes"),
            "virtual_mailbox_maps": "static:all/",
            "virtual_uid_maps": f"static:{self._owner.pw_uid}",
            "virtual_gid_maps": f"static:{self._owner.pw_gid}",
            "virtual_minimum_uid": "1",
            "virtual_mailbox_limit": "0",
        }
        lines = {
            "compatibility_level": "3.6",
            "queue_directory": str(self.home / "queue"),
            "data_directory": str(self.home / "data"),
            "maillog_file": "/dev/stdout",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "postfix.example",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "local_recipient_maps": "",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "message_size_limit": str(64 << 20),
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "queue_run_delay": "1s",
            "smtpd_peername_lookup": "no",
            "local_header_rewrite_clients": "",
            "smtp_host_lookup": "native",
            **(deliver if self.relay_to is None else {"default_transport": f"smtp:[127.0.0.1]:{self.relay_to}"}),
            **self.options,
        }
        (self.home / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        (self.home / "master.cf").write_text(self.MASTER.format(port=self.port))
        return [self.program, "-c", str(self.home), "start-fg"]

    def mails(self) -> list[bytes]:
        """What was delivered: a few headers of Postfix's own, then the mail with LF at the ends of lines."""
        return [file.read_bytes() for file in sorted((self.home / "boxes" / "all" / "new").glob("*"))]

    def stop(self) -> None:
        """Its daemons too: each is a process group of its own."""
        daemons = [] if self.process is None else descendants(self.process.pid)
        super().stop()
        for pid in daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __exit__(self, *told: object) -> None:
        super().__exit__(*told)
        shutil.rmtree(self.home, ignore_errors=True)


class Dovecot(Server):
    """A Dovecot with the user `ops`, password `secret`, and mail in Maildir; TLS with a certificate for `localhost`.

    `port` is plain IMAP (STARTTLS too), `tls_port` TLS from the first byte, `ca` the authority of its certificate.
    `settings`: lines of its configuration, after ours.
    """

    user, password = "ops", "secret"

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.ca = folder / "dovecot-ca.pem"
        super().__init__(Path(tempfile.mkdtemp(prefix="dc", dir="/tmp")))  # its sockets' paths must be short
        self.folder.chmod(0o755)  # it will not be root, and the tests' folders are root's alone
        self.program = program("dovecot")
        self.settings = settings
        self.tls_port = free_port()
        self.mail = self.folder / "mail"
        self.mail.mkdir()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(self.folder / "cert.pem")
        self._numbers = itertools.count(1)
        self._own(self.mail)

    def command(self) -> list[str]:
        root = os.geteuid() == 0
        me, group = getpass.getuser(), grp.getgrgid(os.getegid()).gr_name
        mail_user, mail_group = (_MAIL_USER, _MAIL_USER) if root else (me, group)
        ours = "" if root else f"default_internal_user={me}\ndefault_internal_group={group}\ndefault_login_user={me}\n"
        chroot = "" if root else "chroot ="
        config = self.folder / "dovecot.conf"
        config.write_text(
            f"""
base_dir = {self.folder}/run
state_dir = {self.folder}/state
log_path = /dev/stderr
auth_verbose = yes
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{self.folder}/cert.pem
ssl_key = <{self.folder}/cert.pem
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:{self.mail}/%u
first_valid_uid = 1
mail_max_userip_connections = 100
maildir_stat_dirs = no
{ours}
namespace inbox {{
  inbox = yes
  separator = /
}}
passdb {{
  driver = static
  args = user={self.user} password={self.password}
}}
userdb {{
  driver = static
  args = uid={mail_user} gid={mail_group} home={self.mail}/%u
}}
service anvil {{
  {chroot}
}}
service stats {{
  {chroot}
}}
service imap-login {{
  {chroot}
  service_count = 0
  inet_listener imap {{
    port = {self.port}
  }}
  inet_listener imaps {{
    port = {self.tls_port}
  }}
}}
{self.settings}
"""
        )
        return [self.program, "-F", "-c", str(config)]

    def stop(self) -> None:
        """Its sessions too: some have a process group of their own."""
        left = [] if self.process is None else descendants(self.process.pid)
        super().stop()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not answers(self.port), 10, "somebody still listens")  # they share the listening socket

    def __exit__(self, *told: object) -> None:
        super().__exit__(*told)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what lies there ---------------------------------------------------------------------------------------------

    def client(self) -> IMAPClient:
        """Logged in; close it by `logout`, or use it in a `with`."""
        client = IMAPClient("127.0.0.1", self.port, ssl=False, timeout=20)
        client.login(self.user, self.password)
        return client

    def append(self, *mails: bytes, folder: str = "INBOX") -> None:
        """By IMAP."""
        with self.client() as client:
            if not client.folder_exists(folder):
                client.create_folder(folder)
            for mail in mails:
                client.append(folder, mail)

    def deliver(self, mails: Iterable[bytes]) -> None:
        """Into INBOX's Maildir, as a delivery agent does."""
        box = self.mail / self.user
        for name in ("new", "cur", "tmp"):
            (box / name).mkdir(parents=True, exist_ok=True)
        for mail in mails:
            name = f"{1_600_000_000 + next(self._numbers)}.M0P0.test,S={len(mail)},W={len(mail)}"
            (box / "tmp" / name).write_bytes(mail)
            self._own(box / "tmp" / name)
            (box / "tmp" / name).rename(box / "new" / name)
        for path in (box, *box.iterdir()):
            self._own(path)

    def clear(self) -> None:
        """Nothing lies anywhere, and nobody is logged in."""
        self.stop()
        shutil.rmtree(self.mail / self.user, ignore_errors=True)
        self.start()

    def uids(self, folder: str = "INBOX", criteria: str = "ALL") -> list[int]:
        with self.client() as client:
            if not client.folder_exists(folder):
                return []
            client.select_folder(folder, readonly=True)
            return list(client.search(criteria))

    def renumber(self) -> None:
        """INBOX gets another UIDVALIDITY, and its mails UIDs from 1."""
        self.stop()
        box = self.mail / self.user
        head = (box / "dovecot-uidlist").read_text().split()
        validity = next(int(word[1:]) for word in head if word.startswith("V"))
        for path in box.glob("dovecot*"):
            path.unlink()
        (box / "dovecot-uidlist").write_text(f"3 V{validity + 1000} N1\n")
        self._own(box / "dovecot-uidlist")
        self.start()

    def kick(self) -> None:
        """Every connection is ended, with BYE."""
        doveadm = [program("doveadm"), "-c", str(self.folder / "dovecot.conf"), "kick", self.user]
        subprocess.run(doveadm, check=True, capture_output=True)

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, _MAIL_USER, _MAIL_USER)


_MAIL_USER = "dovecot"
"""Whose the mails are where root runs the tests."""


def new_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> None:
    """A fresh key pair: `path` and `path`.pub."""
    keygen = program("ssh-keygen")
    short = ["-b", "2048"] if kind == "rsa" else []  # the default takes seconds to find
    subprocess.run([keygen, "-q", "-t", kind, *short, "-N", passphrase, "-C", "test", "-f", str(path)], check=True)


def public(path: Path) -> str:
    """The public half of a key pair: `ssh-ed25519 AAAA...`."""
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def fingerprint(path: Path) -> str:
    """SHA256:... of a key pair."""
    told = subprocess.run([program("ssh-keygen"), "-lf", f"{path}.pub"], check=True, capture_output=True, text=True)
    return told.stdout.split()[1]


def descendants(pid: int) -> list[int]:
    """Processes that stem from this one (Linux)."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found
