"""A model and a task -> a Score: known answers, and the same answers that recommend gives."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from inference.people import ENCODERS, cards, crowd, data_of, fixed, tiny

from perdure.errors import DataError, ModelError, NonFiniteError, UsageError
from perdure.evaluation.evaluate import evaluate
from perdure.evaluation.measured import class_told
from perdure.evaluation.metrics import area_of_classes
from perdure.evaluation.ranking import Sampled
from perdure.inference.recommend import recommend
from perdure.objectives.clue_seq import ClueSeq

SCORES = [[0.0, 5.0, 4.0, 3.0], [9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]]


def card(model, name="t"):
    return model.tasks[name]


def test_known_answers():
    model = fixed(SCORES)
    #                       last item i000: right i001 is first; i002: right i000 is last of three; i003 saw i000
    data = data_of(card(model), [[2], [4], [2, 5]], [[1], [0], [1]])
    score = evaluate(model, data, ks=(1, 2))
    assert score.per_user["hr@1"].tolist() == [1, 0, 1]
    assert score.per_user["mrr@10"].tolist() == [1, pytest.approx(1 / 3), 1]
    assert score.per_user["auc"].tolist() == [1, 0, 1]
    assert score.values["hr@1"] == pytest.approx(2 / 3) and score.primary == "ndcg@10"
    assert score.value == pytest.approx((1 + 0.5 + 1) / 3)
    assert score.protocol == "full ranking" and score.n == 3
    kept = evaluate(model, data, ks=(1,), seen="keep")
    assert kept.per_user["mrr@10"].tolist() == [1, 0.25, 0.5]
    assert set(kept.values) == {f"{m}@{k}" for m in ("hr", "ndcg", "mrr", "recall") for k in (1, 10)} | {"auc"}


def test_right_answers_that_recommend_would_leave_out_are_counted():
    model = fixed(SCORES)  # user 0 has seen the answer i000, user 2 has not
    data = data_of(card(model), [[2], [4], [2, 5]], [[0], [0], [1]])
    told = " ".join(evaluate(model, data).notes)
    assert "unless they are right: 1 of 3 are, which recommend never gives unless seen is keep" in told
    assert "own input" not in " ".join(evaluate(model, data, seen="keep").notes)


def test_measuring_user_vectors_leaves_each_layer_in_its_mode():
    model = tiny()
    model.objective = ClueSeq()
    model.train()
    model.backbone.eval()  # as while a method trains what it has added
    before = [part.training for part in model.modules()]
    score = evaluate(model, data_of(cards()[0], crowd(6, 9), [[1]] * 6))
    assert score.primary == "agreement" and [part.training for part in model.modules()] == before


def test_popularity_is_measured_beside_the_model():
    """Everybody is answered alike: i003, i002, i001, i000, less what the user has seen."""
    model = fixed(SCORES, popularity=[1, 2, 3, 4])
    data = data_of(card(model), [[2], [4], [2, 5]], [[1], [3], [2]])  # third of three unseen, first, first
    score = evaluate(model, data, metric="mrr@10", popularity=True)
    assert score.popularity == pytest.approx((1 / 3 + 1 + 1) / 3) and score.to_dict()["popularity"] == score.popularity
    assert evaluate(model, data).popularity is None
    same = evaluate(model, data, metric="mrr@10")
    assert (same.values, same.notes) == (score.values, score.notes)
    kept = evaluate(model, data, metric="mrr@10", seen="keep", popularity=True)
    assert kept.popularity == pytest.approx((1 / 3 + 1 + 1 / 2) / 3)
    classes = fixed(np.zeros((4, 3)), "one_of", popularity=[5, 9, 1])
    told = evaluate(classes, data_of(card(classes), [[2]] * 3, [[0], [1], [1]]), popularity=True)
    assert told.popularity == pytest.approx(2 / 3)  # the largest class of training
    classes = fixed(np.zeros((4, 3)), "one_of", popularity=[5, 5, 5])
    told = evaluate(classes, data_of(card(classes), [[2]] * 3, [[0], [1], [1]]), popularity=True)
    assert told.popularity == pytest.approx(1 / 3)  # of equals the first is told, as recommend does
    level = evaluate(fixed(SCORES, popularity=[7, 7, 7, 7]), data, metric="mrr@10", popularity=True, seen="keep")
    assert level.popularity == pytest.approx((1 / 2 + 1 / 4 + 1 / 3) / 3)


def test_a_constant_model_looks_bad():
    model = fixed(np.zeros((40, 40)))
    score = evaluate(model, data_of(card(model), [[2], [9]], [[30], [4]]))
    assert score.values["hr@20"] == 0 and score.values["auc"] == 0.5
    classes = fixed(np.zeros((4, 3)), "one_of")
    assert evaluate(classes, data_of(card(classes), [[2]] * 3, [[0], [1], [2]])).values["accuracy"] == 0


def test_misses_empty_inputs_and_users_without_answers_are_noted():
    model = fixed(SCORES, popularity=[1, 2, 3, 4])
    data = data_of(card(model), [[2], [], [4], [2], []], [[-1], [3], [], [1, -1], [0]])
    score = evaluate(model, data, ks=(1,))
    assert score.n == 4 and score.users.tolist() == [0, 1, 3, 4]
    assert score.per_user["hr@1"].tolist() == [0, 1, 1, 0]
    assert score.per_user["recall@10"].tolist() == [0, 1, 0.5, 1]
    assert score.per_user["auc"].tolist() == [0, 1, 0.5, 0]
    text = " ".join(score.notes)
    assert (
        "without input events, answered with what is popular: 2" in text
        and "misses: 2" in text
        and "users left out, without any answer: 1" in text
    )


def test_users_of_whom_nothing_is_known_are_measured_as_what_is_popular():
    """Equals are parted alike for both: the first label stands before, as when it is recommended."""
    model = fixed(SCORES, popularity=[4, 7, 7, 7])
    data = data_of(card(model), [[], [], []], [[1], [3], [0]])
    score = evaluate(model, data, metric="mrr@10", popularity=True)
    assert score.value == score.popularity == pytest.approx((1 + 1 / 3 + 1 / 4) / 3)


def test_classes_of_users_of_whom_nothing_is_known_are_those_that_are_answered():
    """Of two classes as large in training the first is told, to them as to everybody by popularity."""
    model = fixed(np.zeros((4, 3)), "one_of", popularity=[3, 5, 5])
    data = data_of(card(model), [[], [], [2]], [[1], [2], [1]])
    score = evaluate(model, data, popularity=True)
    assert score.per_user["accuracy"].tolist() == [1, 0, 0]  # the model's own tie is a miss, as ever
    assert score.per_user["log_loss"][:2].tolist() == pytest.approx([-math.log(5 / 13)] * 2)
    alone = evaluate(model, data_of(card(model), [[], []], [[1], [2]]), popularity=True)
    assert alone.value == alone.popularity == 0.5


def test_classes():
    logits = [[2.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    model = fixed(logits, "one_of")
    score = evaluate(model, data_of(card(model), [[2], [3], [4], [4]], [[0], [1], [2], [-1]]))
    assert score.per_user["accuracy"].tolist() == [1, 0, 1, 0]  # the tie of user 1 goes to the wrong class
    p = [math.exp(2) / (math.exp(2) + 2), math.e / (2 * math.e + 1), math.exp(3) / (math.exp(3) + 2)]
    expected = [*(-math.log(x) for x in p), 23 * math.log(2)]
    assert score.per_user["log_loss"].tolist() == pytest.approx(expected, rel=1e-5)
    # class 0: F1 1; class 1: never predicted, right once: 0; class 2: TP 1, FP 2: 0.5
    # and a class that is no label, right once: 0
    assert score.values["macro_f1"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert score.primary == "accuracy" and score.value == 0.5 and score.protocol == "all classes"
    assert list(score.values) == ["accuracy", "log_loss", "macro_precision", "macro_recall", "macro_f1", "auc"]
    low, high = score.interval("macro_f1")
    assert 0 <= low <= 0.5 <= high <= 1
    with pytest.raises(UsageError, match="no interval"):
        score.interval("auc")


def test_two_classes():
    model = fixed([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 1.0]], "one_of")
    score = evaluate(model, data_of(card(model), [[2], [3], [4], [5]], [[1], [1], [1], [0]]))
    # of the second class: two of its three users are found, one of those told to be in it is not
    assert score.values["precision"] == pytest.approx(2 / 3) and score.values["recall"] == pytest.approx(2 / 3)
    assert score.values["f1"] == pytest.approx(2 / 3) and score.values["macro_f1"] == pytest.approx(1 / 3)
    assert score.values["macro_precision"] == pytest.approx(1 / 3) == score.values["macro_recall"]
    # its users' chances e^-2/.., e/.., e^3/.. against e/..: half of three pairs won by one, a tie, none by the first
    assert score.values["auc"] == pytest.approx(1.5 / 3)
    low, high = score.interval("precision")
    assert 0 <= low <= 2 / 3 <= high <= 1
    assert "precision, recall and f1 are those of 'class1'" in score.notes


def test_nobody_to_tell_apart_has_no_auc():
    model = fixed(np.eye(3), "one_of")
    data = data_of(card(model), [[2], [3]], [[1], [1]])
    score = evaluate(model, data)
    assert "auc" not in score.values and any("no AUC" in note for note in score.notes)
    score = evaluate(model, data, metric="auc")
    assert score.primary == "accuracy" and "auc was not measured here" in score.notes[-1]


@pytest.mark.parametrize("metric", ["macro_f1", "auc", "accuracy"])
def test_any_measure_of_classes_may_stand_for_the_task(metric):
    model = fixed(np.eye(3), "one_of")
    score = evaluate(model, data_of(card(model), [[2], [3], [4]], [[0], [1], [1]]), metric=metric)
    told = score.to_dict()
    assert told["metric"] == metric and told["value"] == score.value == score.values[metric]
    assert (told["low"] is None) == (metric == "auc")  # one number of all users, without an interval
    json.dumps(told, allow_nan=False)


def test_the_cut_of_the_deciding_measure_is_measured():
    model = fixed(SCORES)
    score = evaluate(model, data_of(card(model), [[2]], [[1]]), ks=(1,), metric="recall@3")
    assert score.primary == score.label == "recall@3" and score.value == 1
    sampled = evaluate(model, data_of(card(model), [[2]], [[1]]), sampled=2)
    assert sampled.label == "ndcg@10 (sampled: 2 uniform negatives, seed 0)"


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("task", ["next", "later", "age"])
def test_what_is_measured_is_what_is_served(encoder, task):
    """A user's hit at rank 1 is the first thing recommended; rank k or better is within the first k."""
    model, people = tiny(encoder), [[], *crowd(120, 20, seed=2)]
    rng = np.random.default_rng(0)
    the_card = model.tasks[task]
    fresh = [
        [y for y in rng.permutation(len(the_card.labels)).tolist() if the_card.label_items[y] not in h] for h in people
    ]
    people, right = zip(
        *[(h, f[:1]) for h, f in zip(people, fresh, strict=True) if f], strict=True
    )  # never seen before
    score = evaluate(model, data_of(the_card, list(people), list(right)), ks=(1, 3))
    text = [[f"i{row - 2:03d}" for row in h] for h in people]
    for k in (1, 3):
        answers = recommend(model, task, text, k)
        hits = [the_card.labels.text(np.array(r))[0] in a.items for r, a in zip(right, answers, strict=True)]
        if task != "age":
            assert score.per_user[f"hr@{k}"].tolist() == hits
        elif k == 1:
            assert score.per_user["accuracy"].tolist() == hits
    assert 0 < score.value < 1


