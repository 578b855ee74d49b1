"""What [evaluate] says holds wherever the model is measured, and a sampled number is never printed without its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli.small import call

SAMPLED = "sampled: 9 popularity negatives, seed 0"


@pytest.fixture(scope="module")
def recipe(first: Path) -> Path:
    return first / "made" / "recipe.toml"


def values(capsys, *arguments: str | Path) -> dict:
    """What `evaluate` gives: task -> its score."""
    assert call("evaluate", *arguments, "--json") == 0
    return {score["task"]: score for score in json.loads(capsys.readouterr().out)["scores"]}


def test_evaluate_measures_as_the_recipe_says(recipe, tmp_path, capsys):
    run, changes = tmp_path / "run", ["-s", "evaluate.seen=keep", "-s", "evaluate.metric=recall@20"]
    assert call("learn", recipe, "--out", run, *changes) == 0
    assert "does not fit gender" in capsys.readouterr().out
    matrix = json.loads((run / "matrix.json").read_text())
    assert matrix["metrics"] == {"watch": "recall@20", "buy": "recall@20", "gender": "accuracy"}
    told = values(capsys, run)
    assert [told[name]["value"] for name in matrix["tasks"]] == pytest.approx(matrix["R"][-1], abs=1e-6)
    assert {name: score["metric"] for name, score in told.items()} == matrix["metrics"]
    assert values(capsys, run, "--seen", "drop")["watch"]["value"] != told["watch"]["value"]
    assert call("show", run, "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert {task["name"]: task["metric"] for task in card["tasks"]} == matrix["metrics"]


def test_the_metric_of_classes_is_honoured(recipe, tmp_path, capsys):
    for metric, measured in (("macro_f1", ["ndcg@10", "ndcg@10", "macro_f1"]), ("auc", ["auc"] * 3)):
        run = tmp_path / metric
        assert call("learn", recipe, "--out", run, "-s", f"evaluate.metric={metric}", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert list(told["metrics"].values()) == measured
        scores = values(capsys, run)
        assert [scores[name]["value"] for name in told["tasks"]] == pytest.approx(told["matrix"][-1], abs=1e-6)
        epochs = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert {e["metric"] for e in epochs if e["event"] == "epoch" and e["task"] == "gender"} == {measured[-1]}
        assert call("evaluate", run) == call("report", run) == 0
        capsys.readouterr()


def test_a_sampled_number_never_stands_alone(recipe, tmp_path, capsys):
    run, changes = tmp_path / "run", ["-s", "evaluate.sampled=9", "-s", "evaluate.sampled_by=popularity"]
    assert call("learn", recipe, "--out", run, *changes) == 0
    told = capsys.readouterr()
    rows = [line for line in told.err.splitlines() if line.startswith("after ")]
    assert len(rows) == 3 and rows[-1].count(SAMPLED) == 2  # gender has classes
    epochs = [line for line in told.err.splitlines() if ": epoch " in line and "ndcg@10" in line]
    assert epochs and all(SAMPLED in line for line in epochs)
    assert f"note: watch, buy: {SAMPLED}" in told.out
    protocols = {"watch": SAMPLED, "buy": SAMPLED, "gender": "all classes"}
    assert json.loads((run / "matrix.json").read_text())["protocols"] == protocols
    assert call("show", run) == 0
    assert f"note: watch, buy: {SAMPLED}" in capsys.readouterr().out
    assert call("show", run, "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card["protocols"] == protocols
    assert {task["name"]: task["protocol"] for task in card["tasks"]} == protocols
    assert values(capsys, run)["watch"]["protocol"] == SAMPLED
    assert values(capsys, run, "--sampled", "all")["watch"]["protocol"] == "full ranking"


def test_options_that_say_nothing_of_classes_are_told(first, capsys):
    run = first / "first"
    told = values(capsys, run, "--sampled", "5 uniform", "--ks", "3,7")
    assert "ks, sampled ignored" in told["gender"]["notes"][-1]
    assert "recall@7" in told["buy"]["values"] and "recall@20" not in told["buy"]["values"]
    assert not any("ignored" in note for note in told["buy"]["notes"])
    assert not any("ignored" in note for note in values(capsys, run)["gender"]["notes"])
    assert (
        values(capsys, run, "--ks", "7,")["buy"]["values"].keys()
        == values(capsys, run, "--ks", "7")["buy"]["values"].keys()
    )


@pytest.mark.parametrize("ks", ["3,x", "0", "3,0", "-1", "", ",", "3,,7", "3.0"])
def test_cut_offs_that_are_none_are_told_as_they_were_given(first, capsys, ks):
    assert call("evaluate", first / "first", f"--ks={ks}") == 2
    assert (
        f"found {ks!r}\nexpected: whole numbers, 1 or more, with commas between\nwhere: --ks" in capsys.readouterr().err
    )


def test_a_model_that_stepped_aside_is_found(first, tmp_path, capsys):
    """A save that was killed between its two renames leaves no folder `model`."""
    run = tmp_path / "run"
    shutil.copytree(first / "first", run)
    (run / "model").rename(run / ".model.old")
    for path in (run, run / "model"):
        assert call("show", path) == 0
        assert call("recommend", path, "--task", "buy", "--user", "u0001") == 0
        assert call("evaluate", path, "--task", "gender") == 0
    assert (run / ".model.old").exists() and not (run / "model").exists()
    (run / ".model.old" / "model.json").unlink()
    assert call("show", run) == 4
