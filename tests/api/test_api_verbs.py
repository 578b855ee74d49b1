"""The verbs from Python: what they take and give, and that they disturb nothing."""

from __future__ import annotations

import dataclasses
import gc
import io
import json
import re
import sys
import tomllib
import weakref

import numpy as np
import polars as pl
import pytest
import torch
from cli.small import make

import perdure
from perdure import registry
from perdure.api import beginning, learning, plan
from perdure.errors import DataError, MachineError, SettingsError, UsageError
from perdure.settings import load
from perdure.settings.toml import render
from perdure.training.display import Display


def test_a_models_life(learned, tmp_path):
    """The dozen lines of the README."""
    _, run = learned
    assert run.tasks == ["watch", "buy", "gender"] and run.forgetting == 0
    answer = perdure.recommend(run.model, task="buy", history=["s0001", "s0013"], k=5)
    assert len(answer["items"]) == 5
    scores = perdure.evaluate(run.model, task="gender")
    assert scores[0]["value"] == pytest.approx(run.scores["gender"], abs=1e-6)
    assert run.popularity.keys() == run.scores.keys() and scores[0]["popularity"] == run.popularity["gender"]
    told = perdure.embed(run.model, tmp_path / "users.parquet")
    assert told["users"] == 120
    assert perdure.show(run.folder)["R"] == run.matrix
    assert perdure.write_report(run.folder).is_file()


def test_a_result_that_is_looked_at_says_what_matters(learned):
    """At a prompt: scores and folders, not every setting and every row."""
    recipe, run = learned
    for told, there in ((run, run.model), (perdure.check(recipe), "sasrec")):
        assert there in repr(told) and "scores=" in repr(run) and len(repr(told)) < 1200, repr(told)


def test_what_is_seen_is_as_the_recipe_says(learned, tmp_path):
    """`recommend` leaves out, or keeps, what `evaluate` does."""
    recipe, run = learned
    keep = ["evaluate.seen=keep", f"pretrain.model={run.model}", "train.max_steps=1"]
    kept = perdure.learn(recipe, tmp_path / "run", overrides=keep)
    asked = {"task": "watch", "history": ["s0001", "s0013"], "k": 60}
    both = perdure.recommend(kept.model, **asked)["items"]
    assert {"s0001", "s0013"} <= set(both) and not {"s0001", "s0013"} & set(
        perdure.recommend(kept.model, seen="drop", **asked)["items"]
    )
    assert not {"s0001", "s0013"} & set(perdure.recommend(run.model, **asked)["items"])
    assert not any("own input" in note for note in perdure.evaluate(kept.model, task="watch")[0]["notes"])


def test_a_memory_is_measured_as_it_answers(learned, tmp_path):
    """Scores of `axes` hang on histories besides the user vectors: saved, loaded, measured, asked one or all."""
    recipe, first = learned
    told = ["tuning.method=axes", f"pretrain.model={first.model}", "train.epochs=2"]
    run = perdure.learn(recipe, tmp_path / "run", overrides=told, show=Display(said := io.StringIO()))
    model = perdure.load(run.model)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (counted,) = (line for line in log if line["event"] == "counted")  # what the epochs could not know
    valid = perdure.evaluate(model, task="buy", split="valid")[0]["value"]
    assert counted["task"] == "buy" and counted["valid"] == pytest.approx(valid, abs=1e-6)
    assert f"buy: with what was counted after training, ndcg@10 {valid:.4f}" in said.getvalue()
    assert f"{valid:.3f} with what was counted after training" in (tmp_path / "run" / "report.html").read_text()
    assert model.recalls("buy") and not model.recalls("watch")
    assert perdure.evaluate(model, task="buy")[0]["value"] == pytest.approx(run.scores["buy"], abs=1e-6)
    users = [f"u{i:04d}" for i in range(5)]
    perdure.recommend_all(model, tmp_path / "all.parquet", task="buy", users=users, k=5)
    table, moved = pl.read_parquet(tmp_path / "all.parquet"), 0
    one_by_one = {user: perdure.recommend(model, task="buy", user=user, k=5) for user in users}
    model.heads["buy"].trust.zero_()
    for user, one in one_by_one.items():
        assert table.filter(user=user)["item"].to_list() == one["items"]
        moved += perdure.recommend(model, task="buy", user=user, k=5)["scores"] != one["scores"]
    assert moved


