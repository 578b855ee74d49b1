"""Ranks by counting: by hand, against a sort, and the properties any ranking has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation.ready import rank
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import NonFiniteError, UsageError
from perdure.evaluation import ranking
from perdure.evaluation.ranking import Sampled, rank_blocks


def test_by_hand():
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0], [7.0, 7.0, 7.0, 1.0]])
    found = rank(scores, np.array([0, 0, 1]))
    assert found.rank.tolist() == [1, 4, 3]  # the tie of three: the worst place
    assert found.auc.tolist() == [1.0, 0.0, pytest.approx((1 + 0.5 + 0.5) / 3)]


def test_several_right_answers_stand_before_each_other_but_never_before_an_equal_wrong_one():
    #                right: columns 0, 2, 3; wrong: 1 (9), 4 (5, a tie with two right ones)
    scores = torch.tensor([[5.0, 9.0, 5.0, 1.0, 5.0]])
    found = rank(scores, np.array([0, 2, 3]), np.array([0, 3]))
    assert sorted(found.rank.tolist()) == [3, 4, 5]
    assert found.rank[2] == 5
    assert found.auc.tolist() == [0.25, 0.25, 0.0]


def test_constant_scores_get_the_worst_ranks():
    found = rank(torch.zeros(2, 50), np.array([0, 49]))
    assert found.rank.tolist() == [50, 50] and found.auc.tolist() == [0.5, 0.5]
    several = rank(torch.zeros(1, 50), np.array([3, 4, 5]), np.array([0, 3]))
    assert sorted(several.rank.tolist()) == [48, 49, 50]


def test_seen_labels_are_no_candidates_but_the_target_stays():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    seen = (np.array([1, 0, 0, 0]), np.array([2, 0, 1, 1]))  # any order, repeats; user 1 has seen the target itself
    found = rank(scores, np.array([2, 2]), seen=seen)
    assert found.rank.tolist() == [1, 3] and found.met == 1
    assert found.auc.tolist() == [1.0, pytest.approx(1 / 3)]
    assert scores.tolist() == [[4.0, 3.0, 2.0, 1.0]] * 2  # left as it was


def test_an_answer_outside_the_label_space_has_no_rank():
    found = rank(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), np.array([-1, -1, 1]), np.array([0, 1, 3]))
    assert found.rank.tolist() == [0, 0, 1] and found.auc.tolist() == [0.0, 0.0, 1.0]


def test_users_without_answers_and_no_wrong_label_left():
    found = rank(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), np.array([0, 1]), np.array([0, 0, 2]))
    assert found.rank.tolist() == [2, 1] and found.auc.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = torch.zeros(3, 4)
    scores[1, 2] = bad
    with pytest.raises(NonFiniteError):
        rank(scores, np.zeros(3, int))


def test_a_sum_that_overflows_is_not_taken_for_damage():
    scores = torch.full((2, 4), 3e38)
    scores[:, 1] = 0
    assert rank(scores, np.array([1, 0])).rank.tolist() == [4, 3]


def by_sorting(scores: np.ndarray, right: list[int], seen: set[int]) -> list[int]:
    """The slow reference: a stable sort that puts wrong answers first among equals."""
    kept = [c for c in range(len(scores)) if c not in seen or c in right]
    order = sorted(kept, key=lambda c: (-scores[c], c in right))
    return sorted(order.index(r) + 1 for r in right)


@st.composite
def worlds(draw):
    n, y = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    levels = draw(st.sampled_from([2, 4, 1000]))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, y)).astype(np.float32)
    right = [rng.permutation(y)[: rng.integers(0, y + 1)].tolist() for _ in range(n)]
    seen = [set(rng.permutation(y)[: rng.integers(0, y + 1)].tolist()) for _ in range(n)]
    return scores, right, seen


def flat(right: list[list[int]], seen: list[set[int]]):
    answers = np.array([r for one in right for r in one], np.int64)
    starts = np.concatenate([[0], np.cumsum([len(r) for r in right])]).astype(np.int64)
    cells = np.array([(u, c) for u, one in enumerate(seen) for c in one], np.int64).reshape(-1, 2).T
    return answers, starts, (cells[0], cells[1])


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_counting_equals_sorting(world):
    scores, right, seen = world
    answers, starts, cells = flat(right, seen)
    found = rank(torch.from_numpy(scores), answers, starts, seen=cells)
    for u in range(len(scores)):
        mine = found.rank[starts[u] : starts[u + 1]]
        assert sorted(mine.tolist()) == by_sorting(scores[u], right[u], seen[u])
        assert ((mine >= 1) & (mine <= scores.shape[1])).all()  # within range
        by_score = scores[u][right[u]]
        assert (by_score[np.argsort(mine, kind="stable")] == np.sort(by_score)[::-1]).all()  # monotone in the score
        left = [c for c in range(scores.shape[1]) if c not in right[u] and c not in seen[u]]
        for r, auc in zip(right[u], found.auc[starts[u] : starts[u + 1]], strict=True):
            pairs = [float(scores[u, r] > scores[u, c]) + 0.5 * float(scores[u, r] == scores[u, c]) for c in left]
            assert auc == pytest.approx(np.mean(pairs) if pairs else 0.5)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 1000))
def test_permuting_labels_changes_no_rank(world, seed):
    scores, right, seen = world
    answers, starts, cells = flat(right, seen)
    order = np.random.default_rng(seed).permutation(scores.shape[1])  # new label -> old label
    place = np.argsort(order)
    one = rank(torch.from_numpy(scores), answers, starts, seen=cells)
    two = rank(
        torch.from_numpy(scores[:, order]),
        place[answers] if len(answers) else answers,
        starts,
        seen=(cells[0], place[cells[1]]),
    )
    for u in range(len(scores)):
        part = slice(starts[u], starts[u + 1])
        assert sorted(one.rank[part].tolist()) == sorted(two.rank[part].tolist())
        assert np.allclose(one.auc[part], two.auc[part])


def test_raising_a_score_never_worsens_its_rank():
    rng = np.random.default_rng(1)
    scores = torch.from_numpy(rng.integers(0, 5, (40, 12)).astype(np.float32))
    answers = rng.integers(0, 12, 40)
    before = rank(scores, answers).rank
    scores[torch.arange(40), torch.from_numpy(answers)] += 1
    assert (rank(scores, answers).rank <= before).all()


def test_blocks_of_users_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    scores = torch.from_numpy(rng.normal(size=(100, 20)).astype(np.float32))
    counts = rng.integers(0, 4, 100)
    starts = np.concatenate([[0], np.cumsum(counts)])
    answers = np.concatenate([rng.permutation(20)[:c] for c in counts]).astype(int)
    whole = rank(scores, answers, starts)
    asked = []
    monkeypatch.setattr(ranking, "users_at_once", lambda n: 7)
    monkeypatch.setattr(ranking, "PAIR_CELLS", 40)

    def block(a, b):
        asked.append((a, b))
        return scores[a:b].clone()

    pieces = rank_blocks(block, 20, answers, starts)
    assert asked[0] == (0, 7) and asked[-1] == (98, 100)
    assert (pieces.rank == whole.rank).all() and (pieces.auc == whole.auc).all()


@pytest.mark.parametrize("counted", [1, 16, 100, 333, 2**17])  # one column at a time, some with a rest, all
@pytest.mark.parametrize("several", [False, True])
def test_counting_some_columns_after_the_other_changes_nothing(monkeypatch, counted, several):
    rng = np.random.default_rng(5)
    scores = torch.from_numpy(rng.integers(0, 9, (16, 50)).astype(np.float32))  # many ties
    counts = rng.integers(0, 4, 16) if several else np.ones(16, int)
    starts = np.concatenate([[0], np.cumsum(counts)])
    answers = np.concatenate([rng.permutation(50)[:c] for c in counts]).astype(int)
    seen = rng.integers(0, 16, 60), rng.integers(0, 50, 60)
    monkeypatch.setattr(ranking, "COUNTED", counted)
    found = rank(scores, answers, starts, seen=seen)
    expected = []
    for user in range(16):
        right = answers[starts[user] : starts[user + 1]]
        wrong = np.ones(50, bool)
        wrong[seen[1][seen[0] == user]] = wrong[right] = False
        theirs = scores[user].numpy()
        for one in right:
            better = (theirs[right] > theirs[one]).sum() + (
                theirs[right[: list(right).index(one)]] == theirs[one]
            ).sum()
            expected.append((theirs[wrong] >= theirs[one]).sum() + better + 1)
    assert found.rank.tolist() == expected


def test_no_more_scores_at_once_than_allowed():
    from perdure.inference.represent import MOST_CELLS, users_at_once

    for labels in (1, 3, 3416, 10**5, 10**6, 2**24, 2**26):
        assert users_at_once(labels) * labels <= max(MOST_CELLS, labels)
    assert users_at_once(10**6) == 8 and users_at_once(2**26) == 1


def test_sampled_ranking_is_seeded_exact_and_labelled():
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.normal(size=(50, 40)).astype(np.float32))
    answers, starts = rng.integers(0, 40, 50), np.arange(51)

    def ranks(sampled, popularity=None):
        return rank_blocks(
            lambda a, b: scores[a:b].clone(), 40, answers, starts, sampled=sampled, popularity=popularity
        )

    one, two, other = ranks(Sampled(10)), ranks(Sampled(10)), ranks(Sampled(10, seed=1))
    assert (one.rank == two.rank).all() and (one.rank != other.rank).any()
    assert one.rank.min() >= 1 and one.rank.max() <= 11
    full = rank(scores, answers, starts)
    assert (ranks(Sampled(500)).rank == full.rank).all()  # more than there are: all of them
    expected = 1 + (full.rank - 1) * 10 / 39  # the mean of a hypergeometric count
    assert abs((one.rank - expected).mean()) < 0.5
    popular = np.zeros(40)
    popular[:5] = 1  # only five labels may be drawn
    most = ranks(Sampled(10, "popularity"), popular)
    theirs = scores[torch.arange(50), torch.from_numpy(answers)][:, None]
    wrong = torch.arange(5)[None] != torch.from_numpy(answers)[:, None]
    assert (most.rank == 1 + ((scores[:, :5] >= theirs) & wrong).sum(1).numpy()).all()
    assert str(Sampled(100)) == "sampled: 100 uniform negatives, seed 0"


def test_sampled_ranking_refuses_nonsense():
    with pytest.raises(UsageError):
        Sampled(0)
    with pytest.raises(UsageError):
        Sampled(5, "nearest")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        rank_blocks(
            lambda a, b: torch.zeros(1, 3), 3, np.array([0]), np.array([0, 1]), sampled=Sampled(1, "popularity")
        )