def test_batches_blocks_and_stretches_change_nothing(monkeypatch):
    import importlib

    names = ("evaluate", "measured", "ranking")
    room, measures, ranks = (importlib.import_module(f"perdure.evaluation.{name}") for name in names)
    model, people = tiny(), crowd(80, 20, seed=5)
    rng = np.random.default_rng(1)
    for task in ("next", "later", "age"):
        n = len(model.tasks[task].labels)
        right = [rng.permutation(n)[: 1 if task == "age" else rng.integers(1, 4)].tolist() for _ in people]
        data = data_of(model.tasks[task], people, right)
        whole = evaluate(model, data)
        with monkeypatch.context() as patch:
            patch.setattr(room, "USERS", 33)
            patch.setattr(measures, "users_at_once", lambda n: 7)
            patch.setattr(ranks, "users_at_once", lambda n: 7)
            pieces = evaluate(model, data, batch_size=3)
        for name, values in whole.per_user.items():
            assert np.allclose(values, pieces.per_user[name], atol=1e-5), (task, name)
        assert whole.values == pytest.approx(pieces.values)


def test_sampled_ranking_is_said_in_the_protocol():
    model, people = tiny(), crowd(60, 5)
    data = data_of(card(model, "next"), people, [[i % 30] for i in range(60)])
    one = evaluate(model, data, sampled=5)
    assert one.protocol == "sampled: 5 uniform negatives, seed 0"
    assert evaluate(model, data, sampled=Sampled(5)).values == one.values
    assert one.value > evaluate(model, data).value  # why it may not be compared
    seeded = evaluate(model, data, sampled="5 popularity", generator=torch.Generator().manual_seed(7))
    assert seeded.protocol == "sampled: 5 popularity negatives, seed 7"
    for bad in ("many", "5 nearest", True, "5 uniform now", 0, -3, 2.5):
        with pytest.raises(UsageError):
            evaluate(model, data, sampled=bad)


