"""A model asked about a log that has grown since: users, items and values it never met, and those it knows."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cli.small import call

import perdure
from perdure.errors import DataError
from perdure.inference.recommend import histories
from perdure.inference.represent import represent

USERS, ITEMS = 40, 15


def log(folder: Path, grown: bool) -> Path:
    """A log of 40 users; later with events of theirs more, of users, items, behaviours and attributes that are new."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    first = {
        "user": [f"u{u:02d}" for u in range(USERS) for _ in range(8)],
        "item": [f"i{i:02d}" for i in rng.integers(0, ITEMS, 8 * USERS)],
        "behaviour": rng.choice(["view", "buy"], 8 * USERS).tolist(),
        "time": (1_600_000_000 + np.arange(8 * USERS)).tolist(),
    }
    users = {"id": [f"u{u:02d}" for u in range(USERS)], "age": rng.integers(1, 4, USERS).tolist()}
    if grown:
        more = ["a0 i03 view", "u05 aa view", "a0 i99 buy", "u05 i01 add", "a0 i07 add"]
        for user, item, behaviour in (line.split() for line in more):
            first["user"].append(user)
            first["item"].append(item)
            first["behaviour"].append(behaviour)
            first["time"].append(1_700_000_000 + len(first["user"]))
        users = {"id": ["a0", *users["id"]], "age": [9, *users["age"]]}
    pl.DataFrame(first).write_csv(folder / "log.csv")
    pl.DataFrame(users).write_csv(folder / "users.csv")
    return folder


def recipe(folder: Path, **more) -> dict:
    columns = {"user": "user", "item": "item", "behaviour": "behaviour", "time": "time"}
    users = {"path": str(folder / "users.csv"), "id": "id"}
    return {
        "run": {"threads": 1},
        "data": {"path": str(folder / "log.csv"), "columns": columns, "time_unit": "s", "users": users},
        "encoder": {"name": "sasrec", "width": 8, "blocks": 1, "max_length": 6},
        "tuning": {"method": "ppr"},
        "tasks": [{"name": "next", "kind": "next_item"}, {"name": "again", "kind": "next_item"}],
        "train": {"epochs": 1, "batch_size": 16},
        "split": {"valid": 0.1, "test": 0.1},
        **more,
    }


KINDS = {
    "plain": {"history": {"where": "behaviour <> 'none'"}},
    "profile": {"profile": {"fields": ["age"]}},
    "marks": {"input": {"events": ["behaviour"], "dates": ["hour"]}},
}


@pytest.fixture(scope="module", params=KINDS)
def asked(request, tmp_path_factory):
    """A model, the store of a later log, and the kind of the model."""
    folder, more = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    run = perdure.learn(recipe(log(folder / "now", False), **more), folder / "run")
    perdure.prepare(recipe(log(folder / "later", True), **more), folder / "store")
    return perdure.load(run.model), folder / "store", request.param


def test_who_came_later_is_answered_as_somebody_with_that_history(asked):
    model, store, kind = asked
    user = perdure.recommend(model, task="again", user="a0", store=store)
    times = [1_700_000_000 + n for n in (8 * USERS + 1, 8 * USERS + 3, 8 * USERS + 5)]
    told = [{"behaviour": b, "time": t} for b, t in zip(["view", "buy", "add"], times, strict=True)]
    more = {"plain": {}, "profile": {"profile": {"age": "9"}}, "marks": {"marks": told}}[kind]
    same = perdure.recommend(model, task="again", history=["i03", "i99", "i07"], **more)
    assert user["source"] == same["source"] == "model"
    assert (user["items"], user["scores"]) == (same["items"], same["scores"])
    assert user["unknown"] == ["i99"] and not {"i03", "i07"} & set(user["items"])


