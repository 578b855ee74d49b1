"""Intervals, p-values and corrections of a comparison, against numbers worked by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest

from perdure.errors import UsageError
from perdure.evaluation.comparison import (
    SCORES,
    Reached,
    Resampled,
    holm,
    p_value,
    resample,
    spread,
    t_test,
    transfers,
)
from perdure.evaluation.matrix import Matrix


def reached(seeds: int = 3, users: int = 40, lift: float = 0.0, draw: int = 0) -> Reached:
    """Two tasks; the second asks every other user, the first of them twice."""
    rng = np.random.default_rng(draw)
    owners = (np.arange(users), np.concatenate([[0], np.arange(0, users, 2)]))
    values = tuple(lift + rng.normal(size=(seeds, len(one))) for one in owners)
    return Reached(tuple(range(1, seeds + 1)), values, owners)


def slow(one: Reached, n_users: int, resamples: int, seed: int) -> np.ndarray:
    """(B, S, K): the same draws, a user at a time."""
    rng, told = np.random.default_rng(seed), np.zeros((resamples, len(one.seeds), len(one.values)))
    for b in range(resamples):
        drawn = rng.integers(n_users, size=n_users)
        for s in range(len(one.seeds)):
            for k, (values, owners) in enumerate(zip(one.values, one.users, strict=True)):
                found = [values[s, at] for user in drawn for at in np.flatnonzero(owners == user)]
                told[b, s, k] = sum(found) / len(found)
    return told


def test_resamples_are_those_of_the_loops():
    a, b = reached(), reached(lift=1.0, draw=1)
    fast = resample({"a": a, "b": b}, resamples=20, seed=5)
    for name, one in (("a", a), ("b", b)):
        np.testing.assert_allclose(fast[name].means, slow(one, 40, 20, 5), atol=1e-12)


def test_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    whole = resample({"a": reached()}, resamples=30)["a"].means
    monkeypatch.setattr("perdure.evaluation.comparison.AT_ONCE", 7 * 40)
    np.testing.assert_array_equal(resample({"a": reached()}, resamples=30)["a"].means, whole)


def test_seeds_are_drawn_with_replacement():
    """Means 0 and 1 of two seeds: a drawn mean is 0, 1/2 or 1, half of all times 1/2. What lies around the mean is
    stretched by sqrt(2), so that it varies as means of two seeds do: 1/4 is s^2 / 2 of 0 and 1; of folds it is not."""
    means, every = np.tile(np.array([[[0.0], [1.0]]]), (4000, 1, 1)), np.array([[0.0], [1.0]])  # (B, 2, 1), (2, 1)
    for folds, far in ((True, 1.0), (False, np.sqrt(2))):
        drawn = Resampled((1, 2), means, every, folds).drawn()
        values, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_allclose(values, [0.5 - far / 2, 0.5, 0.5 + far / 2])
        np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)
        assert drawn.var() == pytest.approx(0.25 if not folds else 0.125, abs=0.01)
    np.testing.assert_array_equal(Resampled((1, 2), means, every).drawn([2]), np.ones((4000, 1)))


def in_folds(values: np.ndarray) -> Reached:
    """(S, n) values of one task, the users cut into S folds, one for each seed."""
    seeds, n = values.shape
    tested = np.arange(n) % seeds == np.arange(seeds)[:, None]  # (S, n)
    return Reached(tuple(range(1, seeds + 1)), (np.where(tested, values, np.nan),), (np.arange(n),))


def test_folds_are_means_of_their_own_users():
    one = in_folds(np.array([[1.0, 9.0, 3.0, 9.0], [9.0, 5.0, 9.0, 7.0]]))
    np.testing.assert_array_equal(one.means, [[2.0], [6.0]])
    drawn = resample({"a": one}, 200, seed=3)["a"]
    rng = np.random.default_rng(3)
    for told, users in zip(drawn.means[:, :, 0], rng.integers(4, size=(200, 4)), strict=True):
        for s, known in enumerate(({0: 1.0, 2: 3.0}, {1: 5.0, 3: 7.0})):
            found = [known[user] for user in users if user in known]
            assert told[s] == sum(found) / len(found) if found else np.isnan(told[s])


@pytest.mark.parametrize(("of_seeds", "wider"), [(0.0, (1.15, 1.55)), (1.0, (0.95, 1.35)), (3.0, (0.8, 1.1))])
def test_how_wide_intervals_of_folds_are(of_seeds, wider):
    """Against the true spread of a mean over five folds; seeds vary by so many errors of a fold's mean over users."""
    n, found, widths = 500, [], []
    for draw in range(200):
        rng = np.random.default_rng(draw)
        one = in_folds(rng.normal(size=n) + of_seeds * rng.normal(size=(5, 1)) * np.sqrt(5 / n))
        found.append(one.means.mean())
        told = spread(0.0, resample({"a": one}, 300, draw)["a"].drawn()[:, 0])
        widths.append(float(np.subtract(told["high"], told["low"])))  # type: ignore[arg-type]
    assert wider[0] < np.mean(widths) / (2 * 1.96 * np.std(found)) < wider[1]


