"""Intervals: seeded, right on average, and the same whether users or their distinct values are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from perdure.errors import UsageError
from perdure.evaluation import bootstrap
from perdure.evaluation.metrics import OF_TABLE, Counts, confusion


def test_seeded():
    values = np.random.default_rng(0).random(200)
    assert (bootstrap.means(values, 50, 1) == bootstrap.means(values, 50, 1)).all()
    assert (bootstrap.means(values, 50, 1) != bootstrap.means(values, 50, 2)).any()


@pytest.mark.parametrize("kind", ["many values", "two values"])
def test_the_spread_is_that_of_a_mean(kind):
    rng = np.random.default_rng(1)
    values = rng.random(400) if kind == "many values" else (rng.random(400) < 0.3).astype(float)
    draws = bootstrap.means(values, 4000, 0)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.003)
    assert draws.std() == pytest.approx(values.std() / 20, rel=0.08)
    low, high = bootstrap.interval(draws, 0.95)
    assert low < values.mean() < high and high - low == pytest.approx(3.92 * values.std() / 20, rel=0.1)


def test_a_user_with_several_examples_is_drawn_with_all_of_them():
    """Users alike in all they do: 50 examples of each say nothing more of other users than one."""
    rng = np.random.default_rng(3)
    own = rng.random(40)
    users = rng.permutation(np.repeat(np.arange(40), 50))
    draws = bootstrap.means(own[users], 4000, 0, users)
    assert draws.mean() == pytest.approx(own.mean(), abs=0.01)
    assert draws.std() == pytest.approx(own.std() / np.sqrt(40), rel=0.1)
    uneven = np.array([0, 0, 0, 7])  # 3 examples of one user, one of another: means 1, 1/4 or 0
    told = bootstrap.means(np.array([0.0, 0.0, 0.0, 1.0]), 4000, 0, uneven)
    np.testing.assert_allclose([(told == value).mean() for value in (0, 0.25, 1)], [0.25, 0.5, 0.25], atol=0.03)
    alone = bootstrap.means(own, 50, 0, np.arange(40))
    np.testing.assert_array_equal(alone, bootstrap.means(own, 50, 0))


def test_small_pieces_change_nothing_but_the_draw(monkeypatch):
    monkeypatch.setattr(bootstrap, "AT_ONCE", 1000)
    assert bootstrap.means(np.random.default_rng(0).random(300), 10).shape == (10,)


def test_one_value_and_no_users():
    assert bootstrap.interval(bootstrap.means(np.full(10, 0.25), 20), 0.95) == (0.25, 0.25)
    assert np.isnan(bootstrap.interval(bootstrap.means(np.zeros(0), 20), 0.95)).all()


def test_macro_f1_is_resampled_as_a_table():
    rng = np.random.default_rng(2)
    right, predicted = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    table = confusion(right, predicted, 3)
    quick = bootstrap.tables(table, 1500, 0)
    slow = []
    for _ in range(1500):
        at = rng.integers(300, size=300)
        slow.append(OF_TABLE["macro_f1"](Counts.of(confusion(right[at], predicted[at], 3))))
    assert quick.mean() == pytest.approx(np.mean(slow), abs=0.004) and quick.std() == pytest.approx(
        np.std(slow), rel=0.12
    )
    assert np.isnan(bootstrap.tables(np.zeros((4, 3), int), 5)).all()


@pytest.mark.parametrize("name", OF_TABLE)
@pytest.mark.parametrize("outside", [0, 7])
def test_cells_are_summed_as_in_the_whole_table(name, outside, monkeypatch):
    """The same draws, put into whole tables and measured there; with and without users whose class is no label."""
    rng, classes = np.random.default_rng(1), 2 if name in ("precision", "recall", "f1") else 9
    right = np.where(np.arange(60) < outside, -1, rng.integers(0, classes - 1, 60))
    table = confusion(right, rng.integers(0, classes, 60), classes)
    table[:, 0] *= classes == 2  # of nine classes one is never told
    cells, rng = np.nonzero(table.ravel())[0], np.random.default_rng(5)
    drawn = np.zeros((40, table.size), np.int64)
    drawn[:, cells] = rng.multinomial(table.sum(), table.ravel()[cells] / table.sum(), 40)
    expected = OF_TABLE[name](Counts.of(drawn.reshape(40, *table.shape)))
    np.testing.assert_array_equal(bootstrap.tables(table, 40, 5, OF_TABLE[name]), expected)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 100)
    np.testing.assert_array_equal(bootstrap.tables(table, 40, 5, OF_TABLE[name]), expected)


@pytest.mark.parametrize(("level", "resamples"), [(0, 10), (1, 10), (95, 10), (0.9, 0)])
def test_out_of_range(level, resamples):
    with pytest.raises(UsageError):
        bootstrap.check(level, resamples)