def test_vectors_of_a_later_log_are_those_of_its_histories(asked, tmp_path, capsys):
    model, store, kind = asked
    done = perdure.embed(model, tmp_path / "later.parquet", task="next", store=store)
    assert done["users"] == USERS + 1
    assert done["notes"] == [f"2 of {8 * USERS + 5} events are left out: the model does not know their items"]
    later = dict(pl.read_parquet(tmp_path / "later.parquet").iter_rows())
    perdure.embed(model, tmp_path / "now.parquet", task="next")
    now = dict(pl.read_parquet(tmp_path / "now.parquet").iter_rows())
    same = [np.allclose(later[user], now[user], atol=1e-6) for user in now]
    assert sum(same) == USERS - 1 and not same[5]  # u05 has done more
    if kind != "marks":
        read = histories(model, [["i03", "i99", "i07"]])
        (vector,) = represent(model, "next", read, read.starts[:-1], read.starts[1:]).tolist()
        assert later["a0"] == pytest.approx(vector, abs=1e-6)
    assert call("embed", model.folder, "--out", tmp_path / "x.parquet", "--store", store) == 0
    assert "note: 2 of" in capsys.readouterr().out
    assert call("embed", model.folder, "--out", tmp_path / "x.parquet", "--store", store, "--json") == 0
    assert json.loads(capsys.readouterr().out)["notes"] == done["notes"]


def test_held_out_users_are_those_of_the_log_learned_from(asked):
    model, store, _ = asked
    with pytest.raises(DataError, match="another log") as fault:
        perdure.evaluate(model, store=store)
    assert "embed and recommend" in fault.value.fix


def test_a_log_without_what_the_model_reads_is_refused(asked, tmp_path):
    model, _, kind = asked
    given = recipe(log(tmp_path / "bare", True))
    given["data"]["columns"].pop("behaviour")
    given["data"].pop("users")
    perdure.prepare(given, tmp_path / "store")
    with pytest.raises(perdure.PerdureError) as fault:
        perdure.embed(model, tmp_path / "x.parquet", store=tmp_path / "store")
    assert {"plain": "behaviour", "profile": "age", "marks": "behaviour"}[kind] in str(fault.value)


def test_a_log_that_knows_no_answer_to_a_task_is_read(tmp_path):
    """Today's views, before anybody has bought: who the users are is asked for, not told."""
    tasks = [
        {"name": "next", "kind": "next_item"},
        {"name": "buy", "kind": "item", "where": "behaviour = 'buy'"},
        {"name": "age", "kind": "one_of", "answer": "user.age"},
    ]
    folder = log(tmp_path / "now", False)
    given = recipe(folder, history={"where": "behaviour = 'view'"}, tuning={"method": "frozen"}, tasks=tasks)
    model = perdure.load(perdure.learn(given, tmp_path / "run").model)
    bare = recipe(log(tmp_path / "bare", True))
    views = pl.read_csv(tmp_path / "bare" / "log.csv").filter(pl.col("behaviour") == "view")
    views.write_csv(tmp_path / "bare" / "log.csv")
    bare["data"].pop("users")
    perdure.prepare(bare, tmp_path / "store")
    for task in tasks:
        seen = views.filter(pl.col("user") == "u05")["item"].to_list()
        user = perdure.recommend(model, task=task["name"], user="u05", store=tmp_path / "store")
        same = perdure.recommend(model, task=task["name"], history=seen)
        assert (user["items"], user["scores"], user["source"]) == (same["items"], same["scores"], "model")


def test_another_log_in_the_same_folder_is_read_anew(asked, tmp_path):
    model, _, kind = asked
    folder = log(tmp_path / "log", False)
    for grown in (False, True):
        log(folder, grown)
        perdure.prepare(recipe(folder, **KINDS[kind]), tmp_path / "store")
        done = perdure.embed(model, tmp_path / "x.parquet", store=tmp_path / "store")
        assert done["users"] == USERS + grown
        shutil.rmtree(tmp_path / "store")


def test_a_service_that_meets_a_new_log_a_day_holds_the_last_ones(asked, tmp_path, monkeypatch):
    from perdure.events import sequences

    held, read = [], sequences.load
    model, later, _ = asked
    model = perdure.load(model.folder)
    monkeypatch.setattr(sequences, "load", lambda folder: held.append(weakref.ref(found := read(folder))) or found)
    own = perdure.recommend(model, task="next", user="u05")
    for day in range(4):
        shutil.copytree(later, tmp_path / f"{day}")
        perdure.recommend(model, task="next", user="a0", store=tmp_path / f"{day}")
    gc.collect()
    assert len(held) == 5 and [log() is None for log in held] == [True, True, True, False, False]
    assert perdure.recommend(model, task="next", user="u05") == own
