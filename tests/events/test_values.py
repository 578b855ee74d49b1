"""Values as text: each by itself, whatever else its column holds, so that a model knows them in a log that grew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from events.logs import csv, lines, stored
from events.standin import log_of
from hypothesis import given, settings
from hypothesis import strategies as st

import perdure
from perdure.errors import SettingsError
from perdure.events.filters import select
from perdure.events.ids import Ids
from perdure.events.marks import marked, marked_as
from perdure.events.profiles import profiles_as, profiles_of
from perdure.events.tasks import History, Split, Task, compile_tasks
from perdure.events.values import as_text, rows_of


def test_numbers_are_as_short_as_they_can_be():
    texts = as_text(pl.Series([1.0, -0.0, 2.5, None, -3.0, 1e17, 0.1]))
    assert texts.to_list() == ["1", "0", "2.5", None, "-3", "1e+17", "0.1"]
    assert as_text(pl.Series(np.float32([0.5, 3]))).to_list() == ["0.5", "3"]
    assert as_text(pl.Series([7, None])).to_list() == ["7", None]
    assert as_text(pl.Series(["007", "1.0"])).to_list() == ["007", "1.0"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), unique_by=lambda x: x + 0.0, max_size=20))
def test_a_number_is_the_same_text_in_any_company(values):
    alone = [as_text(pl.Series([value])).item() for value in values]
    assert as_text(pl.Series(values, dtype=pl.Float64)).to_list() == alone
    assert len(set(alone)) == len(values) and [float(text) for text in alone] == values


def test_a_number_is_known_however_it_is_written():
    known = Ids(["1.0", "2.5", "10", "x"], 1)
    found = rows_of(known, pl.Series(["1", "1.0", "2.50", "10.00", "100", "x", "x.0", None, "0.1"]))
    assert found.tolist() == [1, 1, 2, 3, -1, 4, -1, -1, -1]
    both = rows_of(Ids(["1", "1.0"], 1), pl.Series(["1", "1.0", "1.00"]))
    assert both.tolist() == [1, 2, -1]  # two values that are told apart stay two


def grown(folder: Path, extra: list[str], **told):
    """Logs before and after `extra` rows came; marks, ages and a label of numbers."""
    head = "user,item,time,stars,grade\n"
    rows = [f"{line},{k % 3 + 1},{k % 2}" for k, line in enumerate(lines())]
    asked = {"columns": {"value": "stars"}, "features": ["grade"], **told}
    return [stored(folder, head + "\n".join(body) + "\n", **asked) for body in (rows, rows + extra)]


def test_one_new_value_leaves_the_others_known(tmp_path: Path):
    for extra in (["u1,i1,1650000000,2.5,0.5"], ["u1,i1,1650000000,,"]):
        before, after = grown(tmp_path, extra)
        was = marked(before, columns=["value", "grade"])
        now = marked_as(after, was.marks)
        kept = np.asarray(after.times) != 1650000000
        assert (np.asarray(now.rows)[kept] == np.asarray(was.rows)).all() and (np.asarray(was.rows) > 0).all()
        assert not np.asarray(now.rows)[~kept].any()
        fresh = marked(after, columns=["value", "grade"])
        assert (was.marks.rows_in(fresh.marks) >= 0).all()
        task = Task("grade", "one_of", answer="grade", where="position = 5")
        labels = [
            compile_tasks(log, [task], History(where="position < 5"), Split())["grade"].labels
            for log in (before, after)
        ]
        assert labels[0].series.to_list() == labels[1].series.to_list() == ["0", "1"]


def test_profiles_are_known_in_a_table_that_got_gaps():
    frame = pl.DataFrame(
        {"user": [f"u{u}" for u in range(40)], "item": [f"i{u % 7}" for u in range(40)], "time": range(40)}
    )
    ages = [u % 4 + 20 for u in range(40)]
    logs = [
        log_of(frame, pl.DataFrame({"id": frame["user"], "age": told}))
        for told in (ages, [*map(float, ages[:-1]), 22.5])
    ]
    was = profiles_of(logs[0], ["age"])
    now = profiles_as(logs[1], was.fields)
    kept = np.arange(40) != logs[1].user_ids.rows(["u39"])[0]
    assert was.rows.all() and (now.rows[kept] == was.rows[kept]).all() and not now.rows[~kept]
    told, strange = was.fields.told([{"age": "21"}, {"age": "21.0"}, {"age": "21.5"}])
    assert told.rows[0] == told.rows[1] > 0 and not told.rows[2] and strange == [[], [], ["age=21.5"]]


def test_users_are_filtered_by_facts_without_a_table(tmp_path: Path):
    (tmp_path / "log.csv").write_text(csv())
    task = {"name": "next", "kind": "next_item", "users": "n_events >= 5"}
    recipe = {
        "data": {"format": "table", "path": str(tmp_path / "log.csv"), "time_unit": "s",
                 "columns": {"user": "user", "item": "item", "time": "time"}},
        "encoder": {"name": "sasrec"}, "tuning": {"method": "frozen"}, "tasks": [task],
    }  # fmt: skip
    assert perdure.check(recipe).tasks[0]["train"] > 0
    task |= {"users": "n_events >= 5 and age > 3"}
    with pytest.raises(SettingsError, match="no column 'age'"):
        perdure.check(recipe)
    del task["users"]
    task |= {"kind": "one_of", "answer": "user.age"}
    with pytest.raises(SettingsError, match="needs user attributes"):
        perdure.check(recipe)


def test_a_column_of_the_name_of_a_fact_is_no_fact():
    frame = pl.DataFrame({"user": ["a", "b"] * 9, "item": ["i", "j", "k"] * 6, "time": range(18)})
    events = log_of(frame, pl.DataFrame({"id": ["a", "b"], "n_events": [1, 1], "age": [3, 4]}))
    for users in ("n_events >= 5", "user.n_events >= 5"):
        with pytest.raises(SettingsError, match="n_events is told of every user, and a column"):
            compile_tasks(events, [Task("next", "next_item", users=users)], History(), Split())
    chosen = compile_tasks(events, [Task("next", "next_item", users="age > 3")], History(), Split(kind="last"))["next"]
    assert len(np.unique(chosen.test.users)) == 1


CLICKS = pl.DataFrame(
    {"a": [0, 1, -3, 5], "b": [0, 2, 1, 0], "x": [0.0, 0.0, 1.0, 4.0], "gap": [float("nan"), 1.0, 2.0, -1.0]}
)


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("a / b > 0.1", [1]),
        ("not (a / b > 0.1)", [2]),
        ("a / b is null", [0, 3]),
        ("a / b > 0.1 or a = 0", [0, 1]),
        ("ln(a) > 0", [3]),
        ("sqrt(a) >= 0", [0, 1, 3]),
        ("gap > 0", [1, 2]),
        ("x % b > -5", [1, 2]),
        ("mod(x, b) > -5", [1, 2]),
        ("1.0 / -x < 0", [2, 3]),
        ("a / (b * 1.0) / x > -9", [2]),
        ("a / b::double > 0", [1]),
        ("a / abs(b) > 0", [1]),
        ("(a + 1) / case when b = 0 then 0 else b end > 0", [1]),
        ("ln(ln(x) + 1) > -100", [2, 3]),
    ],
)
def test_what_is_no_number_is_above_none(expression, chosen):
    found = select(expression, CLICKS.columns, lambda names, at, n: CLICKS.select(names).slice(at, n), 4, where="w")
    assert np.flatnonzero(found).tolist() == chosen


def test_dates_are_told_how_they_are_compared():
    days = pl.DataFrame({"d": pl.Series(["2024-01-01", "2024-01-03"]).str.to_date()})
    ask = lambda e: select(e, ["d"], lambda names, at, n: days.select(names).slice(at, n), 2, where="w")  # noqa: E731
    for expression in ("d >= 2024-01-02", "d >= '2024-01-02'"):
        with pytest.raises(SettingsError) as caught:
            ask(expression)
        assert "cast('2024-01-" in caught.value.fix
    assert ask("d >= cast('2024-01-02' as date)").tolist() == [False, True]
