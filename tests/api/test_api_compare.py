"""Comparing methods: what is run, shared, resumed, refused, and told. Children do their work in this process here; the
command line's tests start real ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from api.near import Near
from cli.small import make

import perdure
from perdure.api import apart
from perdure.errors import DataError, Interrupted, NonFiniteError, SettingsError, UsageError
from perdure.evaluation import leakage
from perdure.evaluation.leakage import Finding
from perdure.evaluation.own_measure import own_measure
from perdure.report.compared import doubts
from perdure.training.display import Display

KEY = ["encoder", "method", "order", "protocol", "seed"]
COST = ["seconds", "peak_rss"]  # what a repetition may change


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Near:
    near = Near()
    monkeypatch.setattr(apart, "ask", near)
    return near


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("world"), ("watch", "gender"), pretrain={"epochs": 1})


METHODS = ("pcl", "finetune", "single", "conure")


@pytest.fixture(scope="module")
def compared(recipe: Path, tmp_path_factory: pytest.TempPathFactory):
    """(Comparison, folders in the order learned) of four methods and two seeds; not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "ask", near := Near())
        done = perdure.compare(recipe, tmp_path_factory.mktemp("c") / "out", methods=METHODS, seeds=(1, 2))
    return done, near.asked


def copied(compared: Any, folder: Path) -> Path:
    return Path(shutil.copytree(compared[0].folder, folder / "out"))


def table(out: Path | str) -> pl.DataFrame:
    return pl.read_parquet(Path(out) / "results.parquet").sort(*KEY, "after_index", "task_index").drop(COST)


def about(out: Path | str) -> Any:
    return json.loads((Path(out) / "compare.json").read_text())


def test_every_cell_is_run_once_and_backbones_first(compared):
    done, asked = compared
    backbones = ["backbones/sasrec-1", "backbones/sasrec-2"]
    runs = [f"runs/sasrec/{method}/forward/{seed}" for seed in (1, 2) for method in METHODS]
    assert asked == [backbones[0], *runs[:4], backbones[1], *runs[4:]]
    told = about(done.folder)
    assert [cell["state"] for cell in told["cells"]] == ["done"] * 8 and told["state"] == "finished"
    assert [one["folder"] for one in told["backbones"]] == backbones
    assert {c["method"] for c in told["cells"] if c["backbone"] is None} == {"conure"}
    assert not done.failed and done.notes == doubts(done.summary[0])
    assert done.notes[0].startswith("two seeds only: p and the intervals know little of other seeds; three are")
    assert told["data_digest"] and told["data_card"] and told["findings"] == {"clean": []}


def test_a_new_cell_warns_of_nothing(compared):
    """A comparison goes on with what stands there; a cell that begins is nothing to warn of."""
    logs = list(Path(compared[0].folder).glob("*/**/log.jsonl"))
    events = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert len(logs) == 10 and len(events) > 10
    assert not [line["text"] for line in events if line["event"] == "warning"]


def test_a_shared_backbone_changes_no_number(compared, recipe, tmp_path):
    """Learning the first task by itself, a method comes to the same matrix, bit for bit."""
    for method in ("pcl", "finetune", "single", "conure"):
        run = perdure.learn(recipe, tmp_path / method, overrides=[f"tuning.method={method}", "run.seed=2"])
        there = json.loads((Path(compared[0].folder) / f"runs/sasrec/{method}/forward/2/matrix.json").read_text())
        assert there["R"] == run.matrix


def test_a_method_that_remembers_examples_starts_from_the_backbone_too(near, recipe, tmp_path):
    done = perdure.compare(recipe, tmp_path / "out", methods=["ewc"])
    run = perdure.learn(recipe, tmp_path / "alone", overrides=["tuning.method=ewc"])
    assert near.asked == ["backbones/sasrec-3", "runs/sasrec/ewc/forward/3"]
    there = json.loads((Path(done.folder) / near.asked[1] / "matrix.json").read_text())
    assert there["R"] == run.matrix


