"""What is stored of results, and the status that is made of it: by rule, not by belief."""

from __future__ import annotations

import json
import tomllib

import pytest
from docs.pages import ROOT, module
from report import compare_folder

from perdure import registry

generate = module(ROOT / "docs" / "generate.py")
collect = module(ROOT / "benchmarks" / "collect.py")
NUMBER = {"of": ["sasrec"], "recipe": "r", "encoder": "sasrec", "task": "a", "metric": "ndcg@10", "low": 0.16}


def result(value: float, tasks: int = 2, **changes) -> dict:
    told = {
        "seeds": [1],
        "average": [value, None, None],
        "gain": None,
        "forgetting": 0.0,
        "tasks": {"a": [value, None, None]},
    }
    metrics = dict.fromkeys(["a", "b"][:tasks], "ndcg@10")
    group = {"encoder": "sasrec", "order": "forward", "protocol": "clean", "metrics": metrics, "methods": {"pcl": told}}
    return {"recipe": "r", "date": "2026-01-02", "objective": "next_item", "groups": [group | changes]}


def test_reproduced_within_the_tolerance():
    said = generate.status("encoders", "sasrec", "", [result(0.17)], [NUMBER])
    assert said == "reproduced: ndcg@10 0.1700 on r"
    assert generate.status("encoders", "sasrec", "", [result(0.17)], [NUMBER | {"high": 0.165}]).startswith("partly")


def test_what_differs_from_the_published_model_is_told():
    said = generate.status("encoders", "sasrec", "", [result(0.17)], [NUMBER | {"but": "with another block"}])
    assert said == "reproduced: ndcg@10 0.1700 on r (with another block)"


def test_a_missed_number_is_named():
    said = generate.status("encoders", "sasrec", "", [result(0.15)], [NUMBER])
    assert said == "partly: ndcg@10 0.1500 on r, published from 0.1600"


def test_one_missed_number_outweighs_one_reached():
    other = NUMBER | {"low": 0.2}
    assert generate.status("encoders", "sasrec", "", [result(0.17)], [NUMBER, other]).startswith("partly")


@pytest.mark.parametrize("changes", [{"order": "reversed"}, {"protocol": "as-coded"}, {"encoder": "hstu"}])
def test_another_order_protocol_or_encoder_reproduces_nothing(changes):
    assert generate.reached(NUMBER, [result(0.17, **changes)]) is None


def test_another_measure_reproduces_nothing():
    assert generate.reached(NUMBER | {"metric": "hr@10"}, [result(0.17)]) is None


def test_measured_without_a_published_number():
    assert generate.status("methods", "pcl", "Yang et al.", [result(0.17)], []) == "partly: r"
    assert generate.status("objectives", "next_item", "", [result(0.17)], []) == "partly: r"
    assert generate.status("methods", "lora", "Hu et al.", [result(0.17)], []) == "not yet"


def test_a_single_task_measures_no_method():
    assert generate.status("methods", "pcl", "Yang et al.", [result(0.17, tasks=1)], []) == "not yet"


def test_baselines_have_nothing_to_reproduce():
    assert generate.status("methods", "pcl", "baseline (x)", [], []) == "baseline"


def test_every_stored_result_is_of_a_recipe_and_of_things_that_exist():
    found = generate.results()
    assert found
    for one in found:
        recipe = tomllib.loads((ROOT / "recipes" / f"{one['recipe']}.toml").read_text(encoding="utf-8"))
        variants = set(recipe.get("compare", {}))
        assert one["objective"] in registry.names("objectives")
        for group in one["groups"]:
            assert group["encoder"] in registry.names("encoders")
            assert set(group["methods"]) <= {*registry.names("methods"), *variants}
            assert not {"seconds", "peak_rss", "cpu"} & {key for told in group["methods"].values() for key in told}


def test_every_published_number_has_a_source_and_a_bound():
    known = {name for kind in ("methods", "encoders", "objectives") for name in registry.names(kind)}
    for one in generate.expected():
        assert set(one["of"]) <= known and one["source"]
        assert (ROOT / "recipes" / f"{one['recipe']}.toml").is_file()
        assert 0 < one["low"] <= one.get("high", 1.0)


