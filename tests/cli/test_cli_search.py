"""`perdure search` on the command line: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from cli.small import call, make


def test_tries_are_shown_and_told_as_json(tmp_path, capsys):
    recipe = make(tmp_path, ("watch", "gender"), pretrain={"epochs": 1})
    asked = ("search", recipe, "--methods", "frozen", "--out", tmp_path / "out", "--seeds", "5")
    asked = (*asked, "-s", "search.train.learning_rate=[1e-3, 1e-2]")
    assert call(*asked) == 0
    said = capsys.readouterr().out
    assert "as the recipe stands" in said and "train.learning_rate=0.01" in said and "seeds 5" in said
    assert call(*asked, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["best"] for one in told["tries"]].count(True) == 1 and not told["failed"] and told["seeds"] == [5]
    assert Path(told["tuned"]).read_text().startswith("# of ")


def test_nothing_to_try_is_a_usage_error(tmp_path, capsys):
    recipe = make(tmp_path, ("watch",))
    assert call("search", recipe, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "nothing to try with pcl" in said and "fix: give [search]" in said
    assert call("search", recipe, "--out", tmp_path / "out", "--tries", "1") == 2
