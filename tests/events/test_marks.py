"""Marks of events, from the log to batches; attributes and vectors of items; what people tell of their events."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from events.logs import settings

from perdure.errors import DataError, SettingsError, UsageError
from perdure.events.examples import History, Task
from perdure.events.loader import Loader
from perdure.events.marks import UNTOLD, Marked, Marks, marked
from perdure.events.sequences import Events, load, prepare
from perdure.events.splits import Split
from perdure.events.tasks import compile_tasks

LOG = """user,item,time,behaviour,device,note,stars
u1,a,1000,view,phone,x1,5
u1,b,1007,buy,,x2,4
u1,c,1007,view,web,x3,5
u2,a,90000,view,phone,x4,
u2,c,90001,cart,phone,x5,1
"""
ITEMS = "id,kind,tags\na,toy,red\nb,,blue\nc,book,red\n"


@pytest.fixture()
def events(tmp_path: Path) -> Events:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text(ITEMS)
    data = settings(
        tmp_path / "log.csv",
        columns={"user": "user", "item": "item", "time": "time", "behaviour": "behaviour"},
        features=["device", "stars"],
        time_unit="s",
        earliest="1970-01-01",
        items_table={"path": str(tmp_path / "items.csv"), "id": "id"},
    )
    return prepare(data, tmp_path / "store")


def only(found: Marked | None, events: Events) -> np.ndarray:
    """(E, M) the marks of the whole log, each user's history read as one."""
    out = []
    for u in range(events.n_users):
        places = np.arange(events.starts[u], events.starts[u + 1])[None]
        out.append(found.at(places, np.ones(places.shape, bool))[0])
    return np.concatenate(out)


def test_columns_of_the_log_become_rows_of_their_values(events):
    assert list(events.categories) == ["behaviour", "device", "stars"]
    assert events.categories["behaviour"].text(np.arange(1, 4)) == ["buy", "cart", "view"]
    assert events.marks.dtype == np.int16 and not events.marks.flags.writeable
    found = marked(events, ["device", "behaviour"])
    assert found.marks.names == ["device", "behaviour"] and found.marks.sizes == [3, 4]
    assert only(found, events).tolist() == [[1, 3], [0, 1], [2, 3], [1, 3], [1, 2]]
    assert only(marked(events, ["behaviour"]), events)[:, 0].tolist() == [3, 1, 3, 3, 2]
    assert events.categories["stars"].text(np.arange(1, 4)) == ["1", "4", "5"]


def test_gaps_are_told_by_the_power_of_two_they_reach(events):
    assert only(marked(events, gaps=32), events)[:, 0].tolist() == [0, 4, 1, 0, 2]  # 7 + 1 = 2^3; 0 + 1 = 2^0; 1 + 1
    assert only(marked(events, gaps=3), events)[:, 0].tolist() == [0, 3, 1, 0, 2]


def test_dates_are_those_of_the_calendar():
    parts = ("hour", "weekday", "day", "month", "year")
    moments = [datetime(1970, 1, 1), datetime(2000, 2, 29, 23, 59), datetime(2024, 12, 31, 12), datetime(2026, 3, 1)]
    times = np.array([int(m.replace(tzinfo=UTC).timestamp()) for m in moments] + [UNTOLD, -1])
    found = Marked(Marks(dates=parts), np.zeros((6, 0), np.int16), times)
    rows = found.at(np.arange(6)[None], np.ones((1, 6), bool))[0]
    wanted = [[m.hour + 1, m.weekday() + 1, m.day, m.month, m.year - 1969] for m in moments]
    assert rows.tolist() == [*wanted, [0] * 5, [24, 3, 31, 12, 0]]


def test_the_loader_gives_the_marks_of_each_event_and_none_on_padding(events):
    data = compile_tasks(events, [Task("next", "next_item")], History(min_length=0), Split(valid=0, test=0))["next"]
    object.__setattr__(data.sequences, "marks", marked(events, ["behaviour"], gaps=8))
    (batch,) = Loader(data.sequences, data.train, batch_size=4, max_length=3)
    assert batch.marks.tolist() == [[[3, 0], [1, 4], [3, 1]], [[3, 0], [2, 2], [0, 0]]]
    (batch,) = Loader(data.sequences, data.train, batch_size=4, max_length=2)
    assert batch.marks.tolist() == [[[1, 0], [3, 1]], [[3, 0], [2, 2]]]  # the first event read has no gap
    first, second, third = Loader(data.sequences, data.train, batch_size=1, max_length=2, windows="split")
    assert [b.marks[0, :, 0].tolist() for b in (first, second, third)] == [[1, 3], [3, 1], [3, 2]]


