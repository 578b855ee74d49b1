from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from events.standin import log_of
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import DataError, SettingsError
from perdure.events.filters import FUNCTIONS, check, nearest
from perdure.events.ids import Ids
from perdure.events.splits import TEST, VALID, partition, partition_by_id, ragged, seconds
from perdure.events.tasks import Examples, History, Split, Task, TaskData, check_no_leak, compile_tasks

WATCH = Task("watch", "next_item")


def rows_of(examples: Examples, data: TaskData) -> dict[int, tuple[list[int], list[int]]]:
    """{user row: (input item rows, answers)}."""
    starts = examples.answer_starts
    return {
        int(u): (
            data.sequences.items[examples.begin[i] : examples.end[i]].tolist(),
            [] if starts is None else examples.answers[starts[i] : starts[i + 1]].tolist(),
        )
        for i, u in enumerate(examples.users)
    }


@pytest.fixture
def shop():
    """40 users, each 4 source events (items a0..), then 3 target events; age for most users."""
    rng = np.random.default_rng(0)
    rows = []
    for u in range(40):
        for t in range(4):
            rows.append((f"u{u:02}", f"a{rng.integers(9)}", t, "source", 3.0))
        for t in range(3):
            rows.append((f"u{u:02}", f"b{rng.integers(5)}", 10 + t, "target", float(rng.integers(1, 6))))
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "domain", "value"], orient="row")
    users = pl.DataFrame(
        {
            "id": [f"u{u:02}" for u in range(40)],
            "age": [None if u % 7 == 0 else u % 3 for u in range(40)],
            "odd name": ["\u00e9" if u % 2 else "e\u0301" for u in range(40)],
            "tags": [["x", "y"] if u % 2 else [] for u in range(40)],
        }
    )
    items = pl.DataFrame(
        {"id": [f"a{i}" for i in range(9)] + [f"b{i}" for i in range(5)], "genres": ["odd|all", "all"] * 7}
    )
    return log_of(frame, users, items)


SOURCE = History(where="domain = 'source'")


def test_a_class_is_one_and_users_with_more_are_told(shop):
    """Of a list the first counts; of kind "item" all do, and there is nothing to tell."""
    several = {
        kind: compile_tasks(shop, [Task("tag", kind, answer="user.tags")], SOURCE)["tag"] for kind in ("one_of", "item")
    }
    assert several["one_of"].notes["several"] == 20 and several["item"].notes["several"] == 0
    assert several["one_of"].labels.text(np.arange(1)) == ["x"] and len(several["item"].labels) == 2
    assert compile_tasks(shop, [Task("age", "one_of", answer="user.age")], SOURCE)["age"].notes["several"] == 0


def test_history_is_what_was_chosen(shop):
    data = compile_tasks(shop, [WATCH], SOURCE)["watch"]
    domain = shop.columns().collect()["domain"].to_numpy()
    assert (domain[data.sequences.events] == "source").all() and len(data.sequences.items) == 160
    assert data.history(3).tolist() == shop.items[shop.starts[3] : shop.starts[3] + 4].tolist()
    assert (data.sequences.times == shop.times[data.sequences.events]).all()
    half = compile_tasks(shop, [WATCH], History(share=0.5, where="domain = 'source'"))["watch"]
    assert np.diff(half.sequences.starts).tolist() == [2] * 40
    whole = compile_tasks(shop, [WATCH])["watch"]
    assert whole.sequences.items is shop.items and whole.sequences.events is None  # no copy of the memory map
    tiny = compile_tasks(shop, [Task("later", "item")], History(share=0.01))["later"]
    assert np.diff(tiny.sequences.starts).tolist() == [1] * 40  # at least one


def test_share_rounds_down_exactly():
    frame = pl.DataFrame({"user": ["u"] * 100 + ["v"] * 10, "item": [str(i) for i in range(110)]})
    data = compile_tasks(log_of(frame), [WATCH], History(share=0.29), Split(valid=0, test=0))["watch"]
    assert np.diff(data.sequences.starts).tolist() == [29, 2]


def test_user_split_judges_the_last_event(shop):
    data = compile_tasks(shop, [WATCH], SOURCE, Split(valid=0.1, test=0.2))["watch"]
    assert data.notes["users"] == {"train": 28, "valid": 4, "test": 8}
    assert data.train.answer_starts is None and len(data.train.answers) == 0
    assert data.notes["answers"]["train"] == 28 * 3
    for user, (seen, answer) in rows_of(data.test, data).items():
        history = data.history(user)
        assert seen == history[:-1].tolist() and answer == [history[-1] - 2]
    assert data.labels.text(np.arange(len(data.labels))) == shop.item_ids.text(data.label_items)


