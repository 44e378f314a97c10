"""Files, variables and include: what is merged, what is told, and in which file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.config.tables import BASE, DMZ_KEY, PLANT_KEY, load, write
from tunnel.config import load_table
from tunnel.config.render import render
from tunnel.errors import TableError
from tunnel.limits import INCLUDE_FILES, TABLE_BYTES


def told(path: Path) -> list[str]:
    with pytest.raises(TableError) as caught:
        load_table(path)
    return [str(problem) for problem in caught.value.problems]


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert told(path) == [f"{path}:1:1: there is no file {path}."]


def test_a_folder(tmp_path: Path) -> None:
    assert told(tmp_path) == [f"{tmp_path}:1:1: {tmp_path} is not a file."]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "is not a file" in told(tmp_path / "pipe.yaml")[0]


def test_a_name_no_file_can_have() -> None:
    assert "cannot be read" in told(Path("a\0b"))[0] or "no file" in told(Path("a\0b"))[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, BASE)
    path.chmod(0)
    assert "cannot be read: permission denied" in told(path)[0]


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "#" * TABLE_BYTES)
    assert f"larger than {TABLE_BYTES:,} bytes" in told(path)[0]


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "dmz.yaml"
    path.write_bytes(b"version: 1\nname: d\xfcmz\n")
    assert told(path) == [f"{path}:2:8: the file is not UTF-8 text here; save it as UTF-8."]


@pytest.mark.parametrize("prefix", ["\ufeff", "---\n", "# a table\n"])
def test_what_may_stand_before_a_table(tmp_path: Path, prefix: str) -> None:
    assert load(tmp_path, prefix + BASE).name == "dmz"


def test_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "dmz.yaml"
    path.write_bytes(BASE.replace("max_age: 5s", "max_age: 5").replace("\n", "\r\n").encode())
    assert told(path)[0].startswith(f"{path}:21:14: routes.orders.max_age: ")


def test_the_name_is_the_files(tmp_path: Path) -> None:
    text = BASE.replace("name: dmz\n", "")
    assert load_table(write(tmp_path, text, "line-7.yaml")).name == "line-7"
    problem = told(write(tmp_path, text, "Line 7.yaml"))[0]
    assert "'Line 7.yaml' makes no name for the table; add name:" in problem


# --- variables -------------------------------------------------------------------------------------------------------


def age(tmp_path: Path, text: str) -> float | None:
    return load(tmp_path, BASE.replace("max_age: 5s", f"max_age: {text}")).settings("orders").max_age_s


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZT_AGE", "7s")
    monkeypatch.setenv("ZT_EMPTY", "")
    monkeypatch.setenv("ZT_SEVEN", "7")
    monkeypatch.delenv("ZT_NOT_SET", raising=False)
    assert age(tmp_path, "${ZT_AGE}") == 7
    assert age(tmp_path, "'${ZT_AGE}'") == 7
    assert age(tmp_path, "${ZT_SEVEN}m") == 420
    assert age(tmp_path, "${ZT_NOT_SET:-8s}") == 8
    assert age(tmp_path, "${ZT_EMPTY:-8s}") == 8
    assert age(tmp_path, "${ZT_AGE:-8s}") == 7
    assert age(tmp_path, "${ZT_AGE:?which}") == 7
    assert age(tmp_path, "${ZT_NOT_SET:-}9s") == 9


def test_a_variable_brings_text_and_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZT_EVIL", "any\n    window: 1GiB")
    path = write(tmp_path, BASE.replace("max_age: 5s", "max_age: 5s\n    allow: ${ZT_EVIL}"))
    assert "is no network" in told(path)[0]


def test_numbers_and_booleans_from_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZT_HWM", "12")
    monkeypatch.setenv("ZT_ALIVE", "false")
    end = "{side: plant, connect: 'tcp://127.0.0.1:6555', hwm: '${ZT_HWM}', keepalive: '${ZT_ALIVE}'}"
    table = load(tmp_path, BASE.replace("plant connect tcp://127.0.0.1:6555", end))
    assert (table.routes["orders"].to[0].hwm, table.routes["orders"].to[0].keepalive) == (12, False)


def test_a_dollar_alone_and_a_doubled_one(tmp_path: Path) -> None:
    text = BASE + "    subscribe: ['$5', '$${A}', 'a$', '$$']\n"
    assert load(tmp_path, text).routes["ticks"].subscribe == (b"$5", b"${A}", b"a$", b"$$")


@pytest.mark.parametrize("part", ["0${00", "0${A}", "0$${0", "0$${A}0000"])
def test_a_key_with_a_dollar_and_a_brace_is_no_variable(tmp_path: Path, part: str) -> None:
    key = (part * 8)[:40]
    table = load(tmp_path, BASE.replace(DMZ_KEY, key))
    assert table.keys["dmz"][0].public == key
    again = load(tmp_path, render(table, "dmz"))
    assert again.keys["dmz"][0].public == key


@pytest.mark.parametrize("topic", ["${A}", "$${A}", "$$${A}", "${", "$${", "a$"])
def test_a_dollar_and_a_brace_survive_being_rendered(tmp_path: Path, topic: str) -> None:
    table = load(tmp_path, BASE + f"    subscribe: ['{topic.replace('${', '$${')}']\n")
    assert table.routes["ticks"].subscribe == (topic.encode(),)
    assert load(tmp_path, render(table, "dmz")).routes["ticks"].subscribe == (topic.encode(),)


def test_an_aliased_value_is_expanded_once(tmp_path: Path) -> None:
    text = BASE.replace("max_age: 5s", "max_age: 5s\n    allow: &nets ['${ZT_NOT_SET:-192.0.2.0/24}']")
    text = text.replace("to: dmz bind tcp://127.0.0.1:5556", "to: dmz bind tcp://192.0.2.1:5556\n    allow: *nets")
    table = load(tmp_path, text)
    assert table.routes["ticks"].allow == table.routes["orders"].allow


# --- include ---------------------------------------------------------------------------------------------------------

MORE = "routes:\n  more:\n    pattern: pipeline\n    from: dmz bind local\n    to: plant bind local\n"


def test_include_by_pattern_and_by_name(tmp_path: Path) -> None:
    write(tmp_path, MORE, "routes.d/a.yaml")
    write(tmp_path, MORE.replace("more", "most"), "routes.d/b.yaml")
    write(tmp_path, MORE.replace("more", "other"), "other.yaml")
    table = load(tmp_path, f"include: [routes.d/*.yaml, other.yaml]\n{BASE}")
    assert list(table.routes) == ["orders", "ticks", "more", "most", "other"]


def test_a_pattern_may_match_nothing(tmp_path: Path) -> None:
    assert list(load(tmp_path, f"include: routes.d/*.yaml\n{BASE}").routes) == ["orders", "ticks"]


def test_every_section_can_be_included(tmp_path: Path) -> None:
    head, rest = BASE.split("sides:\n")
    write(tmp_path, "sides:\n" + rest, "all.yaml")
    assert list(load(tmp_path, f"{head}include: all.yaml\nroutes:\n").routes) == ["orders", "ticks"]


def test_problems_name_the_included_file_as_seen_from_the_named_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, MORE.replace("pipeline", "pipelin"), "conf/routes.d/a.yaml")
    write(tmp_path, f"include: [routes.d/*.yaml]\n{BASE.replace('5s', 'soon')}", "conf/dmz.yaml")
    monkeypatch.chdir(tmp_path)
    first, second = told(Path("conf/dmz.yaml"))
    assert first.startswith("conf/dmz.yaml:22:14: routes.orders.max_age: 'soon' is no time")
    assert second.startswith("conf/routes.d/a.yaml:3:14: routes.more.pattern: 'pipelin' is no pattern")


def test_cross_checks_see_included_files(tmp_path: Path) -> None:
    write(tmp_path, MORE.replace("dmz bind local", "dmz bind tcp://127.0.0.1:5555"), "a.yaml")
    path = write(tmp_path, f"include: a.yaml\n{BASE}")
    assert told(path) == [
        f"{tmp_path}/a.yaml:4:11: routes.more.from: dmz binds tcp://127.0.0.1:5555 already for the route orders "
        "(line 19); take another port or path."
    ]


def test_a_name_twice_in_two_files(tmp_path: Path) -> None:
    write(tmp_path, MORE.replace("more", "ticks"), "a.yaml")
    path = write(tmp_path, f"include: a.yaml\n{BASE}")
    assert told(path) == [
        f"{tmp_path}/a.yaml:2:3: routes.ticks: 'ticks' is here twice; it was first said in {path}, line 23."
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- routes\n", ":1:1: an included file is a mapping with sides, links, routes, bridges, not this."),
        ("name: x\n", ":1:1: name: an included file holds sides, links, routes, bridges only; 'name' belongs into "),
        ("include: b.yaml\n", ":1:1: include: an included file holds"),
        ("routes: [a]\n", ":1:9: routes: routes is a mapping in "),
        ("a: [\n", ":2:1: "),
    ],
)
def test_what_an_included_file_may_not_be(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, text, "a.yaml")
    problems = told(write(tmp_path, f"include: a.yaml\n{BASE}"))
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path}/a.yaml{words}")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "version: 1\n", "routes:\n"])
def test_what_an_included_file_may_be(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, "a.yaml")
    assert list(load(tmp_path, f"include: a.yaml\n{BASE}").routes) == ["orders", "ticks"]


def test_a_table_does_not_include_itself_nor_a_file_twice(tmp_path: Path) -> None:
    write(tmp_path, MORE, "a.yaml")
    problems = told(write(tmp_path, f"include: [a.yaml, a.yaml, dmz.yaml]\n{BASE}"))
    assert [problem.split(": ", 2)[1] for problem in problems] == ["include[1]", "include[2]"]
    assert all("is included twice" in problem for problem in problems)


def test_the_number_of_included_files_is_bounded(tmp_path: Path) -> None:
    for index in range(INCLUDE_FILES + 1):
        write(tmp_path, "", f"d/{index}.yaml")
    assert f"more than {INCLUDE_FILES} files" in told(write(tmp_path, f"include: d/*.yaml\n{BASE}"))[0]


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    lab = "sides:\n  lab:\n    key: lab.key\nlinks:\n  - {listen: dmz, dial: lab}\n"
    write(tmp_path, lab, "labs/lab.yaml")
    write(tmp_path, f'public-key = "{PLANT_KEY[:-1]}>"\n'.replace(">", "5"), "labs/lab.key")
    table = load(tmp_path, f"include: labs/lab.yaml\n{BASE}")
    assert table.keys["lab"][0].file == tmp_path / "labs" / "lab.key"
