"""Cold users: how they are made, whom a task judges, at which of their events; and the profiles of users."""

from __future__ import annotations

import os

import numpy as np
import polars as pl
import pytest
from events.standin import log_of

from perdure.errors import DataError, SettingsError
from perdure.events.loader import Loader
from perdure.events.profiles import profiles_of
from perdure.events.tasks import History, Split, Task, cold_users, compile_tasks

HALF = History(cold_share=0.5, cold_events=3)


def log(order: int = 0):
    """60 users of 2 to 9 events, with a gender for most; rows shuffled."""
    rng = np.random.default_rng(7)
    rows = [(f"u{u:02}", f"i{(u + 3 * t) % 20:02}", t) for u in range(60) for t in range(2 + u % 8)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    frame = frame[np.random.default_rng(order).permutation(len(rows))]
    users = pl.DataFrame(
        {"id": [f"u{u:02}" for u in range(60)], "gender": [None if u % 6 == 0 else "FM"[u % 2] for u in range(60)]}
    ).with_columns(number=pl.Series(rng.integers(0, 10**9, 60)))
    return log_of(frame, users)


def test_cold_users_are_drawn_by_their_ids_and_keep_their_first_events():
    events = log()
    cold = cold_users(events, HALF)
    assert np.array_equal(cold, cold_users(log(order=1), HALF)) and 15 < cold.sum() < 45
    assert not np.array_equal(cold, cold_users(events, History(cold_share=0.5, cold_seed=1)))
    data = compile_tasks(events, [Task("watch", "next_item")], HALF)["watch"]
    whole = compile_tasks(events, [Task("watch", "next_item")])["watch"]
    for user in range(60):
        most = 3 if cold[user] else 99
        assert data.history(user).tolist() == whole.history(user)[:most].tolist()


def test_tasks_may_ask_who_is_cold_and_how_many_events_there_are():
    events = log()
    cold = cold_users(events, HALF)
    tasks = [Task("warm", "next_item", users="NOT cold"), Task("new", "next_item", users="cold AND user.n_events > 4")]
    told = compile_tasks(events, tasks, HALF, Split(test=0.3))
    of = {name: np.concatenate([data.part(p).users for p in ("train", "valid", "test")]) for name, data in told.items()}
    assert set(of["warm"]) == set(np.flatnonzero(~cold))
    assert set(of["new"]) == set(np.flatnonzero(cold & (np.diff(events.starts) > 4)))


@pytest.mark.parametrize("judge, expected", [("last", [4]), ("first", [0]), ("later", [1, 2, 3, 4]), ("all", range(5))])
def test_which_events_are_judged(judge, expected):
    data = compile_tasks(log(), [Task("watch", "next_item", judge=judge)], None, Split(test=0.3))["watch"]
    test, starts = data.test, data.sequences.starts
    five = [u for u in np.unique(test.users) if len(data.history(u)) == 5]
    assert five
    for user in five:
        rows = np.flatnonzero(test.users == user)
        assert (test.end[rows] - starts[user]).tolist() == list(expected)
        assert (test.answers[rows] + 2).tolist() == data.history(user)[list(expected)].tolist()
        assert (test.begin[rows] == starts[user]).all()


def test_k_shot_shows_the_last_events_alone():
    data = compile_tasks(log(), [Task("watch", "next_item", judge="all", crop=2)], None, Split(test=0.3))["watch"]
    shown = data.test.end - data.test.begin
    assert shown.max() == 2 and (shown == np.minimum(data.test.end - data.sequences.starts[data.test.users], 2)).all()
    assert (np.diff(data.train.end - data.train.begin) != 0).any()  # training is as it was


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Task("buy", "item", judge="all"),
        lambda: Task("watch", "next_item", crop=0),
        lambda: Task("watch", "next_item", judge="some"),
        lambda: History(cold_share=1.0),
        lambda: compile_tasks(log(), [Task("watch", "next_item", judge="first")], None, Split("last")),
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(SettingsError):
        wrong()


def test_profiles_are_rows_of_their_fields_and_go_with_the_batches():
    events = log()
    profiles = profiles_of(events, ["gender"])
    assert profiles.rows[:, 0].tolist() == [0 if u % 6 == 0 else 1 + u % 2 for u in range(60)]
    assert profiles.known().tolist() == [u % 6 != 0 for u in range(60)] and profiles_of(events, []) is None
    data = compile_tasks(events, [Task("watch", "next_item")])["watch"]
    for batch in Loader(data.sequences, data.train, batch_size=7, max_length=5, profiles=profiles):
        assert batch.profile[:, 0].tolist() == profiles.rows[batch.users, 0].tolist() and batch.source is None


def test_numbers_are_told_as_people_write_them():
    """A column with gaps is one of decimal numbers in many tables."""
    ages = [None, 25.0, 9.0, -1.0] * 15
    users = pl.DataFrame({"id": [f"u{u:02}" for u in range(60)], "age": ages, "part": [None, 0.5, 1.0, 2e300] * 15})
    events = log_of(pl.DataFrame({"user": users["id"], "item": users["id"], "time": range(60)}), users)
    fields = profiles_of(events, ["age", "part"]).fields
    assert fields.values["age"].text([1, 2, 3]) == ["-1", "25", "9"]
    assert fields.values["part"].text([1, 2, 3]) == ["0.5", "1", "2e+300"]
    told, strange = fields.told([{"age": "25"}])
    assert told.rows.tolist() == [[2, 0]] and strange == [[]]


@pytest.mark.parametrize("field, found", [("gendre", "no attribute"), ("number", "60 values")])
def test_fields_that_are_none_are_refused(field, found, monkeypatch):
    monkeypatch.setattr("perdure.events.profiles.MOST_VALUES", 50)
    with pytest.raises(SettingsError, match=found):
        profiles_of(log(), [field])


def test_vectors_from_elsewhere(tmp_path):
    file = tmp_path / "users.parquet"
    pl.DataFrame({"user": ["u03", "stranger"], "vector": [[1.0, 2.0], [3.0, 4.0]]}).write_parquet(file)
    profiles = profiles_of(log(), [], str(file))
    assert profiles.vectors[3].tolist() == [1, 2] and np.abs(profiles.vectors).sum() == 3
    assert profiles.known().sum() == 1 and profiles.rows.shape == (60, 0)
    pl.DataFrame({"user": ["u03", "u04"], "vector": [[1.0], [3.0, 4.0]]}).write_parquet(file)
    with pytest.raises(DataError, match="vectors of"):
        profiles_of(log(), [], str(file))
    os.mkfifo(tmp_path / "pipe")
    for name in ("none.parquet", "pipe", "."):
        with pytest.raises(DataError, match="cannot be read"):
            profiles_of(log(), [], str(tmp_path / name))
