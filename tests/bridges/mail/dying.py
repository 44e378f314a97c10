"""A bridge's process that kills itself (SIGKILL) at one point of a mail's way: ZT_DIE_AT names it.

durable   the mail is on disk (fsync), and its client was not told yet
told      its client has read the 250 (a file ZT_TOLD says so), and nothing was given to 0MQ yet
answered  somebody has answered for it, and it was not removed yet
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from bridges import process
from bridges.mail.feeder import Feeder
from bridges.mail.inbox import Inbox, Mail


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def main() -> int:
    point = os.environ.get("ZT_DIE_AT", "")
    put, give, finish = Inbox.put, Feeder._give, Inbox.finish

    async def putting(*arguments: Any) -> int:
        number = await put(*arguments)
        return die() if point == "durable" else number

    async def giving(self: Feeder, mail: Mail) -> None:
        if point == "told":
            while not Path(os.environ["ZT_TOLD"]).exists():
                await asyncio.sleep(0.001)
            die()
        if point == "durable":  # so that it is not given before it is told
            return
        await give(self, mail)

    def finishing(self: Inbox, mail: Mail) -> Any:
        return die() if point == "answered" else finish(self, mail)

    Inbox.put, Feeder._give, Inbox.finish = putting, giving, finishing  # type: ignore[method-assign, assignment]
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
