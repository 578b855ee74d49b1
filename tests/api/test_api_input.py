"""[input] from a recipe to answers: learned, measured, asked about users of the log and about strangers."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from cli.small import call

import perdure
from perdure import registry
from perdure.errors import ModelError, SettingsError, UsageError

INPUT = {"events": ["behaviour"], "items": ["kind"], "dates": ["hour"], "gaps": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A log of 60 users with behaviours and times, a table of 12 items, a vector for most of them."""
    folder, rng = tmp_path_factory.mktemp("input"), np.random.default_rng(0)
    n = 60 * 9
    pl.DataFrame({
        "user": [f"u{k // 9:02d}" for k in range(n)], "item": [f"i{i:02d}" for i in rng.integers(0, 12, n)],
        "time": 1_600_000_000 + rng.integers(1, 9000, n).cumsum(),
        "behaviour": rng.choice(["view", "cart", "buy"], n).tolist(),
    }).write_csv(folder / "log.csv")  # fmt: skip
    pl.DataFrame({"id": [f"i{i:02d}" for i in range(12)], "kind": ["a", "b"] * 6}).write_csv(folder / "items.csv")
    vectors = rng.normal(size=(11, 4)).tolist()
    pl.DataFrame({"item": [f"i{i:02d}" for i in range(11)], "vector": vectors}).write_parquet(folder / "text.parquet")
    return folder


def recipe(folder, **changes):
    columns = {"user": "user", "item": "item", "time": "time", "behaviour": "behaviour"}
    items = {"path": str(folder / "items.csv"), "id": "id"}
    return {
        "data": {"path": str(folder / "log.csv"), "columns": columns, "time_unit": "s", "items_table": items},
        "split": {"kind": "user", "valid": 0.2, "test": 0.2},
        "history": {"where": "behaviour != 'buy'", "min_length": 2},
        "input": {**INPUT, "vectors": str(folder / "text.parquet")},
        "encoder": {"name": "sasrec", "width": 8, "blocks": 1, "max_length": 9},
        "tuning": {"method": "peterrec"},
        "tasks": [{"name": "next", "kind": "next_item"}, {"name": "buy", "kind": "item", "where": "behaviour = 'buy'"}],
        "train": {"epochs": 1, "batch_size": 16},
        "run": {"threads": 1},
        **changes,
    }


@pytest.fixture(scope="module")
def learned(world):
    done = perdure.learn(recipe(world), world / "run")
    (world / "text.parquet").rename(world / "gone.parquet")  # the model holds what it read
    yield perdure.load(done.model)
    (world / "gone.parquet").rename(world / "text.parquet")


def test_the_model_knows_what_it_reads(learned):
    assert learned.marks.names == ["behaviour", "time.hour", "time.gap"] and learned.marks.width == 4
    assert list(learned.marks.items) == ["kind"] and learned.marks.sizes == [4, 25, 9]


def test_it_is_measured_and_embedded_as_it_was_learned(learned, world, tmp_path):
    told = {one["task"]: one["value"] for one in perdure.evaluate(learned)}
    assert set(told) == {"next", "buy"} and all(0 <= value <= 1 for value in told.values())
    perdure.embed(learned, tmp_path / "vectors.parquet")
    assert pl.read_parquet(tmp_path / "vectors.parquet").height == 60


def test_the_command_line_tells_marks(learned, world, capsys):
    told = ";".join(("behaviour=view,time=1600000000", "", "behaviour=cart"))
    asked = ("recommend", world / "run", "--task", "next", "--history", "i01,i02,i03", "--json")
    assert call(*asked, "--marks", told) == 0
    answer = json.loads(capsys.readouterr().out)
    marks = [{"behaviour": "view", "time": 1_600_000_000}, {}, {"behaviour": "cart"}]
    same = perdure.recommend(learned, task="next", history=["i01", "i02", "i03"], marks=marks)
    assert answer["scores"] == pytest.approx(same["scores"]) and answer["items"] == same["items"]
    for wrong, said in (("behaviour=view", "other events are told"), ("time=noon;;", "time=noon"), ("view;;", "view")):
        assert call(*asked, "--marks", wrong) == 2
        assert said in capsys.readouterr().out


def test_a_user_of_the_log_and_a_stranger_with_the_same_events_get_the_same_answer(learned, world):
    log = pl.read_csv(world / "log.csv").filter(pl.col("user") == "u07", pl.col("behaviour") != "buy").sort("time")
    marks = log.select("behaviour", "time").to_dicts()
    user = perdure.recommend(learned, task="next", user="u07")
    told = perdure.recommend(learned, task="next", history=log["item"].to_list(), marks=marks)
    bare = perdure.recommend(learned, task="next", history=log["item"].to_list())
    assert user["items"] == told["items"] and user["scores"] == told["scores"] != bare["scores"]
    assert "the model reads behaviour, time.hour, time.gap" in bare["notes"][0] and not told["notes"] + user["notes"]
    some = perdure.recommend(learned, task="next", history=["i01"], marks=[{"behaviour": "view"}])
    assert "the model reads time.hour, time.gap (from `time`, in seconds)" in some["notes"][0]
    with pytest.raises(UsageError, match="other events are told of"):
        perdure.recommend(learned, task="next", history=["i01"], marks=[])
    with pytest.raises(UsageError, match="a user, and marks"):
        perdure.recommend(learned, task="next", user="u07", marks=[{}])
    for odd in ([None], ["view"], {"behaviour": "view"}):
        with pytest.raises(UsageError, match="tells of an event"):
            perdure.recommend(learned, task="next", history=["i01"], marks=odd)


def test_it_is_probed_by_what_it_holds_though_its_sources_are_gone(learned, world):
    """`learned` has no text.parquet any more; the untrained encoder is given the vectors that the model holds."""
    from perdure.api import frozen_vectors, opened
    from perdure.settings import from_dict

    bare = recipe(world, input={})
    told = perdure.probe([learned], bare, task="buy", repeats=1, finetune=True, store=world / "run" / "store")
    assert len(told.rows) == 4
    settings, events = from_dict(bare, parts=registry), opened.log_of(learned, None)
    one = frozen_vectors.opened(learned, "run", settings, events, ["buy"])
    first, given = frozen_vectors.untrained(one).backbone.state_dict(), learned.backbone.state_dict()
    for name in ("attributes", "vectors"):
        held = f"layers.input.features.{name}"
        assert first[held].abs().sum() > 0 and first[held].equal(given[held])
    assert not first["layers.input.items"].equal(given["layers.input.items"])


def test_a_model_that_reads_other_things_is_no_beginning(learned, world, tmp_path):
    other = recipe(world, input={"gaps": 8}, pretrain={"model": str(world / "run" / "model")})
    with pytest.raises(ModelError, match=r"reads behaviour, time\.hour, time\.gap, kind, vectors"):
        perdure.learn(other, tmp_path / "run")


def test_faults_are_told_with_the_settings(world):
    for asked, told in (
        ({"events": ["behaviour", "behaviour"]}, "twice"),
        ({"gaps": 65}, "64"),
        ({"join": "product"}, "join"),
        ({"item": []}, "items"),
    ):
        with pytest.raises(SettingsError, match=told):
            perdure.check(recipe(world, input=asked))
    with pytest.raises(SettingsError, match="no column of categories"):
        perdure.check(recipe(world, input={"events": ["device"]}))
