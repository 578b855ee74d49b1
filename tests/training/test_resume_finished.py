"""A run at its end, resumed: what stands is given back, what is missing is put back, and nothing is lost in silence."""

from __future__ import annotations

import json
import shutil

import pytest
from training.world import IDENTITY, At, live, outcome

from perdure.errors import ModelError, SettingsError
from perdure.model.files import remove_tree

PUBLISHED = ("matrix.json", "scores.json", "cost.json")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, outcome) of a run with nothing amiss."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, outcome(folder, *live(folder))


@pytest.fixture
def run(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    return folder


def again(folder, resume: str = "must"):
    """(steps, what it gave) of one more session."""
    steps = At(at=-1)
    given = outcome(folder, *live(folder, show=steps, resume=resume))
    warnings = [line["text"] for line in given["log"] if line["event"] == "warning"]
    given["log"] = [line for line in given["log"] if line["event"] != "warning"]
    return steps.count, given, warnings


def without_seconds(path) -> list:
    return [
        {k: v for k, v in cost.items() if k not in ("seconds", "peak_rss")} for cost in json.loads(path.read_text())
    ]


@pytest.mark.parametrize("resume", ["must", "auto"])
def test_nothing_is_learned_again_without_checkpoints(finished, run, resume):
    remove_tree(run / "checkpoints")
    assert again(run, resume) == (0, finished[1], [])
    assert json.loads((run / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("name", ["model", *PUBLISHED])
def test_what_is_gone_is_published_again(finished, run, name):
    remove_tree(run / name)
    steps, given, warnings = again(run)
    assert (steps, given) == (0, finished[1])
    assert len(warnings) == 1 and "published again" in warnings[0]
    assert (run / "model" / "model.json").read_bytes() == (finished[0] / "model" / "model.json").read_bytes()
    assert without_seconds(run / "cost.json") == without_seconds(finished[0] / "cost.json")
    for document in ("matrix.json", "scores.json"):
        assert (run / document).read_bytes() == (finished[0] / document).read_bytes()


def test_a_damaged_model_is_published_again(finished, run):
    file = run / "model" / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    steps, given, warnings = again(run)
    assert (steps, given) == (0, finished[1]) and "digest mismatch" in warnings[0]


def test_where_neither_stands_nothing_begins_in_silence(finished, run):
    remove_tree(run / "checkpoints")
    remove_tree(run / "model")
    for _ in range(2):  # the run says "failed" by then
        with pytest.raises(ModelError, match="no checkpoint, and what was learned is not whole: no such folder"):
            live(run, resume="must")
    steps, given, warnings = again(run, "auto")
    assert steps == 18 and given == finished[1]
    assert len(warnings) == 1 and "all is learned again" in warnings[0]


def test_a_log_that_is_gone_is_told(finished, run):
    (run / "log.jsonl").unlink()
    steps, given, warnings = again(run)
    assert steps == 0 and given["weights"] == finished[1]["weights"]
    assert warnings == ["log.jsonl is shorter than it was: what it told of epochs before is lost"]


def test_what_changes_no_result_may_change(finished, run):
    """Where the files of the log lie, which its digest tells, and how often is saved; nothing else."""
    told = json.loads((run / "run.json").read_text())
    told["settings"] |= {
        "data": {"path": "a.csv", "users": {"path": "b.csv", "id": "user"}},
        "tasks": [{"name": "next", "train": {"checkpoint_minutes": 5.0, "epochs": 2}}],
    }
    (run / "run.json").write_text(json.dumps(told))
    moved = json.loads(json.dumps(told["settings"]).replace(".csv", "/moved.csv").replace("5.0", "1.0"))
    count = At(at=-1)
    live(run, resume="must", show=count, identity={**IDENTITY, "settings": moved})
    assert count.count == 0 and json.loads((run / "run.json").read_text())["settings"] == moved
    for old, new in (('"id": "user"', '"id": "client"'), ('"epochs": 2', '"epochs": 3')):
        other = json.loads(json.dumps(moved).replace(old, new))
        with pytest.raises(SettingsError, match="not the run that stands here"):
            live(run, resume="must", identity={**IDENTITY, "settings": other})