def test_one_partition_for_all_tasks(shop):
    tasks = [
        WATCH,
        Task("buy", "item"),
        Task("age", "one_of", answer="user.age"),
        Task("some", "item", users="age = 1"),
    ]
    data = compile_tasks(shop, tasks, SOURCE, Split(valid=0.2, test=0.3, seed=5))
    part = {}
    for one in data.values():
        for name in ("train", "valid", "test"):
            for user in one.part(name).users.tolist():
                assert part.setdefault(user, name) == name
    again = compile_tasks(shop, tasks[1:2], SOURCE, Split(valid=0.2, test=0.3, seed=5))["buy"]
    assert again.test.users.tolist() == data["buy"].test.users.tolist()
    other = compile_tasks(shop, tasks[1:2], SOURCE, Split(valid=0.2, test=0.3, seed=6))["buy"]
    assert other.test.users.tolist() != data["buy"].test.users.tolist()


def test_users_drawn_by_their_ids_keep_their_parts_as_the_log_grows(shop):
    """Whoever else is there, and wherever they stand; another seed divides them otherwise, and shares are met."""
    split = Split(valid=0.1, test=0.2, by_id=True)
    users = Ids([f"u{n}" for n in range(3000)])
    parts = partition_by_id(users, split)
    assert (
        partition_by_id(Ids([f"new {n}" for n in range(2000)] + list(users.series[::-1])), split)[2000:] == parts[::-1]
    ).all()
    assert (partition_by_id(users, Split(valid=0.1, test=0.2, by_id=True, seed=1)) != parts).mean() > 0.3
    assert np.bincount(parts) / 3000 == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    data = compile_tasks(shop, [WATCH], SOURCE, split)["watch"]
    assert data.test.users.tolist() == np.flatnonzero(partition_by_id(shop.user_ids, split) == TEST).tolist()


def test_folds_by_id_test_everyone_once():
    users = Ids([f"u{n}" for n in range(1000)])
    folds = [partition_by_id(users, Split(valid=0.1, folds=3, fold=fold, by_id=True)) for fold in (1, 2, 3)]
    tested, valid = (np.stack([parts == part for parts in folds]) for part in (TEST, VALID))
    assert (tested.sum(0) == 1).all()
    assert tested.mean(1) == pytest.approx([1 / 3] * 3, abs=0.05) and valid.mean(1) == pytest.approx(
        [0.1] * 3, abs=0.03
    )


def test_only_users_are_drawn_by_their_ids():
    with pytest.raises(SettingsError, match=r'by_id = true with kind = "example"'):
        Split("example", by_id=True)


def test_item_answers_are_distinct_and_labels_come_from_train(shop):
    data = compile_tasks(
        shop, [Task("liked", "item", where="value >= 4 and domain = 'target'")], SOURCE, Split(test=0.4)
    )
    one = data["liked"]
    frame = shop.columns().collect().with_row_index()
    text = one.labels.text(np.arange(len(one.labels)))
    assert text == sorted(text) and shop.item_ids.text(one.label_items) == text
    for user, (seen, answers) in rows_of(one.train, one).items():
        liked = frame.filter(
            (pl.col("user") == f"u{user:02}") & (pl.col("value") >= 4) & (pl.col("domain") == "target")
        )
        assert [text[a] for a in answers] == liked["item"].unique(maintain_order=True).to_list()
        assert len(seen) == 4
    none = 40 - sum(one.notes["users"].values())
    assert one.notes["left_out"] == ({"no answer": none} if none else {})


def test_answers_outside_the_label_space_are_kept_as_misses():
    frame = pl.DataFrame(
        {"user": [u for u in "abcdefghij" for _ in range(3)], "item": [f"{u}{i}" for u in range(10) for i in range(3)]}
    )
    one = compile_tasks(log_of(frame), [Task("later", "item")], History(share=0.4), Split(valid=0.2, test=0.2))["later"]
    assert len(one.labels) == 12 and one.test.answers.tolist() == [-1] * 4
    assert one.notes["answers_outside_labels"] == {"valid": 4, "test": 4}


def test_one_of_from_users_and_events(shop):
    tasks = [
        Task("age", "one_of", answer="user.age"),
        Task("odd", "one_of", answer="user.odd name"),
        Task("first", "one_of", answer="value", where="domain = 'target'"),
        Task("genre", "one_of", answer="item.genres"),
        Task("tags", "item", answer="user.tags"),
    ]
    data = compile_tasks(shop, tasks, SOURCE)
    age = data["age"]
    assert age.labels.text(np.arange(3)) == ["0", "1", "2"] and (age.label_items == -1).all()
    assert age.notes["left_out"] == {"no answer": 6}
    for user, (_, answer) in rows_of(age.train, age).items():
        assert answer == [user % 3]
    assert len(data["odd"].labels) == 1  # one text after NFC
    first = data["first"]
    values = shop.columns().collect()["value"].to_numpy().reshape(40, 7)[:, 4]
    for user, (_, answer) in rows_of(first.train, first).items():
        assert first.labels.text(np.array(answer)) == [f"{values[user]:g}"]
    assert data["tags"].notes["left_out"] == {"no answer": 20}
    assert all(answers == [0, 1] for _, answers in rows_of(data["tags"].train, data["tags"]).values())


