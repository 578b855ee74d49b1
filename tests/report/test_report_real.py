"""The report of a real run and of a real comparison, as small as they can be: what was written is what is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from cli.small import call, make

from perdure import api, registry
from perdure.api.learning import run
from perdure.errors import ModelError
from perdure.events.synthetic import world
from perdure.report.compared import read
from perdure.settings import from_dict


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    made = world(folder / "world", users=140, items=84, targets=24)
    tables = made.settings()
    tables["tasks"] = [task for task in tables["tasks"] if task["name"] in ("watch", "buy", "gender")]
    tables |= {"encoder": {"name": "gru4rec", "width": 8}, "tuning": {"method": "frozen"}, "train": {"epochs": 2}}
    return run(from_dict(tables, parts=registry, folder=folder), folder / "run")


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<(style|svg).*?</\1>", " ", page)))


def test_every_number_of_the_matrix_is_on_the_page(done):
    assert done.report is not None
    page = api.report(done.folder).read_text(encoding="utf-8")
    table = re.search(r'(?s)<table class="heat"[^>]*>.*?</table>', page)
    assert table
    for row in done.matrix:
        for value in row:
            assert f"{value:.3f}" in table.group()
    text = text_of(page)
    assert "gru4rec encoder was taught three tasks one after the other with frozen" in text
    assert "It has forgotten nothing" in text


def test_nothing_a_real_run_writes_is_called_missing(done):
    text = text_of(api.report(done.folder).read_text(encoding="utf-8"))
    missing = text[text.index("What this report does not know") : text.index("Every setting that was in force")]
    assert "oracle.json" in missing and "alone.json" in missing and "one seed" in missing
    for there in ("matrix.json", "scores.json", "cost.json", "log.jsonl", "data card"):
        assert there not in missing
    assert "full ranking" in text and "targets/s" in text and "test users" in text


def test_cost_counts_the_bytes_of_each_task_file(done):
    told = {row["task"]: row["bytes"] for row in json.loads((Path(done.folder) / "cost.json").read_text())}
    for task in done.tasks:
        assert told[task] == (Path(done.model) / "tasks" / f"{task}.safetensors").stat().st_size


def test_the_page_is_found_from_a_model_that_stepped_aside(done, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(done.folder, folder)
    assert api.report(folder / "model") == folder / "report.html"
    (folder / "model").rename(folder / ".model.old")  # as a save that was killed leaves it
    (folder / "report.html").unlink()
    assert api.report(folder / "model") == folder / "report.html"
    with pytest.raises(ModelError):
        api.report(folder / "checkpoints" / "nothing")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    recipe = make(folder, ("watch", "buy", "gender"), users=90)
    arguments = ("--methods", "pcl,single", "--seeds", "1", "--protocols", "clean,as-coded", "--out", folder / "out")
    assert call("compare", recipe, *arguments) == 0
    return folder / "out"


def test_a_comparison_by_the_command_line_has_its_page(compared):
    page, text = (compared / "report.html").read_text(), (compared / "report.md").read_text()
    for group in json.loads((compared / "summary.json").read_text())["groups"]:
        for name, told in group["methods"].items():
            assert name in page
            for task, value in told["tasks"].items():
                assert task in text and f"{value['mean']:.3f}" in text and f"{value['mean']:.3f}" in page
    assert "How much the published protocol flatters" in page and "recipe, compared" in page
    assert "nothing is set for one method or encoder alone" in text


def test_nothing_a_real_comparison_writes_is_left_out(compared):
    told = read(compared)
    assert not told.missing and len(told.groups) == 2
    (group, _) = told.groups
    assert set(group.epochs) == set(group.steps) == set(group.folders) == {"pcl", "single"}
    assert list(group.relations) == ["pcl"] and not group.slices.is_empty()


def test_the_verb_writes_the_page_of_a_comparison_again(compared):
    before = (compared / "report.html").read_bytes()
    (compared / "report.html").unlink()
    assert call("report", compared) == 0
    assert (compared / "report.html").read_bytes() == before
