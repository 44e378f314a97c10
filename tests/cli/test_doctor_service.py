"""What doctor finds of unix sockets that the unit could not make, or nobody could see."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from tests.supervise.rig import Rig
from tunnel import places
from tunnel.cli.doctor_service import examine
from tunnel.cli.findings import Finding
from tunnel.config import read_plan

SERVICE = pwd.struct_passwd(("ztunnel", "x", 990, 990, "", "/", "/usr/sbin/nologin"))
GROUPS = {"operators": 2000, "ztunnel": 990}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A table in what stands for /etc/ztunnel; the service's user is in its own group only."""
    for name in ("ZTUNNEL_IPC_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZTUNNEL_RUNTIME_DIR", "/run/zt")
    monkeypatch.setattr(places, "INSTALLED", tmp_path)
    monkeypatch.setattr(places, "service_user", lambda: SERVICE)
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [990])
    monkeypatch.setattr(grp, "getgrnam", lambda name: grp.struct_group((name, "x", GROUPS[name], [])))
    return Rig(tmp_path, tmp_path / "run")


def found(table: Rig, address: str, more: str = "") -> list[Finding]:
    table.write_table(
        more=f"  events: {{pattern: pipeline, to: 'plant connect tcp://127.0.0.1:1', "
        f"from: {{side: dmz, bind: '{address}'{more}}}}}\n"
    )
    return list(examine(read_plan(table.table, "dmz")))


@pytest.mark.parametrize("address", ["ipc://e.sock", "ipc:///run/ztunnel-ipc/x/e.sock", "tcp://127.0.0.1:1234"])
def test_what_the_unit_may_make(table: Rig, address: str) -> None:
    assert [one.state for one in found(table, address)] == ["ok"]


@pytest.mark.parametrize(
    ("path", "state", "detail", "remedy"),
    [
        (
            "/tmp/e.sock",
            "bad",
            "PrivateTmp= of ztunnel@demo hides its /tmp",
            "ipc://e.sock: it then lies in /run/ztunnel-ipc",
        ),
        ("/var/tmp/x/e.sock", "bad", "hides its /var/tmp from applications", "/run/ztunnel-ipc"),
        ("/home/ann/e.sock", "bad", "ProtectHome= of ztunnel@demo hides its /home", "/run/ztunnel-ipc"),
        ("/srv/x/e.sock", "warn", "may write there only", "ReadWritePaths=/srv/x by `systemctl edit ztunnel@demo`"),
        ("/srv/zz/e.sock", "warn", "/srv/zz/e.sock", "a relative path"),
    ],
)
def test_what_it_may_not(table: Rig, path: str, state: str, detail: str, remedy: str) -> None:
    (one,) = found(table, f"ipc://{path}")
    assert (one.state, one.what) == (state, "route events")
    assert detail in one.detail
    assert remedy in one.remedy


def test_a_group_that_its_user_is_not_in(table: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = found(table, "ipc://e.sock", ", group: operators")
    assert (one.state, "ztunnel is no member of operators" in one.detail) == ("bad", True)
    assert one.remedy == "`usermod -aG operators ztunnel`, then `systemctl restart ztunnel@demo`"
    assert [one.state for one in found(table, "ipc://e.sock", ", group: ztunnel")] == ["ok"]
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [990, 2000])
    assert [one.state for one in found(table, "ipc://e.sock", ", group: operators")] == ["ok"]


def test_elsewhere_nothing_is_said(table: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(table, "ipc:///tmp/e.sock")
    monkeypatch.setattr(places, "INSTALLED", table.folder / "other")
    assert not found(table, "ipc:///tmp/e.sock"), "no unit runs it"
    monkeypatch.setattr(places, "INSTALLED", table.folder)
    monkeypatch.setattr(places, "service_user", lambda: None)
    assert not found(table, "ipc:///tmp/e.sock"), "the package is not installed"
