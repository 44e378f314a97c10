"""Two devices' connections, the WebSocket between them, on each loop, over TCP and TLS: every byte and every end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trustme

from tests.loops import LOOPS, until
from tunnel.carriers import http_splice as splicing
from tunnel.carriers.http_frames import Frames, Opcode, frame_of
from tunnel.carriers.http_message import Stream
from tunnel.carriers.http_splice import LOST, Splice
from tunnel.carriers.http_wire import Count

WITHIN_S = 60


class Rig:
    """device ── [splice, client] ══ WebSocket ══ [splice, server] ── device."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> None:
        self._contexts = contexts
        self.counts = Count(), Count()
        self.ends: list[asyncio.Task[str]] = []
        self._streams: list[Stream] = []

    async def pair(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None) -> tuple[Stream, Stream]:
        """Both ends of a connection: who dialled, who listened."""
        came: asyncio.Queue[Stream] = asyncio.Queue()
        server = await asyncio.start_server(
            lambda reader, writer: came.put_nowait(Stream(reader, writer)),
            "127.0.0.1",
            0,
            ssl=contexts[0] if contexts else None,
        )
        port = server.sockets[0].getsockname()[1]
        more = {"ssl": contexts[1], "server_hostname": "localhost"} if contexts else {}
        near = Stream(*await asyncio.open_connection("127.0.0.1", port, **more))  # type: ignore[arg-type]
        far = await came.get()
        server.close()
        self._streams += [near, far]
        return near, far

    async def open(self) -> tuple[Stream, Stream]:
        """Both devices' own ends."""
        client, server = await self.pair(self._contexts)
        devices = []
        for far, is_client, count in ((client, True, self.counts[0]), (server, False, self.counts[1])):
            own, device = await self.pair()
            devices.append(own)
            splice = Splice(far, Frames(masked=not is_client), device, count, client=is_client)
            self.ends.append(asyncio.create_task(self._run(splice, far, device)))
        return devices[0], devices[1]

    async def _run(self, splice: Splice, far: Stream, device: Stream) -> str:
        reason = await splice.run()
        device.close()
        far.close()
        return reason

    async def stray(self, *, client: bool) -> tuple[Stream, Stream]:
        """A device, and a WebSocket whose other end is the test; our end is the client, or the server."""
        far, other = await self.pair()
        own, device = await self.pair()
        splice = Splice(far, Frames(masked=not client), device, self.counts[0], client=client)
        self.ends.append(asyncio.create_task(self._run(splice, far, device)))
        return own, other

    async def close(self) -> None:
        for end in self.ends:
            end.cancel()
        await asyncio.gather(*self.ends, return_exceptions=True)
        for stream in self._streams:
            stream.abort()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


Body = Callable[[Rig], Awaitable[None]]


@pytest.fixture(params=[(loop, kind) for loop in LOOPS for kind in ("tcp", "tls")], ids="-".join)
def over(request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Callable[[Body], None]:
    loop, kind = request.param

    async def main(body: Body) -> None:
        rig = Rig(contexts if kind == "tls" else None)
        try:
            await asyncio.wait_for(body(rig), WITHIN_S)
        finally:
            await rig.close()

    def run(body: Body) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main(body))

    return run


async def say(stream: Stream, data: bytes) -> None:
    for at in range(0, len(data), 300_000):
        stream.writer.write(data[at : at + 300_000])
        await stream.writer.drain()


async def hear(stream: Stream, size: int) -> bytes:
    return await stream.reader.readexactly(size)


async def fill(stream: Stream, piece: Callable[[int], bytes]) -> int:
    """Until nothing more is taken for half a second; the bytes, in pieces that stand for 100,000 each."""
    stream.writer.transport.set_write_buffer_limits(high=0)
    written = 0
    with contextlib.suppress(TimeoutError):
        while written < 100_000_000:
            stream.writer.write(piece(written))
            written += 100_000
            await asyncio.wait_for(stream.writer.drain(), 0.5)
    return written


def test_every_byte_both_ways_at_once(over: Callable[[Body], None]) -> None:
    async def body(rig: Rig) -> None:
        here, there = await rig.open()
        up, down = os.urandom(8_000_000), os.urandom(9_000_000)
        _, _, heard, answered = await asyncio.gather(
            say(here, up), say(there, down), hear(there, len(up)), hear(here, len(down))
        )
        assert (heard, answered) == (up, down)
        for size in (1, 2, 5, 4000, 4090, 5000, 1, 1):
            word = os.urandom(size)
            here.writer.write(word)
            assert await hear(there, size) == word
            there.writer.write(word)
            assert await hear(here, size) == word
        sent = len(up) + 13_100
        assert rig.counts[0].bytes_in == rig.counts[1].bytes_out == sent
        assert rig.counts[1].bytes_in == rig.counts[0].bytes_out == len(down) + 13_100

    over(body)


