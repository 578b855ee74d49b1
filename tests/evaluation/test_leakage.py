"""The audit against crafted logs, against a slow reference on any log, and on MovieLens-1M."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from events.standin import log_of
from hypothesis import given, settings
from hypothesis import strategies as st
from realdata import real

from perdure import registry
from perdure.errors import DataError
from perdure.evaluation import leakage
from perdure.evaluation.leakage import Finding, audit, mend, refuse
from perdure.events.profiles import profiles_of
from perdure.events.sequences import prepare
from perdure.events.tasks import PARTS, History, Split, Task, compile_tasks
from perdure.settings import load

WATCH, LATER = Task("watch", "next_item"), Task("later", "item")
LIKED = Task("liked", "item", where="value > 2")
HALF = Split(valid=0.1, test=0.3)


def log(users: int = 40, events: int = 12, timed: bool = True, seed: int = 0):
    """Histories that differ, no item twice in one, the whole log in 97 items."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{u:02}", f"i{item:02}", 1000 * t + u, float(rng.integers(1, 5)))
        for u in range(users)
        for t, item in enumerate(rng.choice(97, events, replace=False))
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "value"], orient="row")
    return log_of(frame if timed else frame.drop("time"))


def kinds(found: list[Finding]) -> list[tuple[str, str, str, str | None]]:
    return [(one.kind, one.severity, one.task, one.other) for one in found]


SPLITS = [
    (HALF, [WATCH, LATER, LIKED]),
    (Split(kind="last"), [WATCH]),
    (Split(kind="time", valid_from="8000", test_from="10000"), [WATCH]),
    (Split(kind="time", valid_from="8000", test_from="10000"), [LATER, LIKED]),
]


@pytest.mark.parametrize(("split", "tasks"), SPLITS)
@pytest.mark.parametrize("timed", [True, False])
def test_clean_splits_are_clean(split, tasks, timed):
    if split.kind == "time" and not timed:
        return
    events = log(timed=timed)
    found = audit(events, compile_tasks(events, tasks, History(share=0.5), split))
    assert found == []
    refuse(found)


def test_the_split_of_the_official_releases_leaks_in_every_way():
    events = log()
    datas = compile_tasks(events, [WATCH, LATER, LIKED], History(share=0.5), replace(HALF, kind="example"))
    found = audit(events, datas)
    assert {(one.kind, one.task) for one in found} == {
        ("history", "later"), ("history", "liked"), ("user", "watch"), ("user", "later"), ("user", "liked"),
        ("target", "watch"), ("target", "later"), ("target", "liked"),
    }  # fmt: skip
    assert all(one.severity == "leak" for one in found)
    watch = next(one for one in found if one.kind == "target" and one.task == "watch")
    assert watch.other == "later" and watch.count == watch.of == len(datas["watch"].test) == 12
    assert watch.text.startswith("task 'watch': 12 of 12 test answers stand in what tasks train on")
    with pytest.raises(DataError, match="test histories stand in train") as error:
        refuse(found)
    assert "and 5 more" in error.value.found and error.value.where == "leakage audit" and error.value.fix


def test_a_history_of_another_user_is_found():
    """One person under two ids: 12 events alike are no chance, and told; 2 events alike are a note."""
    frame = log().columns().collect()
    datas = compile_tasks(log_of(frame), [LATER], History(share=0.5), HALF)["later"]
    names = frame["user"].unique().sort().to_list()
    test, train = names[datas.test.users[0]], names[datas.train.users[0]]
    copy = frame.filter(pl.col("user") == train).with_columns(pl.lit(test).alias("user"))
    events = log_of(pl.concat([frame.filter(pl.col("user") != test), copy]))
    for share, severity in ((0.9, "leak"), (0.5, "note")):  # 10 and 6 of 12 events
        found = audit(events, compile_tasks(events, [LATER], History(share=share), HALF))
        assert kinds(found) == [("history", severity, "later", None)]
        assert found[0].count == 1 and found[0].of == 12 and repr(test) in found[0].text