def test_who_is_left_out_is_said(shop):
    tasks = [Task("buy", "item", min_answers=3), Task("age", "one_of", answer="user.age", users="user.age > 0")]
    data = compile_tasks(shop, tasks, SOURCE)
    assert data["age"].notes["left_out"] == {"not selected by users": 18}
    notes = data["buy"].notes
    assert sum(notes["left_out"].values()) + sum(notes["users"].values()) == 40
    assert set(notes["left_out"]) == {"fewer than 3 answers"}
    empty = compile_tasks(
        shop, [Task("a", "item")], History(where="domain = 'source' and item = 'a1'"), Split(valid=0, test=0)
    )
    assert "empty history" in empty["a"].notes["left_out"]
    assert empty["a"].notes["warnings"] == ["valid is empty", "test is empty"]
    kept = compile_tasks(
        shop,
        [Task("a", "item")],
        History(where="domain = 'source' and item = 'a1'", min_length=0),
        Split(valid=0, test=0),
    )["a"]
    assert len(kept.train) == 40 and (kept.train.end == kept.train.begin).any()
    with pytest.raises(DataError, match="no training example") as error:
        compile_tasks(shop, [Task("a", "item")], History())
    assert "no answer: 40" in error.value.fix


def test_last_holds_out_the_last_events():
    frame = pl.DataFrame(
        {"user": ["a"] * 6 + ["b"] * 4 + ["c"] * 1, "item": [f"i{k}" for k in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]]}
    )
    one = compile_tasks(log_of(frame), [WATCH], None, Split(kind="last"))["watch"]
    assert rows_of(one.train, one) == {0: ([2, 3, 4, 5], []), 1: ([8, 9], [])}
    assert rows_of(one.valid, one) == {0: ([2, 3, 4, 5], [4]), 1: ([8, 9], [8])}
    assert rows_of(one.test, one) == {0: ([2, 3, 4, 5, 6], [5]), 1: ([8, 9, 10], [9])}
    two = compile_tasks(log_of(frame), [WATCH], None, Split(kind="last", last=2))["watch"]
    assert rows_of(two.test, two) == {0: ([2, 3, 4, 5], [4, 5])}
    assert rows_of(two.train, two) == {0: ([2, 3], []), 1: ([8, 9, 10, 11], [])}  # b is too short to be judged
    assert two.notes["left_out"] == {"history shorter than 2": 1}
    none = compile_tasks(log_of(frame), [WATCH], None, Split(kind="last", valid_last=0))["watch"]
    assert rows_of(none.train, none) == {0: ([2, 3, 4, 5, 6], []), 1: ([8, 9, 10], [])}  # what validated trains
    assert rows_of(none.valid, none) == {}
    assert rows_of(none.test, none) == rows_of(one.test, one)
    more = compile_tasks(log_of(frame), [WATCH], None, Split(kind="last", valid_last=3))["watch"]
    assert rows_of(more.train, more) == {0: ([2, 3], []), 1: ([8, 9, 10, 11], [])}
    assert rows_of(more.valid, more) == {0: ([2, 3], [2, 3, 4])}


def test_last_and_time_fall_back_on_users_for_attributes(shop):
    task = Task("age", "one_of", answer="user.age")
    last = compile_tasks(shop, [task], SOURCE, Split(kind="last"))["age"]
    assert last.by == "user" and "does not apply" in last.notes["split"]
    time = compile_tasks(shop, [task], SOURCE, Split(kind="time", valid_from="2", test_from="3"))["age"]
    assert time.by == "user" and "does not apply" in time.notes["split"]
    assert set((time.train.end - time.train.begin).tolist()) == {2} and set(
        (time.test.end - time.test.begin).tolist()
    ) == {3}


def test_time_split(shop):
    split = Split(kind="time", valid_from="2", test_from="11")
    watch = compile_tasks(shop, [WATCH], SOURCE, split)["watch"]
    for user, (seen, answer) in rows_of(watch.valid, watch).items():
        assert seen == watch.history(user)[:2].tolist() and answer == [watch.history(user)[2] - 2]
    assert len(watch.test) == 0  # nobody watches from 11 on
    with pytest.raises(DataError, match="train: no answer in that time: 40"):
        compile_tasks(shop, [Task("buy", "item")], SOURCE, Split(kind="time", valid_from="5", test_from="11"))
    buy = compile_tasks(shop, [Task("buy", "item")], SOURCE, Split(kind="time", valid_from="11", test_from="12"))["buy"]
    assert set((buy.train.end - buy.train.begin).tolist()) == {4}
    assert len(buy.train) == len(buy.valid) == len(buy.test) == 40


