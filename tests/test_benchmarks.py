"""The benchmarks' own instruments: the native programs notice what goes wrong, and the report judges rightly."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from benchmarks import bridges, mail_in, mail_out, natives, scenarios, streams, systems
from benchmarks.process import MeasureError, Process
from benchmarks.report import TARGETS, Target, medians_of, tables

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the native programs need gcc")


def run_pair(folder: Path, *sender: str) -> tuple[Process, Process]:
    receiver = Process("receiver", natives.command("receiver", "bind=tcp://127.0.0.1:*", "size=64"), folder)
    endpoint = receiver.line("bound ").split()[-1]
    arguments = [f"connect={endpoint}", "size=64", "seconds=0.1", *sender]
    return receiver, Process("sender", natives.command("sender", *arguments), folder)


def test_the_receiver_counts_what_the_sender_sent(tmp_path: Path) -> None:
    receiver, sender = run_pair(tmp_path)
    with receiver, sender:
        receiver.line("probe")
        sender.go()
        sent, result = sender.result(), receiver.result()
    assert result["messages"] == sent["sent"] > 100
    assert (result["lost"], result["repeated"], result["damaged"]) == (0, 0, 0)


def test_the_receiver_notices_one_missing_message(tmp_path: Path) -> None:
    receiver, sender = run_pair(tmp_path, "leave_out=7")
    with receiver, sender:
        receiver.line("probe")
        sender.go()
        result = receiver.result()
    assert (result["lost"], result["repeated"]) == (1, 0)


def test_the_programs_run_on_the_libzmq_of_pyzmq(tmp_path: Path) -> None:
    receiver = Process("receiver", natives.command("receiver", "bind=tcp://127.0.0.1:*"), tmp_path)
    with receiver:
        receiver.line("bound ")
        assert str(natives.libzmq()) in Path(f"/proc/{receiver.pid}/maps").read_text()


def test_a_program_that_fails_is_explained(tmp_path: Path) -> None:
    sender = Process("sender", natives.command("sender", "connect=nonsense"), tmp_path)
    with sender, pytest.raises(MeasureError, match="nonsense: Invalid argument"):
        sender.line("probe")


@pytest.mark.parametrize("system", [systems.Direct(), systems.Proxies()], ids=lambda system: system.name)
def test_the_baselines_carry_messages_and_requests(tmp_path: Path, system: systems.System) -> None:
    throughput = scenarios.Throughput("few", 1024).run(system, tmp_path, 0.2)
    assert throughput["rate"] > 100
    assert throughput["cpu_all_s"] > 0
    round_trip = scenarios.RoundTrip().run(system, tmp_path, 0.2)
    assert 0 < round_trip["p50_us"] <= round_trip["p99_us"]


def test_medians_are_taken_over_the_rounds() -> None:
    rounds = {"round trip": {"ztunnel": [{"p50_us": 1.0}, {"p50_us": 9.0}, {"p50_us": 2.0}]}}
    assert medians_of(rounds) == {"round trip": {"ztunnel": {"p50_us": 2.0}}}


@pytest.mark.parametrize(
    ("value", "at_least", "verdict"),
    [(8.0, True, "met, aim too"), (5.0, True, "met"), (4.4, True, "NOT MET"), (8.0, False, "NOT MET")],
)
def test_a_target_is_met_or_not(value: float, at_least: bool, verdict: str) -> None:
    aim = 7.0 if at_least else 2.0
    assert Target("s", "says", "rate", True, must=4.5, aim=aim, at_least=at_least).met(value) == verdict


def test_the_report_shows_figures_ratios_and_verdicts() -> None:
    medians = {"throughput 64 B": {"ztunnel": {"rate": 1_500_000.0}, "proxies": {"rate": 300_000.0}}}
    shown = tables(medians)
    assert "| 1,500,000 |" in shown
    assert "| 5.00" in shown
    assert "| ≥ 4.5 | 7   | met |" in shown


def test_every_target_belongs_to_a_scenario() -> None:
    measured = (scenarios.ALL, streams.SCENARIOS, bridges.SCENARIOS, mail_in.SCENARIOS, mail_out.SCENARIOS)
    names = {scenario.name for suite in measured for scenario in suite}
    targets = (*TARGETS, *streams.TARGETS, *bridges.TARGETS, *mail_out.TARGETS, *mail_in.TARGETS)
    assert len(targets) > 20
    assert [target.says for target in targets if target.scenario not in names] == []


def test_bytes_are_counted_at_both_ends(tmp_path: Path) -> None:
    with Process("sink", natives.command("sink", "connections=3"), tmp_path) as sink:
        endpoint = sink.line("bound ").split()[-1]
        arguments = [f"connect={endpoint}", "connections=3", "seconds=0.1"]
        with Process("source", natives.command("source", *arguments), tmp_path) as source:
            sink.line("probe")
            source.go()
            came, sent = sink.result(), source.result()
    assert came["bytes"] == sent["bytes"] > 100_000
    assert came["seconds"] > 0


@pytest.mark.skipif(bool(streams.missing()), reason=streams.missing())
def test_ssh_carries_the_baseline_of_streams(tmp_path: Path) -> None:
    figures = streams.Bulk("some", 2).run(streams.SshForward(), tmp_path, 0.2)
    assert figures["mb_s"] > 1
    assert streams.RoundTrip().run(streams.SshForward(), tmp_path, 0.2)["p50_us"] > 0


def test_a_service_that_echoes(tmp_path: Path) -> None:
    with (
        streams.echoing() as address,
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client,
    ):
        streams.answer(client)


@pytest.mark.parametrize("system", bridges.SYSTEMS, ids=lambda system: system.name)
def test_lines_of_devices_are_counted_at_both_ends(tmp_path: Path, system: bridges.BridgeSystem) -> None:
    figures = bridges.Lines("few", 1).run(system, tmp_path, 0.1)
    assert figures["rate"] > 1000


@pytest.mark.parametrize("system", mail_out.SYSTEMS, ids=lambda system: system.name)
def test_mails_are_counted_at_both_ends(tmp_path: Path, system: mail_out.MailSystem) -> None:
    assert mail_out.MailOut("few").run(system, tmp_path, 0.1)["rate"] > 5


@pytest.mark.parametrize("system", mail_in.SYSTEMS, ids=lambda system: system.name)
def test_mails_that_come_in_are_counted_at_both_ends(tmp_path: Path, system: mail_in.MailServer) -> None:
    assert mail_in.MailIn("few", 3, 1000, None).run(system, tmp_path, 0.1)["rate"] > 5
