"""The HTTP carrier's two roles between real device ends, and something on the way, all on the test's loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.carriers.ends import Ends, until
from tunnel.carriers.http import HttpCarrier
from tunnel.config.plan import Allow, CarrierPlan, ProxyPlan, TlsPlan


class HttpRig:
    """Device ends over ipc with the carrier's two roles between them.

    `listen()` opens the public port and gives its number; `dial(address)` carries what the device's end dials there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.device = Ends("ipc", str(folder / "l.sock"))
        self.roles: list[HttpCarrier] = []
        self.listener: HttpCarrier
        self.dialler: HttpCarrier

    async def listen(
        self, scheme: str = "http", tls: TlsPlan | None = None, allow: Allow | None = None, **more: Any
    ) -> int:
        address = more.pop("address", f"{scheme}://127.0.0.1:0/link")
        if more.pop("device", True):
            self.device.listen()
        plan = CarrierPlan(
            f"{scheme}-l",
            "https" if scheme == "https" else "http",
            "listen",
            address,
            self.folder / "l.sock",
            ("plant",),
            allow or Allow(),
            tls=tls,
        )
        self.listener = HttpCarrier(plan)
        self.roles.append(self.listener)
        await self.listener.start()
        await until(lambda: self.listener.status()["state"] == "listening", 10, self.listener.status)
        return int(self.listener.status()["detail"]["listens"].rpartition(":")[2].partition("/")[0])

    async def dial(self, address: str, tls: TlsPlan | None = None, proxy: ProxyPlan | None = None) -> HttpCarrier:
        socket = self.folder / "d.sock"
        scheme = "https" if address.startswith("https") else "http"
        plan = CarrierPlan(
            f"{scheme}-d", scheme, "dial", address, socket, ("dmz",), tls=tls, proxy=proxy or ProxyPlan("")
        )
        self.dialler = HttpCarrier(plan)
        self.roles.append(self.dialler)
        await self.dialler.start()
        self.device.address = f"ipc://{socket}"
        return self.dialler

    async def refusal(self) -> str:
        """Dial once; the reason that the dialling role tells."""
        dialled, spy = self.device.dial()
        await until(lambda: len(spy.losses) == 2, 15, self.dialler.status)
        dialled.close()
        reason = self.dialler.status()["reason"]
        assert self.dialler.status()["state"] == "retrying"
        return str(reason)

    async def close(self) -> None:
        for role in self.roles:
            await role.close()
        self.device.close()


Body = Callable[[HttpRig], Awaitable[None]]