def test_a_loaded_model_reads_its_log_once(learned, monkeypatch):
    """A user of the log is answered in time that does not grow with the log; what was read goes with the model."""
    from perdure.events import sequences

    read, load = [], sequences.load
    monkeypatch.setattr(sequences, "load", lambda folder: read.append(folder) or load(folder))
    model = perdure.load(learned[1].model)
    first = [perdure.recommend(model, task="buy", user=user) for user in ("u0001", "u0002")]
    again = [perdure.recommend(model, task="buy", user=user) for user in ("u0001", "u0002")]
    assert first == again and first[0] != first[1] and len(read) == 1
    assert perdure.recommend(learned[1].model, task="buy", user="u0001") == first[0] and len(read) == 2
    assert perdure.evaluate(model, task="buy") == perdure.evaluate(model, task="buy") and len(read) == 2
    monkeypatch.setattr(registry, "trial", lambda *_: pytest.fail("the settings were read before"))
    assert perdure.recommend(model, task="buy", user="u0001") == first[0]
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_answers_that_no_model_can_give_are_told(learned):
    recipe, _ = learned
    few = perdure.check(recipe, overrides=["split.test=0.9", "split.valid=0.05"]).notes  # six users to train on
    assert any(re.fullmatch(r"task buy: \d+ of \d+ test answers were never met in training: .*", note) for note in few)
    assert not any("never met" in note for note in perdure.check(recipe).notes)


def test_a_task_that_trains_nothing_is_told(tmp_path):
    """A second next_item task under `frozen`, whose head is the item table."""
    recipe = make(tmp_path, ("watch", "gender"))
    again = {"name": "again", "kind": "next_item", "description": "once more"}
    recipe.write_text(recipe.read_text() + f"\n[[tasks]]\n{render(again)}")
    options, told = ["tuning.method=frozen", "pretrain.epochs=1"], "task again: nothing is trained"
    assert any(told in note for note in perdure.check(recipe, overrides=options).notes)
    assert any(told in note for note in perdure.learn(recipe, tmp_path / "run", overrides=options).notes)
    for other in (["objective.tied=false"], ["tuning.method=pcl"]):
        assert not any(
            "nothing is trained" in note for note in perdure.check(recipe, overrides=[*options, *other]).notes
        )


def test_a_recipe_from_python(learned, tmp_path):
    recipe, run = learned
    tables = tomllib.loads(recipe.read_text())
    tables["data"]["path"] = str(recipe.parent / "world" / "events.csv")
    tables["data"]["users"]["path"] = str(recipe.parent / "world" / "users.csv")
    again = perdure.learn(tables, tmp_path / "run")
    assert again.matrix == run.matrix
    assert perdure.check(tables, overrides=["train.batch_size=7"]).settings["train"]["batch_size"] == 7


def test_bytes_foretold_are_those_that_a_task_adds(learned):
    """EWC keeps two tensors for each weight of the backbone, and a count; all of it from the first task on."""
    recipe, _ = learned
    told = {name: perdure.check(recipe, overrides=[f"tuning.method={name}"]) for name in ("frozen", "ewc")}
    frozen, ewc = ([task["bytes"] for task in one.tasks] for one in told.values())
    first, *later = (e - f for e, f in zip(ewc, frozen, strict=True))
    assert 0 < first - (2 * 4 * told["ewc"].parameters + 8) < 20_000 and later == [0, 0]  # the names, too


def test_bytes_foretold_are_those_of_the_files(learned):
    recipe, run = learned
    assert [task["bytes"] for task in perdure.check(recipe).tasks] == [cost["bytes"] for cost in run.costs]


def test_a_model_is_opened_once_and_asked_often(learned):
    _, run = learned
    model = perdure.load(run.model)
    for task in ("watch", "buy", "gender"):
        history = ["s0001", "s0002"]
        once, often = (perdure.recommend(one, task=task, history=history, k=3) for one in (run.model, model))
        assert once == often
    assert perdure.recommend(model, task="gender", user="u0001")["source"] == "model"