def test_collect_keeps_the_last_row_of_a_run(tmp_path):
    about = {"state": "finished", "finished": "2026-11-21T10:00:00+00:00", "name": "two", "seed": 3}
    about["settings"] = {"encoder": {"name": "sasrec"}, "objective": {"name": "ptum"}, "tuning": {"method": "pcl"}}
    rows = [("a", "a", 0.5), ("b", "a", 0.4), ("b", "b", 0.2)]
    scores = [
        {"after": after, "task": task, "value": value, "low": value - 0.1, "high": None, "metric": "m", "protocol": "p"}
        for after, task, value in rows
    ]
    for name, told in (("run.json", about), ("scores.json", scores)):
        (tmp_path / name).write_text(json.dumps(told))
    kept = collect.collect_run(tmp_path)
    assert (kept["recipe"], kept["date"], kept["objective"]) == ("two", "2026-11-21", "ptum")
    told = kept["groups"][0]["methods"]["pcl"]
    assert told["average"] == [0.3, None, None] and told["tasks"] == {"a": [0.4, 0.3, None], "b": [0.2, 0.1, None]}
    (tmp_path / "run.json").write_text(json.dumps({**about, "state": "running"}))
    with pytest.raises(SystemExit, match="running"):
        collect.collect_run(tmp_path)


def test_collect_keeps_what_the_summary_says(tmp_path):
    out = compare_folder.write(
        tmp_path / "out", methods=("pcl", "single"), seeds=(1, 2), orders=("forward", "reversed")
    )
    document = collect.collect(out)
    summary = json.loads((out / "summary.json").read_text())["groups"]
    assert document["recipe"] == "six-tasks" and document["date"] == "2026-01-02" and len(document["groups"]) == 2
    for group, told in zip(document["groups"], summary, strict=True):
        mine, theirs = group["methods"]["pcl"], told["methods"]["pcl"]
        assert mine["seeds"] == [1, 2]
        assert mine["gain"] == [round(theirs["gain"][end], 7) for end in ("mean", "low", "high")]
        assert mine["tasks"]["age"][0] == round(theirs["tasks"]["age"]["mean"], 7)
    assert json.loads(collect.render(document)) == document
    assert "MB" not in collect.render(document) and str(tmp_path) not in collect.render(document)


def test_collect_refuses_what_is_not_finished(tmp_path):
    out = compare_folder.write(
        tmp_path, methods=("pcl",), seeds=(1, 2), states={"runs/sasrec/pcl/forward/2": ("cut", None)}
    )
    with pytest.raises(SystemExit, match="1 runs are not done"):
        collect.collect(out)


def test_the_page_shows_every_stored_mean():
    page = generate.methods()
    for one in generate.results():
        for group in one["groups"]:
            for told in group["methods"].values():
                assert f"{told['average'][0]:.4f}" in page


def test_what_stands_is_kept_beside_what_was_run_again(tmp_path):
    new, old = (
        collect.collect(compare_folder.write(tmp_path / name, methods=methods, seeds=seeds))
        for name, methods, seeds in (("new", ("pcl", "single"), (1, 2)), ("old", ("finetune", "pcl"), (1,)))
    )
    old["groups"][0]["methods"]["pcl"]["average"] = [0.9, 0.9, 0.9]
    kept = collect.add(json.loads(json.dumps(new)), old)["groups"][0]
    assert list(kept["methods"]) == ["finetune", "pcl", "single"] and kept["seeds"] == [1, 2]
    assert kept["methods"]["pcl"] == new["groups"][0]["methods"]["pcl"]
    assert kept["methods"]["finetune"] == old["groups"][0]["methods"]["finetune"]
    old["groups"][0]["metrics"] = {"age": "auc"}
    with pytest.raises(SystemExit, match="another way"):
        collect.add(new, old)


def test_a_comparison_set_apart_has_a_file_of_its_own(tmp_path, monkeypatch):
    out = compare_folder.write(tmp_path / "out", methods=("pcl", "single"), seeds=(1,))
    monkeypatch.setattr(collect, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["collect.py", str(out), "--about", "five folds"])
    collect.main()
    (file,) = (tmp_path / "results").iterdir()
    assert file.name == "six-tasks-five-folds.json" and json.loads(file.read_text())["about"] == "five folds"
