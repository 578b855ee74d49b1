"""The report of a real run, as small as a run can be: what training wrote is what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from perdure import api, registry
from perdure.api.learning import run
from perdure.events.synthetic import world
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
    table = re.search(r'(?s)<table class="heat">.*?</table>', page)
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