def test_a_user_is_asked_with_the_history_the_model_learned_from(learned):
    _, run = learned
    model = perdure.load(run.folder)
    from perdure.api.opened import compiled, log_of

    events = log_of(model, None)
    data = compiled(model, events, ["buy"])["buy"]
    row = int(data.test.users[0])
    history = events.item_ids.text(data.history(row))
    by_user = perdure.recommend(model, task="buy", user=events.user_ids.text(np.array([row]))[0], seen="keep")
    by_history = perdure.recommend(model, task="buy", history=history, seen="keep")
    assert by_user["items"] == by_history["items"] and by_user["scores"] == by_history["scores"]
    assert not any(item.startswith("t") for item in history)  # answers are no part of it


def test_a_user_is_not_told_to_buy_what_the_log_says_is_bought(learned):
    """Whatever the user's part of the split, whoever takes part in the task."""
    recipe, run = learned
    log = pl.read_csv(recipe.parent / "world" / "events.csv")
    bought = log.filter((pl.col("domain") == "target") & (pl.col("behaviour") == "buy")).group_by("user").agg("item")
    owned = {user: set(items) for user, items in bought.iter_rows()}
    model = perdure.load(run.model)
    assert len(owned) > 20
    for user in [*sorted(owned)[:8], *sorted(set(log["user"]) - set(owned))[:2]]:
        told = perdure.recommend(model, task="buy", user=user, k=100)
        kept = perdure.recommend(model, task="buy", user=user, k=100, seen="keep")
        mine = owned.get(user, set())
        assert not mine & set(told["items"]) and told["unknown"] == []
        assert told["items"] == [item for item in kept["items"] if item not in mine]
        assert mine & set(kept["items"]) or not mine
    assert perdure.recommend(model, task="gender", user=user)["items"]
    assert perdure.recommend(model, task="watch", user=user)["items"]


def test_a_task_must_be_named(learned):
    for task in (None, "bu"):
        with pytest.raises(perdure.UsageError, match="one of watch, buy, gender"):
            perdure.recommend(learned[1].model, task=task, history=["s0001"])  # type: ignore[arg-type]
    with pytest.raises(perdure.UsageError) as fault:
        perdure.load(learned[1].model).card("bu")
    assert fault.value.fix == "did you mean buy?"


def test_an_allow_list_of_strangers_leaves_nothing(learned):
    for allow in (["nonsense"], []):
        told = perdure.recommend(learned[1].model, task="buy", history=["s0001"], allow=allow)
        assert told["items"] == [] and told["unknown"] == allow and "none to give" in told["notes"][0]
    known = perdure.recommend(learned[1].model, task="buy", history=["s0001"], k=1)["items"]
    told = perdure.recommend(learned[1].model, task="buy", history=["s0001"], allow=["nonsense", *known])
    assert told["items"] == known and told["unknown"] == ["nonsense"] and told["notes"] == []


@pytest.mark.parametrize("given", [np.array, pl.Series, tuple, set, iter])
@pytest.mark.parametrize("who", [{"history": ["s0001"]}, {"user": "u0001"}])
def test_lists_of_any_kind_are_obeyed(learned, who, given):
    """Ids out of an array, a column or a generator, for a history and for a user with answers of his own."""
    model = perdure.load(learned[1].model)
    first, second, third = perdure.recommend(model, task="buy", k=3, **who)["items"]
    assert perdure.recommend(model, task="buy", k=1, deny=given([first, second]), **who)["items"] == [third]
    assert perdure.recommend(model, task="buy", k=1, allow=given([second, third]), **who)["items"] == [second]
    told = perdure.recommend(model, task="buy", allow=given([first]), deny=given([first]), **who)
    assert told["items"] == [] and "denied" in told["notes"][0]