def test_time_split_trains_on_what_came_before_the_answers():
    frame = pl.DataFrame({"user": ["a"] * 5, "item": list("xyxyx"), "time": [1, 2, 3, 4, 5], "domain": list("ststs")})
    split = Split(kind="time", valid_from="10", test_from="20")
    one = compile_tasks(log_of(frame), [Task("t", "item")], History(where="domain = 's'"), split)["t"]
    assert rows_of(one.train, one) == {0: ([2], [0])}  # the second answer is the same item; inputs end before the first


def test_split_by_example_is_each_tasks_own(shop):
    """As the official code of CONURE and TERACON divides: examples, not users."""
    tasks = [WATCH, Task("buy", "item"), Task("again", "item"), Task("age", "one_of", answer="user.age")]
    split = Split(kind="example", valid=0.1, test=0.3)
    data = compile_tasks(shop, tasks, SOURCE, split)
    assert {one.by for one in data.values()} == {"example"} and all(
        "leaks" in one.notes["split"] for one in data.values()
    )
    buy = data["buy"]
    frame = shop.columns().collect().with_row_index()
    pairs = frame.filter(pl.col("domain") == "target").unique(["user", "item"])
    assert sum(len(buy.part(part)) for part in ("train", "valid", "test")) == pairs.height
    assert len(buy.test) == round(0.3 * pairs.height) and len(buy.valid) == round(0.1 * pairs.height)
    events = []
    for part in ("train", "valid", "test"):
        one = buy.part(part)
        assert np.diff(one.answer_starts).tolist() == [1] * len(one)  # pyright: ignore
        events += one.answer_events.tolist()  # pyright: ignore
        for user, begin, end, event in zip(one.users, one.begin, one.end, one.answer_events, strict=True):  # pyright: ignore
            assert (begin, end) == tuple(buy.sequences.starts[[user, user + 1]])
            assert shop.starts[user] <= event < shop.starts[user + 1]
        known = one.answers >= 0
        assert (buy.label_items[one.answers[known]] == shop.items[one.answer_events[known]]).all()  # pyright: ignore
    assert len(set(events)) == len(events)  # an answer is in one part
    assert set(buy.train.users.tolist()) & set(buy.test.users.tolist())  # a user is in several
    assert buy.test.answer_events.tolist() != data["again"].test.answer_events.tolist()  # pyright: ignore
    watch, age = data["watch"], data["age"]
    assert watch.notes["users"] == {"train": 24, "valid": 4, "test": 12} and set(watch.test.users) != set(
        age.test.users
    )
    assert watch.train.answer_starts is None and len(watch.test.answers) == 12
    again = compile_tasks(shop, tasks[1:2], SOURCE, split)["buy"]  # whatever the other tasks
    assert again.test.answer_events.tolist() == buy.test.answer_events.tolist()  # pyright: ignore


def test_each_answer_an_example_of_a_user_in_one_part(shop):
    """The control of the split by example: measured alike, divided by users."""
    tasks = [WATCH, Task("buy", "item"), Task("age", "one_of", answer="user.age")]
    by_user = compile_tasks(shop, tasks, SOURCE, Split(test=0.3))
    each = compile_tasks(shop, tasks, SOURCE, Split(kind="user-each", test=0.3))
    for name, one in each.items():
        assert one.by == "user" and one.labels == by_user[name].labels
        for part in ("train", "valid", "test"):
            mine, theirs = one.part(part), by_user[name].part(part)
            assert mine.answers.tolist() == theirs.answers.tolist()
            if theirs.answer_starts is not None:
                assert mine.users.tolist() == np.repeat(theirs.users, np.diff(theirs.answer_starts)).tolist()
                assert np.diff(mine.answer_starts).tolist() == [1] * len(mine)  # pyright: ignore


NOISE = Task("noise", "one_of", answer="noise", classes=5)


def labels_of(data: TaskData, users: Ids) -> dict[str, str]:
    """{user id: label}."""
    found = {}
    for part in ("train", "valid", "test"):
        one = data.part(part)
        texts = [data.labels.text(np.array([a]))[0] if a >= 0 else "?" for a in one.answers]
        found |= dict(zip(users.text(one.users), texts, strict=True))
    return found