def test_users_on_both_sides_are_found():
    events = log()
    datas = compile_tasks(events, [WATCH, LATER, LIKED], History(share=0.5), HALF)
    later = datas["later"]
    mixed = {**datas, "later": replace(later, train=later.test, test=later.train)}
    found = audit(events, mixed)
    crossed = [one for one in found if one.kind == "user"]
    assert {(one.task, one.other) for one in crossed} == {("watch", "later"), ("later", "watch"), ("liked", "later")}
    assert next(one for one in crossed if one.task == "watch").count == 12
    assert next(one for one in crossed if one.task == "later").of == 24
    assert audit(events, {"later": mixed["later"]}) == []  # alone, the parts only have other names
    both = replace(later, test=later.train)
    assert ("history", "leak", "later", None) in kinds(audit(events, {"later": both}))


def test_answers_in_their_own_input_are_found():
    events = log()
    watch = compile_tasks(events, [WATCH], History(share=0.5), HALF)["watch"]
    seen = replace(watch, test=replace(watch.test, end=watch.test.end + 1))
    found = audit(events, {"watch": seen})
    assert kinds(found) == [("input", "leak", "watch", None), ("input", "note", "watch", None)]
    assert found[0].count == 12 and found[0].of == 16  # valid and test answers
    frame = log(timed=False).columns().collect()
    later = compile_tasks(log_of(frame), [LATER], History(share=0.5), HALF)["later"]
    user = next(u for u in later.test.users.tolist() if later.history(u)[0] in later.label_items)
    again = frame.filter(pl.col("user") == f"u{user:02}").head(1)  # meets its first item once more, at the end
    events = log_of(pl.concat([frame, again]))
    found = audit(events, compile_tasks(events, [LATER], History(share=0.5), HALF))
    assert kinds(found) == [("input", "note", "later", None)]
    assert found[0].count == 1 and f"'u{user:02}'" in found[0].text


def test_the_future_is_found():
    events = log()
    task = Task("odd", "item", where="time >= 2000 and time < 3000")  # while the history goes on
    history = History(where="time < 2000 or time >= 3000")
    found = audit(events, compile_tasks(events, [task], history, HALF))
    assert kinds(found) == [("future", "leak", "odd", None)] and found[0].count == found[0].of == 40
    with pytest.raises(DataError) as error:
        refuse(found)
    assert 'where = "... and time < T"' in error.value.fix and 'kind = "user"' not in error.value.fix
    untimed = log_of(events.columns().collect().with_columns(when=pl.col("time")).drop("time"))
    task = replace(task, where="when >= 2000 and when < 3000")
    found = audit(untimed, compile_tasks(untimed, [task], History(where="when < 2000 or when >= 3000"), HALF))
    assert kinds(found) == [("future", "note", "odd", None)]
    refuse(found)

    watch = compile_tasks(events, [WATCH], None, Split(kind="time", valid_from="8000", test_from="10000"))["watch"]
    for part, over in (("train", 40), ("valid", 40), ("test", 40)):
        longer = replace(watch.part(part), end=watch.sequences.starts[watch.part(part).users + 1] - (part == "test"))
        found = audit(events, {"watch": replace(watch, **{part: longer})})
        late = [one for one in found if one.kind == "future" and "their part" in one.text]
        assert len(late) == 1 and late[0].count == over and late[0].of == 120


def test_the_targets_of_one_task_in_the_training_of_another_are_found():
    events = log()
    watch = compile_tasks(events, [WATCH], None, Split(kind="last"))["watch"]
    later = compile_tasks(events, [LATER], History(share=0.5), HALF)["later"]
    found = audit(events, {"watch": watch, "later": later})
    assert ("target", "leak", "watch", "later") in kinds(found)  # the last events are among what is met later
    target = next(one for one in found if one.kind == "target" and one.task == "watch")
    assert target.count == len(later.train) and target.of == 40
    assert {one.severity for one in found if one.kind == "user"} == {"note"}  # the two are divided in different ways
    later = next(one for one in found if one.kind == "target" and one.task == "later")
    assert later.other == "watch"  # which trains on all but everybody's last events


# -- any log, against a reference that looks at one example after the other --------------------------------------------


def asked_age(fields: dict[str, list], ages: list, seed: int = 0):
    """A log of users, and a task that asks for their age with profiles of some fields beside."""
    n = len(ages)
    frame = log(users=n).columns().collect()
    users = pl.DataFrame({"id": [f"u{u:02}" for u in range(n)], "age": ages, **fields})
    events = log_of(frame, users)
    task = Task("age", "one_of", answer="user.age")
    data = compile_tasks(events, [task], History(), HALF)["age"]
    return events, {"age": replace(data, profiles=profiles_of(events, [*fields, "age"]))}


