"""Counts of what stood together, against counting by hand and by brute force."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from perdure.events import together
from perdure.events.examples import Examples, Sequences
from perdure.events.together import baskets, met, pairs


def task(histories: list[list[int]], train: list[int], answers: dict[int, list[int]] | None, label_items: list[int]):
    """Item rows of each user, who trains, and their label rows."""
    starts = np.append(0, np.cumsum([len(h) for h in histories]))
    sequences = Sequences(np.array([i for h in histories for i in h], np.int32), starts)
    users = np.array(train, np.int32)
    told = {}
    if answers is not None:
        counts = [len(answers[u]) for u in train]
        told = {
            "answers": np.array([y for u in train for y in answers[u]], np.int32),
            "answer_starts": np.append(0, np.cumsum(counts)),
        }
    examples = Examples(users, starts[users], starts[users + 1], **told)
    return SimpleNamespace(sequences=sequences, train=examples, label_items=np.array(label_items, np.int32))


HISTORIES = [[2, 3, 2], [3, 4], [2, 5], [4, 5, 6]]


def test_a_basket_is_history_and_answers_of_training_users_once_each():
    first = task(HISTORIES, [0, 1, 3], None, [2, 3, 4, 5, 6])  # user 2 is a test user
    later = task(HISTORIES, [1], {1: [0, 1]}, [6, 3])
    users, items = baskets([first, later], 50)
    got = {u: items[users == u].tolist() for u in set(users.tolist())}
    assert got == {0: [2, 3], 1: [3, 4, 6], 3: [4, 5, 6]}
    users, items = baskets([first, later], 2)  # the last two events alone are read
    assert items[users == 3].tolist() == [5, 6] and items[users == 0].tolist() == [2, 3]
    outside = task(HISTORIES, [1], {1: [0]}, [-1, 3])  # a label that is no item
    assert baskets([outside], 50)[1].tolist() == [3, 4]


def test_what_was_met_is_the_whole_history_of_those_asked():
    later = task([[2, 3, 2, 1, 9, 4], *HISTORIES[1:]], [0, 1, 3], {0: [0], 1: [1], 3: [1]}, [6, 3])
    users, items = met(later, [3, 0, 0, 2])  # user 2 trains nothing
    assert users.tolist() == [0] * 4 + [3] * 3 and items.tolist() == [2, 3, 4, 9, 4, 5, 6]
    assert [part.tolist() for part in met(later, [])] == [[], []]


def test_pairs_by_hand():
    users, items = np.array([0, 0, 1, 1, 1, 2]), np.array([2, 3, 2, 3, 4, 2])
    *found, least = pairs(users, items, np.array([3, 4]), 3, 99)  # labels: 0 is item 3, 1 is item 4
    assert np.stack(found, 1).tolist() == [[2, 0, 2], [2, 1, 1], [3, 1, 1], [4, 0, 1]] and least == 0
    *few, least = pairs(users, items, np.array([3, 4]), 3, 2)  # 2 / sqrt(3) and 1 / sqrt(1), not 1 / sqrt(2)
    assert np.stack(few, 1).tolist() == [[2, 0, 2], [4, 0, 1]] and least == pytest.approx(0.5**0.5, rel=1e-4)
    *one, least = pairs(np.array([0, 0, 1, 1]), np.array([2, 3, 4, 5]), np.array([3, 5]), 4, 1)
    assert len(one[0]) == 0 and least == pytest.approx(1, rel=1e-4)  # of equals all or none


@pytest.mark.parametrize("at_once", [1, 7, 40, 10**6])
def test_pairs_against_brute_force_however_many_are_looked_at_at_once(at_once, monkeypatch):
    monkeypatch.setattr(together, "AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    met = [sorted(set(rng.integers(2, 22, rng.integers(1, 9)).tolist())) for _ in range(30)]
    users, items = np.repeat(np.arange(30) * 3, [len(m) for m in met]), np.concatenate(met)
    label_items = rng.permutation(np.arange(2, 22))[:12]
    told = Counter((i, y) for m in met for i in m for y, item in enumerate(label_items) if item in m and item != i)
    *found, least = pairs(users, items, label_items, 20, 10**6)
    assert {(i, y): c for i, y, c in zip(*map(np.ndarray.tolist, found), strict=True)} == told and least == 0
    *some, least = pairs(users, items, label_items, 20, 40)
    worth = {(i, y): c / np.bincount(items)[i] ** 0.5 for (i, y), c in told.items()}
    kept = set(zip(some[0].tolist(), some[1].tolist(), strict=True))
    assert 20 < len(kept) <= 40 and kept == {pair for pair, one in worth.items() if one > least}


def test_nobody_met_anything():
    none = np.zeros(0, np.int64)
    assert all(len(part) == 0 for part in pairs(none, none, np.array([2, 3]), 5, 10)[:3])