def test_random_labels_are_a_users_own(shop):
    data = compile_tasks(shop, [NOISE, replace(NOISE, name="other")], SOURCE)
    told = labels_of(data["noise"], shop.user_ids)
    assert len(told) == 40 and set(told.values()) == {"0", "1", "2", "3", "4"} and data["noise"].by == "user"
    assert labels_of(data["other"], shop.user_ids) != told  # another task, other labels
    seeded = compile_tasks(shop, [NOISE], SOURCE, Split(seed=1))["noise"]
    assert labels_of(seeded, shop.user_ids) != told
    frame = shop.columns().collect()
    few = log_of(frame.filter(pl.col("user") > "u09").sample(fraction=1, shuffle=True, seed=3))
    fewer = compile_tasks(few, [NOISE], SOURCE)["noise"]  # other users, another order: the same labels
    assert labels_of(fewer, few.user_ids).items() <= told.items() and len(fewer.train) == 24
    half = compile_tasks(shop, [replace(NOISE, share=0.5)], SOURCE)["noise"]
    assert 10 < sum(half.notes["users"].values()) < 30
    assert labels_of(half, shop.user_ids).items() <= told.items()
    assert len(compile_tasks(shop, [Task("n", "one_of", answer="noise")], SOURCE)["n"].labels) > 20  # of 50
    odd = log_of(frame.with_columns(noise=pl.lit(1)))
    with pytest.raises(SettingsError, match="column of that name"):
        compile_tasks(odd, [NOISE], SOURCE)


def test_random_labels_say_nothing_about_anything():
    """Evenly spread, and independent of the order of users, of their ids' ends, and of each other under two seeds."""
    n, classes = 20_000, 5
    frame = pl.DataFrame({"user": [f"{u}" for u in range(n)] * 2, "item": ["a"] * n + ["b"] * n})
    events = log_of(frame)

    def drawn(seed: int) -> np.ndarray:
        one = compile_tasks(events, [NOISE], History(share=0.5), Split(valid=0, test=0, seed=seed))["noise"]
        return one.train.answers[np.argsort(np.array(events.user_ids.text(one.train.users), dtype=np.int64))]

    labels = drawn(0)
    for other in (np.zeros(n, int), np.arange(n) % 10, np.arange(n) // 2000, np.roll(labels, 1), drawn(1)):
        table = np.zeros((int(other.max()) + 1, classes))
        np.add.at(table, (other, labels), 1)
        expected = table.sum(1, keepdims=True) / classes
        free = table.shape[0] * (classes - 1)
        chi = ((table - expected) ** 2 / expected).sum()
        assert chi < free + 4 * np.sqrt(2 * free)  # mean and four standard deviations of chi-square


GOOD_NAMES = ["a", "7", "Watch-later_2", "x" * 64, "null", "com", "com10", "console"]
BAD_NAMES = ["", "_a", "-a", "a.b", ".", "..", "a/b", "a\\b", "a b", "a\n", "\u00e4", "\u0661", "x" * 65, "con", "NUL",
             "Com1", "a\0"]  # fmt: skip


@pytest.mark.parametrize("name", [*GOOD_NAMES, *BAD_NAMES])
def test_one_rule_for_names(name):
    """A task, a recipe and a model folder agree on what a task may be called."""
    from perdure.errors import ModelError
    from perdure.model.files import check_name
    from perdure.settings.sections import bad_names

    good = name in GOOD_NAMES
    assert [fault.key for fault in bad_names([name])] == ([] if good else ["tasks.0.name"])
    if good:
        assert check_name(f"tasks/{Task(name, 'item').name}.safetensors")
        return
    with pytest.raises(SettingsError, match="task name"):
        Task(name, "item")
    if set(name) & set("\\\0\n ") or not name or not name.isascii():
        with pytest.raises(ModelError):
            check_name(f"tasks/{name}")


def test_settings_are_checked(shop):
    with pytest.raises(SettingsError, match="two tasks"):
        compile_tasks(shop, [WATCH, WATCH])
    with pytest.raises(SettingsError, match="two tasks"):
        compile_tasks(shop, [WATCH, Task("Watch", "item")])
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]})
    with pytest.raises(SettingsError, match="without times"):
        compile_tasks(log_of(frame), [WATCH], None, Split(kind="time", valid_from="1", test_from="2"))
    for wrong in (
        lambda: History(share=0),
        lambda: History(share=1.5),
        lambda: History(min_length=-1),
        lambda: Split(valid=0.5, test=0.5),
        lambda: Split(valid=-0.1),
        lambda: Split(kind="random"),  # pyright: ignore
        lambda: Split(last=0),
        lambda: Split(valid_last=-1),
        lambda: Split(seed=-1),
        lambda: Split(kind="time"),
        lambda: Split(kind="time", valid_from="2020-01-02", test_from="2020-01-01"),
        lambda: Split(kind="time", valid_from="soon", test_from="2020-01-01"),
        lambda: Task("../x", "item"),
        lambda: Task("", "item"),
        lambda: Task("x", "many"),  # pyright: ignore
        lambda: Task("x", "next_item", answer="value"),
        lambda: Task("x", "next_item", where="value > 1"),
        lambda: Task("x", "one_of"),
        lambda: Task("x", "one_of", answer="user.age", where="value > 1"),
        lambda: Task("x", "item", min_answers=0),
        lambda: Task("x", "item", answer="noise"),
        lambda: Task("x", "one_of", answer="noise", where="value > 1"),
        lambda: Task("x", "one_of", answer="noise", classes=1),
        lambda: Task("x", "one_of", answer="noise", share=0.0),
        lambda: Task("x", "one_of", answer="noise", share=1.5),
        lambda: Task("x", "one_of", answer="user.age", classes=3),
        lambda: Task("x", "item", share=0.5),
    ):
        with pytest.raises(SettingsError):
            wrong()
    assert seconds("2001-01-01", "k") == seconds("2001-01-01T01:00:00+01:00", "k") == 978307200