@pytest.mark.parametrize("method", ["ewc", "replay"])
def test_what_a_method_stores_of_a_shared_first_task_is_its_own(near, recipe, tmp_path, method):
    """The backbone was learned by another method, which stored neither Fisher nor examples."""
    done = perdure.compare(recipe, tmp_path / "out", methods=[method])
    told = table(done.folder).filter(pl.col("after_index") == pl.col("task_index"))["bytes"].to_list()
    model = Path(done.folder) / near.asked[1] / "model"
    stored = {path.name: path.stat().st_size for path in model.rglob("*.safetensors")}
    more = stored.get("method.safetensors", 0)
    assert told == [stored["watch.safetensors"] + more, stored["gender.safetensors"]]
    assert told[0] > 2 * stored["backbone.safetensors"] or method == "replay"


def test_a_method_that_learns_all_at_once(near, recipe, tmp_path):
    done = perdure.compare(recipe, tmp_path / "out", methods=["joint", "single"])
    assert near.asked == ["runs/sasrec/joint/forward/3", "backbones/sasrec-3", "runs/sasrec/single/forward/3"]
    told = done.summary[0]["methods"]
    assert told["joint"]["forgetting"] == {"mean": None, "seeds": [None]}
    assert told["joint"]["forward_transfer"]["mean"] == pytest.approx(told["joint"]["gain"]["mean"])
    frame = pl.read_parquet(tmp_path / "out" / "results.parquet").filter(pl.col("method") == "joint")
    assert frame["after"].to_list() == ["gender", "gender"] and frame["bytes"].null_count() == 0
    assert told["joint"]["seconds"] == frame["seconds"].sum() and told["joint"]["trainable"] == frame["trainable"].max()


def test_results_hold_every_cell_of_every_matrix(compared):
    frame = table(compared[0].folder)
    assert frame.height == 8 * 3 and set(frame["measured"]) == {"full ranking", "all classes"}
    one = frame.filter(pl.col("method") == "finetune", pl.col("seed") == 2)
    folder = Path(compared[0].folder) / "runs/sasrec/finetune/forward/2"
    matrix = json.loads((folder / "matrix.json").read_text())["R"]
    assert one["value"].to_list() == [matrix[0][0], *matrix[1]]
    assert one["final"].to_list() == [False, True, True]
    cost = json.loads((folder / "cost.json").read_text())
    assert one["bytes"].to_list() == [one["bytes"][0], None, cost[1]["bytes"]]
    first = json.loads((folder.parents[4] / "backbones/sasrec-2/cost.json").read_text())[0]
    assert one["epochs"][0] == first["epochs"] == 1 and one["trainable"][0] == first["trainable"] > 0
    assert frame.filter(pl.col("method") == "conure")["backbone_shared"].any() is False


def test_what_a_method_has_left_is_told_task_by_task(compared):
    runs = Path(compared[0].folder) / "runs/sasrec"
    costs = {m: json.loads((runs / m / "forward/1/cost.json").read_text()) for m in ("conure", "pcl")}
    assert [cost["capacity"] for cost in costs["conure"]] == pytest.approx([0.7, 0.49], abs=0.01)
    assert not [cost for cost in costs["pcl"] if "capacity" in cost]


def test_users_are_those_that_were_tested(compared):
    users = pl.read_parquet(Path(compared[0].folder) / "users.parquet")
    assert users.schema["value"] == pl.Float32 and users["user"].str.starts_with("u").all()
    means = users.group_by(*KEY, "task").agg(pl.col("value").mean(), n=pl.len())
    final = table(compared[0].folder).filter("final")
    both = means.join(final, on=[*KEY, "task"], how="full", suffix="_told")
    assert both.height == 16 and (both["n"] == both["n_told"]).all()
    assert (both["value"] - both["value_told"]).abs().max() < 1e-6
    watch = users.filter(pl.col("task") == "watch", pl.col("method") == "pcl", pl.col("seed") == 1)
    gender = users.filter(pl.col("task") == "gender", pl.col("method") == "pcl", pl.col("seed") == 1)
    lengths = gender.join(watch, on="user", suffix="_watch")
    assert lengths.height and (lengths["history"] == lengths["history_watch"] + 1).all()  # the last event is asked


