"""Searching settings: what is tried with each method, what is chosen, what is refused. Children do their work in this
process."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from api.near import Near
from cli.small import make

import perdure
from perdure import registry
from perdure.api import apart
from perdure.errors import SettingsError, UsageError
from perdure.settings import search as searched
from perdure.settings.toml import render

RATES = {"train.learning_rate": [1e-4, 1e-2]}
SEARCH = {**RATES, "pcl": {"tuning.length": [2, 3]}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = {"search": SEARCH, "compare": {"pcl": {"train.epochs": 2}}, "pretrain": {"epochs": 1}}
    return make(tmp_path_factory.mktemp("world"), ("watch", "gender"), **tables)


@pytest.fixture(scope="module")
def found(recipe: Path, tmp_path_factory: pytest.TempPathFactory):
    """(Search, folders in the order learned); not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "ask", near := Near())
        done = perdure.search(recipe, tmp_path_factory.mktemp("s") / "out", methods=("pcl", "frozen"))
    return done, near.asked


def test_every_method_has_as_many_tries_and_one_backbone(found):
    done, asked = found
    names = [f"{method}{which}" for method in ("pcl", "frozen") for which in ("", "-try2", "-try3")]
    assert asked == ["tries/backbones/sasrec-3", *[f"tries/runs/sasrec/{name}/forward/3" for name in names]]
    assert [one.method for one in done.tries] == ["pcl"] * 3 + ["frozen"] * 3
    assert done.tries[0].settings == done.tries[3].settings == {}
    assert {one.settings["train.learning_rate"] for one in done.tries[4:]} == {1e-4, 1e-2}
    assert len({json.dumps(one.settings) for one in done.tries[:3]}) == 3
    assert not done.failed and done.seeds == [3]


def test_the_best_is_chosen_by_validation_users(found):
    """The values are those that `evaluate` gives for the validation users, and the first of the highest is the best."""
    done, _ = found
    for one in done.tries:
        told = perdure.evaluate(*one.folders, split="valid", store=Path(done.folder) / "tries" / "store")
        assert one.tasks == {score["task"]: score["value"] for score in told}
        assert one.average == pytest.approx(sum(one.tasks.values()) / 2)
    for method in ("pcl", "frozen"):
        own = [one for one in done.tries if one.method == method]
        assert [one.best for one in own].index(True) == max(range(3), key=lambda at: own[at].average)
        assert sum(one.best for one in own) == 1


def test_what_was_tuned_before_stays_and_the_file_is_read_back(found, recipe):
    done, _ = found
    text = Path(done.tuned).read_text()
    best = {one.method: one.settings for one in done.tries if one.best}
    told = tomllib.loads(text).get("compare", {})
    assert told["pcl"] == {"train.epochs": 2, **best["pcl"]}
    assert told.get("frozen", {}) == best["frozen"] and text.startswith("# of 3 tries with each method")
    whole = tomllib.loads(recipe.read_text()) | {"compare": told}
    assert perdure.check(whole | {"data": {**whole["data"], **_absolute(whole["data"], recipe.parent)}}).tasks
    assert json.loads((Path(done.folder) / "search.json").read_text())["tries"] == [asdict(one) for one in done.tries]


def _absolute(data, folder):
    users = {**data["users"], "path": str(folder / data["users"]["path"])}
    return {"path": str(folder / data["path"]), "users": users}


def test_run_again_it_learns_only_what_is_missing(found, recipe, monkeypatch):
    done, _ = found
    monkeypatch.setattr(apart, "ask", near := Near())
    again = perdure.search(recipe, done.folder, methods=("pcl", "frozen"))
    assert near.asked == [] and again.tries == done.tries
    with pytest.raises(UsageError, match="other tries stand here: frozen") as fault:
        perdure.search(recipe, done.folder, methods=("pcl",))
    assert fault.value.fix == "choose another folder"


def test_more_methods_and_tries_go_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "ask", near := Near())
    first = perdure.search(recipe, tmp_path / "out", methods=("pcl",), tries=2)
    near.asked.clear()
    more = perdure.search(recipe, tmp_path / "out", methods=("pcl", "frozen"), tries=3)
    runs = ["pcl-try3", "frozen", "frozen-try2", "frozen-try3"]
    assert near.asked == [f"tries/runs/sasrec/{name}/forward/3" for name in runs]
    kept = {one.folders[0]: one.tasks for one in first.tries}
    assert len(kept) == 2 and kept.items() <= {one.folders[0]: one.tasks for one in more.tries}.items()


def test_several_seeds_are_judged_by_their_mean(recipe, tmp_path, monkeypatch):
    """With folds each seed has validation users of its own."""
    monkeypatch.setattr(apart, "ask", near := Near())
    asked = {"methods": ["frozen"], "tries": 2, "overrides": ["split.folds=3"]}
    done = perdure.search(recipe, tmp_path / "out", seeds=[1, 2], **asked)
    assert done.seeds == [1, 2] and [len(one.folders) for one in done.tries] == [2, 2]
    assert "seeds 1, 2" in Path(done.tuned).read_text()
    store = tmp_path / "out" / "tries" / "store"
    for one in done.tries:
        told = [perdure.evaluate(folder, task="watch", split="valid", store=store)[0] for folder in one.folders]
        assert one.tasks["watch"] == pytest.approx(sum(score["value"] for score in told) / 2)
    near.asked.clear()
    alone = perdure.search(recipe, tmp_path / "out", seeds=[1], **asked)
    assert near.asked == [] and [one.folders for one in alone.tries] == [one.folders[:1] for one in done.tries]