@pytest.mark.parametrize(
    ("expression", "found", "fix"),
    [
        ("domian = 'source'", "no column 'domian'", "did you mean domain?"),
        ("genres like '%odd%'", "no column 'genres'", "did you mean item.genres?"),
        ("item.genre = 'x'", "no column 'item.genre'", "did you mean item.genres?"),
        ("age = 1", "no column 'age'", "did you mean user.age?"),
        ("time < 2024-04-05", "2024-04-05 reads as a subtraction", "1712275200 for 2024-04-05 in UTC"),
        ("time < 2023-02-30", "2023-02-30 reads as a subtraction", "1704067200 for 2024-01-01 in UTC"),
        ("time < '2024-04-05'", "does not fit the columns", "1712275200 for 2024-04-05 in UTC"),
        ("odd > 1", "no column 'odd'", ""),
        ("domain = app", "no column 'app'", "text stands in single quotes: 'app'"),
        ("domain in (\"source\", 'x')", "no column 'source'", "text stands in single quotes: 'source'"),
        ("domain = itm", "no column 'itm'", "did you mean item?; text stands in single quotes: 'itm'"),
        ("domain = 'source' and", "cannot be read", ""),
        ("domain = 'source", "not part of the filter language", ""),
        ("domain = 'a'; drop table x", "not part of the filter language", ""),
        ("domain = 'a' -- comment", "not part of the filter language", ""),
        ("domain = `a`", "not part of the filter language", ""),
        ("domain in (select domain from events)", "no column 'select'", ""),
        ("exists (select 1)", "no function 'exists'", ""),
        ("value > avg(value)", "no function 'avg'", ""),
        ("row_number() over (order by time) = 1", "no function 'row_number'", ""),
        ("read_csv('/etc/passwd') = 1", "no function 'read_csv'", ""),
        ("columns('.*') = 1", "no function 'columns'", ""),
        ("domain = current_date", "no column 'current_date'", ""),
        ("true", "reads no column", ""),
        ("1 = 1", "reads no column", ""),
        ("value", "not yes or no", ""),
        ("value + 1", "not yes or no", ""),
        ("value > 'x'", "does not fit", ""),
        ("", "cannot be read", ""),
    ],
)
def test_a_wrong_filter_is_one_clear_error(shop, expression, found, fix):
    with pytest.raises(SettingsError) as error:
        compile_tasks(shop, [Task("liked", "item", where=expression)], SOURCE)
    assert found in error.value.found and fix in error.value.fix
    assert error.value.where == "[[tasks]] 'liked', key where"
    assert "domain" in error.value.expected and "item.genres" in error.value.expected
    assert len(error.value.lines()) <= 4


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("domain = 'source'", 160),
        ("DOMAIN = 'source'".replace("DOMAIN", '"domain"'), 160),
        ("item.genres not like '%odd%' or item.genres like '%odd%'", 280),
        ("\"item.genres\" = 'all' or \"item.genres\" != 'all'", 280),
        ("user.age = 1", 77),
        ("\"user.odd name\" = 'x' or domain in ('source', 'it''s -- /* odd')", 160),
        ("not (domain = 'target') and time between 0 and 1", 80),
        ("case when domain = 'source' then true else false end", 160),
        ("upper(domain) = 'SOURCE' and cast(value as integer) % 2 = 1", 160),
        ("starts_with(item, 'a')", 160),
        ("array_contains(user.tags, 'x') and domain = 'source'", 80),
        ("user = 'u03' and cast(time as int) < 2", 2),
        ("user.age is null and domain = 'source'", 24),
    ],
)
def test_filters(shop, expression, expected):
    data = compile_tasks(shop, [WATCH], History(where=expression), Split(valid=0, test=0))["watch"]
    assert len(data.sequences.items) == expected