def test_over_all_folds_every_user_is_tested_once(near, recipe, tmp_path):
    asked = {"methods": ["pcl", "single"], "seeds": (1, 2, 3), "overrides": ["split.folds=3"]}
    done = perdure.compare(recipe, tmp_path / "out", **asked)
    users = pl.read_parquet(tmp_path / "out" / "users.parquet").filter(pl.col("task") == "gender")
    of_pcl = users.filter(pl.col("method") == "pcl")
    assert of_pcl["user"].n_unique() == of_pcl.height  # each by one seed
    whole = pl.read_parquet(tmp_path / "out" / "store" / "user_ids.parquet").height
    assert of_pcl.height > 0.8 * whole and of_pcl["seed"].n_unique() == 3  # some have no gender
    told = done.summary[0]["methods"]["pcl"]
    final = table(tmp_path / "out").filter("final", pl.col("method") == "pcl", pl.col("task") == "gender")
    assert told["tasks"]["gender"]["mean"] == pytest.approx(final["value"].mean())
    assert done.notes == doubts(done.summary[0]) and not any("seeds only" in note for note in done.notes)
    two = perdure.compare(recipe, tmp_path / "out", **{**asked, "seeds": (1, 4)})
    assert "3 folds, of which these seeds test 1, 1, 2, 3: not everyone once" in two.notes
    assert told["tasks"]["gender"]["low"] < told["tasks"]["gender"]["mean"] < told["tasks"]["gender"]["high"]


