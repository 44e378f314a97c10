"""smtp-client on disks that are full, or fail for a while, and what it holds in memory."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.bridges.mail_rig import RAW, sending
from tests.bridges.mail_sink import Sink, sinking
from tests.bridges.rig import process, run
from tests.waiting import until
from tunnel.reactor import Reactor

META = json.dumps({"from": "a@example.com", "to": "b@example.com"}).encode()
LARGE = RAW + (b"x" * 98 + b"\r\n") * 10_000
"""1 MB."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 96 MiB."""
    at = tmp_path / "disk"
    at.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", at]).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield at
    subprocess.run(["umount", "-l", at], check=True)


def test_a_full_disk_stops_the_reading_and_every_mail_goes_in_the_end(small_disk: Path) -> None:
    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        async with sending(reactor, small_disk, relay=sink.port, hwm=2, app_hwm=2) as rig:
            await rig.command("mail-pause")
            sent = 0
            while "full" not in rig.status()["reason"] and sent < 120:
                rig.send(LARGE, id=str(sent))
                sent += 1
                await rig.until(lambda n=sent: rig.detail("taken") >= n or rig.client.intake.trouble)
            assert 2 <= rig.detail("taken") < sent
            assert "nearly full" in rig.client.intake.trouble
            await rig.command("mail-resume")
            await rig.until(lambda: rig.detail("sent") == sent, 30)
            assert len(sink.mails) == sent
        await sink.stop()

    run(body)


def test_ballast_takes_the_room_of_what_is_being_sent(small_disk: Path) -> None:
    """Marks and results cannot be written for a while: nothing is sent twice, nothing is lost."""

    async def body(reactor: Reactor) -> None:
        sink = await Sink().start()
        ballast = small_disk / "ballast"

        async def fill() -> None:
            with ballast.open("wb", buffering=0) as full:
                try:
                    while full.write(bytes(65536)):
                        pass
                except OSError:
                    pass

        async with sending(reactor, small_disk, relay=sink.port) as rig:
            sink.do_at_dot(fill)
            rig.send(id="one")
            await rig.until(lambda: len(sink.mails) == 1)
            rig.send(id="two")
            await rig.until(lambda: rig.status()["state"] == "retrying")
            ballast.unlink()
            await rig.until(lambda: rig.detail("sent") == 2, 20)
            assert len(sink.mails) == 2
        await sink.stop()

    run(body)


def test_mails_that_wait_are_not_in_memory(tmp_path: Path) -> None:
    endpoint = f"ipc://@zt-{uuid.uuid4().hex}"
    with sinking() as sink, zmq.Context() as context, context.socket(zmq.DEALER) as app:
        app.linger = 0
        app.bind(endpoint)
        sink.say("GREETING", "421 not now")
        table = {
            "kind": "smtp-client",
            "zmq": f"REP connect {endpoint}",
            "relay": f"tcp://127.0.0.1:{sink.port}",
            "allow_to": "any",
        }
        with process(tmp_path, table) as bridge:
            before = bridge.rss_mb()
            for number in range(100):
                app.send_multipart([b"", META, LARGE + b"%d\r\n" % number])
                assert app.poll(20_000)
                app.recv_multipart()
            assert bridge.status()["detail"]["queue"] == 100
            assert bridge.rss_mb() - before < 60
            cpu = bridge.cpu_s()
            until(lambda: bridge.status()["state"] == "retrying", 10, bridge.status)
            assert bridge.cpu_s() - cpu < 2
            sink.rules.clear()
            until(lambda: bridge.status()["detail"]["sent"] == 100, 60, bridge.status)
            assert bridge.rss_mb() - before < 120
        assert len({mail.content for mail in sink.mails}) == 100