def test_auc_tells_users_apart_who_are_given_all_but_the_whole_chance():
    """Margins from 20 to 60: every chance of the second class is 1 in float32. Its users stand above all others."""
    margins = np.linspace(20, 60, 40)
    right = np.arange(40) // 20
    for order in (1, -1):
        scores = torch.from_numpy(np.stack([0 * margins, order * margins], 1)).float()
        odds = class_told(scores, right)[2].numpy()
        assert area_of_classes(odds, right if order > 0 else 1 - right) == 1
    odds = class_told(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]]), np.array([0, -1]))[2]
    torch.testing.assert_close(odds, torch.logit(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]]).softmax(1)))
    assert class_told(torch.zeros(2, 1), np.array([0, -1]))[1].tolist() == [1, 0]


def test_intervals_draw_users_not_examples():
    """Every user is asked the same question four times: the interval is that of being asked once."""
    model, people = tiny(), crowd(200, 8)
    data = data_of(card(model, "next"), people, [[i % 30] for i in range(200)])
    once = evaluate(model, data)
    asked = replace(data, test=data.test.of(np.repeat(np.arange(200), 4)))
    often = evaluate(model, asked)
    assert often.value == pytest.approx(once.value) and often.n == 800
    assert "n counts examples, of 200 users" in often.notes and not any("n counts" in note for note in once.notes)
    np.testing.assert_allclose(often.interval(), once.interval(), atol=0.005)


