"""The recipes of PPR's tables on small logs made here, in the public layouts of its data: all is found, and runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import perdure
from perdure import registry
from perdure.api import check, learn
from perdure.api.cells import Cell, Plan, settings_of

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
USERS, ITEMS = 160, 12


def histories(rng: np.random.Generator) -> list[np.ndarray]:
    """Half of the users with fewer than ten clicks."""
    lengths = np.where(np.arange(USERS) % 2, rng.integers(3, 9, USERS), rng.integers(12, 20, USERS))
    return [rng.integers(1, ITEMS + 1, n) for n in lengths]


def cikm(folder: Path, rng: np.random.Generator) -> None:
    rows = [f"{u},{i},pv,{t}" for u, items in enumerate(histories(rng)) for t, i in enumerate(items)]
    (folder / "user_behavior.csv").write_text("\n".join(rows))
    (folder / "user.csv").write_text("\n".join(f"{u},{u % 2},{u % 5},{u % 7}" for u in range(USERS)))
    (folder / "item.csv").write_text("\n".join(f"{i},{i % 3},{i % 4},{i % 5}" for i in range(1, ITEMS + 1)))


def qqbrowser(folder: Path, rng: np.random.Generator) -> None:
    lines = ["0,0," + ",".join(map(str, items)) for items in histories(rng)]
    (folder / "click.csv").write_text("\n".join(lines))
    for name, classes in (("gender", 2), ("age", 8), ("life", 6)):
        told = [f"{line},,{u % classes}" for u, line in enumerate(lines)]
        (folder / f"{name}.csv").write_text("\n".join(told))


def alidisplay(folder: Path, rng: np.random.Generator) -> None:
    start = 1493741625
    shop = [
        f"{u},{start + 60 * t},pv,{i},{i % 4}" for u, items in enumerate(histories(rng)) for t, i in enumerate(items)
    ]
    (folder / "behavior_log.csv").write_text("\n".join(["user,time_stamp,btag,cate,brand", *shop]))
    ads = [
        f"{u},{when + 60 * t},{i},430548_1007,0,1"
        for u in range(USERS)
        for when, n in ((1494137644, 4), (1494600000, 2))  # before the 12th of May, and from then on
        for t, i in enumerate(rng.integers(1, ITEMS + 1, n))
    ]
    (folder / "raw_sample.csv").write_text("\n".join(["user,time_stamp,adgroup_id,pid,nonclk,clk", *ads]))
    names = "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation"
    told = [
        f"{u},{u % 9},{u % 5},{1 + u % 2},{u % 6},{u % 3 or ''},{u % 3},{int(u % 8 < 2)},{u % 4}" for u in range(USERS)
    ]
    (folder / "user_profile.csv").write_text("\n".join([f"{names},new_user_class_level ", *told]))
    (folder / "ad_feature.csv").write_text(
        "adgroup_id,cate_id,campaign_id,customer,brand,price\n1,9025,108,16,NULL,170.0"
    )


LAYOUTS = {
    "ppr-cikm": ("cikm2019", cikm),
    "ppr-qqbrowser": ("qqbrowser", qqbrowser),
    "ppr-aliec": ("alidisplay", alidisplay),
    "ppr-aliec-aliad": ("alidisplay", alidisplay),
}


@pytest.fixture(params=LAYOUTS)
def recipe(request, tmp_path, monkeypatch):
    folder, make = LAYOUTS[request.param]
    (tmp_path / folder).mkdir()
    make(tmp_path / folder, np.random.default_rng(0))
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path))
    return RECIPES / f"{request.param}.toml"


def test_every_cell_of_the_tables_has_settings_that_fit(recipe, tmp_path):
    """Each variant is checked with the recipe; here its settings are those it names."""
    plan = Plan.read(recipe, [], tmp_path / "out")
    for method in plan.known("methods")[len(registry.names("methods")) :]:
        settings = settings_of(plan.request(Cell("sasrec", method, "forward", "clean", 1), shared=False))
        assert settings.tuning.name == plan.settings.compare[method]["method"]
    for encoder in ("sasrec", "bert4rec", "cl4srec") if "aliad" not in recipe.stem else ("sasrec",):
        settings = settings_of(plan.request(Cell(encoder, "ppr", "forward", "clean", 1), shared=False))
        wanted = {"bert4rec": "masked_item", "cl4srec": "cl4srec"}.get(encoder, "next_item")
        assert settings.objective.name == wanted


def test_the_log_is_read_and_all_tasks_have_users(recipe):
    told = check(recipe, overrides=["run.threads=1"])
    assert told.users == USERS and told.items == (2 * ITEMS if "aliad" in recipe.stem else ITEMS)
    assert all(task["train"] and task["valid"] and task["test"] for task in told.tasks)


def test_one_pass_gives_the_measures_of_the_paper(recipe, tmp_path):
    quick = ["pretrain.epochs=1", "train.epochs=1", "encoder.width=8", "run.threads=1", "evaluate.sampled=5"]
    done = learn(recipe, tmp_path / "run", overrides=quick)
    task = done.tasks[-1]
    assert done.protocols[task] == "sampled: 5 uniform negatives, seed 0"
    assert done.metrics[task] == "ndcg@10"
    (score,) = perdure.evaluate(done.model, task=task)
    assert {"auc", *(f"{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20, 50))} <= set(score["values"])
    assert score["protocol"].startswith("sampled: ")


def test_profile_prediction(tmp_path, monkeypatch):
    """Table VIII: the prompt from all other fields, measured as two classes are."""
    (tmp_path / "alidisplay").mkdir()
    alidisplay(tmp_path / "alidisplay", np.random.default_rng(0))
    monkeypatch.setenv("PERDURE_DATA", str(tmp_path))
    asked = [
        "tasks.cold.kind=one_of",
        "tasks.cold.answer=user.occupation",
        "tasks.cold.judge=last",
        "evaluate.metric=f1",
    ]
    quick = ["pretrain.epochs=1", "train.epochs=1", "encoder.width=8", "run.threads=1"]
    done = learn(RECIPES / "ppr-aliec.toml", tmp_path / "run", overrides=[*asked, *quick])
    assert done.metrics == {"warm": "ndcg@10", "cold": "f1"} and done.protocols["cold"] == "all classes"
    (score,) = perdure.evaluate(done.model, task="cold")
    assert {"accuracy", "precision", "recall", "f1", "auc"} <= set(score["values"])
    assert "precision, recall and f1 are those of '1'" in score["notes"]
    model = perdure.load(done.model)
    assert model.card("cold").hides == "occupation" and len(model.overlays["cold"].x.fields) == 7