def test_filters_of_users_and_missing_tables(shop):
    for expression in ("age = 1", "user.age = 1", '"age" = 1', '"odd name" is not null and age = 1'):
        data = compile_tasks(shop, [Task("w", "next_item", users=expression)], SOURCE)["w"]
        assert sum(data.notes["users"].values()) == 11
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["x", "y"]})
    with pytest.raises(SettingsError) as error:
        compile_tasks(log_of(frame), [Task("w", "next_item", users="age = 1")])
    assert "n_events, cold" in error.value.expected
    with pytest.raises(SettingsError, match=r"no column 'user.age'"):
        compile_tasks(log_of(frame), [Task("w", "one_of", answer="user.age")])
    with pytest.raises(SettingsError, match="no column 'valeu'") as error:
        compile_tasks(shop, [Task("w", "one_of", answer="valeu")], SOURCE)
    assert error.value.fix == "did you mean value?"
    assert nearest("user.sex", ["user.one", "user.age"]) == ""  # alike only in what all columns of users share


def test_every_function_of_the_language_is_polars_sql():
    known = ["a", "b"]
    calls = {
        "cast": "cast(a as text)",
        "try_cast": "try_cast(a as int)",
        "date_part": "date_part('year', a)",
        "if": "if(a, a, b)",
    }
    for name in sorted(FUNCTIONS):
        for arguments in ("a", "a, 1", "a, 'x'", "a, 'x', 'y'", None):
            text = calls.get(name) or f"{name}({arguments})"
            try:
                assert set(check(f"{text} is null", known, where="test")[1]) <= set(known)
                break
            except SettingsError:
                assert arguments is not None, name


def test_check_no_leak_fails_loudly(shop):
    data = compile_tasks(shop, [WATCH, Task("buy", "item")], SOURCE, Split(valid=0.2, test=0.2))
    watch, buy = data["watch"], data["buy"]
    check_no_leak(data)
    check_no_leak(watch)
    longer = replace(watch.test, end=watch.test.end + 1)
    with pytest.raises(DataError, match="stands in its own input") as error:
        check_no_leak(replace(watch, test=longer))
    event = int(watch.test.answer_events[0])  # type: ignore[index]
    assert f"event {event} of user row {int(watch.test.users[0])}" in error.value.found and "watch" in error.value.where
    with pytest.raises(DataError, match="outside that user's history"):
        check_no_leak(replace(watch, train=replace(watch.train, end=watch.train.end + 1)))
    with pytest.raises(DataError, match="in train here and in test elsewhere"):
        check_no_leak({"watch": watch, "buy": replace(buy, train=buy.test)})
    with pytest.raises(DataError, match="in test here and in train elsewhere"):
        check_no_leak(replace(buy, test=replace(buy.train)))
    timed = compile_tasks(shop, [WATCH], SOURCE, Split(kind="time", valid_from="2", test_from="3"))["watch"]
    with pytest.raises(DataError, match="moment the part begins"):
        check_no_leak(replace(timed, cuts=(1, 3)))
    whole = compile_tasks(shop, [WATCH], None, Split(valid=0.2, test=0.2))["watch"]
    with pytest.raises(DataError, match="stands in its own input"):
        check_no_leak(replace(whole, valid=replace(whole.valid, end=whole.valid.end + 1)))


def test_without_validation_the_last_events_are_still_not_learned(shop):
    one = compile_tasks(shop, [WATCH], None, Split(kind="last", valid_last=0))["watch"]
    with pytest.raises(DataError, match="asked of that user in a later part"):
        check_no_leak(replace(one, train=replace(one.train, end=one.train.end + 1)))


@pytest.mark.parametrize(("history", "last"), [(None, 1), (None, 2), (SOURCE, 1)])
def test_leave_last_n_never_learns_what_it_asks(shop, history, last):
    one = compile_tasks(shop, [WATCH], history, Split(kind="last", last=last))["watch"]
    ends = one.sequences.starts[one.train.users.astype(int) + 1]
    for mutant in (ends, ends - last, one.train.end + 1):  # with test, with valid targets, with one
        with pytest.raises(DataError, match="asked of that user in a later part") as error:
            check_no_leak(replace(one, train=replace(one.train, end=mutant)))
        assert "train" in error.value.where
    with pytest.raises(DataError, match=r"own input|later part"):
        check_no_leak(replace(one, valid=replace(one.valid, end=one.valid.end + last + 1)))
    with pytest.raises(DataError, match="later part"):
        check_no_leak(replace(one, valid=one.test))
    with pytest.raises(DataError, match="nobody knows"):
        check_no_leak(replace(one, test=replace(one.test, answer_events=None)))