def test_threads_and_generators_are_left_as_they_were(learned, tmp_path):
    recipe, _ = learned
    torch.manual_seed(5)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    perdure.learn(recipe, tmp_path / "run", overrides=["run.threads=2"])
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_pages_of_files_are_memory_that_is_left(tmp_path):
    for limit, free in (("100000000", 70_000_000), ("80000000", 50_000_000), ("max", None)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("90000000\n")
        (tmp_path / "memory.stat").write_text("anon 30000000\nfile 60000000\ninactive_file 60000000\n")
        found = plan.memory_free(tmp_path)
        assert found == free if free else found != 0


def test_results_are_plain(learned):
    _, run = learned
    assert dataclasses.asdict(run)["tasks"] == run.tasks
    assert all(isinstance(value, float) for row in run.matrix for value in row)


@pytest.mark.parametrize("history", ["s0001", [1, 2], [["s0001"]]])
def test_history_of_another_kind(learned, history):
    with pytest.raises(perdure.UsageError):
        perdure.recommend(learned[1].model, task="buy", history=history)


def test_effective_settings_and_origin_are_kept(learned):
    import json
    from pathlib import Path

    recipe, run = learned
    told = json.loads((Path(run.folder) / "run.json").read_text())
    settings = load(recipe, parts=registry)
    assert told["settings"]["encoder"] == settings.as_dict()["encoder"]
    assert told["origin"]["encoder.width"] == "recipe" and told["origin"]["train.clip"] == "default"
    assert "threads" not in told["settings"]["run"] and told["threads"] == 1


def test_metric_of_the_settings_decides(learned, tmp_path):
    recipe, _ = learned
    run = perdure.learn(recipe, tmp_path / "run", overrides=["evaluate.metric=hr@5", "evaluate.ks=[5]"])
    assert run.metrics == {"watch": "hr@5", "buy": "hr@5", "gender": "accuracy"}


def test_long_work_besides_the_steps_is_told_to_whoever_hears_of_it(learned, tmp_path, monkeypatch):
    class Plain:
        def step(self, **_): ...
        def epoch(self, **_): ...
        def row(self, *_): ...

    class Whole(Plain):
        def __init__(self):
            self.told = []

        def phase(self, what, *given):
            self.told.append((what, *given))

    from perdure.api import learning

    monkeypatch.setattr(learning, "LONG", 0)
    recipe, short = learned[0], ["train.epochs=1", "pretrain.epochs=1"]
    perdure.learn(recipe, tmp_path / "plain", overrides=short, show=Plain())
    whole = Whole()
    run = perdure.learn(recipe, tmp_path / "whole", overrides=short, show=whole)
    kinds = [line[0] for line in whole.told]
    assert kinds[0] == "reading the log" and "writing the store" in kinds
    measured = [(what, done, of, unit) for what, done, of, unit in whole.told if "measuring" in what]
    begun = [what.split(":")[0] for what, done, _, unit in measured if not done and unit == "test examples"]
    assert len(begun) == 2 * (1 + 2 + 3)  # each told before the user vectors, and before the scores
    assert set(begun) == set(run.tasks) == {"watch", "buy", "gender"} and run.tasks == ["watch", "buy", "gender"]
    assert all(done < of and unit in ("valid examples", "test examples") for _, done, of, unit in measured)
    whole.told.clear()
    (score,) = perdure.evaluate(run.folder, task="buy", show=whole)
    assert {(done, of, unit) for _, done, of, unit in whole.told} == {(0, score["n"], "test examples")}
    for verb in (perdure.check, lambda *given, **named: perdure.prepare(*given, tmp_path / "store", **named)):
        whole.told.clear()
        verb(recipe, show=whole)
        assert {line[0] for line in whole.told} == {"reading the log", "writing the store"}


def test_one_override_without_a_list_is_one_fault(learned):
    with pytest.raises(perdure.UsageError, match=r"overrides = 'train.epochs=3'") as error:
        perdure.check(learned[0], overrides="train.epochs=3")
    assert error.value.expected == "a list: ['train.epochs=3']"


def test_what_cannot_be_meant_is_refused_before_a_folder_is_made(learned, tmp_path):
    """True is no display, and False no answer to whether an older run is to go on."""
    for asked in ({"show": True}, {"resume": True}, {"resume": False}):
        with pytest.raises(UsageError, match=f"{next(iter(asked))} = "):
            perdure.learn(learned[0], tmp_path / "run", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_task_that_nobody_tests_is_refused_before_there_is_a_run(learned, tmp_path):
    recipe, _ = learned
    overrides = ["split.kind=last", "split.last=500"]
    for verb in (perdure.check, lambda r, **how: perdure.learn(r, tmp_path / "run", **how)):
        with pytest.raises(DataError, match="has no test user with an answer") as fault:
            verb(recipe, overrides=overrides)
        assert fault.value.fix == "a smaller [split] last, or users with longer histories"
    assert not (tmp_path / "run" / "run.json").exists()


def test_every_class_is_answered_where_no_number_is_asked_for(learned):
    model = perdure.load(learned[1].model)
    asked = {"task": "gender", "history": ["s0001"]}
    every = perdure.recommend(model, **asked)
    assert sorted(every["items"]) == sorted(model.card("gender").labels.series) and not every["truncated"]
    assert perdure.recommend(model, **asked, k=10) == {**every, "truncated": True}
    assert len(perdure.recommend(model, task="buy", history=["s0001"])["items"]) == 10


def test_marks_that_a_model_does_not_read_are_told(learned):
    _, run = learned
    asked = perdure.recommend(run.model, task="buy", history=["s0001"], marks=[{"time": 1_600_000_000}])
    assert asked["notes"] == ["sasrec reads nothing of events but their items: what marks tell is unused (time)"]
    asked = perdure.recommend(run.model, task="buy", history=["s0001"], marks=[{"behaviour": "view", "time": None}])
    assert asked["notes"][0].endswith("is unused (behaviour)") and asked["items"]
    assert perdure.recommend(run.model, task="buy", history=["s0001"])["items"] == asked["items"]


def test_learn_tells_leaks_and_a_task_of_one_answer(learned, tmp_path):
    recipe, _ = learned
    overrides = ["split.kind=example", "evaluate.seen=keep", "tasks.gender.users=\"gender = 'f'\""]
    heard = []

    class Listener:
        step = lambda self, **_: heard.append("step")  # noqa: E731
        epoch = row = lambda self, *_, **__: None
        say = lambda self, text: heard.append(text)  # noqa: E731

    run = perdure.learn(recipe, tmp_path / "run", overrides=overrides, show=Listener())
    told = "\n".join(run.notes)
    assert heard[0].startswith("leak: task 'buy'") and heard[0] in run.notes and "step" in heard[1:]  # before training
    assert "leak: task 'buy'" in told and "to mend it: [split] kind" in told
    assert "task gender: there is one answer only in training, 'f', so every model tells it" in run.notes
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "to mend it" in page and "one answer only" in page


def test_an_override_of_the_method_leaves_its_options_behind(learned, tmp_path):
    recipe, _ = learned
    settings = load(recipe, ["tuning.method=peterrec"], parts=registry)
    assert "length" not in settings.tuning.options and "length" in settings.notes[0]
    with pytest.raises(perdure.SettingsError, match="length"):
        load(recipe, ["tuning.method=peterrec", "tuning.length=3"], parts=registry)


def test_watcher_counts_answers_that_change():
    watcher = beginning.Watcher()
    watcher.first = {"a": np.zeros((3, 2), np.float32), "b": np.zeros((4, 2), np.float32)}
    watcher.changed = {"a": 2, "b": 0}
    assert watcher.told() == {"answers": 2, "of": 3}  # the last task has nothing after it


def test_store_of_another_run_is_used(learned, tmp_path):
    recipe, run = learned
    settings = load(recipe, [f"run.store={run.folder}/store"], parts=registry)
    again = learning.run(settings, tmp_path / "run", page=False)
    assert again.report is None and again.matrix == run.matrix


def test_what_python_hands_over_is_taken_or_refused_in_words(learned):
    """Ids out of an array or a column are ids; what cannot be asked is the caller's error, and the machine's device."""
    model = perdure.load(learned[1].model)
    ids = ["s0001", "s0013"]
    expected = perdure.recommend(model, task="buy", history=ids)
    for history in (np.array(ids), pl.Series(ids), tuple(ids)):
        assert perdure.recommend(model, task="buy", history=history) == expected  # type: ignore[arg-type]
    assert perdure.recommend(model, task="buy", history=ids, k=np.int64(10)) == expected  # type: ignore[arg-type]
    assert perdure.evaluate(model, task="buy", ks=np.array([3]))[0]["values"]["hr@3"] >= 0  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="id 7 is no text"):
        perdure.recommend(model, task="buy", user=7)  # type: ignore[arg-type]
    for history in ({*ids}, 7):  # the order of a set is nobody's
        with pytest.raises(UsageError, match="history = "):
            perdure.recommend(model, task="buy", history=history)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="profile = 'gender=f'"):
        perdure.recommend(model, task="buy", profile="gender=f")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ks = 5"):
        perdure.evaluate(model, task="buy", ks=5)  # type: ignore[arg-type]
    with pytest.raises(MachineError, match="no device 'cuda:99'"):
        perdure.load(learned[1].model, device="cuda:99")


