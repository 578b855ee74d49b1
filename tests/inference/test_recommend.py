"""Answers: right, in a fixed order, for known and unknown people, and the same alone or in a crowd."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from contracts import members
from inference.people import ENCODERS, crowd, fixed, tiny

from perdure.errors import NonFiniteError, UsageError
from perdure.inference.recommend import recommend

SCORES = [[0.0, 5.0, 4.0, 3.0], [9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], [4.0, 4.0, 1.0, 4.0]]


def text(rows):
    return [f"i{row - 2:03d}" for row in rows]


def test_by_hand():
    (answer,) = recommend(fixed(SCORES), "t", [["i003", "i000"]], 2)
    assert answer.items == ["i001", "i002"] and answer.scores == [5.0, 4.0]
    assert answer.source == "model" and answer.unknown == [] and not answer.truncated


def test_what_was_seen_is_left_out_unless_asked_for():
    model = fixed(SCORES)
    assert recommend(model, "t", [["i001", "i000"]], 2)[0].items == ["i002", "i003"]
    assert recommend(model, "t", [["i001", "i000"]], 2, seen="keep")[0].items == ["i001", "i002"]


def test_seen_counts_beyond_what_the_encoder_reads():
    model = fixed(SCORES)
    assert model.backbone.max_length == 8
    assert recommend(model, "t", [["i001"] + ["i000"] * 9], 3)[0].items == ["i002", "i003"]


def test_ties_go_by_label_row():
    model = fixed(SCORES)
    assert recommend(model, "t", [["i001"]], 4, seen="keep")[0].items == ["i000", "i001", "i002", "i003"]
    assert recommend(model, "t", [["i003"]], 2, seen="keep")[0].items == ["i000", "i001"]
    assert recommend(model, "t", [["i003"]], 1, seen="keep", deny=["i000"])[0].items == ["i001"]


def test_allow_and_deny():
    model = fixed(SCORES)
    assert recommend(model, "t", [["i000"]], 9, allow=["i003", "i001", "nobody"])[0].items == ["i001", "i003"]
    assert recommend(model, "t", [["i000"]], 9, allow=["i003", "nobody"])[0].unknown == ["nobody"]
    assert recommend(model, "t", [["i000"]], 9, deny=["i001"])[0].items == ["i002", "i003"]
    assert recommend(model, "t", [["i000"]], 9, allow=["i001", "i002"], deny=["i001"])[0].items == ["i002"]
    nothing = recommend(model, "t", [["i000"]], 9, allow=[])[0]
    assert nothing.items == [] and nothing.truncated


@pytest.mark.parametrize("k", [4, 2**63, 10**30])
def test_more_than_there_are(k):
    (answer,) = recommend(fixed(SCORES), "t", [["i000"]], k)
    assert answer.items == ["i001", "i002", "i003"] and answer.truncated


def test_nothing_known_is_answered_by_popularity():
    model = fixed(SCORES, popularity=[3, 7, 7, 1])
    for history, unknown in ([], []), (["x", "y", "x"], ["x", "y"]):
        (answer,) = recommend(model, "t", [history], 3)
        assert answer.source == "popularity" and answer.items == ["i001", "i002", "i000"]
        assert answer.scores == [7, 7, 3] and answer.unknown == unknown


def test_unknown_items_are_ignored_and_listed():
    model = fixed(SCORES)
    (answer,) = recommend(model, "t", [["007", "i003", "NA", "i000", "007"]], 2)
    assert answer.items == ["i001", "i002"] and answer.unknown == ["007", "NA"] and answer.source == "model"


def test_many_unknown_items_take_time_in_proportion():
    strange = [f"x{at}" for at in range(40_000)]
    began = time.process_time()
    (answer,) = recommend(fixed(SCORES), "t", [[*strange, *strange]], 1)
    assert answer.unknown == strange and time.process_time() - began < 5


def test_a_crowd_in_order():
    answers = recommend(fixed(SCORES), "t", [["i000"], [], ["zz", "i002"], ["i003"]], 1, seen="keep")
    assert [a.items for a in answers] == [["i001"], ["i000"], ["i003"], ["i000"]]
    assert [a.source for a in answers] == ["model", "popularity", "model", "model"]
    assert [a.unknown for a in answers] == [[], [], ["zz"], []]
    assert recommend(fixed(SCORES), "t", []) == []


def test_classes_come_with_probabilities():
    model = tiny()
    full, few, none = recommend(model, "age", [text([5, 9, 2]), text([4]), []], 3)
    for answer in (full, few, none):
        assert sorted(answer.items) == ["middle", "old", "young"] and sum(answer.scores) == pytest.approx(1)
        assert answer.scores == sorted(answer.scores, reverse=True) and not answer.truncated
    assert none.source == "popularity" and none.items == ["young", "old", "middle"]
    assert none.scores == pytest.approx([5 / 8, 2 / 8, 1 / 8])


def test_labels_that_are_no_items_can_be_answers():
    (answer,) = recommend(tiny(), "later", [text([2, 4, 6])], 99)
    assert "elsewhere" in answer.items and not set(answer.items) & {"i000", "i002", "i004"}
    assert len(answer.items) == 13


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("task", ["next", "later", "age"])
def test_alone_or_in_a_crowd(encoder, task):
    model, people = tiny(encoder), [text(h) for h in crowd(60, 20, seed=1)]
    together = recommend(model, task, people, 10)
    shuffled = recommend(model, task, people[::-1], 10)[::-1]
    for history, one, two in zip(people, together, shuffled, strict=True):
        (alone,) = recommend(model, task, [history], 10)
        assert alone.items == one.items == two.items
        assert alone.scores == pytest.approx(one.scores, abs=1e-5)
        assert alone.truncated == one.truncated


def test_blocks_of_users_change_nothing(monkeypatch):
    import importlib

    room = importlib.import_module("perdure.inference.recommend")
    model, people = tiny(), [text(h) for h in crowd(25, 9)] + [[]]
    whole = recommend(model, "next", people, 5)
    monkeypatch.setattr(room, "users_at_once", lambda n: 4)
    pieces = recommend(model, "next", people, 5)
    assert [a.items for a in whole] == [a.items for a in pieces]
    assert [a.source for a in whole] == [a.source for a in pieces]


def test_a_user_of_a_million_items_is_no_trouble():
    rng = np.random.default_rng(0)
    history = text(rng.integers(2, 32, 20000))
    assert recommend(tiny(), "next", [history], 3)[0].items == []


@pytest.mark.parametrize("k", [0, -1, True, 2.0, "3", None])
def test_k_out_of_range(k):
    with pytest.raises(UsageError, match="k = "):
        recommend(fixed(SCORES), "t", [["i000"]], k)


@pytest.mark.parametrize("histories", ["i000", ["i000", "i001"], [["i000", 7]], [[None]], [["i000", b"i001"]], [[1.0]]])
def test_histories_must_be_lists_of_lists_of_text(histories):
    with pytest.raises(UsageError):
        recommend(fixed(SCORES), "t", histories)


def test_other_refusals():
    model = tiny()
    with pytest.raises(UsageError, match="did you mean next"):
        recommend(model, "nxt", [["i000"]])
    with pytest.raises(UsageError):
        recommend(model, "next", [["i000"]], seen="perhaps")  # type: ignore[arg-type]
    for bad in ("i000", [1]):
        with pytest.raises(UsageError):
            recommend(model, "next", [["i000"]], allow=bad)  # type: ignore[arg-type]
    with torch.no_grad():
        model.backbone.item_table[4] = float("inf")
    with pytest.raises(NonFiniteError):
        recommend(model, "next", [["i000"]])


def marked_model():
    """One that reads more of events than items, and has learned a little."""
    model = members.new_model("sasrec+input", "frozen")
    members.learn(model, "watch", "next_item")
    return model


def test_what_is_told_of_events_is_read():
    model, history = marked_model(), [["i03", "nobody", "i07"]]
    told = [[{"behaviour": "view", "time": 100}, {"behaviour": "cart", "time": 107}, {"behaviour": "buy", "time": 108}]]
    (plain,), (answer,) = (recommend(model, "watch", history, 5, marks=marks) for marks in (None, told))
    assert answer.scores != plain.scores and answer.unknown == ["nobody"]
    (same,) = recommend(model, "watch", [["i03", "i07"]], 5, marks=[[told[0][0], told[0][2]]])
    assert same.scores == answer.scores  # what an unknown item was marked with goes with it
    (silent,) = recommend(model, "watch", history, 5, marks=[[{}, {}, {}]])
    assert silent.scores == plain.scores
    (odd,) = recommend(model, "watch", [["i03"]], 5, marks=[[{"behaviour": "steal"}]])
    assert odd.unknown == ["behaviour=steal"] and odd.scores == recommend(model, "watch", [["i03"]], 5)[0].scores


def test_other_events_than_the_histories_have_are_refused():
    with pytest.raises(UsageError, match="other events are told of"):
        recommend(marked_model(), "watch", [["i03", "i07"]], 5, marks=[[{}]])
    with pytest.raises(UsageError, match="no mark 'behavior'"):
        recommend(marked_model(), "watch", [["i03"]], 5, marks=[[{"behavior": "view"}]])


def test_times_that_are_told_serve_an_encoder_that_reads_them():
    model = members.new_model("hstu", "frozen", encoder={"time": True})
    members.learn(model, "watch", "next_item")
    near, far = ([[{"time": 0}, {"time": t}]] for t in (1, 10**8))
    scores = [recommend(model, "watch", [["i03", "i07"]], 5, marks=marks)[0].scores for marks in (near, far)]
    assert scores[0] != scores[1]
    with pytest.raises(UsageError, match="no times"):
        recommend(model, "watch", [["i03", "i07"]], 5, marks=[[{"time": 0}, {}]])