def test_the_time_of_every_part_is_checked(shop):
    split = Split(kind="time", valid_from="11", test_from="12")
    for task, history in ((Task("buy", "item"), SOURCE), (WATCH, None)):
        one = compile_tasks(shop, [task], history, split)[task.name]
        starts = one.sequences.starts
        for part in ("train", "valid", "test"):
            examples = one.part(part)
            if history is None:  # the whole history, targets and all
                whole = replace(examples, end=starts[examples.users.astype(int) + 1])
                with pytest.raises(DataError, match=r"moment the part begins|own input"):
                    check_no_leak(replace(one, **{part: whole}))
        for part, other in (("valid", "test"), ("test", "valid")):
            theirs, mine = one.part(other), one.part(part)
            swapped = replace(mine, answers=theirs.answers, answer_events=theirs.answer_events)
            with pytest.raises(DataError, match=r"outside the time of its part|own input"):
                check_no_leak(replace(one, **{part: swapped}))
        with pytest.raises(DataError, match="without times"):
            check_no_leak(replace(one, clock=None))
    buy = compile_tasks(shop, [Task("buy", "item")], SOURCE, split)["buy"]
    late = replace(buy.train, answer_events=buy.valid.answer_events)
    with pytest.raises(DataError, match="outside the time of its part"):
        check_no_leak(replace(buy, train=late))
    frame = pl.DataFrame({"user": ["a"] * 5, "item": list("xyxyx"), "time": [1, 2, 3, 4, 5], "domain": list("ststs")})
    far = Split(kind="time", valid_from="10", test_from="20")
    one = compile_tasks(log_of(frame), [Task("t", "item")], History(where="domain = 's'"), far)["t"]
    with pytest.raises(DataError, match="before the end of its own input"):
        check_no_leak(replace(one, train=replace(one.train, end=one.train.end + 1)))


logs = st.lists(
    st.tuples(
        st.integers(0, 9), st.integers(0, 7), st.integers(0, 20), st.sampled_from("st"), st.none() | st.integers(0, 3)
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(
    logs,
    st.sampled_from([1.0, 0.5, 0.7]),
    st.sampled_from([None, "domain = 's'"]),
    st.sampled_from(
        [Split(), Split(valid=0.3, test=0.3, seed=3), Split(kind="last"), Split(kind="last", last=2),
         Split(kind="last", valid_last=0), Split(kind="time", valid_from="5", test_from="12")]
    ),
    st.sampled_from(
        [WATCH, Task("i", "item"), Task("i", "item", min_answers=2), Task("c", "one_of", answer="mood"),
         Task("p", "one_of", answer="user.age")]
    ),
)  # fmt: skip
def test_any_log_compiles_without_leaks(rows, share, where, split, task):
    frame = pl.DataFrame(
        rows,
        schema={"user": pl.Int64, "item": pl.Int64, "time": pl.Int64, "domain": pl.String, "mood": pl.Int64},
        orient="row",
    )
    users = pl.DataFrame({"id": [str(u) for u in range(10)], "age": [None, 1, 2, 1, 2, 1, 2, 1, 2, None]})
    log = log_of(frame, users)
    try:
        one = compile_tasks(log, [task], History(share, where), split)[task.name]
    except DataError as error:
        assert "no training example" in error.found
        return
    check_no_leak(one)
    for name in ("train", "valid", "test"):
        examples = one.part(name)
        assert (np.diff(examples.users) > 0).all()
        assert (examples.end > examples.begin).all()
        if examples.answer_starts is not None:
            counts = np.diff(examples.answer_starts)
            assert (counts >= (1 if task.kind == "next_item" else task.min_answers)).all()
            assert examples.answer_starts[-1] == len(examples.answers)
            assert examples.answers.max(initial=-1) < len(one.labels)
            if name == "train":
                assert (examples.answers >= 0).all()
            if task.kind == "one_of":
                assert (counts == 1).all()
            if task.kind != "next_item" and examples.answer_events is not None and task.answer == "item":
                shown = one.label_items[examples.answers[examples.answers >= 0]]
                assert (shown == log.items[examples.answer_events[examples.answers >= 0]]).all()


def test_partition_and_ragged():
    parts = partition(1000, Split(valid=0.1, test=0.2))
    assert np.bincount(parts).tolist() == [700, 100, 200]
    assert sorted(partition(3, Split()).tolist()) == [0, 1, 2] and partition(2, Split()).tolist() == [0, 0]
    assert (partition(10, Split(valid=0, test=0)) == 0).all() and len(partition(0, Split())) == 0
    folds = np.stack([partition(103, Split(valid=0.1, folds=5, fold=k)) for k in range(1, 6)])  # (5, 103)
    assert ((folds == 2).sum(0) == 1).all() and set((folds == 2).sum(1).tolist()) == {20, 21}
    assert ((folds == 1).sum(1) == 10).all()
    assert ragged(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ragged(np.zeros(0), np.zeros(0)).tolist() == []
    assert isinstance(Ids(["a"]), Ids)