def bands(ages: list, wrong: int = 0) -> list[str]:
    return [f"band {age // 10 + (u < wrong)}" for u, age in enumerate(ages)]


RNG = np.random.default_rng(3)
AGES = RNG.choice([15, 25, 35], 80).tolist()


@pytest.mark.parametrize(
    ("field", "ages", "found"),
    [
        (bands(AGES), AGES, True),
        ([None if u % 3 == 0 else band for u, band in enumerate(bands(AGES))], AGES, True),  # of those who have both
        (bands(AGES, wrong=20), AGES, False),  # useful, and no copy
        (RNG.choice(["a", "b"], 80).tolist(), AGES, False),
        ([f"id {u}" for u in range(80)], AGES, False),  # no value repeats
        ([f"pair {u // 2}" for u in range(80)], AGES, False),  # values of two users, who agree by chance alone
        (bands(AGES), [25] * 80, False),  # one answer: nothing is given away
        (["c"] * 4 + ["a"] * 76, [15] * 4 + [25] * 76, False),  # four users may agree by chance
        (["c"] * 16 + ["a"] * 64, [15] * 16 + [25] * 64, True),
        (RNG.choice(["a", "b"], 80).tolist(), [15] + [25] * 79, False),  # the commonest answer is nearly all of them
        ([band if u < 25 else None for u, band in enumerate(bands(AGES))], AGES, False),  # 17 of them in train
    ],
)
def test_a_profile_that_is_nearly_the_answer_is_found(field, ages, found):
    events, datas = asked_age({"age_band": field}, ages)
    told = audit(events, datas)
    assert kinds(told) == ([("profile", "leak", "age", None)] if found else [])
    if found:
        users = datas["age"].train.users
        assert told[0].count == told[0].of == sum(field[u] is not None for u in users) < 80
        assert "'age_band'" in told[0].text
        with pytest.raises(DataError, match="nearly a copy") as error:
            refuse(told)
        assert "[profile]" in error.value.fix and "[split]" not in error.value.fix


def test_a_copy_may_miss_a_few():
    """Of 48 users of train some 30 do not answer as most do, and 2 % of those is none; of 300 some 200, which is 4."""
    few, many = AGES, RNG.choice([15, 25, 35], 500).tolist()
    for ages, wrong, found in ((few, 0, True), (few, 6, False), (many, 3, True), (many, 40, False)):
        assert bool(audit(*asked_age({"age_band": bands(ages, wrong)}, ages))) == found


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=40),
)
@settings(max_examples=80, deadline=None)
def test_what_the_others_of_a_value_answer_as_a_loop_sees_it(users):
    values, answers = (np.array(column) for column in zip(*users, strict=True))
    slow = []
    for u, (value, answer) in enumerate(users):
        others = [a for v, (w, a) in enumerate(users) if w == value and v != u]
        slow.append(others.count(answer) > max((others.count(a) for a in range(4) if a != answer), default=0))
    assert leakage._foretold(values, answers).tolist() == slow