def test_a_history_of_some_events_keeps_their_marks(events):
    found = marked(events, ["behaviour"], gaps=8).kept(np.array([0, 2, 4]))
    assert found.at(np.array([[0, 1, 2]]), np.ones((1, 3), bool)).tolist() == [[[3, 0], [3, 4], [2, 8]]]


def test_attributes_of_items(events):
    marks = marked(events, items=["tags", "kind"]).marks
    assert marks.names == [] and marks.item_sizes == [3, 3] and marks.attributes.dtype == np.int32
    assert marks.attributes.tolist() == [[0, 0], [0, 0], [2, 2], [1, 0], [2, 1]]


def test_an_attribute_that_is_a_list_takes_a_column_a_value(events, tmp_path):
    frame = pl.DataFrame({"genre": [["x", "y"], None, ["y"]]})
    events.__dict__["items_table"] = frame  # the cached property
    marks = marked(events, items=["genre"]).marks
    assert marks.places == (0, 0) and marks.item_sizes == [3, 3]
    assert marks.attributes[2:].tolist() == [[1, 2], [0, 0], [2, 0]]


def test_vectors_of_items(events, tmp_path):
    path = tmp_path / "text.parquet"
    pl.DataFrame({"item": ["c", "a", "z"], "vector": [[0.0, 3.0], [4.0, 0.0], [9.0, 9.0]]}).write_parquet(path)
    marks = marked(events, vectors=str(path)).marks
    assert marks.width == 2 and marks.vectors.shape == (5, 2)
    scale = np.sqrt((9 + 16) / 2)
    np.testing.assert_allclose(marks.vectors, np.array([[0, 0], [0, 0], [4, 0], [0, 0], [0, 3]]) / scale, rtol=1e-6)
    pl.DataFrame({"item": ["z"], "vector": [[1.0]]}).write_parquet(path)
    with pytest.raises(DataError, match="none of 1 ids is known"):
        marked(events, vectors=str(path))


def test_nothing_asked_for_is_nothing(events):
    assert marked(events) is None
    with pytest.raises(SettingsError, match="leaves nothing to read"):
        marked(events, ids=False)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"columns": ["behavior"]}, "did you mean behaviour"),
        ({"columns": ["nothing"]}, "of behaviour, device, stars"),
        ({"items": ["kinds"]}, "did you mean kind"),
    ],
)
def test_what_is_not_there_is_refused_with_the_nearest_name(events, asked, told):
    with pytest.raises(SettingsError) as fault:
        marked(events, **asked)
    assert told in str(fault.value) + fault.value.expected + fault.value.fix


def test_a_log_without_times_has_no_gaps(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\nu1,a\nu1,b\nu2,a\nu2,b\n")
    plain = prepare(settings(tmp_path / "log.csv", columns={"time": None}), tmp_path / "store")
    assert plain.categories == {} and plain.marks is None
    for asked in ({"gaps": 4}, {"dates": ["hour"]}):
        with pytest.raises(SettingsError, match="a log without"):
            marked(plain, **asked)


def test_a_column_of_too_many_values_is_no_category(tmp_path, monkeypatch):
    from perdure.events import prepare as making

    monkeypatch.setattr(making, "MOST_VALUES", 2)
    (tmp_path / "log.csv").write_text(LOG)
    told = settings(tmp_path / "log.csv", features=["note", "device"], earliest="1970-01-01")
    made = prepare(told, tmp_path / "store")
    assert list(made.categories) == ["device"]
    assert list(load(tmp_path / "store").categories) == ["device"]


def test_what_is_told_of_events(events):
    marks = marked(events, ["behaviour"], gaps=8).marks
    given = [
        [{"behaviour": "view", "time": 1000}, {"behaviour": "wish", "time": np.int64(1003)}, {}],
        [{"behaviour": None}],
    ]
    found, strange = marks.told(given)
    assert strange == [["behaviour=wish"], []] and found.times.tolist() == [1000, 1003, UNTOLD, UNTOLD]
    rows = found.at(np.array([[0, 1, 2]]), np.ones((1, 3), bool))
    assert rows.tolist() == [[[3, 0], [0, 3], [0, 0]]]
    faults = (({"behavior": "view"}, "no mark"), ({"behaviour": 3}, "no text"), ({"time": 1.5}, "time = 1.5"))
    for event, told in faults:
        with pytest.raises(UsageError, match=told):
            marks.told([[event]])
