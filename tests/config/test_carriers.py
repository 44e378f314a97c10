"""Links inside SSH and HTTP, as one side runs them."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme

from tests.config.tables import BASE, with_keys
from tunnel.config import load_table, plan_for, read_plan
from tunnel.config.describe import Call, Opening, ports
from tunnel.config.plan import Allow, CarrierPlan, Plan, ProxyPlan, Secret, SshPlan, TlsPlan
from tunnel.config.render import render
from tunnel.errors import TableError

LINK = "  - listen: dmz tcp://127.0.0.1:9440\n    dial: plant tcp://127.0.0.1:9440\n"
RUN = Path("/run/zt-test")


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", str(RUN))


def plan(folder: Path, link: str, side: str) -> Plan:
    assert LINK in BASE
    return read_plan(with_keys(folder, BASE.replace(LINK, f"  - {link}\n")), side)


def problems(folder: Path, link: str, side: str) -> list[str]:
    with pytest.raises(TableError) as caught:
        plan(folder, link, side)
    return [str(problem).removeprefix(f"{folder / 'dmz.yaml'}:") for problem in caught.value.problems]


def test_a_link_to_dial_through_an_sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZT_PHRASE", "hunter2")
    private(tmp_path / "id")
    (tmp_path / "ssh_config").write_text("")
    link = """{listen: dmz, dial: {side: plant, address: 'ssh://me@dmz:2222/127.0.0.1:9440', source: 10.0.0.9, ssh: {
      backend: openssh, identity: id, passphrase: {env: ZT_PHRASE}, agent: false, known_hosts: [hosts, /etc/hosts],
      config: ssh_config}}}"""
    found = plan(tmp_path, link, "plant")
    socket = RUN / "dmz.plant" / "ssh-dmz.link"
    assert found.carriers == (
        CarrierPlan(
            name="ssh-dmz",
            scheme="ssh",
            role="dial",
            address="ssh://me@dmz:2222/127.0.0.1:9440",
            socket=socket,
            peers=("dmz",),
            source="10.0.0.9",
            ssh=SshPlan(
                user="me",
                host="dmz",
                port=2222,
                target="127.0.0.1:9440",
                backend="openssh",
                identity=(tmp_path / "id",),
                passphrase=Secret("hunter2"),
                agent=False,
                known_hosts=(tmp_path / "hosts", Path("/etc/hosts")),
                config=tmp_path / "ssh_config",
            ),
        ),
    )
    assert found.dials[0].addresses == ("ssh://me@dmz:2222/127.0.0.1:9440",)
    assert found.dials[0].via == {"ssh://me@dmz:2222/127.0.0.1:9440": f"ipc://{socket}"}
    assert "hunter2" not in repr(found)


def test_a_link_that_listens_at_an_sshd(tmp_path: Path) -> None:
    found = plan(tmp_path, "{listen: dmz ssh://me@gate/9440, dial: plant ssh://me@gate/9440}", "dmz")
    (carrier,) = found.carriers
    assert (carrier.name, carrier.role, carrier.peers) == ("ssh-plant", "listen", ("plant",))
    assert carrier.ssh == SshPlan("me", "gate", 22, "127.0.0.1:9440")
    assert found.listens[0].via == f"ipc://{carrier.socket}"


def test_an_https_listener_with_client_certificates(tmp_path: Path) -> None:
    authority(tmp_path)
    link = """{listen: {side: dmz, address: 'https://192.0.2.1:443/link', tls: {cert: cert.pem, key: key.pem,
      ca: ca.pem}}, dial: plant, allow: 198.51.100.7}"""
    (carrier,) = plan(tmp_path, link, "dmz").carriers
    assert carrier.tls == TlsPlan(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    assert carrier.allow == Allow(networks=(ip_network("198.51.100.7"),))


def test_https_through_a_proxy(tmp_path: Path) -> None:
    private(tmp_path / "word", "hunter2\n")
    link = f"""{{listen: dmz, dial: {{side: plant, address: 'https://dmz/link', tls: {{pin: '{"AB:" * 31}AB',
      server_name: dmz.example.com}}, proxy: {{url: 'http://p:3128', username: me, password: {{file: word}}}}}}}}"""
    (carrier,) = plan(tmp_path, link, "plant").carriers
    assert carrier.tls == TlsPlan(pin=("ab" * 32,), server_name="dmz.example.com")
    assert carrier.proxy == ProxyPlan("http://p:3128", "me", Secret("hunter2"))
    assert "hunter2" not in repr(carrier)


@pytest.mark.parametrize(("said", "proxy"), [("none", ProxyPlan("")), ("'http://p:1'", ProxyPlan("http://p:1"))])
def test_a_proxy_in_a_word(tmp_path: Path, said: str, proxy: ProxyPlan) -> None:
    link = f"{{listen: dmz, dial: {{side: plant, address: 'https://dmz/link', proxy: {said}}}}}"
    assert plan(tmp_path, link, "plant").carriers[0].proxy == proxy


def test_several_ways_of_one_link(tmp_path: Path) -> None:
    addresses = "tcp://a:1 ssh://me@a/1 https://a/1 ssh://me@b/1"
    found = plan(tmp_path, f"{{listen: dmz, dial: plant {addresses}}}", "plant")
    assert [carrier.name for carrier in found.carriers] == ["ssh-dmz", "https-dmz", "ssh-dmz-2"]
    assert list(found.dials[0].via) == addresses.split()[1:]
    assert len({carrier.socket for carrier in found.carriers}) == 3


def test_a_listener_of_several_peers(tmp_path: Path) -> None:
    text = BASE.replace("links:", "  lab: {key: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}\nlinks:").replace(
        LINK,
        "".join(f"  - {{listen: dmz http://127.0.0.1:8080/l, dial: {side}}}\n" for side in ("plant", "lab")),
    )
    found = read_plan(with_keys(tmp_path, text), "dmz")
    assert [(carrier.name, carrier.peers) for carrier in found.carriers] == [("http-listen", ("plant", "lab"))]
    assert [listen.peers for listen in found.listens] == [("plant", "lab")]


def test_a_link_without_one_has_none(tmp_path: Path) -> None:
    found = read_plan(with_keys(tmp_path), "plant")
    assert (found.carriers, found.dials[0].via) == ((), {})


@pytest.mark.parametrize(
    ("address", "allow", "warned"),
    [
        ("http://127.0.0.1:8080/l", "198.51.100.7", True),
        ("http://127.0.0.1:8080/l", "[198.51.100.7, 127.0.0.0/8]", False),
        ("http://127.0.0.1:8080/l", "any", False),
        ("http://192.0.2.1:8080/l", "198.51.100.7", False),
    ],
)
def test_whom_a_listener_behind_nginx_lets_in(tmp_path: Path, address: str, allow: str, warned: bool) -> None:
    found = plan(tmp_path, f"{{listen: dmz {address}, dial: plant, allow: {allow}}}", "dmz")
    assert [("so take allow: out" in warning) for warning in found.warnings] == [True] * warned


# --- what this box has -----------------------------------------------------------------------------------------------

SSH = "{listen: dmz, dial: {side: plant, address: 'ssh://me@dmz/9440', ssh: {%s}}}"
FILES = "tls: {cert: cert.pem, key: key.pem, ca: ca.pem}"
TLS = f"{{listen: {{side: dmz, address: 'https://127.0.0.1:1/l', {FILES}}}, dial: plant}}"


def test_ssh_files_that_are_wrong(tmp_path: Path) -> None:
    assert problems(tmp_path, SSH % "identity: [id]", "plant") == [
        f"11:86: links[0].dial.ssh.identity[0]: {tmp_path}/id cannot be read: no such file or directory."
    ]
    private(tmp_path / "id").chmod(0o640)
    assert problems(tmp_path, SSH % "identity: id", "plant") == [
        f"11:85: links[0].dial.ssh.identity: the key {tmp_path}/id may be read by others; run: chmod 600 {tmp_path}/id"
    ]
    assert "config" in problems(tmp_path, SSH % "backend: openssh, config: nowhere", "plant")[0]
    assert "ZT_UNSET is not set" in problems(tmp_path, SSH % "passphrase: {env: ZT_UNSET}", "plant")[0]
    # the other side's box does not have these files
    there = (SSH % "identity: id").replace("listen: dmz", "listen: dmz tcp://127.0.0.1:9440")
    assert plan(tmp_path, there, "dmz").carriers == ()


def test_certificates_that_are_missing(tmp_path: Path) -> None:
    found = problems(tmp_path, TLS, "dmz")
    assert [problem.split(": ")[1] for problem in found] == [
        f"links[0].listen.tls.{word}" for word in ("cert", "key", "ca")
    ]
    assert all("cannot be read: no such file or directory." in problem for problem in found)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    authority(tmp_path)
    (tmp_path / "cert.pem").write_text("hello")
    (tmp_path / "ca.pem").write_text("hello")
    cert, ca = problems(tmp_path, TLS, "dmz")
    assert "are no certificate and its unencrypted key, both as PEM." in cert
    assert f"{tmp_path}/ca.pem holds no certificate (PEM)." in ca


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    authority(tmp_path)
    private(tmp_path / "key.pem", trustme.CA().issue_cert("dmz").private_key_pem.bytes().decode())
    (found,) = problems(tmp_path, TLS, "dmz")
    assert "tls.key: the key in" in found
    assert found.endswith(f"does not belong to the certificate in {tmp_path}/cert.pem.")


def test_a_key_that_everybody_may_read(tmp_path: Path) -> None:
    authority(tmp_path)
    (tmp_path / "key.pem").chmod(0o644)
    (found,) = problems(tmp_path, TLS, "dmz")
    assert found.endswith(f"run: chmod o-rwx {tmp_path}/key.pem")
    (tmp_path / "key.pem").chmod(0o640)  # a group for certificates is usual
    assert plan(tmp_path, TLS, "dmz").carriers


def test_a_path_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", f"/run/{'a' * 60}")
    side = "b" * 40
    sides = f"  {side}: {{key: keys/dmz.key}}\n  plant: {{key: keys/plant.key}}\n"
    links = f"  - {{listen: {side}, dial: plant ssh://me@a/1}}\n"
    path = with_keys(tmp_path, f"version: 1\nname: x\nsides:\n{sides}links:\n{links}")
    with pytest.raises(TableError, match=r"longer than the 107 bytes .* set ZTUNNEL_RUNTIME_DIR"):
        read_plan(path, "plant")


# --- told and rendered -----------------------------------------------------------------------------------------------


def test_ports_of_ssh_and_of_a_proxy(tmp_path: Path) -> None:
    link = """{listen: dmz ssh://me@gate:2222/9440, dial: {side: plant, proxy: 'http://p:3128',
      address: ['ssh://me@gate/9440', 'ssh://me@gate/run/zt/l', 'https://dmz/l']}}"""
    found = ports(load_table(with_keys(tmp_path, BASE.replace(LINK, f"  - {link}\n"))))
    gate = "sshd at gate"
    assert found.opens[0] == Opening(gate, "tcp://127.0.0.1:9440", "link with plant", "its box", "CURVE key of plant")
    assert found.calls[:7] == (
        Call("dmz", "tcp://gate:2222", "sshd that opens 127.0.0.1:9440 for the link with plant"),
        Call("plant", "tcp://gate:22", "sshd of the link with dmz"),
        Call(gate, "tcp://127.0.0.1:9440", "link with dmz"),
        Call("plant", "tcp://gate:22", "sshd of the link with dmz"),
        Call(gate, "ipc:///run/zt/l", "link with dmz"),
        Call("plant", "http://p:3128", "proxy of the link with dmz"),
        Call("proxy p:3128", "https://dmz/l", "link with dmz"),
    )


def test_ports_of_an_http_listener(tmp_path: Path) -> None:
    link = "{listen: dmz http://*:8080/l, dial: plant http://dmz:8080/l, allow: 10.0.0.0/8}"
    found = ports(load_table(with_keys(tmp_path, BASE.replace(LINK, f"  - {link}\n"))))
    assert found.opens[0] == Opening("dmz", "http://*:8080/l", "link with plant", "10.0.0.0/8", "CURVE key of plant")
    assert found.calls[0] == Call("plant", "http://dmz:8080/l", "link with dmz")


@pytest.mark.parametrize("side", ["dmz", "plant"])
def test_rendered_it_gives_the_same_carriers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    monkeypatch.setenv("ZT_WORD", "hunter2")
    authority(tmp_path)
    private(tmp_path / "id")
    link = """listen: {side: dmz, address: 'https://192.0.2.1:443/l', tls: {cert: cert.pem, key: key.pem}, allow: any}
    dial: {side: plant, address: ['https://front/l', 'ssh://me@inner-gate/9440'], tls: {ca: ca.pem},
      ssh: {identity: [id], known_hosts: hosts, agent: false, passphrase: {env: ZT_WORD}},
      proxy: {url: 'http://p:3128', username: ann, password: {env: ZT_WORD}}}"""
    table = load_table(with_keys(tmp_path, BASE.replace(LINK, f"  - {link}\n")))
    text = render(table, side)
    (tmp_path / "rendered.yaml").write_text(text)
    again = load_table(tmp_path / "rendered.yaml")
    assert plan_for(again, side).carriers == plan_for(table, side).carriers
    assert plan_for(again, side).carriers
    assert render(again, side) == text
    told = {"dmz": ("cert.pem", "192.0.2.1"), "plant": ("inner-gate", "ca.pem", "ann", "p:3128", "hosts")}
    for owner, words in told.items():
        assert all((word in text) is (owner == side) for word in words)
    assert "hunter2" not in text


def private(path: Path, text: str = "") -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def authority(folder: Path) -> None:
    """cert.pem, key.pem and ca.pem that fit each other."""
    ca = trustme.CA()
    made = ca.issue_cert("dmz.example.com")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    private(folder / "key.pem", made.private_key_pem.bytes().decode())
