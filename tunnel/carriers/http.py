"""The link inside HTTP: `http://host[:port]/path`, `https://...`, as WebSocket, or long-poll where that is stopped.

One class for both roles, as `tunnel.carriers.process` wants it; the roles are in http_dialler.py and http_listener.py,
the two forms in http_websocket.py and http_longpoll.py.
"""

from __future__ import annotations

from typing import Any

from tunnel.carriers.http_dialler import Dialler
from tunnel.carriers.http_listener import Listener
from tunnel.config.plan import CarrierPlan


class HttpCarrier:
    """See `tunnel.carriers.process.Process`."""

    def __init__(self, plan: CarrierPlan) -> None:
        self._role: Dialler | Listener = Dialler(plan) if plan.role == "dial" else Listener(plan)

    async def start(self) -> None:
        await self._role.start()

    async def close(self) -> None:
        await self._role.close()

    def status(self) -> dict[str, Any]:
        return self._role.status()