def test_a_choice_that_changes_nothing_is_not_tried(recipe, tmp_path, monkeypatch):
    """The recipe's own value among those listed is the recipe as it stands."""
    monkeypatch.setattr(apart, "ask", near := Near())
    tables = ["search.train.learning_rate=[1e-3, 1e-2]", "train.learning_rate=1e-3"]
    done = perdure.search(recipe, tmp_path / "out", methods=["frozen"], overrides=tables)
    assert [one.settings for one in done.tries] == [{}, {"train.learning_rate": 1e-2}] and len(near.asked) == 3


@pytest.mark.parametrize(
    ("methods", "tries", "overrides", "match"),
    [
        (["frozen"], 4, [], "2 to try with frozen besides"),
        (["single"], None, ["search.train.learning_rate=[1e-3]", "train.learning_rate=1e-3"], "nothing to try"),
        (["nothing"], None, [], "no method 'nothing'"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_a_folder_is_made(recipe, tmp_path, methods, tries, overrides, match):
    with pytest.raises(UsageError, match=match):
        perdure.search(recipe, tmp_path / "out", methods=methods, tries=tries, overrides=overrides)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variants", "name"),
    [
        (("pcl.a", "pcl-a"), "pcl-a-try2"),
        (("pcl", "PCL-try2"), "pcl-try2"),
        (("x" * 60,), "x" * 60 + "-try2"),
    ],
)
def test_no_try_has_the_name_of_another(recipe, tmp_path, variants, name):
    """`pcl.a` and `pcl-a` would share a folder; a variant of the recipe would be learned as the try."""
    tables = tomllib.loads(recipe.read_text())
    tables["search"], tables["compare"] = RATES, {one: {"method": "pcl"} for one in variants if one != "pcl"}
    (near := recipe.with_name("variants.toml")).write_text(render(tables))
    with pytest.raises(UsageError, match=f"try 2 of .* would be called '{name}'"):
        perdure.search(near, tmp_path / "out", methods=[one for one in variants if one[0] != "P"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "task", "key"),
    [
        (["split.valid=0"], "watch", "valid"),
        (["split.kind=last", "split.valid_last=0"], "watch", "valid_last"),
        (["split.kind=last", "split.valid=0"], "gender", "valid"),
    ],
)
def test_a_split_without_validation_users_is_refused_before_anything_is_learned(recipe, tmp_path, changes, task, key):
    changes = [*changes, "train.patience=0", "pretrain.patience=0"]
    with pytest.raises(SettingsError, match=f"split.{key} is 0, so nobody validates task {task}"):
        perdure.search(recipe, tmp_path / "out", overrides=changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("search", "where", "found"),
    [
        ({"train.learning_rate": [1e-3, -1]}, "search.train.learning_rate", "-1"),
        ({"train.learning_rate": 1e-3}, "search.train.learning_rate", "0.001"),
        ({"train.learning_rate": []}, "search.train.learning_rate", r"\[\]"),
        ({"tuning.length": [2]}, "search.tuning.length", "not for every method"),
        ({"split.seed": [2]}, "search.split.seed", "expected: a table for a method"),
        ({"pcl": {"tuning.lenght": [2]}}, "search.pcl.tuning.lenght", "unknown key"),
        ({"pcl": {"split.seed": [2]}}, "search.pcl.split.seed", "cannot differ"),
        ({"pcll": {"tuning.length": [2]}}, "search.pcll", "no such method"),
        ({"pcl": 3}, "search.pcl", "3"),
        ({"train.learning_rate": [k / 1e5 for k in range(1, 16)], "train.epochs": [*range(1, 15)]}, "search", "210"),
    ],
)
def test_a_wrong_search_is_one_clear_fault(recipe, search, where, found):
    tables = tomllib.loads(recipe.read_text()) | {"search": search}
    (recipe.parent / "wrong.toml").write_text(render(tables), encoding="utf-8")
    with pytest.raises(SettingsError, match=found) as fault:
        perdure.check(recipe.parent / "wrong.toml")
    assert where in str(fault.value) and len(fault.value.faults) == 1


def test_choices_are_drawn_by_the_seed_and_a_longer_draw_begins_alike():
    told = searched.flat(SEARCH)
    assert told == {searched.EVERY: RATES, "pcl": {"tuning.length": [2, 3]}}
    first, other = searched.choices(told, "pcl", 1), searched.choices(told, "pcl", 2)
    assert len(first) == 4 and sorted(map(str, first)) == sorted(map(str, other)) and first != other
    assert first == searched.choices(told, "pcl", 1) and searched.choices({}, "pcl", 1) == []
    assert all(name in registry.names("methods") for name in ("pcl", "frozen"))