def test_summary_tells_what_the_matrices_say(compared):
    (group,) = compared[0].summary
    assert group["tasks"] == ["watch", "gender"] and group["seeds"] == [1, 2]
    final = table(compared[0].folder).filter("final")
    for method, told in group["methods"].items():
        own = final.filter(pl.col("method") == method)
        assert told["average"]["mean"] == pytest.approx(own["value"].mean())
        assert told["average"]["low"] <= told["average"]["mean"] <= told["average"]["high"]
        assert told["forgetting"]["mean"] >= 0 and len(told["forgetting"]["seeds"]) == 2
        assert told["keeps"] is (method != "finetune")
    alone, pcl = group["methods"]["single"], group["methods"]["pcl"]
    assert alone["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0} and alone["forward_transfer"]["mean"] == 0
    change = pcl["tasks"]["gender"]["mean"] - alone["tasks"]["gender"]["mean"]
    assert pcl["gains"]["gender"]["mean"] == pytest.approx(change)
    assert pcl["gain"]["mean"] == pytest.approx(change / 2) and pcl["gains"]["watch"]["mean"] == 0
    assert {told["against"] for told in group["methods"].values()} <= set(METHODS)
    assert all(told["p"] <= told["p_holm"] <= 1 for told in group["methods"].values())
    assert all(list(told["t_test"]) == group["tasks"] for told in group["methods"].values())
    assert all(0 <= p <= 1 for told in group["methods"].values() for p in told["t_test"].values())
    assert json.loads((Path(compared[0].folder) / "summary.json").read_text())["groups"] == compared[0].summary


def test_run_again_does_nothing_and_tells_the_same(compared, recipe, near, tmp_path):
    out = copied(compared, tmp_path)
    again = perdure.compare(recipe, out, methods=METHODS, seeds=(1, 2))
    assert near.asked == [] and again.summary == compared[0].summary
    assert table(out).equals(table(compared[0].folder))
    assert perdure.compare(recipe, out).summary == again.summary  # what is not given is what stands there


def test_a_method_is_added_later(compared, recipe, near, tmp_path):
    out = copied(compared, tmp_path)
    done = perdure.compare(recipe, out, methods=["frozen"], against="single")
    assert near.asked == [f"runs/sasrec/frozen/forward/{seed}" for seed in (1, 2)]
    methods = done.summary[0]["methods"]
    assert list(methods) == [*METHODS, "frozen"] and about(out)["methods"] == [*METHODS, "frozen"]
    assert methods["frozen"]["against"] == "single" and methods["single"]["against"] is None


@pytest.mark.parametrize("cut", range(3))
def test_interrupted_anywhere_it_ends_with_the_same_table(compared, recipe, near, tmp_path, cut):
    out = tmp_path / "out"

    def stop(folder: str) -> None:
        if len(near.asked) == cut + 1:
            raise Interrupted("stopped by SIGTERM")

    near.before = stop
    with pytest.raises(Interrupted, match="goes on"):
        perdure.compare(recipe, out, methods=METHODS[:2], seeds=(1,))
    assert about(out)["state"] == "interrupted"
    near.before = lambda folder: None
    perdure.compare(recipe, out, methods=METHODS[:2], seeds=(1,))
    whole = table(compared[0].folder).filter(pl.col("seed") == 1, pl.col("method").is_in(METHODS[:2]))
    assert table(out).equals(whole)


def test_a_cell_cut_after_its_last_task_is_asked_again_who_reached_what(compared, recipe, near, tmp_path):
    out = copied(compared, tmp_path)
    path = out / "runs/sasrec/pcl/forward/1/users.parquet"
    whole = pl.read_parquet(path)
    path.unlink()
    perdure.compare(recipe, out)
    assert near.asked == ["runs/sasrec/pcl/forward/1"]
    assert pl.read_parquet(path).equals(whole)


def test_a_cell_that_fails_is_told_and_the_others_go_on(recipe, near, tmp_path):
    def fail(folder: str) -> None:
        if "/pcl/" in folder:
            raise NonFiniteError("the loss is NaN\nat step 3")

    near.before = fail
    done = perdure.compare(recipe, tmp_path / "out", methods=["pcl", "finetune"])
    assert [(one["method"], one["state"], one["fault"]) for one in done.failed] == [
        ("pcl", "failed", "the loss is NaN at step 3")
    ]
    assert list(done.summary[0]["methods"]) == ["finetune"] and about(done.folder)["state"] == "failed"
    near.before = lambda folder: None
    done = perdure.compare(recipe, tmp_path / "out")
    assert not done.failed and about(done.folder)["state"] == "finished"
    assert near.asked[-1] == "runs/sasrec/pcl/forward/3"


def test_nothing_that_works_is_told_too(recipe, near, tmp_path):
    def fail(folder: str) -> None:
        raise NonFiniteError("the loss is NaN")

    near.before = fail
    done = perdure.compare(recipe, tmp_path / "out", methods=["conure"])
    assert done.summary == [] and [one["fault"] for one in done.failed] == ["the loss is NaN"]
    assert pl.read_parquet(tmp_path / "out" / "results.parquet").is_empty()


def test_without_a_backbone_its_cells_fail_and_others_do_not(recipe, near, tmp_path):
    def fail(folder: str) -> None:
        if folder.startswith("backbones"):
            raise NonFiniteError("the loss is NaN")

    near.before = fail
    done = perdure.compare(recipe, tmp_path / "out", methods=["pcl", "conure"])
    assert [one["folder"].split("/")[0] for one in done.failed] == ["backbones", "runs"]
    assert done.failed[1]["fault"] == "its backbone failed: the loss is NaN"
    assert list(done.summary[0]["methods"]) == ["conure"]


def test_another_recipe_is_refused(compared, recipe, near, tmp_path):
    out = copied(compared, tmp_path)
    with pytest.raises(SettingsError, match=r"train.batch_size: 32 -> 16"):
        perdure.compare(recipe, out, overrides=["train.batch_size=16"])
    with pytest.raises(SettingsError, match=r"train.epochs: 1 -> 2"):
        perdure.compare(recipe, out, overrides=["compare.finetune.train.epochs=2"])
    perdure.compare(recipe, out, overrides=["compare.lora.train.epochs=2", "run.threads=2"])  # of nothing here
    assert near.asked == []


def test_a_setting_that_did_not_exist_then_was_its_default(compared, recipe, near, tmp_path):
    """A later release knows more settings: what was learned stays what it is, unless the recipe gives them."""
    out = copied(compared, tmp_path)
    for path in out.rglob("run.json"):
        run = json.loads(path.read_text())
        del run["settings"]["split"], run["settings"]["train"]["clip"], run["settings"]["tasks"][0]["min_answers"]
        path.write_text(json.dumps(run))
    with pytest.raises(SettingsError, match=r"settings.split: None -> "):
        perdure.compare(recipe, out)  # the recipe of the tests gives [split]
    for path in out.rglob("run.json"):
        run = json.loads(path.read_text())
        run["settings"]["split"] = json.loads((Path(compared[0].folder) / path.relative_to(out)).read_text())[
            "settings"
        ]["split"]
        path.write_text(json.dumps(run))
    assert perdure.compare(recipe, out).summary == compared[0].summary and near.asked == []
    with pytest.raises(SettingsError, match=r"train.clip: None -> 0.5"):
        perdure.compare(recipe, out, overrides=["train.clip=0.5"])


def test_an_encoder_that_cannot_learn_so_is_told_with_where_its_own_settings_stand(recipe, near, tmp_path):
    told = r"masked_item .*; settings of bert4rec alone stand in \[compare.bert4rec\]"
    with pytest.raises(SettingsError, match=told):
        perdure.compare(recipe, tmp_path / "out", methods=["pcl"], encoders=["sasrec", "bert4rec"])
    assert near.asked == []


def test_a_folder_of_something_else_is_refused(recipe, near, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        perdure.compare(recipe, tmp_path / "out")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"methods": ["pcll"]}, "did you mean pcl"),
        ({"encoders": ["sasrek"]}, "did you mean sasrec"),
        ({"orders": ["backwards"]}, "forward, reversed, noisy"),
        ({"protocols": ["dirty"]}, "clean, as-coded, user-each"),
        ({"against": "pcll"}, "no compared method 'pcll'"),
        ({"against": "pcl", "methods": ["frozen", "single"]}, "one of frozen, single"),
        ({"methods": []}, "no method"),
        ({"methods": "pcl,single"}, "methods = 'pcl,single'(.|\n)*a list of names"),
        ({"seeds": 1}, "seeds = 1(.|\n)*a list of whole numbers"),
        ({"seeds": [1.5]}, r"seeds = \[1.5\]"),
        ({"overrides": "train.epochs=1"}, "overrides = 'train.epochs=1'"),
        ({"show": True}, "show = True"),
    ],
)
def test_what_does_not_exist_is_refused(recipe, near, tmp_path, asked, said):
    with pytest.raises(UsageError, match=said):
        perdure.compare(recipe, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_seeds_out_of_an_array_are_seeds(compared, recipe, near, tmp_path):
    told = perdure.compare(recipe, copied(compared, tmp_path), seeds=np.arange(1, 3), show=Display())  # type: ignore[arg-type]
    assert not near.asked and {cell["seed"] for cell in told.cells} == {1, 2}


def test_orders(near, tmp_path):
    """Overrides by place mean the task that stands there in the recipe."""
    recipe = make(tmp_path, ("watch", "buy", "gender", "age"), pretrain={"epochs": 1})
    orders = ("forward", "reversed", "noisy")
    changes = ["tasks.1.train.epochs=2", "tuning.length=2"]
    done = perdure.compare(recipe, tmp_path / "out", orders=orders, overrides=changes, methods=["pcl"])
    tasks = {group["order"]: group["tasks"] for group in done.summary}
    assert tasks == {
        "forward": ["watch", "buy", "gender", "age"],
        "reversed": ["watch", "age", "gender", "buy"],
        "noisy": ["watch", "buy", "gender", "noise", "age"],
    }
    epochs = table(done.folder).filter(pl.col("task") == pl.col("after"), pl.col("task") == "buy")["epochs"]
    assert epochs.to_list() == [2, 2, 2]
    noisy = next(group for group in done.summary if group["order"] == "noisy")
    told = noisy["methods"]["pcl"]
    assert noisy["left_out"] == ["noise"]
    mean = sum(told["tasks"][task]["mean"] for task in tasks["forward"]) / 4
    assert told["average"]["mean"] == pytest.approx(mean)
    assert len({group["methods"]["pcl"]["tasks"]["watch"]["mean"] for group in done.summary}) == 1


def test_tuned_settings_reach_their_method_alone(near, tmp_path):
    tuned = {"pcl": {"tuning.length": 5}, "finetune": {"train": {"epochs": 2}}, "frozen": {"pretrain.epochs": 2}}
    tuned["lora"] = {"tasks.watch.train.epochs": 3}
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1}, compare=tuned)
    done = perdure.compare(recipe, tmp_path / "out", methods=["pcl", "finetune", "frozen", "lora"])
    settings = {
        cell["method"]: json.loads((tmp_path / "out" / cell["folder"] / "run.json").read_text())["settings"]
        for cell in done.cells
    }
    assert settings["pcl"]["tuning"] | {"method": "pcl", "length": 5} == settings["pcl"]["tuning"]
    trained = {name: one["train"]["epochs"] for name, one in settings.items()}
    assert trained == {"pcl": 1, "finetune": 2, "frozen": 1, "lora": 1}
    assert [cell["method"] for cell in done.cells if cell["backbone"] is None] == [
        "frozen",
        "lora",
    ]  # the first task is theirs
    assert settings["frozen"]["pretrain"] == {"epochs": 2} and "model" in settings["pcl"]["pretrain"]
    assert about(done.folder)["tuned"]["finetune"] == {"train.epochs": 2}
    assert all("compare" not in one for one in settings.values())


