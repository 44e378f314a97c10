"""smtp-client: what the server gets, byte for byte, and what becomes of each recipient."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridges.mail_rig import RAW, sending
from tests.bridges.mail_sink import Sink
from tests.bridges.rig import run
from tunnel.reactor import Reactor


@pytest.mark.parametrize("loop", ["default", "asyncio"])
def test_a_mail_goes_byte_for_byte(tmp_path: Path, loop: str) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        raw = RAW + b".\r\n..\r\n.dot\r\nmiddle.\r\n" + (b"x" * 900 + b"\r\n.\r\n") * 800 + bytes(range(128, 256)) + b"\r\n"
        async with sending(reactor, tmp_path, relay=sink.port) as rig:
            rig.send(raw)
            await rig.until(lambda: rig.detail("sent") == 1)
            (mail,) = sink.mails
            assert (mail.sender, mail.to) == ("a@example.com", ["b@example.com"])
            assert mail.content == raw
            assert rig.status()["state"] == "up"
            assert (rig.detail("queue"), rig.detail("bytes")) == (0, 0)
        await sink.stop()

    run(body, loop)
