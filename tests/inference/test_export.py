"""User vectors on disk: the same bits, whole or not at all."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from inference.people import crowd, tiny
from inference.test_represent import ragged

from perdure.errors import MachineError, NonFiniteError, UsageError
from perdure.events.ids import Ids
from perdure.inference import export
from perdure.inference.export import answer, embed
from perdure.inference.recommend import Met, recommend
from perdure.inference.represent import represent

NAMES = ["007", "NA", "ünï", *(f"u{i}" for i in range(37))]


@pytest.mark.parametrize("rows", [7, 10**6])
def test_round_trip_bit_for_bit(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(export, "ROWS", rows)
    model, (sequences, begin, end) = tiny(), ragged(crowd(40, 20))
    model.manifest["digest"] = "abc"
    told = embed(model, sequences, Ids(NAMES), tmp_path / "deep" / "u.parquet", "next")
    frame = pl.read_parquet(tmp_path / "deep" / "u.parquet")
    assert frame.schema == {"user": pl.String(), "vector": pl.Array(pl.Float32(), 16)}
    assert frame["user"].to_list() == NAMES
    parts = [represent(model, "next", sequences, begin[a : a + rows], end[a : a + rows]) for a in range(0, 40, rows)]
    assert (frame["vector"].to_numpy().view(np.int32) == torch.cat(parts).numpy().view(np.int32)).all()
    metadata = pl.read_parquet_metadata(tmp_path / "deep" / "u.parquet")
    assert {k: v for k, v in metadata.items() if k.startswith("perdure.")} == told
    assert told["perdure.model"] == "abc" and told["perdure.task"] == "next"
    assert told["perdure.width"] == "16" and told["perdure.rows"] == "40"
    assert told["perdure.items"] == model.item_ids.digest
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["u.parquet"]


def test_raw_histories_the_backbone_and_several_tasks(tmp_path):
    model = tiny()
    people = [["i001", "nobody", "i002"], [], ["i005"]]
    embed(model, people, ["a", "b", "c"], tmp_path / "u.parquet")
    frame = pl.read_parquet(tmp_path / "u.parquet")
    vectors = frame["vector"].to_numpy()
    assert not vectors[1].any() and vectors[0].any()
    embed(model, people, ["a", "b", "c"], tmp_path / "u.parquet", ["next", "age"])
    frame = pl.read_parquet(tmp_path / "u.parquet")
    assert frame.columns == ["user", "task", "vector"] and len(frame) == 6
    assert frame["task"].to_list() == ["next"] * 3 + ["age"] * 3
    assert pl.read_parquet_metadata(tmp_path / "u.parquet")["perdure.task"] == "next,age"


def test_nobody_is_an_empty_file(tmp_path):
    embed(tiny(), [], [], tmp_path / "u.parquet", "next")
    assert pl.read_parquet(tmp_path / "u.parquet").schema["vector"] == pl.Array(pl.Float32(), 16)


def test_refusals_leave_the_older_file(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ROWS", 1)
    model, path = tiny(), tmp_path / "u.parquet"
    embed(model, [["i001"]], ["a"], path)
    before = path.read_bytes()
    with pytest.raises(UsageError):
        embed(model, [["i001"]], ["a", "b"], path)
    with pytest.raises(UsageError, match="did you mean next"):
        embed(model, [["i001"]], ["a"], path, "nex")
    with pytest.raises(UsageError):
        embed(model, [["i001"]], ["a"], path, [])
    with torch.no_grad():
        model.backbone.item_table[9] = float("nan")
    with pytest.raises(NonFiniteError):  # in the second frame: the first is already on its way
        embed(model, [["i001"], ["i007"]], ["a", "b"], path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["u.parquet"]


def test_a_disk_that_refuses_is_a_machine_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError):
        embed(tiny(), [["i001"]], ["a"], tmp_path / "file" / "u.parquet")
    (tmp_path / "u.parquet").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        embed(tiny(), [["i001"]], ["a"], tmp_path / "u.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "u.parquet"]


def test_a_full_disk_is_a_machine_error_and_leaves_nothing(tmp_path, files_of_at_most):
    with files_of_at_most(500), pytest.raises(MachineError, match="File too large"):
        embed(tiny(), [["i001"]] * 100, [f"u{n}" for n in range(100)], tmp_path / "u.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [7, 10**6])
def test_answers_are_those_of_each_asked_alone(tmp_path, monkeypatch, rows):
    """However many users are read at a time; each keeps its own, whatever lies before it."""
    monkeypatch.setattr(export, "ROWS", rows)
    model, people = tiny(), crowd(37, 20)
    sequences, begin, end = ragged(people)
    names, path = pl.Series([f"u{i}" for i in range(37)]), tmp_path / "a.parquet"
    codes, starts = np.tile(np.arange(2, 5), 37), np.arange(0, 3 * 38, 3)  # everybody has met the first three
    met = [Met(np.arange(-2, 40), codes, starts[:-1], starts[1:])]
    barred = np.array([3, 9])
    told, fewer = answer(model, "next", sequences, begin, end, names, path, 4, barred=barred, met=met)
    assert fewer == 0 and told["perdure.k"] == "4" and told["perdure.task"] == "next"
    frame = pl.read_parquet(path)
    deny = ["i000", "i001", "i002", "i003", "i009"]
    raw = [model.item_ids.text(np.array(history)) for history in people]
    for at, one in enumerate(recommend(model, "next", raw, 4, seen="keep", deny=deny)):
        mine = frame[4 * at : 4 * at + 4]
        assert mine["user"].to_list() == [f"u{at}"] * 4 and mine["item"].to_list() == one.items
        assert mine["score"].to_list() == pytest.approx(one.scores, abs=1e-5) and mine["rank"].to_list() == [1, 2, 3, 4]
        assert set(mine["source"]) == {one.source}


def test_users_without_an_answer_have_no_row(tmp_path):
    model, (sequences, begin, end) = tiny(), ragged(crowd(5, 20))
    every = np.arange(30)
    _, fewer = answer(
        model, "next", sequences, begin, end, pl.Series(list("abcde")), tmp_path / "a.parquet", 3, barred=every
    )
    assert fewer == 5 and pl.read_parquet(tmp_path / "a.parquet").height == 0


def test_a_home_folder_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not expanded"):
        embed(tiny(), [], [], "~/u.parquet", "next")
    assert not list(tmp_path.iterdir())