def test_intervals():
    model, people = tiny(), crowd(200, 8)
    data = data_of(card(model, "next"), people, [[i % 30] for i in range(200)])
    a = evaluate(model, data)
    low, high = a.interval()
    assert low < a.value < high and a.interval() == (low, high)
    with pytest.raises(UsageError):
        a.interval("hr@7")
    with pytest.raises(UsageError):
        a.interval(level=95)
    told = json.loads(json.dumps(a.to_dict()))
    assert told["metric"] == "ndcg@10" and told["low"] == low and told["values"]["hr@1"] == a.values["hr@1"]


def test_refusals():
    model = tiny()
    data = data_of(card(model, "next"), [[3, 4]], [[7]])
    for bad in ({"split": "exam"}, {"seen": "perhaps"}, {"ks": (0,)}):
        with pytest.raises(UsageError):
            evaluate(model, data, **bad)
    with pytest.raises(DataError, match="no valid user"):
        evaluate(model, data, "valid")
    shifted = replace(data, train=replace(data.test, answer_starts=None))
    with pytest.raises(UsageError, match="shift"):
        evaluate(model, shifted, "train")
    with pytest.raises(UsageError, match="no task"):
        evaluate(fixed(SCORES), data)
    with pytest.raises(ModelError, match="labels"):
        evaluate(model, data_of(cards(20)[0], [[3]], [[2]]))
    with torch.no_grad():
        model.backbone.item_table[9] = float("nan")
    with pytest.raises(NonFiniteError):
        evaluate(model, data)


def test_the_model_is_left_as_it_was():
    model = tiny()
    model.train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    evaluate(model, data_of(card(model, "next"), crowd(9, 9), [[1]] * 9))
    assert model.training and all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
