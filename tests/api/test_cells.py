"""The settings of each cell of a comparison: what is said of a task goes with it; and slips that are told in time."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import polars as pl
import pytest
from api.near import Near
from cli.small import make

import perdure
from perdure.api import apart
from perdure.api.cells import Cell, Plan, settings_of
from perdure.api.identity import effective
from perdure.api.plan import tasks_of
from perdure.errors import DataError, MachineError, SettingsError, UsageError
from perdure.events import sequences
from perdure.settings import Settings
from perdure.training.lock import Lock


def planned(folder: Path, *overrides: str, names: tuple[str, ...] = ("watch", "buy", "gender"), **sections) -> Plan:
    return Plan.read(make(folder, names, users=40, **sections), overrides, folder / "out")


def cell(plan: Plan, method: str = "pcl", order: str = "forward") -> Settings:
    return settings_of(plan.request(Cell("sasrec", method, order, "clean", 3), shared=False))


def epochs(settings: Settings) -> dict[str, int]:
    return {task.name: settings.train_for(place).epochs for place, task in enumerate(settings.tasks)}


@pytest.mark.parametrize("how", ["compare", "override"])
def test_a_task_by_its_number_is_the_recipe_s_in_every_order(tmp_path, how):
    key = "tasks.1.train.epochs"
    plan = planned(tmp_path, compare={"pcl": {key: 7}}) if how == "compare" else planned(tmp_path, f" {key} = 7")
    for order in ("forward", "reversed", "noisy"):
        told = epochs(cell(plan, order=order))
        assert told["buy"] == 7 and told["gender"] == 1


def test_what_an_encoder_has_for_later_tasks_is_none_of_its_backbone_s(tmp_path):
    plan = planned(tmp_path, compare={"sasrec": {"tasks.buy.train.epochs": 7, "tasks.watch.train.epochs": 3}})
    first = Cell("sasrec", "frozen", "first", "clean", 3)
    assert epochs(settings_of(plan.request(first, shared=False))) == {"watch": 3}
    assert epochs(cell(plan)) == {"watch": 3, "buy": 7, "gender": 1}


def test_blanks_in_overrides_count_as_little_as_elsewhere(tmp_path):
    plan = planned(tmp_path, " tuning.length = 6", " tasks.buy.train.epochs=4")
    assert cell(plan).tuning.options["length"] == 6
    assert epochs(settings_of(plan.request(Cell("sasrec", "frozen", "first", "clean", 3), shared=False)))


def test_a_task_may_be_called_by_a_number(tmp_path):
    recipe = make(tmp_path, users=40)
    recipe.write_text(recipe.read_text().replace('name = "gender"', 'name = "1"'), encoding="utf-8")
    plan = Plan.read(recipe, ["tasks.1.train.epochs=5", "tasks.0.train.epochs=9"], tmp_path / "out")
    for order in ("forward", "reversed"):
        assert epochs(cell(plan, order=order)) == {"watch": 9, "buy": 1, "1": 5}


def test_a_run_folder_to_begin_with_is_known_by_its_model(learned, tmp_path):
    recipe, run = learned
    settings = [
        Plan.read(recipe, [f"pretrain.model={folder}"], tmp_path).settings for folder in (run.folder, run.model)
    ]
    digests = {effective(one)["pretrain"]["model"] for one in settings}
    assert len(digests) == 1 and len(digests.pop()) == 64


def test_a_recipe_that_begins_with_a_model_can_be_compared(monkeypatch, tmp_path):
    """A method with settings of its own for the first task has no backbone of the comparison, though it has a model."""
    recipe = make(tmp_path, ("watch", "gender"), users=60, pretrain={"epochs": 1})
    first = perdure.learn(recipe, tmp_path / "first", overrides=["run.seed=4"])
    monkeypatch.setattr(apart, "ask", Near())
    changes = [f"pretrain.model={first.model}", "compare.pcl.tasks.watch.train.epochs=1"]
    done = perdure.compare(recipe, tmp_path / "out", methods=["pcl"], overrides=changes)
    assert not done.failed and [one["backbone"] for one in done.cells] == [None]
    told = pl.read_parquet(tmp_path / "out" / "results.parquet")
    assert not told["backbone_shared"].any()
    assert told.height == 3


def test_a_run_of_a_comparison_finds_its_store(monkeypatch, tmp_path):
    monkeypatch.setattr(apart, "ask", Near())
    recipe = make(tmp_path, ("watch", "gender"), users=60, pretrain={"epochs": 1})
    done = perdure.compare(recipe, tmp_path / "out", methods=["frozen"])
    assert perdure.evaluate(tmp_path / "out" / done.cells[0]["folder"])[0]["n"] > 0


def test_tasks_that_nobody_validates_are_told_before_a_search_learns(monkeypatch, tmp_path):
    """One user validates; of a task without users of that age nobody does."""
    recipe = make(
        tmp_path, ("watch", "gender"), users=60, search={"train.learning_rate": [1e-2]}, split={"valid": 0.001}
    )
    changes = ["train.patience=0", "pretrain.patience=0"]
    settings = Plan.read(recipe, changes, tmp_path).settings
    perdure.prepare(recipe, tmp_path / "store")
    events = sequences.load(tmp_path / "store")
    (one,) = tasks_of(settings, events)["gender"].valid.users
    changes.append(f"tasks.gender.users=age != '{events.users['age'][int(one)]}'")
    monkeypatch.setattr(apart, "ask", near := Near())
    with pytest.raises(SettingsError, match="nobody validates task gender"):
        perdure.search(recipe, tmp_path / "out", overrides=changes)
    assert near.asked == []


@pytest.mark.parametrize(
    "told", [{"tries": -1}, {"tries": 1.5}, {"tries": 0}, {"seeds": [-1]}, {"methods": [["pcl"]]}, {"methods": [{}]}]
)
def test_numbers_of_a_search_are_checked(tmp_path, told):
    recipe = make(tmp_path, users=40, search={"train.learning_rate": [1e-2]})
    with pytest.raises(UsageError, match=rf"{next(iter(told))} = "):
        perdure.search(recipe, tmp_path / "out", **told)


def test_a_folder_that_cannot_be_locked_is_told(tmp_path):
    recipe = make(tmp_path, users=40)
    (tmp_path / "out" / "lock").mkdir(parents=True)
    with pytest.raises(MachineError, match="cannot"):
        perdure.compare(recipe, tmp_path / "out")


def test_a_lock_that_could_not_be_written_is_let_go(tmp_path, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="no space"):
            Lock(tmp_path).take("now")
    (lock := Lock(tmp_path)).take("now")
    lock.leave()


def test_a_log_of_strangers_has_no_vectors(learned, tmp_path):
    other = make(tmp_path, users=40)
    events = tmp_path / "world" / "events.csv"
    events.write_text(re.sub(r",[a-z](\d)", r",strange\1", events.read_text()))
    perdure.prepare(other, tmp_path / "store")
    with pytest.raises(DataError, match="knows nothing of any user"):
        perdure.embed(learned[1].folder, tmp_path / "vectors.parquet", store=tmp_path / "store")
    assert not (tmp_path / "vectors.parquet").exists()


def test_a_model_is_shown_and_reported_as_its_folder_is(learned, tmp_path):
    model = perdure.load(learned[1].folder)
    assert perdure.show(model)["digest"] == perdure.show(learned[1].model)["digest"]
    assert perdure.write_report(model, tmp_path / "page.html").is_file()
    with pytest.raises(UsageError, match="no task"):
        perdure.recommend(model, task=["watch"], history=["s0001"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="allow = 3"):
        perdure.recommend(model, task="watch", history=["s0001"], allow=3)  # type: ignore[arg-type]


def test_large_whole_numbers_of_options_are_read_again(tmp_path):
    recipe = make(tmp_path, ("watch",), users=40)
    run = perdure.learn(recipe, tmp_path / "run", overrides=["tuning.method=ewc", "tuning.users=2000000"])
    assert perdure.load(run.folder).method.users == 2_000_000


def test_an_encoder_that_reads_times_is_refused_before_anything_is_learned(tmp_path):
    recipe = make(tmp_path, ("watch",), users=40, encoder={"name": "hstu", "time": True, "blocks": 1})
    text = recipe.read_text().replace('time = "time"\n', "").replace('time_unit = "s"\n', "")
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match="encoder hstu reads times, and the log has none"):
        perdure.check(recipe)
