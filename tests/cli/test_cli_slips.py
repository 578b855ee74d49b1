"""What a person mistypes or expects: told in a line, before anything is computed, and never as a fault of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.small import call, make

from perdure.cli.show import fields, marks


def said(capsys, *arguments: str | Path) -> str:
    """What a command that must be refused says."""
    assert call(*arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    return told.err


def notes(capsys, *arguments: str | Path) -> list[str]:
    """The notes beside the scores of one task."""
    assert call("evaluate", *arguments, "--task", "buy", "--json") == 0
    return json.loads(capsys.readouterr().out)["scores"][0]["notes"]


def checked(capsys, recipe: Path) -> list[str]:
    """The notes of a check."""
    assert call("check", recipe, "--json") == 0
    return json.loads(capsys.readouterr().out)["notes"]


def test_cut_offs_beyond_the_answers_are_noted(first, capsys):
    """The world has 24 things to buy."""
    run = first / "first"
    (beyond,) = [note for note in notes(capsys, run, "--ks", "24,1000") if "say nothing" in note]
    assert beyond == "hr and recall at 24, 1000 say nothing: 24 answers are ranked"
    assert not any("say nothing" in note for note in notes(capsys, run, "--ks", "23"))
    (few,) = [note for note in notes(capsys, run, "--ks", "9,10", "--sampled", "9") if "say nothing" in note]
    assert few == "hr and recall at 10 say nothing: 10 answers are ranked"


@pytest.mark.parametrize(("drawn", "noted"), [("24", True), ("1000 popularity", True), ("23", False), ("all", False)])
def test_a_sample_as_large_as_the_answers_is_noted(first, capsys, drawn, noted):
    found = [note for note in notes(capsys, first / "first", "--sampled", drawn) if "can be drawn" in note]
    count = drawn.split()[0]
    told = f"the task has 24 answers: all that can be drawn are, and {count} cannot"
    assert found == ([told] if noted else [])


def test_blanks_between_ids_are_no_part_of_them(first, capsys):
    told = []
    for history in ("s0001,s0013", "s0001, s0013", " s0001 ,s0013,"):
        assert call("recommend", first / "first", "--task", "buy", "--history", history, "--json") == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1] == told[2] and not told[0]["unknown"]


def test_blanks_around_the_values_of_a_profile_are_no_part_of_them():
    assert fields("gender = F, age=25 ,", "--profile") == {"gender": "F", "age": "25"}
    assert marks("behaviour = view; time = 9", "--marks") == [{"behaviour": "view"}, {"time": 9}]


def test_a_file_of_ids_may_begin_with_a_byte_order_mark(first, tmp_path, capsys):
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfs0001\r\ns0013\r\n")
    assert call("recommend", first / "first", "--task", "buy", "--history", f"@{tmp_path}/ids.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unknown"] == []


@pytest.mark.parametrize("name", ["users.csv", "users.JSON", "users.npy"])
def test_vectors_are_not_written_under_the_name_of_another_kind_of_file(first, tmp_path, capsys, name):
    told = said(capsys, "embed", first / "first", "--out", tmp_path / name)
    assert f"{name} would be no {Path(name).suffix.lower()} file" in told and not (tmp_path / name).exists()


def test_a_store_that_is_none_is_named(first, tmp_path, capsys):
    assert call("evaluate", first / "first", "--store", tmp_path) == 3
    assert f"no prepared log in {tmp_path}" in capsys.readouterr().err


def test_probe_without_a_model_says_so(recipe, capsys):
    assert "Missing argument 'MODEL'" in said(capsys, "probe", recipe)
    assert "Missing argument 'MODEL'" in said(capsys, "probe", recipe.parent)


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_computed(first, capsys, monkeypatch):
    """Below /proc nobody can, root included."""
    monkeypatch.setattr("perdure.api.probing._events", lambda *_: pytest.fail("too late"))
    for verb in (["quickstart"], ["probe", first / "first", first / "first" / "recipe.toml"]):
        assert call(*verb, "--out", "/proc/nobody/out") == 5
        told = capsys.readouterr().err
        assert "error: cannot write: " in told and "where: /proc/nobody/out" in told


def test_a_kind_that_is_nearly_one_is_named(recipe, capsys):
    assert "did you mean one_of?" in said(capsys, "check", recipe, "-s", "tasks.gender.kind=oneof")


def test_a_file_that_is_nearly_one_is_named(recipe, capsys):
    told = said(capsys, "check", recipe, "-s", f"data.path={recipe.parent / 'world' / 'event.csv'}")
    assert "fix: did you mean events.csv?" in told
    told = said(capsys, "check", recipe, "-s", f"data.path={recipe.parent / 'wrold' / 'events.csv'}")
    assert f"fix: nearest folder that exists: {recipe.parent}" in told


@pytest.mark.parametrize(
    ("change", "never"),
    [
        ("tasks.buy.where=domain = 'targte'", "domain is never 'targte' but 'source', 'target'"),
        (
            "tasks.buy.where=domain = 'source'",
            "all events that its where selects are history, and answers lie outside it",
        ),
        ("tasks.gender.users=user.gender = 'x' and age = 'y'", "user.gender is never 'x' but 'f', 'm'"),
    ],
)
def test_a_value_that_a_column_never_has_is_told_with_those_it_has(recipe, capsys, change, never):
    assert call("check", recipe, "-s", change) == 3
    told = capsys.readouterr().err
    assert f"fix: {never}" in told and "users left out" in told


def test_answers_that_are_all_input_are_told(tmp_path, capsys):
    recipe = make(tmp_path)
    told = "fix: the history is the whole log, and answers lie outside it: set [history]"
    assert call("check", recipe, "-s", "history.where=time > 0") == 3
    assert told in capsys.readouterr().err
    recipe.write_text(recipe.read_text().replace("[history]\nwhere = \"domain = 'source'\"\n", ""))
    assert call("check", recipe) == 3
    assert told in capsys.readouterr().err


def test_what_left_nothing_over_is_told(recipe, capsys):
    assert call("check", recipe, "-s", "data.where=domain = 'x'") == 3
    assert "rows left out by data.where: " in capsys.readouterr().err
    assert call("check", recipe, "-s", "data.min_item_count=9999") == 3
    assert "rows left out by data.min_item_count: " in capsys.readouterr().err


def test_tables_that_tell_of_nobody_in_the_log_are_told(tmp_path, capsys):
    recipe = make(tmp_path, ("watch", "buy"), profile={"fields": ["gender", "age"]})
    users, plain = tmp_path / "world" / "users.csv", checked(capsys, recipe)
    assert not [note for note in plain if "profile" in note or "data.users" in note]
    head, *rows = users.read_text().splitlines()
    users.write_text("\n".join([head, *("x" + row for row in rows)]))
    told = checked(capsys, recipe)
    assert {"120 of 120 users are not in data.users", "[profile]: nothing is known of 120 of 120 users"} <= set(told)
    place = head.split(",").index("age")
    cells = [row.split(",") for row in rows]
    users.write_text("\n".join([head, *(",".join([*one[:place], "", *one[place + 1 :]]) for one in cells)]))
    assert "[profile]: no user has a value of age" in checked(capsys, recipe)


def test_a_profile_that_the_method_does_not_read_is_told(tmp_path, capsys):
    recipe = make(tmp_path, ("watch", "buy"), profile={"fields": ["age"]}, tuning={"method": "frozen", "length": 3})
    recipe.write_text(recipe.read_text().replace("length = 3\n", ""))
    assert call("learn", recipe, "--out", tmp_path / "run") == 0
    capsys.readouterr()
    asked = ("recommend", tmp_path / "run", "--task", "buy", "--history", "s0001", "--profile", "age=25", "--json")
    assert call(*asked) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note == "frozen answers buy without a profile: the one that was given is unused"


def test_show_of_a_comparison_says_where_it_is_told(tmp_path, capsys):
    (tmp_path / "compare.json").write_text("{}")
    assert call("show", tmp_path) == 4
    assert "is a comparison: perdure report tells it" in capsys.readouterr().err