def test_a_method_twice_with_other_options(near, tmp_path):
    tuned = {
        "light": {"method": "ppr", "tuning": {"tokens": 2}},
        "full": {"method": "ppr", "tuning.variant": "full", "train.epochs": 2},
        "small": {"encoder": "sasrec", "encoder.width": 8},
    }
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1}, compare=tuned)
    asked = {"methods": ["light", "full"], "encoders": ["sasrec", "small"], "against": "full"}
    done = perdure.compare(recipe, tmp_path / "out", **asked)
    runs = {
        cell["folder"]: json.loads((tmp_path / "out" / cell["folder"] / "run.json").read_text()) for cell in done.cells
    }
    assert set(runs) == {f"runs/{e}/{m}/forward/3" for e in ("sasrec", "small") for m in ("light", "full")}
    small = runs["runs/small/full/forward/3"]["settings"]
    assert small["encoder"] | {"name": "sasrec", "width": 8} == small["encoder"]
    assert small["tuning"] | {"method": "ppr", "variant": "full"} == small["tuning"] and small["train"]["epochs"] == 2
    plain = runs["runs/sasrec/light/forward/3"]["settings"]
    assert plain["tuning"] | {"variant": "light", "tokens": 2} == plain["tuning"] and plain["encoder"]["width"] != 8
    backbones = {cell["encoder"]: cell["backbone"] for cell in done.cells}
    assert backbones == {"sasrec": "backbones/sasrec-3", "small": "backbones/small-3"}
    for group in done.summary:
        assert {name: one["keeps"] for name, one in group["methods"].items()} == {"light": True, "full": False}
        assert group["methods"]["light"]["against"] == "full"
    assert about(done.folder)["tuned"]["full"]["method"] == "ppr"
    assert "light" in Path(str(done.report)).read_text()
    with pytest.raises(UsageError, match="did you mean light"):
        perdure.compare(recipe, tmp_path / "out", methods=["ligth"])


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        ({"pcl": {"tuning.lenght": 5}}, "compare.pcl.tuning.lenght: unknown key"),
        ({"plc": {"tuning.length": 5}}, "did you mean pcl"),
        ({"pcl": {"encoder.width": 8}}, "cannot differ between methods"),
        ({"pcl": {"tuning.method": "single"}}, "cannot differ between methods"),
        ({"pcl": {"tasks.gender.users": "gender = 'f'"}}, "cannot differ between methods"),
        ({"pcl": {"train.epochs": 0}}, "compare.pcl.train.epochs: found 0"),
        ({"pcl": 3}, r"a table for each method"),
        ({"gru4rec": {"encoder.hidden": 3}}, "compare.gru4rec.encoder.hidden: unknown key"),
        ({"gru4rec": {"tuning.length": 3}}, "cannot differ between encoders"),
        ({"long": {"tuning.length": 5}}, "a variant with the key method or encoder"),
        ({"long": {"method": "plc"}}, r"compare.long.method: found 'plc'"),
        ({"long": {"method": "sasrec"}}, r"compare.long.method: found 'sasrec'"),
        ({"long": {"method": "pcl", "encoder": "sasrec"}}, "a variant of a method and of an encoder"),
        ({"PCL": {"method": "pcl"}}, "another name for a variant"),
        ({"gru4rec": {"method": "pcl"}}, "gru4rec is the name of a method or encoder"),
        ({"a/b": {"method": "pcl"}}, "no name for a variant"),
        ({"con": {"method": "pcl"}}, "no name for a variant"),
        ({"Nul.2": {"method": "pcl"}}, "no name for a variant"),
        ({"pcl-6.": {"method": "pcl"}}, "no name for a variant"),
        ({"pcl-a": {"method": "pcl"}, "PCL-a": {"method": "pcl"}}, "differs from pcl-a in case alone"),
        ({"long": {"method": "pcl", "tuning.lenght": 5}}, "compare.long.tuning.lenght: unknown key"),
        ({"long": {"method": "pcl", "encoder.width": 8}}, "cannot differ between methods"),
    ],
)
def test_tuned_settings_are_checked_as_all_others(tmp_path, tuned, said):
    recipe = make(tmp_path, ("watch", "gender"), compare=tuned)
    with pytest.raises(SettingsError, match=said):
        perdure.check(recipe)


