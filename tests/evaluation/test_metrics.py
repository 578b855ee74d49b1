"""Measures against numbers worked by hand, slow formulas, and ir-measures where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from evaluation.ready import rank

from perdure.errors import UsageError
from perdure.evaluation import metrics

# three users: one answer at rank 3; answers at 1, 4 and one outside; two answers at 2 and 11
RANKS, STARTS = np.array([3, 4, 0, 1, 11, 2]), np.array([0, 1, 4, 6])


def test_hit_rate():
    assert metrics.hit_rate(RANKS, STARTS, 1).tolist() == [0, 1, 0]
    assert metrics.hit_rate(RANKS, STARTS, 2).tolist() == [0, 1, 1]
    assert metrics.hit_rate(RANKS, STARTS, 3).tolist() == [1, 1, 1]


def test_recall():
    assert metrics.recall(RANKS, STARTS, 3).tolist() == [1, pytest.approx(1 / 3), 0.5]
    assert metrics.recall(RANKS, STARTS, 20).tolist() == [1, pytest.approx(2 / 3), 1]


def test_reciprocal_rank():
    assert metrics.reciprocal_rank(RANKS, STARTS, 2).tolist() == [0, 1, 0.5]
    assert metrics.reciprocal_rank(RANKS, STARTS, 10).tolist() == [pytest.approx(1 / 3), 1, 0.5]


def test_ndcg():
    ideal3 = 1 + 1 / math.log2(3) + 0.5
    ideal2 = 1 + 1 / math.log2(3)
    found = metrics.ndcg(RANKS, STARTS, 10)
    assert found.tolist() == pytest.approx([0.5, (1 + 1 / math.log2(5)) / ideal3, (1 / math.log2(3)) / ideal2])
    assert metrics.ndcg(RANKS, STARTS, 1).tolist() == [0, 1, 0]  # one place: the ideal is one answer
    assert metrics.ndcg(np.array([1, 2, 3]), np.array([0, 3]), 2).tolist() == [pytest.approx(1.0)]


def test_users_without_answers_get_zero():
    starts = np.array([0, 0, 1, 1])
    for measure in (metrics.hit_rate, metrics.recall, metrics.reciprocal_rank, metrics.ndcg):
        assert measure(np.array([1]), starts, 5).tolist() == [0, 1, 0]
    assert metrics.mean_per_user(np.array([0.5]), starts).tolist() == [0, 0.5, 0]


def test_log_loss():
    found = metrics.log_loss(np.array([1.0, 0.5, 0.0]))
    assert found.tolist() == pytest.approx([0.0, math.log(2), 23 * math.log(2)])


def macro(table, name="macro_f1"):
    return metrics.OF_TABLE[name](metrics.Counts.of(table))


def test_macro_f1_by_hand():
    right = np.array([0, 0, 0, 1, 1, -1])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    table = metrics.confusion(right, predicted, 4)
    assert table.sum() == 6 and table[4].tolist() == [0, 0, 1, 0]
    # class 0: 2*2/(3+2) = .8; class 1: 2*1/(2+2) = .5; class 2: predicted twice, never right: 0; class 3: nowhere
    # and a class that training never met was right once, which nobody can tell: 0
    assert macro(table) == pytest.approx((0.8 + 0.5 + 0.0 + 0.0) / 4)
    assert macro(table, "macro_precision") == pytest.approx((2 / 2 + 1 / 2 + 0 / 2 + 0) / 4)
    assert macro(table, "macro_recall") == pytest.approx((2 / 3 + 1 / 2 + 0 + 0) / 4)  # of class 2 there is nobody
    met = metrics.confusion(right[:-1], predicted[:-1], 4)
    assert macro(met) == pytest.approx((0.8 + 0.5 + 0.0) / 3)
    both = macro(np.stack([table, met]))
    assert both.tolist() == pytest.approx([macro(table), macro(met)])
    assert list(metrics.of_table(table)) == ["macro_precision", "macro_recall", "macro_f1"]


def test_the_second_of_two_classes_by_hand():
    table = metrics.confusion(np.array([1, 1, 1, 0, 0, -1]), np.array([1, 1, 0, 1, 0, 1]), 2)
    told = metrics.of_table(table)
    assert told["precision"] == pytest.approx(2 / 4)  # the user outside the classes was told to be in it, too
    assert told["recall"] == pytest.approx(2 / 3) and told["f1"] == pytest.approx(4 / 7)
    nobody = metrics.of_table(metrics.confusion(np.array([0, 0]), np.array([0, 0]), 2))
    assert nobody["precision"] == nobody["recall"] == nobody["f1"] == 0 and nobody["macro_f1"] == 1


def test_area():
    scores, right = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert metrics.area(scores, right) == 0.75  # the example of scikit-learn's manual
    assert metrics.area(np.zeros(5), np.array([1, 0, 0, 1, 0], bool)) == 0.5
    assert math.isnan(metrics.area(scores, np.ones(4, bool)))
    three = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    by_hand = (1.0 + 1.0 + 1.0) / 3
    assert metrics.area_of_classes(three, np.array([0, 1, 1, 2])) == by_hand
    assert math.isnan(metrics.area_of_classes(three, np.array([-1, -1, -1, -1])))


def test_area_equals_all_pairs():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    a, b = scores[right][:, None], scores[~right][None]
    assert metrics.area(scores, right) == pytest.approx(((a > b) + 0.5 * (a == b)).mean())


@pytest.mark.parametrize("ks", [(), (0,), (-1,), (True,), (1.5,), ("10",)])
def test_cut_offs_out_of_range(ks):
    with pytest.raises(UsageError):
        metrics.check_ks(ks)


def test_cut_offs_are_sorted_and_distinct():
    assert metrics.check_ks([10, 1, 10]) == (1, 10)


@pytest.mark.filterwarnings("ignore")
def test_against_ir_measures():
    ir_measures = pytest.importorskip("ir_measures", reason="ir-measures is not installed: pip install ir-measures")
    nDCG, RR, Success, R = ir_measures.nDCG, ir_measures.RR, ir_measures.Success, ir_measures.R
    rng = np.random.default_rng(4)
    n, y = 60, 50
    scores = np.stack([rng.permutation(y) for _ in range(n)]).astype(np.float32)  # no ties
    counts = rng.integers(1, 6, n)
    answers = np.concatenate([rng.permutation(y)[:c] for c in counts])
    starts = np.concatenate([[0], np.cumsum(counts)])
    found = rank(torch.from_numpy(scores), answers, starts)
    qrels = {f"u{u}": {f"i{i}": 1 for i in answers[starts[u] : starts[u + 1]]} for u in range(n)}
    run = {f"u{u}": {f"i{i}": float(scores[u, i]) for i in range(y)} for u in range(n)}
    named = [(nDCG, metrics.ndcg), (RR, metrics.reciprocal_rank), (Success, metrics.hit_rate), (R, metrics.recall)]
    pairs = [(measure @ k, ours, k) for k in (1, 5, 10) for measure, ours in named]
    theirs: dict = {}
    for metric in ir_measures.iter_calc([measure for measure, _, _ in pairs], qrels, run):
        theirs[(str(metric.measure), metric.query_id)] = metric.value
    for measure, ours, k in pairs:
        mine = ours(found.rank, found.starts, k)
        assert mine.tolist() == pytest.approx([theirs[(str(measure), f"u{u}")] for u in range(n)]), str(measure)
