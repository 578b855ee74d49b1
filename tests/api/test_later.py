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
from perdure.inference import export
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
    new = {
        "profile": ["age: new to the model, and read as missing: 1 of 4 values, such as '9'"],
        "marks": ["behaviour: new to the model, and read as missing: 1 of 3 values, such as 'add'"],
    }
    left_out = f"2 of {8 * USERS + 5} events are left out: the model does not know their items"
    assert done["notes"] == [left_out, *new.get(kind, [])]
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


def test_whose_vectors_are_zeros_is_told(asked, tmp_path):
    model, _, kind = asked
    with (log(tmp_path, True) / "log.csv").open("a", encoding="utf-8") as events:
        events.write("b0,i99,view,1700009999\n")  # whom nobody knows, with an item that nobody knows
    perdure.prepare(recipe(tmp_path, **KINDS[kind]), tmp_path / "store")
    done = perdure.embed(model, tmp_path / "x.parquet", task="next", store=tmp_path / "store")
    assert done["notes"][-1] == "users without an event that the model knows, whose vectors are zeros: 1"
    vectors = dict(pl.read_parquet(tmp_path / "x.parquet").iter_rows())
    assert not any(vectors["b0"]) and any(vectors["a0"])


def test_all_are_answered_at_once_as_one_by_one(asked, tmp_path):
    model, store, _ = asked
    done = as_one_by_one(model, tmp_path / "all.parquet", task="again", k=4, store=store)
    assert done["users"] == USERS + 1 and done["notes"][0].startswith("2 of ")


def test_all_are_answered_without_what_the_log_holds_as_their_answers(views_then_buys, tmp_path):
    model, folder = views_then_buys
    perdure.prepare(recipe(log(tmp_path / "later", True)), tmp_path / "store")
    for store in (folder / "run" / "store", tmp_path / "store"):
        for task in ("next", "buy", "age"):
            as_one_by_one(model, tmp_path / "all.parquet", task=task, k=4, store=store)
            as_one_by_one(model, tmp_path / "all.parquet", task=task, k=4, store=store, seen="keep")


def as_one_by_one(model, out: Path, **how) -> dict:
    """Ask for all users, and each by name: the same answers."""
    done = perdure.recommend_all(model, out, **how)
    found = told(out)
    assert len(found) == done["users"]
    for user, answers in found.items():
        one = perdure.recommend(model, user=user, **how)
        items, ranks, scores, sources = zip(*answers, strict=True)
        assert list(items) == one["items"] and set(sources) == {one["source"]}, user
        assert list(scores) == pytest.approx(one["scores"], abs=1e-5) and list(ranks) == list(range(1, len(ranks) + 1))
    return done


def told(path: Path) -> dict[str, list[tuple]]:
    """user -> (item, rank, score, source) of each answer, in the order of the file."""
    frame = pl.read_parquet(path)
    assert frame.schema == {
        "user": pl.String,
        "item": pl.String,
        "rank": pl.Int32,
        "score": pl.Float32,
        "source": pl.String,
    }
    found: dict[str, list[tuple]] = {}
    for user, *answer in frame.iter_rows():
        found.setdefault(user, []).append(tuple(answer))
    return found


def test_some_users_and_strangers_among_them(asked, tmp_path):
    model, store, _ = asked
    out, wanted = tmp_path / "some.parquet", ["nobody", "u05", "a0"]
    done = perdure.recommend_all(
        model, out, task="again", users=np.array(wanted), k=3, store=store, deny=["i07", "i98"]
    )
    found = told(out)
    assert list(found) == wanted and done["users"] == 3
    assert "users not in the log, answered with what is popular: 1 (nobody)" in done["notes"]
    assert "not known to the model: i98" in done["notes"]
    for user, answers in found.items():
        one = perdure.recommend(model, task="again", user=user, k=3, store=store, deny=["i07"])
        assert [item for item, _, _, _ in answers] == one["items"] and answers[0][3] == one["source"]
    done = perdure.recommend_all(model, out, task="again", users=["a0"], allow=["i03", "i04"], store=store)
    assert [answer[0] for answer in told(out)["a0"]] == ["i04"]  # i03 was met
    assert "users with fewer than 10 answers, as there are no more to give: 1" in done["notes"]


class Heard(list):
    """What a `show` is told of phases."""

    def phase(self, what: str, done: int = 0, of: int | None = None, unit: str = "") -> None:
        self.append((what, done, of, unit))