@pytest.mark.parametrize("down", [False, True], ids=["from the client", "from the server"])
def test_who_does_not_read_stops_the_writer(over: Callable[[Body], None], down: bool) -> None:
    async def body(rig: Rig) -> None:
        ends = await rig.open()
        reader, writer = ends if down else ends[::-1]
        written = await fill(writer, lambda written: bytes([written // 100_000 % 251]) * 100_000)
        assert written < 40_000_000  # what the kernel holds on three connections, mostly
        reader.writer.write(b"the other way is open")
        assert await hear(writer, 21) == b"the other way is open"
        got = await hear(reader, written)
        assert all(got[n] == n // 100_000 % 251 for n in range(0, written, 50_000))

    over(body)


def test_an_end_of_one_direction_and_then_of_the_other(over: Callable[[Body], None]) -> None:
    async def body(rig: Rig) -> None:
        here, there = await rig.open()
        await say(here, b"there" * 100_000)
        here.writer.write_eof()
        assert await there.reader.read() == b"there" * 100_000
        await say(there, b"and back")
        there.writer.write_eof()
        assert await here.reader.read() == b"and back"
        assert await asyncio.gather(*rig.ends) == ["", ""]

    over(body)


def test_a_device_that_is_gone_is_no_reason(over: Callable[[Body], None]) -> None:
    async def body(rig: Rig) -> None:
        here, there = await rig.open()
        await say(here, b"x")
        assert await hear(there, 1) == b"x"
        here.abort()
        assert await there.reader.read() == b""
        there.writer.write(b"are you there?")  # only who writes learns that nobody reads any more
        while not rig.ends[0].done():
            there.writer.write(b"?")
            await asyncio.sleep(0.01)
        assert await rig.ends[0] == ""
        assert await rig.ends[1] in ("", LOST)

    over(body)


def test_what_came_before_a_cut_is_handed_on() -> None:
    async def body(rig: Rig) -> None:
        own, other = await rig.stray(client=True)
        other.writer.write(frame_of(Opcode.BINARY, b"last words"))
        other.writer.close()
        assert await own.reader.read() == b"last words"
        assert await rig.ends[0] == LOST

    run_alone(body)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x83\x00", "the other end broke the WebSocket protocol: there are no frames of kind 3"),
        (frame_of(Opcode.CLOSE, b""), LOST),
        (
            frame_of(Opcode.TEXT, b"end") + frame_of(Opcode.BINARY, b"x"),
            "the other end broke the WebSocket protocol: bytes came after their end",
        ),
    ],
    ids=["broken", "closed", "after the end"],
)
def test_reasons(said: bytes, reason: str) -> None:
    async def body(rig: Rig) -> None:
        own, other = await rig.stray(client=True)
        other.writer.write(frame_of(Opcode.BINARY, b"good") + said)
        assert await own.reader.read() == b"good"
        assert await rig.ends[0] == reason

    run_alone(body)


def test_pings_are_answered_and_asked_and_silence_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splicing, "HTTP_PING_S", 0.05)
    monkeypatch.setattr(splicing, "HTTP_SILENCE_S", 0.3)

    async def body(rig: Rig) -> None:
        _, other = await rig.stray(client=False)
        other.writer.write(frame_of(Opcode.PING, b"are you there", b"abcd"))
        assert (frame_of(Opcode.PONG, b"are you there")) in await other.reader.read(1000)
        assert await hear(other, 2) == frame_of(Opcode.PING, b"")
        assert await rig.ends[0] == "nothing came through the WebSocket for 0.3 s"

    run_alone(body)


def test_silence_that_we_make_ourselves_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the device does not take what came, nothing is read, and nobody may conclude from that."""
    monkeypatch.setattr(splicing, "HTTP_PING_S", 0.05)
    monkeypatch.setattr(splicing, "HTTP_SILENCE_S", 0.2)

    async def body(rig: Rig) -> None:
        own, other = await rig.stray(client=True)
        own.writer.transport.pause_reading()  # type: ignore[attr-defined]
        written = await fill(other, lambda _: frame_of(Opcode.BINARY, bytes(100_000)))
        assert not rig.ends[0].done()
        own.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await hear(own, written) == bytes(written)
        await until(rig.ends[0].done)

    run_alone(body)


def run_alone(body: Body) -> None:
    async def main() -> None:
        rig = Rig(None)
        try:
            await asyncio.wait_for(body(rig), WITHIN_S)
        finally:
            await rig.close()

    with asyncio.Runner(loop_factory=LOOPS["default"]) as runner:
        runner.run(main())