def test_a_t_test_of_folds_has_every_user_once():
    """Differences 1, 1, 1, -1 of four users: mean 1/2, s = 1, so t = 1 with three degrees of freedom."""
    base = np.array([[1.0, 0.0, 3.0, 0.0], [0.0, 5.0, 0.0, 7.0]])
    more = base + np.array([1.0, 1.0, 1.0, -1.0])
    assert t_test(in_folds(more), in_folds(base), 0, (1, 2)) == pytest.approx(0.39100, abs=1e-5)
    assert t_test(in_folds(more), in_folds(base), 0, (1,)) == 0.0  # users 0 and 2, both by 1


def test_one_seed_gives_the_interval_of_a_mean():
    one = Reached((0,), (np.random.default_rng(0).normal(size=(1, 400)),), (np.arange(400),))
    told = spread(0.0, resample({"a": one}, resamples=4000)["a"].drawn()[:, 0])
    error = one.values[0].std() / 20
    centre = one.values[0].mean()
    assert told["low"] == pytest.approx(centre - 1.96 * error, abs=0.1 * error)
    assert told["high"] == pytest.approx(centre + 1.96 * error, abs=0.1 * error)


def test_a_user_tested_in_every_seed_counts_as_one_user():
    """Three models that agree on every user tell no more of users than one."""
    values = np.random.default_rng(0).normal(size=(1, 300))
    once = Reached((1,), (values,), (np.arange(300),))
    thrice = Reached((1, 2, 3), (np.repeat(values, 3, 0),), (np.arange(300),))
    drawn = resample({"once": once, "thrice": thrice}, resamples=500)
    np.testing.assert_allclose(drawn["thrice"].drawn(), drawn["once"].drawn(), atol=1e-12)


def test_what_both_methods_share_cancels():
    """Noise of users far larger than the difference: paired draws see it all the same."""
    rng = np.random.default_rng(0)
    base = rng.normal(scale=10, size=(2, 200))
    small = 0.1 + 0.05 * rng.normal(size=(2, 200))
    a, b = (Reached((1, 2), (one,), (np.arange(200),)) for one in (base + small, base))
    drawn = resample({"a": a, "b": b}, resamples=999)
    change = (drawn["a"].drawn() - drawn["b"].drawn())[:, 0]
    assert p_value(float((a.means - b.means).mean()), change) == 0.001
    assert (spread(0.1, change)["low"] or 0.0) > 0.08


def test_p_by_hand():
    """d = 2; resamples less 2: -3, -1, 0, 1, 2. Two of five lie 2 or more away: (1 + 2) / (5 + 1)."""
    draws = np.array([-1.0, 1.0, 2.0, 3.0, 4.0])
    assert p_value(2.0, draws) == 0.5
    assert p_value(-2.0, -draws) == 0.5
    assert p_value(0.0, draws - 2) == 1.0
    assert p_value(2.0, np.append(draws, np.nan)) == 0.5


def test_p_is_even_where_nothing_differs():
    """Under no difference p lies below 0.2 in about a fifth of all worlds."""
    found = []
    for draw in range(150):
        rng = np.random.default_rng(draw)
        a, b = (Reached((1,), (rng.normal(size=(1, 60)),), (np.arange(60),)) for _ in range(2))
        drawn = resample({"a": a, "b": b}, resamples=200, seed=draw)
        change = (drawn["a"].drawn() - drawn["b"].drawn())[:, 0]
        found.append(p_value(float((a.means - b.means).mean()), change))
    assert 0.12 < np.mean(np.array(found) < 0.2) < 0.3


@pytest.mark.parametrize(
    ("seeds", "spread_of_seeds", "share"),
    [
        pytest.param(1, 1.0, 0.18, marks=pytest.mark.slow),
        (3, 1.0, 0.06),
        pytest.param(3, 3.0, 0.1, marks=pytest.mark.slow),
        pytest.param(5, 3.0, 0.08, marks=pytest.mark.slow),
    ],
)
def test_how_often_p_misleads(seeds, spread_of_seeds, share):
    """Worlds without a difference: how many have p below 0.05. Seeds vary by so many errors of a mean over users."""
    found, n = [], 200
    for draw in range(300):
        rng = np.random.default_rng(draw)
        users, own = rng.normal(size=n), rng.normal(size=(seeds, n))
        change = users + own + spread_of_seeds * rng.normal(size=(seeds, 1)) * np.sqrt(2 / n)
        one = Reached(tuple(range(seeds)), (change,), (np.arange(n),))
        drawn = resample({"change": one}, 300, draw)["change"].drawn()[:, 0]
        found.append(p_value(float(change.mean()), drawn) < 0.05)
    assert np.mean(found) == pytest.approx(share, abs=0.03)