def test_how_far_a_file_is_is_told(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ROWS", 25)
    model, store, _ = asked
    heard = Heard()
    perdure.embed(model, tmp_path / "x.parquet", store=store, show=heard)
    perdure.recommend_all(model, tmp_path / "y.parquet", task="next", store=store, show=heard)
    n = USERS + 1
    written = [("writing vectors", 0, n, "users"), ("writing vectors", 25, n, "users")]
    assert heard == [*written, ("answering", 0, n, "users"), ("answering", 25, n, "users")]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"task": "agian"}, "again"),
        ({"task": "again", "k": 0}, "k = 0"),
        ({"task": "again", "k": 10_001}, "k = 10001"),
        ({"task": "again", "seen": "no"}, "seen = 'no'"),
        ({"task": "again", "users": "a0"}, "users = 'a0'"),
        ({"task": "again", "users": [5]}, "users: 5"),
        ({"task": "again", "users": ["a0", None]}, "users: None"),
        ({"task": "again", "users": 5}, "users = 5"),
        ({"task": "again", "users": ["a0", "u\udcff"]}, "UTF-8"),
        ({"task": "again", "allow": "i03"}, "allow = 'i03'"),
        ({"task": "again", "deny": 5}, "deny = 5"),
        ({"task": "again", "out": "."}, "is a folder"),
        ({"task": "again", "out": "all.csv"}, "no .csv file"),
    ],
)
def test_refusals_leave_the_older_file(asked, tmp_path, wrong, words):
    model, store, _ = asked
    asked_for = {"out": "all.parquet", **wrong}
    out = tmp_path / asked_for.pop("out")
    (tmp_path / "all.parquet").write_text("older")
    with pytest.raises(perdure.UsageError) as fault:
        perdure.recommend_all(model, out, store=store, **asked_for)
    assert words in str(fault.value)
    assert (tmp_path / "all.parquet").read_text() == "older"


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


def test_a_log_without_times_is_refused_by_a_model_that_reads_them(asked, tmp_path):
    model, _, kind = asked
    given = recipe(log(tmp_path / "bare", True))
    columns = given["data"]["columns"]
    columns["order"] = columns.pop("time")
    given["data"].pop("time_unit")
    perdure.prepare(given, tmp_path / "store")
    ask = lambda: perdure.recommend(model, task="again", user="u05", store=tmp_path / "store")  # noqa: E731
    if kind != "marks":
        assert ask()["source"] == "model"
        return
    with pytest.raises(DataError, match="has no times"):
        ask()


@pytest.fixture(scope="module")
def views_then_buys(tmp_path_factory):
    """A model that reads views and learned what is bought and who it is, and the folder of its log and run."""
    tasks = [
        {"name": "next", "kind": "next_item"},
        {"name": "buy", "kind": "item", "where": "behaviour = 'buy'"},
        {"name": "age", "kind": "one_of", "answer": "user.age"},
    ]
    folder = tmp_path_factory.mktemp("views")
    given = recipe(
        log(folder, False), history={"where": "behaviour = 'view'"}, tuning={"method": "frozen"}, tasks=tasks
    )
    return perdure.load(perdure.learn(given, folder / "run").model), folder


def test_a_log_that_knows_no_answer_to_a_task_is_read(views_then_buys, tmp_path):
    """Today's views, before anybody has bought: who the users are is asked for, not told."""
    model, _ = views_then_buys
    bare = recipe(log(tmp_path / "bare", True))
    views = pl.read_csv(tmp_path / "bare" / "log.csv").filter(pl.col("behaviour") == "view")
    views.write_csv(tmp_path / "bare" / "log.csv")
    bare["data"].pop("users")
    perdure.prepare(bare, tmp_path / "store")
    for task in model.tasks:
        seen = views.filter(pl.col("user") == "u05")["item"].to_list()
        user = perdure.recommend(model, task=task, user="u05", store=tmp_path / "store")
        same = perdure.recommend(model, task=task, history=seen)
        assert (user["items"], user["scores"], user["source"]) == (same["items"], same["scores"], "model")


def test_a_log_that_the_recipe_keeps_elsewhere_is_to_be_named(tmp_path):
    """Where it lies is of the machine, so the model does not know."""
    given = recipe(log(tmp_path / "now", False), run={"threads": 1, "store": str(tmp_path / "kept")})
    model = perdure.load(perdure.learn(given, tmp_path / "run").model)
    with pytest.raises(DataError, match="not beside the model") as fault:
        perdure.recommend(model, task="next", user="u05")
    assert "run.store" in fault.value.fix
    assert perdure.recommend(model, task="next", user="u05", store=tmp_path / "kept")["source"] == "model"
    assert perdure.evaluate(model, task="next", store=tmp_path / "kept")


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


def test_what_is_denied_and_told_is_looked_at_before_it_is_used(views_then_buys):
    model, _ = views_then_buys
    with pytest.raises(perdure.UsageError, match="deny = 5"):
        perdure.recommend(model, task="buy", user="u05", deny=5)
    told = perdure.recommend(model, task="buy", history=["i01", "i02"], marks=({} for _ in range(2)))
    assert told["items"] == perdure.recommend(model, task="buy", history=["i01", "i02"])["items"]


def test_settings_in_a_model_that_do_not_fit_it_are_its_fault(views_then_buys):
    _, folder = views_then_buys
    for change, words in (("tasks", "no task 'buy'"), ("encoder", "sasrek")):
        model = perdure.load(folder / "run")
        settings = model.manifest["settings"]
        settings |= {"tasks": settings["tasks"][:1]} if change == "tasks" else {"encoder": {"name": "sasrek"}}
        for ask in (lambda m: perdure.recommend(m, task="buy", user="u05"), lambda m: perdure.evaluate(m, task="buy")):
            with pytest.raises(perdure.ModelError, match=words):
                ask(model)
