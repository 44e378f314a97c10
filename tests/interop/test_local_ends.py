"""What a table may say about a local end, seen through running devices: security, files, mistakes in words, limits."""

from __future__ import annotations

import os
import socket as sockets
import stat
from pathlib import Path

import zmq

from tests.tunnel_pair import Tunnel
from tests.waiting import until
from tunnel.keys import read_pair, read_public, write_pair


def reason(tunnel: Tunnel, side: str, name: str) -> str:
    return str(tunnel.route(side, name)["endpoints"][0]["reason"])


def test_swapped_ends_are_told_in_words_and_mended_without_a_restart(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    tunnel.write({"ticks": {"pattern": "pubsub", "from": f"plant connect {near}", "to": f"dmz bind {far}"}})
    tunnel.start()
    swapped = tunnel.app(zmq.SUB, "bind", near, {zmq.SUBSCRIBE: b""})
    also = tunnel.app(zmq.PUB, "connect", far)
    swap = "did not prove to be a {} socket without CURVE or PLAIN: are the ends of the route swapped?"
    tunnel.until_route("plant", "ticks", lambda r: r["endpoints"][0]["reason"].endswith(swap.format("PUB or XPUB")))
    tunnel.until_route("dmz", "ticks", lambda r: r["endpoints"][0]["reason"].endswith(swap.format("SUB or XSUB")))
    swapped.close()
    also.close()
    publisher = tunnel.app(zmq.PUB, "bind", near)
    subscriber = tunnel.app(zmq.SUB, "connect", far, {zmq.SUBSCRIBE: b""})
    tunnel.peers("plant", "ticks", 1)
    tunnel.peers("dmz", "ticks", 1)
    while not subscriber.poll(50):
        publisher.send(b"x")
    assert reason(tunnel, "plant", "ticks") == ""


def test_curve_and_plain_on_local_ends(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    for name in ("server", "client", "stranger"):
        write_pair(tunnel.folder / "app", name)
    clients = tunnel.folder / "clients"
    clients.mkdir()
    (clients / "client.key").write_bytes((tunnel.folder / "app/client.key").read_bytes())
    (tunnel.folder / "password").write_text("secret-of-plain\n")
    (tunnel.folder / "password").chmod(0o600)
    tunnel.write(
        {
            "tasks": {
                "pattern": "pipeline",
                "from": {
                    "side": "dmz",
                    "bind": near,
                    "curve": {"own": "app/server.key_secret", "clients": "clients"},
                },
                "to": {"side": "plant", "bind": far, "plain": {"users": {"ada": {"file": "password"}}}},
            }
        }
    )
    tunnel.start()

    def curve(name: str) -> dict[int, bytes]:
        pair = read_pair(tunnel.folder / f"app/{name}.key_secret")
        return {
            zmq.CURVE_PUBLICKEY: pair.public.encode(),
            zmq.CURVE_SECRETKEY: pair.secret.reveal().encode(),
            zmq.CURVE_SERVERKEY: read_public(tunnel.folder / "app/server.key").encode(),
        }

    sink = tunnel.app(zmq.PULL, "connect", far, {zmq.PLAIN_USERNAME: b"ada", zmq.PLAIN_PASSWORD: b"secret-of-plain"})
    source = tunnel.app(zmq.PUSH, "connect", near, curve("client"))
    source.send(b"hello")
    assert sink.recv() == b"hello"
    tunnel.app(zmq.PUSH, "connect", near, curve("stranger"))
    tunnel.app(zmq.PUSH, "connect", near)
    tunnel.app(zmq.PULL, "connect", far, {zmq.PLAIN_USERNAME: b"ada", zmq.PLAIN_PASSWORD: b"guess"})
    tunnel.until_route("dmz", "tasks", lambda r: r["endpoints"][0]["turned_away"] >= 2)
    tunnel.until_route("plant", "tasks", lambda r: "password" in r["endpoints"][0]["reason"])
    for side in tunnel.sides:
        told = tunnel.devices[side].log.read_text() + str(tunnel.status(side))
        assert "secret-of-plain" not in told
        assert "guess" not in told
    source.send(b"still here")
    assert sink.recv() == b"still here"


def test_ipc_mode_group_and_a_stale_file(tunnel: Tunnel) -> None:
    path, far = f"{tunnel.runtime}/apps/s", tunnel.tcp()
    os.makedirs(os.path.dirname(path))
    with sockets.socket(sockets.AF_UNIX) as stale:
        stale.bind(path)
    end = {"side": "dmz", "bind": f"ipc://{path}", "mode": "0660", "group": str(os.getgid())}
    tunnel.write({"tasks": {"pattern": "pipeline", "from": end, "to": f"plant bind {far}"}})
    tunnel.start()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert os.stat(path).st_gid == os.getgid()
    sink = tunnel.app(zmq.PULL, "connect", far)
    tunnel.app(zmq.PUSH, "connect", f"ipc://{path}").send(b"x")
    assert sink.recv() == b"x"
    tunnel.devices["dmz"].stop()
    assert not Path(path).exists()


def test_after_kill_9_the_ipc_file_is_taken_over(tunnel: Tunnel) -> None:
    address, far = tunnel.ipc("s"), tunnel.tcp()
    tunnel.write({"tasks": {"pattern": "pipeline", "from": f"dmz bind {address}", "to": f"plant bind {far}"}})
    tunnel.start()
    tunnel.devices["dmz"].kill()
    tunnel.devices["dmz"].start()
    tunnel.up(60)
    sink = tunnel.app(zmq.PULL, "connect", far)
    tunnel.app(zmq.PUSH, "connect", address).send(b"x")
    assert sink.recv() == b"x"


def test_an_address_in_use_does_not_stop_the_others(tunnel: Tunnel) -> None:
    taken, far, near2, far2 = (tunnel.tcp() for _ in range(4))
    holder = tunnel.app(zmq.PULL, "bind", taken)
    tunnel.write(
        {
            "blocked": {"pattern": "pipeline", "from": f"dmz bind {taken}", "to": f"plant bind {far}"},
            "free": {"pattern": "pipeline", "from": f"dmz bind {near2}", "to": f"plant bind {far2}"},
        }
    )
    tunnel.start(wait=False)
    tunnel_up = tunnel.devices["dmz"]
    until(lambda: (tunnel_up.try_status() or {}).get("routes"), 20, "dmz answers")
    status = tunnel.until_route("dmz", "blocked", lambda r: r["state"] == "down")
    assert "in use" in status["endpoints"][0]["reason"]
    assert not tunnel.status("dmz")["ready"]
    tunnel.until_route("dmz", "free", lambda r: r["state"] == "ready")
    sink = tunnel.app(zmq.PULL, "connect", far2)
    tunnel.app(zmq.PUSH, "connect", near2).send(b"x")
    assert sink.recv() == b"x"
    holder.close()
    tunnel.up(60)


def test_an_oversize_message_is_counted_and_the_route_goes_on(tunnel: Tunnel) -> None:
    near, far = tunnel.tcp(), tunnel.tcp()
    route = {"pattern": "pipeline", "from": f"dmz bind {near}", "to": f"plant bind {far}", "max_message": "100KiB"}
    tunnel.write({"tasks": route})
    tunnel.start()
    source, sink = tunnel.app(zmq.PUSH, "connect", near), tunnel.app(zmq.PULL, "connect", far)
    source.send(b"before")
    source.send_multipart([b"too", bytes(60 * 1024), bytes(60 * 1024)])
    source.send(bytes(150 * 1024))
    source.send(b"between")
    assert sink.recv() == b"before"
    assert sink.recv() == b"between"
    tunnel.until_route("dmz", "tasks", lambda r: r["dropped"] == {"too_large": 2})
    assert "message-too-large" in tunnel.devices["dmz"].log.read_text()
    source.send(bytes(300 * 1024))  # over MAXMSGSIZE: libzmq ends the connection, and the application comes again
    while not sink.poll(100):
        source.send(b"after")
    assert sink.recv() == b"after"


def test_several_endpoints_and_both_kinds_at_one_end(tunnel: Tunnel) -> None:
    one, two, three, far = tunnel.tcp(), tunnel.ipc("two"), tunnel.tcp(), tunnel.tcp()
    end = {"side": "dmz", "bind": [one, two], "connect": [three]}
    tunnel.write({"tasks": {"pattern": "pipeline", "from": end, "to": f"plant bind {far}"}})
    tunnel.start()
    sink = tunnel.app(zmq.PULL, "connect", far)
    sources = [
        tunnel.app(zmq.PUSH, "connect", one),
        tunnel.app(zmq.PUSH, "connect", two),
        tunnel.app(zmq.PUSH, "bind", three),
    ]
    tunnel.peers("dmz", "tasks", 3)
    for number, source in enumerate(sources):
        source.send(b"%d" % number)
    assert sorted(sink.recv() for _ in sources) == [b"0", b"1", b"2"]


def test_a_consumer_that_is_killed_takes_only_its_queue_along(tunnel: Tunnel) -> None:
    """Two consumers; one stops reading and goes. What had been handed to it is lost, 64 messages and the kernel's."""
    near, far = tunnel.tcp(), tunnel.tcp()
    end = {"side": "plant", "bind": far, "hwm": 10, "sndbuf": "16KiB"}
    tunnel.write({"tasks": {"pattern": "pipeline", "from": f"dmz bind {near}", "to": end}})
    tunnel.start()
    source = tunnel.app(zmq.PUSH, "connect", near, {zmq.SNDHWM: 0})
    doomed = tunnel.app(zmq.PULL, "connect", far, {zmq.RCVHWM: 1, zmq.RCVBUF: 16_384})
    tunnel.peers("plant", "tasks", 1)
    count = 2000
    for number in range(count):
        source.send_multipart([b"%d" % number, bytes(2000)])
    first = [int(doomed.recv_multipart()[0]) for _ in range(5)]
    assert first == list(range(5))
    doomed.close()
    tunnel.peers("plant", "tasks", 0)
    sink = tunnel.app(zmq.PULL, "connect", far)
    got = [int(sink.recv_multipart()[0])]
    while got[-1] != count - 1:
        got.append(int(sink.recv_multipart()[0]))
    lost = count - len(first) - len(got)
    assert got == list(range(first[-1] + 1 + lost, count)), "what is left comes in order, without a gap"
    assert lost < 100, f"{lost} lost"