def reference(events, datas) -> dict[tuple[str, str, str], tuple[int, int]]:
    """{(kind, severity, task): (count, of)} in plain Python."""
    found: dict[tuple[str, str, str], list[bool]] = {}

    def rows(data, examples):
        """(user, log rows of the input, [(label, event)]) of each example."""
        own = data.sequences.events
        for i, user in enumerate(examples.users.tolist()):
            places = range(examples.begin[i], examples.end[i])
            starts = examples.answer_starts
            answers = range(0) if starts is None else range(starts[i], starts[i + 1])
            answers_of = [(int(examples.answers[a]), int(examples.answer_events[a])) for a in answers]
            yield user, [p if own is None else int(own[p]) for p in places], answers_of

    def whole(data, user):
        return tuple(data.history(user).tolist())

    for name, data in datas.items():
        trained = set(data.train.users.tolist())
        texts = {whole(data, user) for user in trained}
        if data.by in ("user", "example"):
            for user in data.test.users.tolist():
                length = len(whole(data, user))
                twin = user not in trained and length > 0 and whole(data, user) in texts
                own = user in trained or (twin and length >= leakage.LONG)
                found.setdefault(("history", "leak", name), []).append(own)
                found.setdefault(("history", "note", name), []).append(twin and length < leakage.LONG)
        for severity, shared in (("leak", 2), ("note", 1)):
            others = set()
            for other, theirs in datas.items():
                if other != name and sum(d.by in ("user", "example") for d in (data, theirs)) == shared:
                    others |= set(theirs.train.users.tolist())
            found[("user", severity, name)] = [user in others for user in set(data.test.users.tolist())]
        for part in PARTS:
            for _, shown, answers_of in rows(data, data.part(part)):
                for label, event in answers_of:
                    found.setdefault(("input", "leak", name), []).append(event in shown)
                    if part == "test":
                        item = data.label_items[label] if label >= 0 else -1
                        met = item >= 0 and item in [events.items[row] for row in shown]
                        found.setdefault(("input", "note", name), []).append(met)
                when = events.times if events.times is not None else np.arange(events.n_events)
                late = bool(shown) and any(when[max(shown)] > when[event] for _, event in answers_of)
                severity = "note" if events.times is None else "leak"
                found.setdefault(("future", severity, name), []).append(late)
        seen = {o: {e for _, shown, answers_of in rows(d, d.train) for e in [*shown, *(e for _, e in answers_of)]}
                for o, d in datas.items()}  # fmt: skip
        asked = [event for _, _, answers_of in rows(data, data.test) for _, event in answers_of]
        found[("target", "leak", name)] = [any(event in seen[other] for other in datas) for event in asked]
    return {key: (sum(hits), len(hits)) for key, hits in found.items() if any(hits)}


logs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4), st.integers(0, 12)), min_size=8, max_size=60)


@settings(max_examples=80, deadline=None)
@given(
    logs,
    st.booleans(),
    st.sampled_from([1.0, 0.6]),
    st.lists(st.sampled_from(["user", "last", "example"]), min_size=2, max_size=2),
    st.sampled_from(["as it is", "longer inputs", "parts exchanged"]),
    st.integers(1, 30),
)
def test_any_log_as_the_reference_sees_it(rows, timed, share, divided, change, step):
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    events = log_of(frame if timed else frame.drop("time"))
    datas = {}
    for task, kind in zip((WATCH, LATER), divided, strict=True):
        try:
            split = Split(kind=kind, valid=0.2, test=0.4)
            datas |= compile_tasks(events, [task], History(share=share), split)
        except DataError:
            continue
    if change == "parts exchanged" and "later" in datas:
        later = datas["later"]
        datas["later"] = replace(later, train=later.test, test=later.train)
    for name, data in datas.items():
        if change == "longer inputs":
            ends = np.minimum(data.test.end + step % 3, data.sequences.starts[data.test.users.astype(int) + 1])
            datas[name] = replace(data, test=replace(data.test, end=ends))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "LONG", 3)
        patch.setattr(leakage, "STEP", step)
        found = audit(events, datas)
        told: dict[tuple[str, str, str], list[Finding]] = {}
        for one in found:
            told.setdefault((one.kind, one.severity, one.task), []).append(one)
        expected = reference(events, datas)
    assert {key: (sum(one.count for one in some), some[0].of) for key, some in told.items()} == expected
    assert [one.severity for one in found] == sorted(one.severity for one in found)


def test_ml1m_as_the_recipe_splits_it_and_as_the_official_code_does(tmp_path, monkeypatch):
    monkeypatch.setenv("PERDURE_DATA", str(real("ml-1m").parent))
    recipe = "recipes/ml1m-six-tasks.toml"
    asked = load(recipe, parts=registry)
    events = prepare(asked.data, tmp_path / "store")
    assert audit(events, compile_tasks(events, asked.tasks, asked.history, asked.split)) == []
    coded = replace(asked.split, kind="example")
    found = audit(events, compile_tasks(events, asked.tasks, asked.history, coded))
    told = {(one.kind, one.task): (one.count, one.of) for one in found}
    assert told["target", "watch"] == told["user", "watch"] == (906, 906)
    assert told["history", "watch_later"] == (45303, 45303)
    with pytest.raises(DataError):
        refuse(found)


def test_the_split_that_mends_a_leak_is_named_with_the_keys_it_wants():
    told = mend([Finding("future", "leak", "buy", "", 1, 2, "seen")])
    assert '[split] kind = "time" with valid_from and test_from' in told
