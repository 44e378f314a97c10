"""Which side this box is, and what it runs."""

from __future__ import annotations

import dataclasses
import grp
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.config.tables import BASE, DMZ_KEY, with_keys, write
from tunnel.config import find_side, load_table, plan_for, read_plan
from tunnel.config.plan import Allow, DialPlan, EndPlan, Endpoint, ListenPlan, Plan
from tunnel.errors import KeyFileError, TableError, UsageError
from tunnel.keys import read_pair, read_public, write_pair

FROM = "from: dmz bind tcp://127.0.0.1:5555"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt-test")
    monkeypatch.delenv("ZTUNNEL_IPC_DIR", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def plan(folder: Path, text: str = BASE, side: str = "dmz") -> Plan:
    return read_plan(with_keys(folder, text), side)


def end(folder: Path, text: str, side: str = "dmz") -> EndPlan:
    return plan(folder, BASE.replace(FROM, f"from: {text}"), side).routes[0].end


def problems(folder: Path, text: str, side: str = "dmz") -> list[str]:
    path = with_keys(folder, text)
    table = load_table(path)
    with pytest.raises(TableError) as caught:
        plan_for(table, side)
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


# --- which side ------------------------------------------------------------------------------------------------------


def only(folder: Path, side: str) -> Path:
    path = with_keys(folder)
    for other in {"dmz", "plant"} - {side}:
        (folder / "keys" / f"{other}.key_secret").unlink()
    return path


@pytest.mark.parametrize("side", ["dmz", "plant"])
def test_the_side_is_found_by_the_key_held(tmp_path: Path, side: str) -> None:
    path = only(tmp_path, side)
    assert find_side(load_table(path)) == side
    assert read_plan(path).side == side


def test_two_keys_need_as(tmp_path: Path) -> None:
    table = load_table(with_keys(tmp_path))
    with pytest.raises(UsageError, match="dmz and plant; say which side it is: --as dmz or --as plant") as caught:
        find_side(table)
    assert caught.value.exit_code == 2
    assert find_side(table, "plant") == "plant"


def test_no_key_says_where_it_would_be(tmp_path: Path) -> None:
    path = only(tmp_path, "")
    with pytest.raises(UsageError, match="holds the secret key of no side") as caught:
        find_side(load_table(path))
    assert f"{tmp_path}/keys/dmz.key_secret (ztunnel keygen dmz makes a pair)" in str(caught.value)
    with pytest.raises(KeyFileError, match=r"dmz\.key_secret"):
        find_side(load_table(path), "dmz")


def test_keys_in_the_table_itself_say_nothing_of_the_secret(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Nothing says where the secret key of dmz is; add secret:"):
        find_side(load_table(write(tmp_path, BASE)))


def test_an_unknown_side(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such side; it has dmz and plant\. Did you mean 'plant'"):
        find_side(load_table(with_keys(tmp_path)), "plnt")


def test_a_secret_that_others_may_read(tmp_path: Path) -> None:
    path = only(tmp_path, "dmz")
    (tmp_path / "keys" / "dmz.key_secret").chmod(0o640)
    with pytest.raises(KeyFileError, match=r"run: chmod 600 .*/keys/dmz\.key_secret"):
        read_plan(path)


def test_a_secret_of_another_pair(tmp_path: Path) -> None:
    path = only(tmp_path, "dmz")
    (tmp_path / "keys" / "dmz.key_secret").unlink()
    _, secret = write_pair(tmp_path / "other", "dmz")
    secret.rename(tmp_path / "keys" / "dmz.key_secret")
    with pytest.raises(KeyFileError, match="does not belong to the public key"):
        read_plan(path)


def test_two_keys_while_they_rotate(tmp_path: Path) -> None:
    path = with_keys(tmp_path)
    write_pair(tmp_path / "new", "dmz")
    text = path.read_text().replace("key: keys/dmz.key", "key: [keys/dmz.key, new/dmz.key]")
    path.write_text(text)
    old, new = read_public(tmp_path / "keys/dmz.key"), read_public(tmp_path / "new/dmz.key")
    assert read_plan(path, "plant").peer_keys == {"dmz": (old, new)}
    assert read_plan(path, "dmz").own.public == old
    (tmp_path / "keys/dmz.key_secret").unlink()
    assert read_plan(path, "dmz").own.public == new


@pytest.mark.parametrize("form", ["certificate", "bare"])
def test_secrets_by_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    public, secret = write_pair(tmp_path / "kept", "dmz")
    text = secret.read_text() if form == "certificate" else read_pair(secret).secret.reveal()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "zt").write_text(text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setenv("ZT_SECRET", text)
    for number, reference in enumerate(("{file: kept/dmz.key_secret}", "{credential: zt}", "{env: ZT_SECRET}")):
        table = BASE.replace(f"'{DMZ_KEY}'", f"'{read_public(public)}'\n    secret: {reference}")
        path = write(tmp_path, table, f"t{number}.yaml")
        assert find_side(load_table(path)) == "dmz"
        assert read_plan(path).own == read_pair(secret)


@pytest.mark.parametrize("reference", ["{file: none}", "{credential: none}", "{env: ZT_NONE}", "{credential: ../x}"])
def test_a_reference_to_nothing_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.delenv("ZT_NONE", raising=False)
    (tmp_path / "x").write_text("not a credential")
    text = BASE.replace(f"'{DMZ_KEY}'", f"'{DMZ_KEY}'\n    secret: {reference}")
    with pytest.raises(UsageError, match="of no side"):
        find_side(load_table(write(tmp_path, text)))


# --- the plan --------------------------------------------------------------------------------------------------------


def test_both_sides_of_a_table(tmp_path: Path) -> None:
    path = with_keys(tmp_path)
    near, far = read_plan(path, "dmz"), read_plan(path, "plant")
    assert near.listens == (ListenPlan("tcp://127.0.0.1:9440", ("plant",)),)
    assert (near.dials, far.listens) == ((), ())
    assert far.dials == (DialPlan("dmz", ("tcp://127.0.0.1:9440",)),)
    assert near.peer_keys == {"plant": (far.own.public,)}
    assert far.peer_keys == {"dmz": (near.own.public,)}
    assert [(r.name, r.pattern, r.where, r.end.socket, r.peers) for r in near.routes] == [
        ("orders", "reqrep", "from", "ROUTER", ("plant",)),
        ("ticks", "pubsub", "to", "XPUB", ("plant",)),
    ]
    assert [(r.name, r.where, r.end.socket, r.peers) for r in far.routes] == [
        ("orders", "to", "DEALER", ("dmz",)),
        ("ticks", "from", "XSUB", ("dmz",)),
    ]
    assert near.routes[0].end.endpoints == (Endpoint("bind", "tcp://127.0.0.1:5555"),)
    assert far.routes[0].end.endpoints == (Endpoint("connect", "tcp://127.0.0.1:6555"),)
    assert (near.name, near.table, near.runtime_dir) == ("dmz", path.resolve(), Path("/run/zt-test/dmz.dmz"))
    assert near.ipc_dir == far.ipc_dir == Path("/run/zt-test/ipc/dmz")


def test_what_routes_say_when_they_say_nothing(tmp_path: Path) -> None:
    orders, ticks = plan(tmp_path).routes
    assert (orders.delivery, orders.overflow, orders.priority, orders.on_restart) == (
        "confirmed",
        "block",
        "normal",
        "drop",
    )
    assert (ticks.delivery, ticks.overflow, ticks.max_age_s, ticks.on_restart) == (
        "confirmed",
        "drop-oldest",
        None,
        "resend",
    )
    assert (orders.window_bytes, orders.max_message_bytes, orders.max_age_s) == (4 << 20, 64 << 20, 5.0)
    assert ticks.topics.allow == (b"",)


def test_defaults_and_what_overrides_them(tmp_path: Path) -> None:
    defaults = (
        "defaults: {window: 1MiB, delivery: live, max_message: 2MiB, overflow: drop-newest, priority: bulk,"
        " max_age: 1m, hwm: 7, sndbuf: 64KiB, heartbeat: 3s, keepalive: false, on_restart: resend}\n"
    )
    orders, ticks = plan(tmp_path, defaults + BASE + "    window: 8MiB\n    max_age: never\n").routes
    assert (orders.window_bytes, orders.delivery, orders.max_message_bytes, orders.overflow) == (
        1 << 20,
        "live",
        2 << 20,
        "drop-newest",
    )
    assert (orders.priority, orders.max_age_s, orders.on_restart) == ("bulk", 5.0, "resend")
    assert (ticks.window_bytes, ticks.max_age_s) == (8 << 20, None)
    assert (orders.end.hwm, orders.end.sndbuf, orders.end.heartbeat_s, orders.end.keepalive) == (7, 65536, 3.0, False)


def test_max_age_may_come_from_the_defaults(tmp_path: Path) -> None:
    text = "defaults: {max_age: 9s}\n" + BASE.replace("    max_age: 5s\n", "")
    assert [route.max_age_s for route in plan(tmp_path, text).routes] == [9.0, 9.0]


def test_a_long_end(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    found = end(
        tmp_path,
        "{side: dmz, bind: [ipc://a.sock, ipc:///tmp/b.sock, 'tcp://127.0.0.1:5555'], connect: 'ipc://@c', hwm: 5, "
        f"handover: true, heartbeat: 200ms, mode: '0660', group: {group}, sndbuf: 1KiB, keepalive: false}}",
    )
    assert found == EndPlan(
        socket="ROUTER",
        endpoints=(
            Endpoint("bind", "ipc:///run/zt-test/ipc/dmz/a.sock"),
            Endpoint("bind", "ipc:///tmp/b.sock"),
            Endpoint("bind", "tcp://127.0.0.1:5555"),
            Endpoint("connect", "ipc://@c"),
        ),
        hwm=5,
        sndbuf=1024,
        handover=True,
        heartbeat_s=0.2,
        keepalive=False,
        mode=0o660,
        group=group,
    )


def test_local_is_a_private_socket_of_the_side(tmp_path: Path) -> None:
    assert end(tmp_path, "dmz bind local").endpoints == (Endpoint("bind", "ipc:///run/zt-test/dmz.dmz/orders.ipc"),)


def test_long_names_make_short_sockets(tmp_path: Path) -> None:
    name = "r" * 64
    text = BASE.replace("  ticks:", f"  {name}:").replace("dmz bind tcp://127.0.0.1:5556", "dmz bind local")
    text = text.replace("name: dmz", "name: " + "t" * 40)
    address = plan(tmp_path, text).routes[1].end.endpoints[0].address
    assert len(address.removeprefix("ipc://")) <= 107
    assert name not in address


def test_a_runtime_folder_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/" + "x" * 90)
    with pytest.raises(UsageError, match="set ZTUNNEL_RUNTIME_DIR to a shorter one"):
        plan(tmp_path)


def test_ipc_dir_of_the_table(tmp_path: Path) -> None:
    assert plan(tmp_path, f"ipc_dir: socks\n{BASE}").ipc_dir == tmp_path / "socks"


def test_an_ipc_path_too_long_once_it_is_absolute(tmp_path: Path) -> None:
    text = BASE.replace(FROM, f"from: dmz bind ipc://{'a' * 100}")
    told = problems(tmp_path, text)
    assert len(told) == 1
    assert told[0].startswith("18:11: routes.orders.from")
    assert "longer than the 107 bytes" in told[0]


@pytest.mark.parametrize(
    ("said", "allow"),
    [
        ("from: dmz bind tcp://127.0.0.1:5555", Allow()),
        ("from: dmz bind tcp://127.0.0.1:5555\n    allow: any", Allow()),
        ("from: dmz bind tcp://192.0.2.1:5555\n    allow: any", Allow(anyone=True)),
        (
            "from: dmz bind tcp://192.0.2.1:5555\n    allow: [192.0.2.0/24, '2001:db8::/32']",
            Allow(networks=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))),
        ),
        (
            "from: {side: dmz, bind: 'tcp://192.0.2.1:5555', allow: 192.0.2.9}\n    allow: any",
            Allow(networks=(ip_network("192.0.2.9/32"),)),
        ),
        (
            "from: {side: dmz, bind: 'tcp://127.0.0.1:5555', allow: 127.0.0.2}",
            Allow(networks=(ip_network("127.0.0.2/32"),)),
        ),
    ],
)
def test_who_is_let_in(tmp_path: Path, said: str, allow: Allow) -> None:
    assert plan(tmp_path, BASE.replace(FROM, said)).routes[0].end.allow == allow


def test_who_is_let_in_by_the_defaults(tmp_path: Path) -> None:
    text = "defaults: {allow: 10.0.0.0/8}\n" + BASE.replace("dmz tcp://127.0.0.1:9440", "dmz tcp://192.0.2.1:9440")
    found = plan(tmp_path, text.replace(FROM, "from: dmz bind tcp://192.0.2.1:5555"))
    ten = Allow(networks=(ip_network("10.0.0.0/8"),))
    assert found.listens[0].allow == ten
    assert [route.end.allow for route in found.routes] == [ten, Allow()]


def test_a_link_to_loopback_lets_in_loopback_only(tmp_path: Path) -> None:
    assert plan(tmp_path, f"defaults: {{allow: any}}\n{BASE}").listens[0].allow == Allow()


def test_several_dials_one_listener(tmp_path: Path) -> None:
    write_pair(tmp_path / "more", "lab")
    text = BASE.replace("links:", "  lab: {key: more/lab.key}\nlinks:").replace(
        "dial: plant tcp://127.0.0.1:9440",
        "dial:\n      - side: plant\n        source: 127.0.0.9\n        address: ['tcp://a:1', 'tcp://b:9440']\n"
        "  - listen: dmz tcp://127.0.0.1:9440\n    dial: lab tcp://127.0.0.1:9440 tcp://127.0.0.2:9440",
    )
    path = with_keys(tmp_path, text)
    assert read_plan(path, "dmz").listens == (ListenPlan("tcp://127.0.0.1:9440", ("plant", "lab")),)
    assert read_plan(path, "plant").dials == (DialPlan("dmz", ("tcp://a:1", "tcp://b:9440"), "127.0.0.9"),)
    assert read_plan(path, "lab").dials[0].addresses == ("tcp://127.0.0.1:9440", "tcp://127.0.0.2:9440")
    assert read_plan(path, "lab").routes == ()


def test_routes_with_several_sides(tmp_path: Path) -> None:
    write_pair(tmp_path / "more", "lab")
    text = BASE.replace("links:", "  lab: {key: more/lab.key}\nlinks:\n  - {listen: dmz, dial: lab}").replace(
        "to: plant connect tcp://127.0.0.1:6555", "to: [plant connect tcp://127.0.0.1:6555, lab]"
    )
    orders = read_plan(with_keys(tmp_path, text.replace("{listen: dmz,", "{listen: dmz ipc://l,")), "dmz").routes[0]
    assert (orders.from_sides, orders.to_sides, orders.peers) == (("dmz",), ("plant", "lab"), ("plant", "lab"))


def test_bare_ends_of_others_are_fine_and_ones_own_are_told(tmp_path: Path) -> None:
    text = BASE.replace("to: plant connect tcp://127.0.0.1:6555", "to: plant").replace(
        "dial: plant tcp://127.0.0.1:9440", "dial: plant"
    )
    assert len(plan(tmp_path, text).routes) == 2
    path = tmp_path / "dmz.yaml"
    with pytest.raises(TableError) as caught:
        plan_for(load_table(path), "plant")
    assert [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems] == [
        "12:11: links[0].dial: this box is plant, and it is not told here what to dial; write 'plant tcp://...'.",
        "19:9: routes.orders.to: this box is plant, and its own end is not told here; "
        "write 'plant bind ...' or 'plant connect ...'.",
    ]


def test_a_bare_listener_of_ones_own(tmp_path: Path) -> None:
    told = problems(tmp_path, BASE.replace("listen: dmz tcp://127.0.0.1:9440", "listen: dmz"))
    assert told == [
        "11:13: links[0].listen: this box is dmz, and its own address is missing here; write 'dmz tcp://...'."
    ]


def test_topics_and_subscriptions(tmp_path: Path) -> None:
    ticks = plan(
        tmp_path, BASE + "    topics: {allow: [a, 'hex:ff'], deny: ab}\n    subscribe: ['', 'hex:00']\n"
    ).routes[1]
    assert (ticks.topics.allow, ticks.topics.deny, ticks.subscribe) == ((b"a", b"\xff"), (b"ab",), (b"", b"\x00"))


def test_routing_id(tmp_path: Path) -> None:
    text = BASE.replace(
        "to: plant connect tcp://127.0.0.1:6555", "to: {side: plant, connect: ipc:///x, routing_id: 'hex:ff00'}"
    )
    assert plan(tmp_path, text, "plant").routes[0].end.routing_id == b"\xff\x00"


def test_a_group_this_box_does_not_have(tmp_path: Path) -> None:
    told = problems(tmp_path, BASE.replace(FROM, "from: {side: dmz, bind: ipc://a, group: no-such-group}"))
    assert told == ["18:45: routes.orders.from.group: this box has no group 'no-such-group'."]
    # the other side does not ask
    assert read_plan(tmp_path / "dmz.yaml", "plant").side == "plant"


# --- CURVE and PLAIN on local ends -----------------------------------------------------------------------------------


def test_curve_on_a_bind(tmp_path: Path) -> None:
    write_pair(tmp_path / "local", "router")
    for client in ("a", "b"):
        write_pair(tmp_path / "clients", client)
    said = "{side: dmz, bind: 'tcp://192.0.2.1:5555', curve: {own: local/router.key_secret, clients: clients}}"
    found = end(tmp_path, said)
    assert found.curve is not None
    assert found.curve.own == read_pair(tmp_path / "local/router.key_secret")
    assert found.curve.clients == {read_public(tmp_path / "clients" / f"{name}.key") for name in "ab"}
    assert found.allow == Allow(anyone=True)
    assert found.curve.own.secret.reveal() not in repr(found)


def test_curve_on_a_connect(tmp_path: Path) -> None:
    write_pair(tmp_path / "local", "us")
    write_pair(tmp_path / "local", "service")
    said = "{side: dmz, connect: 'tcp://192.0.2.1:5555', curve: {own: local/us.key_secret, server: local/service.key}}"
    found = end(tmp_path, said)
    assert found.curve is not None
    assert found.curve.server == read_public(tmp_path / "local/service.key")


@pytest.mark.parametrize(
    ("curve", "place", "words"),
    [
        ("{own: none}", "own", "is not there"),
        ("{own: keys/dmz.key}", "own", "may be read by others"),
        ("{own: keys/dmz.key_secret, clients: none}", "clients", "there is no folder"),
        ("{own: keys/dmz.key_secret, clients: empty}", "clients", r"holds no \*.key file"),
    ],
)
def test_curve_files_that_are_wrong_are_told_on_their_own_box_only(
    tmp_path: Path, curve: str, place: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    told = problems(tmp_path, BASE.replace(FROM, f"from: {{side: dmz, bind: 'tcp://127.0.0.1:5555', curve: {curve}}}"))
    assert len(told) == 1
    assert told[0].startswith("18:")
    assert f"routes.orders.from.curve.{place}: " in told[0]
    assert words.replace("\\", "") in told[0]
    assert read_plan(tmp_path / "dmz.yaml", "plant").side == "plant"


def test_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZT_PASSWORD", "hunter2")
    (tmp_path / "pw").write_text("swordfish\n")
    (tmp_path / "pw").chmod(0o600)
    said = "{side: dmz, bind: 'tcp://192.0.2.1:5555', plain: {users: {ann: {env: ZT_PASSWORD}, bob: {file: pw}}}}"
    found = end(tmp_path, said)
    assert found.plain is not None
    assert {user: password.reveal() for user, password in found.plain.users.items()} == {
        "ann": "hunter2",
        "bob": "swordfish",
    }
    assert "hunter2" not in repr(found)
    client = end(
        tmp_path / "client",
        "{side: dmz, connect: 'tcp://192.0.2.1:5555', plain: {username: ann, password: {env: ZT_PASSWORD}}}",
    )
    assert client.plain is not None
    assert client.plain.users["ann"].reveal() == "hunter2"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("{env: ZT_NONE}", "the variable ZT_NONE is not set on this box"),
        ("{env: ZT_EMPTY}", "is empty or longer than 255 bytes"),
        ("{file: none}", "cannot be read"),
        ("{file: open}", "run: chmod 600"),
        ("{credential: none}", "$CREDENTIALS_DIRECTORY is not set"),
    ],
)
def test_passwords_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, words: str
) -> None:
    monkeypatch.delenv("ZT_NONE", raising=False)
    monkeypatch.setenv("ZT_EMPTY", "")
    (tmp_path / "open").write_text("hunter2")
    (tmp_path / "open").chmod(0o644)
    said = f"from: {{side: dmz, bind: 'tcp://127.0.0.1:5555', plain: {{users: {{ann: {reference}}}}}}}"
    told = problems(tmp_path, BASE.replace(FROM, said))
    assert len(told) == 1
    assert "routes.orders.from.plain.users.ann: " in told[0]
    assert words in told[0]
    assert "hunter2" not in told[0]


def test_everything_wrong_on_this_box_at_once(tmp_path: Path) -> None:
    text = BASE.replace(FROM, "from: {side: dmz, bind: ipc://a, group: none1}").replace(
        "to: dmz bind tcp://127.0.0.1:5556", "to: {side: dmz, bind: ipc://b, group: none2}"
    )
    assert len(problems(tmp_path, text)) == 2


def test_plans_are_equal_when_nothing_changed(tmp_path: Path) -> None:
    path = with_keys(tmp_path)
    first = read_plan(path, "dmz")
    assert first == read_plan(path, "dmz")
    path.write_text(path.read_text().replace("5s", "6s"))
    changed = read_plan(path, "dmz")
    assert changed != first
    assert dataclasses.replace(changed, routes=first.routes) == first
