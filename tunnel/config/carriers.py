"""The carriers of one side's plan: for each ssh://, http://, https:// address a process, and where the device meets it.

What can only be known on the side's own box is checked here, for what its own links name: certificates, SSH keys, pass
phrases and passwords, the length of socket paths.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tunnel.config.addresses import CARRIED, scheme, ssh
from tunnel.config.model import Dial, Listen, ProxyModel, SshModel, TlsModel
from tunnel.config.nodes import Path as Steps
from tunnel.config.plan import Allow, CarrierPlan, ProxyPlan, Scheme, SshPlan, TlsPlan
from tunnel.limits import IPC_PATH_BYTES

if TYPE_CHECKING:
    from tunnel.config.planning import Planner


class Carriers:
    """Collects them while the links are planned."""

    def __init__(self, planner: Planner) -> None:
        self.plans: list[CarrierPlan] = []
        self._planner = planner

    def listen(self, listen: Listen, peers: tuple[str, ...], allow: Allow, path: Steps) -> str | None:
        """The unix endpoint that the device opens in place of the address; None where it opens the address itself."""
        address = str(listen.address)
        if scheme(address) not in CARRIED:
            return None
        beside = peers[0] if len(peers) == 1 else "listen"
        return self._add("listen", address, beside, peers, listen, path, allow=allow)

    def dial(self, dial: Dial, peer: str, path: Steps) -> dict[str, str]:
        """address → the unix endpoint that the device dials in its place."""
        found = {}
        for index, address in enumerate(dial.address):
            if scheme(address) in CARRIED:
                here = (*path, "address", index)
                proxy = self._proxy(dial.proxy, (*path, "proxy")) if scheme(address) != "ssh" and dial.proxy else None
                found[address] = self._add(
                    "dial", address, peer, (peer,), dial, path, here, proxy=proxy, source=dial.source
                )
        return found

    def _add(
        self,
        role: Literal["dial", "listen"],
        address: str,
        beside: str,
        peers: tuple[str, ...],
        end: Listen | Dial,
        path: Steps,
        place: Steps | None = None,
        *,
        allow: Allow | None = None,
        proxy: ProxyPlan | None = None,
        source: str | None = None,
    ) -> str:
        name = self._name(f"{scheme(address)}-{beside}")
        socket = self._planner.runtime_dir / f"{name}.link"
        if len(os.fsencode(socket)) > IPC_PATH_BYTES:
            sentence = (
                f"this link needs the socket {socket}, longer than the {IPC_PATH_BYTES} bytes that a socket's path "
                "has; set ZTUNNEL_RUNTIME_DIR to a shorter one."
            )
            self._planner.tell((*path, "address") if place is None else place, sentence)
        self.plans.append(
            CarrierPlan(
                name=name,
                scheme=cast("Scheme", scheme(address)),
                role=role,
                address=address,
                socket=socket,
                peers=peers,
                allow=allow or Allow(),
                ssh=self._ssh(address, end.ssh or SshModel(), (*path, "ssh")) if scheme(address) == "ssh" else None,
                tls=self.tls(end.tls, (*path, "tls")) if scheme(address) == "https" and end.tls else None,
                proxy=proxy,
                source=source,
            )
        )
        return f"ipc://{socket}"

    def _name(self, wanted: str) -> str:
        taken = {plan.name for plan in self.plans}
        number, name = 1, wanted
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        return name

    # what is in the files

    def _ssh(self, address: str, said: SshModel, path: Steps) -> SshPlan:
        way = ssh(address)
        identity = tuple(self._file(text, (*path, "identity", i)) for i, text in enumerate(said.identity))
        for index, file in enumerate(identity):
            self._private(file, (*path, "identity", index), 0o077)
        config = None if said.config is None else self._file(said.config, (*path, "config"))
        if config is not None:
            self._readable(config, (*path, "config"))
        secret = None if said.passphrase is None else self._planner.secret(said.passphrase, (*path, "passphrase"))
        return SshPlan(
            way.user,
            way.host,
            way.port,
            way.target,
            said.backend,
            identity,
            secret,
            said.agent,
            tuple(self._file(text, (*path, "known_hosts", i)) for i, text in enumerate(said.known_hosts)),
            config,
        )

    def tls(self, said: TlsModel, path: Steps) -> TlsPlan:
        """Its files, looked at."""
        cert, key, ca = (
            None if text is None else self._file(text, (*path, word))
            for word, text in (("cert", said.cert), ("key", said.key), ("ca", said.ca))
        )
        readable = [self._readable(cert, (*path, "cert")), self._private(key, (*path, "key"), 0o007)]
        if all(readable) and cert and key:
            self._pair(cert, key, path)
        if self._readable(ca, (*path, "ca")) and ca is not None:
            self._authorities(ca, (*path, "ca"))
        return TlsPlan(cert, key, ca, said.pin, said.server_name)

    def _pair(self, cert: Path, key: Path, path: Steps) -> None:
        """Whether OpenSSL can use the two together."""
        import ssl  # only where a table has tls:

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(cert, key, password=lambda: "")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                self._planner.tell((*path, "key"), f"the key in {key} does not belong to the certificate in {cert}.")
            else:
                self._planner.tell(
                    (*path, "cert"), f"{cert} and {key} are no certificate and its unencrypted key, both as PEM."
                )
        except (OSError, ValueError) as error:
            self._planner.tell((*path, "cert"), f"{cert} and {key} cannot be used: {error}.")

    def _authorities(self, ca: Path, path: Steps) -> None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(ca)
        except (OSError, ValueError):
            self._planner.tell(path, f"{ca} holds no certificate (PEM).")

    def _proxy(self, said: ProxyModel, path: Steps) -> ProxyPlan:
        secret = None if said.password is None else self._planner.secret(said.password, (*path, "password"))
        return ProxyPlan(said.url, said.username, secret)

    def file(self, text: str, path: Steps) -> Path:
        """A file that a process of this side will read; told if it cannot be."""
        file = self._file(text, path)
        self._readable(file, path)
        return file

    def _file(self, text: str, path: Steps) -> Path:
        return self._planner.table.tree.folder(path) / Path(text).expanduser()

    def _private(self, file: Path | None, path: Steps, closed: int) -> bool:
        """Whether a secret file can be read, by those only whom these permission bits do not mean."""
        if file is None or not self._readable(file, path):
            return file is None
        if file.stat().st_mode & closed:
            run = "600" if closed == 0o077 else "o-rwx"
            self._planner.tell(
                path, f"the key {file} may be read by others; run: chmod {run} {shlex.quote(str(file))}", key=False
            )
        return True

    def _readable(self, file: Path | None, path: Steps) -> bool:
        if file is None:
            return True
        try:
            with file.open("rb") as stream:
                stream.read(1)
        except OSError as error:
            self._planner.tell(path, f"{file} cannot be read: {(error.strerror or str(error)).lower()}.")
            return False
        return True