def leak(severity: str) -> list[Finding]:
    return [Finding("user", severity, "gender", "watch", 3, 20, "user u0007 is test here and trains watch")]  # type: ignore[arg-type]


def test_a_leak_is_refused_and_told(recipe, near, tmp_path, monkeypatch):
    monkeypatch.setattr(leakage, "audit", lambda events, datas: leak("leak"))
    with pytest.raises(DataError, match="u0007"):
        perdure.compare(recipe, tmp_path / "out")
    assert near.asked == []
    done = perdure.compare(recipe, tmp_path / "out", allow_leaks=True)
    assert about(done.folder)["findings"]["clean"] == [asdict(one) for one in leak("leak")]


def test_the_audit_looks_at_every_history_that_is_read(near, tmp_path, monkeypatch):
    """Two methods read other events than the recipe says, both the same."""
    whole = {"history.where": "domain = 'source' or behaviour = 'buy'"}
    tuned = {"both": {"method": "finetune", **whole}, "frozen": whole}
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1}, compare=tuned)
    sizes: list[int] = []

    def found(events: Any, datas: Any) -> list[Finding]:
        sizes.append(len(datas["watch"].sequences.items))
        return leak("leak" if sizes[-1] > sizes[0] else "note")

    monkeypatch.setattr(leakage, "audit", found)
    with pytest.raises(DataError, match=r"u0007.*\(in the history of frozen\)"):
        perdure.compare(recipe, tmp_path / "out", methods=["frozen", "pcl", "both"])
    assert len(sizes) == 2 and sizes[0] < sizes[1] and near.asked == []


