"""Who knows whom: the graph against sets of pairs, and the table it is read from."""

from __future__ import annotations

import numpy as np
import pytest

from perdure.errors import DataError
from perdure.events.friends import Friends, read_friends
from perdure.events.ids import Ids

U = 30


def pairs(seed: int, n: int = 40) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in np.random.default_rng(seed).integers(0, U, (n, 2)).tolist()]


def graph(known: list[tuple[int, int]]) -> Friends:
    a, b = np.array(known).T
    return Friends.of(a, b, U)


def sets(known: list[tuple[int, int]]) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(U)]
    for a, b in known:
        if a != b:
            found[a].add(b)
            found[b].add(a)
    return found


def listed(friends: Friends) -> list[list[int]]:
    return [friends.others[friends.starts[u] : friends.starts[u + 1]].tolist() for u in range(U)]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_set_of_pairs_both_ways(seed):
    known = pairs(seed)
    friends, expected = graph(known), sets(known)
    assert listed(friends) == [sorted(one) for one in expected]
    wanted = np.arange(U) % 3 > 0
    assert listed(friends.among(wanted)) == [sorted(v for v in one if v % 3) for one in expected]


@pytest.mark.parametrize("seed", range(5))
def test_close_is_at_most_two_steps(seed):
    known = pairs(seed)
    friends, of = graph(known), sets(known)
    a, b = np.arange(U), np.random.default_rng(seed).permutation(U)[:17]
    expected = [[u == v or v in of[u] or bool(of[u] & of[v]) for v in b.tolist()] for u in range(U)]
    assert friends.close(a, b).tolist() == expected


def test_every_friend_is_drawn_as_often_and_who_has_none_gets_none():
    friends = graph([(0, 1), (0, 2), (0, 5), (3, 3)])
    lots = (np.arange(300) + 0.5) / 300
    assert np.bincount(friends.one(np.zeros(300, np.int64), lots)).tolist() == [0, 100, 100, 0, 0, 100]
    assert friends.one(np.array([3, 1, 29]), np.array([0.0, 0.999999, 0.5])).tolist() == [-1, 0, -1]
    nobody = friends.among(np.zeros(U, bool))
    assert nobody.one(np.arange(U), np.zeros(U)).tolist() == [-1] * U


def test_a_table_with_strangers_in_it(tmp_path):
    file = tmp_path / "friends.csv"
    file.write_text("who,whom\na,b\nb,a\nx,a\nc,c\nb,c\n", encoding="utf-8")
    friends = read_friends(str(file), "who", "whom", Ids(["a", "b", "c"]))
    assert friends.starts.tolist() == [0, 1, 3, 4] and friends.others.tolist() == [1, 0, 2, 1]
    with pytest.raises(DataError, match="none of 5 pairs"):
        read_friends(str(file), "who", "whom", Ids(["c", "d"]))
    with pytest.raises(DataError, match="friend"):
        read_friends(str(file), "who", "friend", Ids(["a", "b"]))