def test_holm_by_hand():
    """0.01 * 3, max(0.03, 0.02 * 2), max(0.04, 0.04 * 1)."""
    assert holm({"b": 0.02, "a": 0.01, "c": 0.04}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_spread_without_draws():
    assert spread(0.5, None) == {"mean": 0.5, "low": None, "high": None}
    assert spread(0.5, np.full(3, np.nan)) == {"mean": 0.5, "low": None, "high": None}
    assert spread(0.5, np.arange(101.0), 0.9) == pytest.approx({"mean": 0.5, "low": 5.0, "high": 95.0})


def test_the_interval_of_a_score_holds_scores_only():
    """One hit among 50 users in the first of two seeds, none in the second: a resample can lie below 0."""
    hit = np.zeros((2, 50))
    hit[0, 0] = 1
    drawn = resample({"a": Reached((1, 2), (hit,), (np.arange(50),))})["a"].drawn()[:, 0]
    assert (spread(0.01, drawn)["low"] or 0.0) < 0
    assert spread(0.01, drawn, within=SCORES)["low"] == 0
    assert spread(0.99, 1 - drawn, within=SCORES)["high"] == 1


MATRIX = Matrix(("a", "noise", "b"), ((0.5,), (0.4, 0.1), (0.3, 0.0, 0.8)))


def test_transfers_by_hand():
    told = transfers(MATRIX, {"a": 0.5, "noise": 0.1, "b": 0.7})
    assert told == pytest.approx({"forgetting": 0.15, "backward_transfer": -0.15, "forward_transfer": 0.1 / 3})
    told = transfers(MATRIX, {"a": 0.5, "b": 0.7}, without=["noise"])
    assert told == pytest.approx({"forgetting": 0.2, "backward_transfer": -0.2, "forward_transfer": 0.05})
    assert transfers(MATRIX, {})["forward_transfer"] is None
    assert transfers(Matrix(("a",), ((0.5,),)), {})["forgetting"] == 0.0


def test_a_user_nobody_drew_leaves_a_resample_out():
    """One example of one of 30 users: a third of the resamples do not hold it."""
    one = Reached((1,), (np.ones((1, 30)), np.ones((1, 1))), (np.arange(30), np.array([4])))
    drawn = resample({"a": one}, resamples=300)["a"].drawn()
    assert 0.2 < np.isnan(drawn[:, 1]).mean() < 0.5 and not np.isnan(drawn[:, 0]).any()
    assert spread(1.0, drawn[:, 1]) == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(UsageError):
        Reached((1, 2), (np.zeros((1, 3)),), (np.arange(3),))
    with pytest.raises(UsageError):
        Reached((1,), (np.zeros((1, 0)),), (np.arange(0),))


def test_the_paired_t_test_against_printed_tables():
    """Five pairs whose differences are 1, 2, 3, 4, 0: mean 2, s = sqrt(2.5), t = 2.8284 with 4 degrees of freedom."""
    users = (np.arange(5),)
    a = Reached((1,), (np.array([[1.0, 2, 3, 4, 0]]),), users)
    zero = Reached((1,), (np.zeros((1, 5)),), users)
    assert t_test(a, zero, 0, [1]) == pytest.approx(0.04742, abs=1e-5)  # 2.7764 would be .05, 4.6041 would be .01
    assert t_test(a, a, 0, [1]) == 1 and t_test(zero, a, 0, [1]) == t_test(a, zero, 0, [1])
    one = Reached((1,), (np.ones((1, 5)),), users)
    assert t_test(one, zero, 0, [1]) == 0  # the same everywhere: no chance at all
    for free, quantile in ((1, 12.706205), (10, 2.228139), (199, 1.971957)):  # of .975
        d = np.zeros(free + 1)
        d[0], d[1:] = 0, np.sqrt((free + 1) / free)  # any differences; moved and scaled to the t wanted
        d = (d - d.mean()) / d.std(ddof=1) + quantile / np.sqrt(free + 1)
        moved = Reached((1,), (d[None],), (np.arange(free + 1),))
        nothing = Reached((1,), (np.zeros((1, free + 1)),), (np.arange(free + 1),))
        assert t_test(moved, nothing, 0, [1]) == pytest.approx(0.05, abs=1e-6)


def test_pairs_are_users_that_both_have():
    """Means over seeds and over a user's examples; a user whom one method alone was asked about is no pair."""
    mine = Reached((1, 2), (np.array([[3.0, 1, 5, 9], [1, 1, 5, 9]]),), (np.array([0, 1, 1, 7]),))  # 0: 2, 1: 3, 7: 9
    theirs = Reached((2, 1), (np.array([[1.0, 0], [1, 0]]),), (np.array([0, 1]),))  # 0: 1, 1: 0
    d = np.array([1.0, 3.0])
    t = d.mean() / (d.std(ddof=1) / np.sqrt(2))
    assert t_test(mine, theirs, 0, [1, 2]) == pytest.approx(1 - 2 * np.arctan(t) / np.pi)  # one degree: Cauchy
    alone = Reached((1,), (np.array([[1.0]]),), (np.array([5]),))
    assert t_test(mine, alone, 0, [1]) is None


def test_by_the_t_test_chance_is_found_as_often_as_it_should():
    rng, users = np.random.default_rng(0), (np.arange(30),)
    p = [
        t_test(Reached((1,), (rng.normal(size=(1, 30)),), users), Reached((1,), (np.zeros((1, 30)),), users), 0, [1])
        for _ in range(2000)
    ]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.015)