def test_users_that_an_objective_does_not_measure_have_no_rows(near, tmp_path, monkeypatch):
    """24 test users in batches of 7: the last 3 are nobody's others."""
    in_sevens = lambda model, data, examples, size: own_measure(model, data, examples, 7)  # noqa: E731
    monkeypatch.setattr("perdure.evaluation.evaluate.own_measure", in_sevens)
    changes = {"pretrain": {"epochs": 1}, "objective": {"name": "clue_seq", "views": "crop"}}
    done = perdure.compare(make(tmp_path, ("watch", "gender"), **changes), tmp_path / "out", methods=["frozen"])
    users = pl.read_parquet(tmp_path / "out" / "users.parquet").filter(pl.col("task") == "watch")
    assert not done.failed and users.height == 21 and users["history"].min() > 0


def test_a_method_of_another_history_that_is_asked_something_else_is_told(near, tmp_path):
    """What comes next is another event there; the gender of the same users is not."""
    tuned = {"both": {"method": "frozen", "history.where": "domain = 'source' or behaviour = 'buy'"}}
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1}, compare=tuned)
    done = perdure.compare(recipe, tmp_path / "out", methods=["frozen", "both"])
    note, *doubted = done.notes
    assert doubted == doubts(done.summary[0])
    assert note.startswith("both reads another history, and watch asks it about other events")
    assert about(done.folder)["notes"] == [note] and note in (tmp_path / "out" / "report.md").read_text()
    assert perdure.compare(recipe, tmp_path / "out").notes == done.notes
    alone = perdure.compare(recipe, tmp_path / "alone" / "out", methods=["both"])
    assert alone.notes == doubts(alone.summary[0])


