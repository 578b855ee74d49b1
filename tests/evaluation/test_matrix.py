"""The matrix R against numbers worked by hand (methods-continual 11.4)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from perdure.errors import ModelError, UsageError
from perdure.evaluation.matrix import Matrix

# learned a, b, c:      a    b    c
GOLDEN = Matrix(("a", "b", "c"), ((0.5,), (0.6, 0.4), (0.3, 0.35, 0.7)), {"a": "ndcg@10"})


def test_golden():
    assert GOLDEN.average() == pytest.approx((0.3 + 0.35 + 0.7) / 3)
    assert GOLDEN.forgetting() == pytest.approx(((0.6 - 0.3) + (0.4 - 0.35)) / 2)  # a was best after b
    assert GOLDEN.forgotten() == {"a": pytest.approx(0.3), "b": pytest.approx(0.05)}
    assert GOLDEN.backward_transfer() == pytest.approx(((0.3 - 0.5) + (0.35 - 0.4)) / 2)
    assert GOLDEN.forward_transfer({"a": 0.5, "b": 0.3, "c": 0.8}) == pytest.approx((0 + 0.1 - 0.1) / 3)
    assert GOLDEN.forward_transfer({"c": 0.5}) == pytest.approx(0.2)


def test_nothing_lost_is_exactly_zero():
    kept = Matrix(("a", "b"), ((0.1,), (0.1, 0.3)))
    assert kept.forgetting() == 0.0 and kept.backward_transfer() == 0.0


def test_getting_better_is_no_negative_forgetting():
    better = Matrix(("a", "b"), ((0.1,), (0.2, 0.3)))
    assert better.forgetting() == 0.0 and better.backward_transfer() == pytest.approx(0.1)


def test_learned_at_once_by_hand():
    """One row: nothing was measured before the end, so nothing is said of it; alone it can be compared."""
    joint = Matrix(("a", "b", "c"), ((), (), (0.3, 0.4, 0.5)))
    assert joint.average() == pytest.approx(0.4) and joint.forgotten() == {}
    assert math.isnan(joint.forgetting()) and math.isnan(joint.backward_transfer())
    assert joint.forward_transfer({"a": 0.2, "c": 0.6}) == pytest.approx((0.1 - 0.1) / 2)
    assert joint.learned() == {"a": 0.3, "b": 0.4, "c": 0.5}
    told = json.loads(json.dumps(joint.to_dict(), allow_nan=False))
    assert told["R"] == [[], [], [0.3, 0.4, 0.5]] and told["forgetting"] is told["backward_transfer"] is None
    assert Matrix.from_dict(told) == joint
    assert Matrix.from_dict({**told, "R": [[None] * 3, [None] * 3, told["R"][-1]]}) == joint
    assert np.isnan(joint.R[:2]).all() and joint.R[2].tolist() == [0.3, 0.4, 0.5]


def test_the_first_alone_and_then_all_at_once_by_hand():
    """Only a was measured before the last row."""
    later = Matrix(("a", "b", "c"), ((0.5,), (), (0.3, 0.4, 0.5)))
    assert later.forgotten() == {"a": pytest.approx(0.2)} and later.forgetting() == pytest.approx(0.2)
    assert later.backward_transfer() == pytest.approx(-0.2)
    assert later.learned() == {"a": 0.5, "b": 0.4, "c": 0.5}
    grouped = Matrix(("a", "b", "c"), ((), (0.1, 0.2), (0.2, 0.1, 0.9)))
    assert grouped.forgotten() == {"a": 0.0, "b": pytest.approx(0.1)}
    assert grouped.backward_transfer() == pytest.approx(0.0)


@pytest.mark.parametrize("rows", [((0.5,), ()), ((0.5, 0.5), (0.1, 0.2)), ((0.5,),), ((0.5,), (0.1,)), ((), (), (1,))])
def test_rows_are_whole_or_empty_and_the_last_is_whole(rows):
    with pytest.raises(UsageError, match="rows of"):
        Matrix(("a", "b"), rows)


def test_one_task_and_none():
    one = Matrix(("a",), ((0.5,),), {"a": "accuracy"})
    assert (one.average(), one.forgetting(), one.backward_transfer()) == (0.5, 0.0, 0.0)
    assert math.isnan(Matrix().average()) and Matrix().to_dict()["average"] is None


def test_what_was_not_yet_learned_has_no_value():
    whole = GOLDEN.R
    assert whole.shape == (3, 3) and np.isnan(whole[0, 1:]).all() and whole[2].tolist() == [0.3, 0.35, 0.7]


def test_lists_will_do():
    assert Matrix(["a", "b"], [[0.1], [0.2, 0.3]]).backward_transfer() == pytest.approx(0.1)


def test_round_trip_through_json():
    told = json.loads(json.dumps(GOLDEN.to_dict()))
    assert Matrix.from_dict(told) == GOLDEN
    drawn = Matrix("ab", ((0.5,), (1.0, 1.0)), {"a": "hr@5"}, {"a": "sampled: 9 uniform negatives, seed 0"})
    told = json.loads(json.dumps(drawn.to_dict()))
    assert told["protocols"] == {"a": "sampled: 9 uniform negatives, seed 0"} and Matrix.from_dict(told) == drawn
    padded = {"tasks": ["a", "b"], "R": [[0.5, None], [0.4, 0.3]]}
    assert Matrix.from_dict(padded).rows == ((0.5,), (0.4, 0.3))


def test_a_task_is_learned_once():
    with pytest.raises(UsageError, match="distinct tasks"):
        Matrix(("a", "a"), ((0.5,), (0.5, 0.5)))


@pytest.mark.parametrize("alone", [{}, {"z": 0.5}])
def test_alone_must_name_tasks_that_are_here(alone):
    with pytest.raises(UsageError):
        GOLDEN.forward_transfer(alone)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"tasks": ["a"]},
        {"tasks": ["a"], "R": [["x"]]},
        {"tasks": ["a"], "R": []},
        {"tasks": ["a"], "R": [[float("nan")]]},
    ],
)
def test_damage_is_a_model_error(told):
    with pytest.raises(ModelError):
        Matrix.from_dict(told)
