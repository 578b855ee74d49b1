"""ShopperBERT from a recipe to a saved model: masked parts of purchases, then a task by the user vectors."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from cli.small import make

import perdure
from perdure.errors import SettingsError

ENCODER = {"name": "bert4rec", "width": 16, "blocks": 1, "heads": 2, "max_length": 20, "readout": "mean"}
INPUT = {"items": ["genre", "maker"], "dates": ["hour", "weekday"], "ids": False}


def recipe(folder: Path, read: dict) -> Path:
    """A small world whose items have a genre and a maker."""
    made = make(
        folder,
        ("watch", "gender"),
        encoder=ENCODER,
        objective={"name": "shopperbert"},
        tuning={"method": "frozen"},
        input=read,
    )
    text = made.read_text(encoding="utf-8").replace("length = 3\n", "")
    made.write_text(text + '[data.items_table]\npath = "items.csv"\nid = "item"\n', encoding="utf-8")
    items = pl.read_csv(folder / "world" / "events.csv", infer_schema=False).select(pl.col("item").unique().sort())
    nth = pl.int_range(pl.len())
    items.with_columns(genre=pl.format("g{}", nth % 6), maker=pl.format("m{}", nth % 4)).write_csv(folder / "items.csv")
    return made


def test_the_whole_path(tmp_path):
    made = recipe(tmp_path, INPUT)
    done = perdure.learn(made, tmp_path / "run")
    assert done.metrics == {"watch": "masked_accuracy", "gender": "accuracy"}
    assert 0 < done.scores["watch"] < 1 and done.matrix[0][0] == done.matrix[1][0]  # the backbone is frozen
    again = perdure.evaluate(tmp_path / "run" / "model", task="watch")
    assert again[0]["value"] == pytest.approx(done.scores["watch"])


def test_nothing_to_mask(tmp_path):
    with pytest.raises(SettingsError, match="nothing is told of events that could be masked"):
        perdure.check(recipe(tmp_path, {"gaps": 4}))