def test_a_model_by_another_name_has_the_run_it_stands_in(learned, tmp_path, monkeypatch):
    """By a link to its folder, as a service may have one, and from inside it."""
    _, run = learned
    (tmp_path / "current").symlink_to(run.model)
    asked = {"task": "buy", "user": "u0001", "k": 3}
    expected = perdure.recommend(run.model, **asked)
    monkeypatch.chdir(run.model)
    for name in (tmp_path / "current", "."):
        assert perdure.recommend(name, **asked) == expected
        assert perdure.show(name)["state"] == "finished"
        assert perdure.write_report(name).samefile(f"{run.folder}/report.html")


def test_a_loaded_model_keeps_its_log_wherever_the_caller_goes(learned, tmp_path, monkeypatch):
    monkeypatch.chdir(learned[1].folder)
    model = perdure.load("model")
    monkeypatch.chdir(tmp_path)
    assert perdure.recommend(model, task="buy", user="u0001")["source"] == "model"


def test_a_page_is_no_folder(learned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (".", tmp_path):
        with pytest.raises(UsageError, match=r"is a folder(.|\n)*page\.html"):
            perdure.write_report(learned[1].folder, out)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_told(learned):
    """Most of all what `learn` gave, which holds the name of one."""
    _, run = learned
    for ask in (perdure.evaluate, lambda one: perdure.recommend(one, task="buy", history=["s0001"])):
        with pytest.raises(UsageError, match=r"a Run is no model(.|\n)*take \.model"):
            ask(run)
    with pytest.raises(UsageError, match="models = "):
        perdure.probe(perdure.load(run.model), learned[0])  # type: ignore[arg-type]


@pytest.mark.slow
def test_quickstart_is_what_it_promises(tmp_path):
    """Minutes: near the oracle, nothing forgotten by pcl, much by finetune."""
    told = perdure.quickstart(tmp_path / "q")
    assert told["changed"]["answers"] == 0 and told["forgetting"] == 0
    assert told["finetune"]["forgetting"] > 0.1
    for task in told["tasks"]:
        assert told["metrics"][task] > 0.75 * told["oracle"][task], task


def test_quickstart_takes_over_what_was_pretrained(tmp_path, monkeypatch):
    tables = beginning._tables

    def short(*arguments):
        made = tables(*arguments)
        made["pretrain"]["epochs"] = made["train"]["epochs"] = 1
        made["tasks"] = [task for task in made["tasks"] if task["name"] in ("watch", "gender")]
        return made

    monkeypatch.setattr(beginning, "_tables", short)
    told = perdure.quickstart(tmp_path / "q", users=120)
    assert told["finetune"]["matrix"][0] == told["matrix"][0]
    assert told["alone"]["watch"] == told["matrix"][0][0]


def test_recipe_of_the_quickstart_learns_the_same(tmp_path, monkeypatch):
    recipe = make(tmp_path / "a", ("watch", "gender"))
    once = perdure.learn(recipe, tmp_path / "once")
    assert perdure.learn(recipe, tmp_path / "twice").matrix == once.matrix


def test_a_pretrained_backbone_is_taken_over_by_another_method(tmp_path):
    recipe = make(tmp_path / "a", ("watch", "gender"))
    encoder = ["encoder.name=nextitnet", "encoder.dilations=[1, 2]"]  # a list in TOML, a tuple in Python
    first = perdure.learn(recipe, tmp_path / "first", overrides=[*encoder, "tuning.method=frozen"])
    taken = [*encoder, f"pretrain.model={first.model}"]
    then = perdure.learn(recipe, tmp_path / "then", overrides=[*taken, "tuning.method=finetune"])
    assert then.matrix[0] == first.matrix[0]
    with pytest.raises(SettingsError, match="has moved its backbone"):
        perdure.learn(recipe, tmp_path / "no", overrides=[*encoder, f"pretrain.model={then.model}"])


def test_epochs_are_drawn_for_tensorboard_when_asked(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    recipe = make(tmp_path / "a", ("watch",))
    run = perdure.learn(recipe, tmp_path / "run", overrides=["run.tensorboard=true"])
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert run.matrix == perdure.learn(recipe, tmp_path / "plain").matrix


def test_mixed_precision_learns_every_kind_of_task(tmp_path):
    recipe = make(tmp_path / "a", ("watch", "buy", "gender"))
    run = perdure.learn(recipe, tmp_path / "run", overrides=["run.precision=bf16-mixed"])
    assert run.forgetting == 0 and all(0 < value <= 1 for value in run.scores.values())


def test_a_task_that_cannot_be_added_is_refused_before_anything_trains(tmp_path):
    recipe = make(tmp_path / "a", ("watch", "gender"))
    with pytest.raises(SettingsError, match="heads 3 does not divide"):
        perdure.learn(recipe, tmp_path / "run", overrides=["tuning.heads=3"])
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_profile_alone_is_asked_about(tmp_path):
    recipe = make(tmp_path, ("watch", "buy"), users=60, tuning={"method": "ppr"}, profile={"fields": ["gender"]})
    tables = tomllib.loads(recipe.read_text())
    del tables["tuning"]["length"]
    recipe.write_text(render(tables))
    run = perdure.learn(recipe, tmp_path / "run")
    told = perdure.recommend(run.model, task="buy", profile={"gender": "f"}, k=3)
    assert told["source"] == "model" and len(told["items"]) == 3


def test_vectors_of_users_are_kept_beside_the_model(tmp_path, monkeypatch):
    recipe = make(tmp_path, ("watch", "buy"), users=60, tuning={"method": "ppr"}, profile={"vectors": "users.parquet"})
    tables = tomllib.loads(recipe.read_text())
    del tables["tuning"]["length"]
    recipe.write_text(render(tables))
    names = pl.read_csv(tmp_path / "world" / "events.csv")["user"].unique().sort()
    given = pl.DataFrame({"user": names, "vector": np.eye(60, 8, dtype=np.float32)})
    given.cast({"vector": pl.Array(pl.Float32, 8)}).write_parquet(tmp_path / "users.parquet")
    run = perdure.learn(recipe, tmp_path / "run")
    (tmp_path / "users.parquet").unlink()  # what became of the source is no matter
    monkeypatch.chdir(tmp_path.parent)
    (score,) = perdure.evaluate(run.model, task="buy")
    assert score["value"] == pytest.approx(run.scores["buy"], abs=1e-6)
    assert perdure.recommend(run.model, task="buy", user=str(names[0]))["source"] == "model"
    again = perdure.learn(recipe, tmp_path / "run", resume="auto")  # what the run read stands
    assert again.matrix == run.matrix
    (tmp_path / "run" / "user-vectors.parquet").unlink()
    with pytest.raises(DataError, match="not beside the model"):
        perdure.evaluate(run.model, task="buy")
    with pytest.raises(DataError, match="vectors cannot be read"):
        perdure.learn(recipe, tmp_path / "other")


def test_tensorboard_is_asked_for_before_anything_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = make(tmp_path)
    for verb in (perdure.check, lambda *a, **b: perdure.learn(*a, tmp_path / "run", **b)):
        with pytest.raises(SettingsError, match="TensorBoard is not installed"):
            verb(recipe, overrides=["run.tensorboard=true"])
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_where_its_files_have_moved(tmp_path):
    """What lies there is told by its digest; how often is saved changes no result either."""
    recipe, few = make(tmp_path), ["train.max_steps=1", "pretrain.max_steps=1"]
    first = perdure.learn(recipe, tmp_path / "run", overrides=few)
    (tmp_path / "world").rename(tmp_path / "moved")
    few += ["data.path=moved/events.csv", "data.users.path=moved/users.csv", "train.checkpoint_minutes=1"]
    again = perdure.learn(recipe, tmp_path / "run", overrides=few, resume="must")
    assert again.matrix == first.matrix and perdure.recommend(again.model, task="buy", user="u0001")["items"]
    with pytest.raises(SettingsError, match=r"train\.max_steps: 1 -> 2"):
        perdure.learn(recipe, tmp_path / "run", overrides=[*few, "train.max_steps=2"], resume="must")