def test_the_split_of_the_official_code_may_leak(recipe, near, tmp_path, monkeypatch):
    monkeypatch.setattr(
        leakage, "audit", lambda events, datas: leak("leak" if datas["watch"].by == "example" else "note")
    )
    done = perdure.compare(recipe, tmp_path / "out", protocols=["clean", "as-coded"])
    assert [group["protocol"] for group in done.summary] == ["clean", "as-coded"]
    found = {name: [one["severity"] for one in some] for name, some in about(done.folder)["findings"].items()}
    assert found == {"clean": ["note"], "as-coded": ["leak"]}
    assert near.asked[2:] == ["backbones/sasrec-3-as-coded", "runs/sasrec/pcl/forward/as-coded/3"]


def test_encoders_have_backbones_and_settings_of_their_own(near, tmp_path):
    tuned = {"bert4rec": {"objective.name": "masked_item", "encoder.inner": 24}}
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1}, compare=tuned)
    done = perdure.compare(recipe, tmp_path / "out", encoders=["sasrec", "bert4rec"])
    assert near.asked[::2] == ["backbones/sasrec-3", "backbones/bert4rec-3"]
    assert [group["encoder"] for group in done.summary] == ["sasrec", "bert4rec"]
    for folder, objective in zip(near.asked, ["next_item"] * 2 + ["masked_item"] * 2, strict=True):
        settings = json.loads((tmp_path / "out" / folder / "run.json").read_text())["settings"]
        assert settings["objective"]["name"] == objective
        assert settings["encoder"].get("inner") == (24 if objective == "masked_item" else None)


def test_a_measure_without_a_value_for_a_user_has_no_interval(near, tmp_path):
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1}, evaluate={"metric": "macro_f1"})
    done = perdure.compare(recipe, tmp_path / "out", methods=["pcl", "single"])
    told = done.summary[0]["methods"]["pcl"]
    assert done.summary[0]["metrics"] == {"watch": "ndcg@10", "gender": "macro_f1"}
    assert (
        told["tasks"]["gender"]["low"] is None
        and told["p"] is None is told["t_test"]
        and told["difference"]["mean"] is not None
    )


def test_another_log_is_refused(near, tmp_path):
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1})
    perdure.compare(recipe, tmp_path / "out")
    log = tmp_path / "world" / "events.csv"
    log.write_text("\n".join(log.read_text().splitlines()[:-1]) + "\n")
    shutil.rmtree(tmp_path / "out" / "store")
    with pytest.raises(SettingsError, match="the log is another"):
        perdure.compare(recipe, tmp_path / "out")
