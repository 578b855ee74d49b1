"""Heads on vectors that stand still: worked by hand, at a minimum by their gradient, and measured as a model is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inference.people import data_of, fixed

from perdure.errors import DataError
from perdure.evaluation.evaluate import evaluate
from perdure.evaluation.vectors import Head, Judged, judge, solve
from perdure.events.examples import Examples


def judged(x, answers, starts=None) -> Judged:
    answers = np.asarray(answers, np.int64)
    starts = np.arange(len(answers) + 1) if starts is None else np.asarray(starts)
    return Judged(torch.as_tensor(np.asarray(x, np.float32)).view(len(starts) - 1, -1), answers, starts)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_sides(right: int, of: int = 250) -> Judged:
    """x = 1 and x = -1, `of` users each; class 1 has `right` of the first and the rest of the second."""
    first, second = [1] * right + [0] * (of - right), [0] * right + [1] * (of - right)
    return judged([1.0] * of + [-1.0] * of, first + second)


def test_worked_by_hand():
    """W = (-w, w), b = 0: d/dw of -p ln s(2w) - (1 - p) ln s(-2w) + l w^2 is 0 where s(2w) + l w = p.

    w = 1/2, l = 0.05: s(1) = 0.73106, so p = 0.75606 = 189 / 250 up to 6e-5.
    """
    part = two_sides(189)
    head = solve(part, part, 2, rng(), strengths=(0.05,))
    weight, bias = head.weights
    assert weight.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=1e-3)
    assert (bias[1] - bias[0]).item() == pytest.approx(0, abs=1e-3)
    chance = head.scores(torch.tensor([[1.0]])).softmax(1)[0, 1].item()
    assert chance == pytest.approx(0.73106, abs=1e-3)
    assert head.loss == pytest.approx(-0.756 * np.log(0.73106) - 0.244 * np.log(0.26894), abs=1e-3)


def test_a_strength_that_is_known_is_reached_by_the_same_path():
    """What the first repeat chooses, the others end at, step by step: the same users give the same head."""
    generator = rng(3)
    x = torch.randn(300, 12, generator=generator) @ torch.diag(torch.logspace(0, -3, 12)) @ torch.randn(12, 12)
    part = judged(x.numpy(), torch.randint(4, (300,), generator=generator).numpy())
    half = judged(x[:150].numpy(), part.answers[:150])
    for kind in ("linear", "mlp"):
        free = solve(part, half, 4, rng(), kind=kind, strengths=(1.0, 0.1, 1e-3, 1e-6))
        bound = solve(part, half, 4, rng(), kind=kind, strengths=(1.0, 0.1, 1e-3, 1e-6), strength=free.strength)
        assert all(torch.equal(a, b) for a, b in zip(free.weights, bound.weights, strict=True))
        assert solve(half, part, 4, rng(), kind=kind, strength=0.01).strength == 0.01


def test_without_vectors_equals_are_parted_as_what_is_popular():
    """Answers 2, 1, 1 and 1 times: label 3 is fourth, not last of equals that all beat it."""
    part = judged(np.zeros((5, 0)), [0, 0, 1, 2, 3])
    head, right = solve(part, part, 4, rng()), [[3], [1]]
    model = fixed(np.zeros((4, 4)))
    card = next(iter(model.tasks.values()))
    score = judge(head, torch.zeros(2, 0), data_of(card, [[], []], right), card, 4, metric="mrr@10")
    assert score.value == pytest.approx((1 / 4 + 1 / 2) / 2)


def test_without_vectors_the_first_of_equal_classes_is_told():
    part = judged(np.zeros((6, 0)), [0, 0, 0, 1, 1, 1])
    head, model = solve(part, part, 2, rng()), fixed(np.zeros((4, 2)), "one_of")
    card = next(iter(model.tasks.values()))
    score = judge(head, torch.zeros(3, 0), data_of(card, [[], [], []], [[0], [1], [0]]), card, 4)
    assert score.per_user["accuracy"].tolist() == [1, 0, 1]
    assert score.per_user["log_loss"].tolist() == pytest.approx([np.log(2)] * 3, abs=1e-3)


def test_no_vectors_tell_the_shares():
    part = judged(np.zeros((10, 0)), [0] * 5 + [1] * 3 + [2] * 2)
    head = solve(part, part, 3, rng())
    assert head.scores(part.x).softmax(1)[4].tolist() == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)
    assert head.loss == pytest.approx(-(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)), abs=1e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_it_ends_where_the_gradient_is_nothing(kind):
    """The formula of the file, a user at a time, in double precision; several answers a user, unknown ones left out."""
    generator = rng(1)
    x = torch.randn(40, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) + 5
    counts = np.arange(40) % 4
    starts = np.concatenate([[0], np.cumsum(counts)])
    answers = np.random.default_rng(0).integers(-1, 4, starts[-1])
    part = Judged(x, answers, starts)
    head = solve(part, part, 4, rng(), kind=kind, strengths=(0.1,))
    asked = [u for u in range(40) if (answers[starts[u] : starts[u + 1]] >= 0).any()]
    assert torch.allclose(head.mean, x.mean(0), rtol=1e-5)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    weights = [w.double().requires_grad_() for w in head.weights]
    loss, n = torch.zeros((), dtype=torch.float64), 0
    for user in asked:
        hidden = z[user] if kind == "linear" else torch.relu(weights[0] @ z[user] + weights[1])
        chances = torch.log_softmax(weights[-2] @ hidden + weights[-1], -1)
        for answer in answers[starts[user] : starts[user + 1]]:
            if answer >= 0:
                loss, n = loss - chances[answer], n + 1
    total = loss / n + 0.05 * sum(w.square().sum() for w in weights[::2])
    total.backward()
    bound = 1e-3 if kind == "linear" else 2e-2  # a relu has a corner, and minima like to sit there
    assert max(float(w.grad.abs().max()) for w in weights) < bound
    assert head.loss == pytest.approx(float(loss.detach()) / n, abs=1e-5)


def test_the_validation_users_choose_the_strength():
    """A sharp relation asks for a weak penalty; a relation that the validation users do not have for a strong one."""
    sharp = two_sides(248)
    assert solve(sharp, sharp, 2, rng()).strength <= 1e-3
    assert solve(two_sides(180), two_sides(125), 2, rng()).strength == 1.0


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_relation_no_line_can_draw(kind):
    """Exclusive or: the mlp finds it, the linear head stays at chance."""
    x = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)] * 50, np.float32)
    part = judged(x, (x[:, 0] * x[:, 1] > 0).astype(int))
    head = solve(part, part, 2, rng(), kind=kind)
    assert (head.loss < 0.1) if kind == "mlp" else head.loss == pytest.approx(np.log(2), abs=1e-3)


def test_who_is_not_known_is_the_mean_user():
    x = np.array([[1.0, 2.0], [3.0, 6.0], [np.nan, np.nan]], np.float32)
    head = solve(judged(x, [0, 1, 1]), judged(x, [0, 1, 1]), 2, rng(), strengths=(0.1,))
    assert head.mean.tolist() == [2.0, 4.0]
    assert torch.equal(head.scores(torch.full((1, 2), torch.nan)), head.scores(torch.tensor([[2.0, 4.0]])))


def test_a_number_that_never_changes_is_no_fault():
    part = judged([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]], [0, 1, 1])
    head = solve(part, part, 2, rng(), strengths=(0.1,))
    assert bool(torch.isfinite(head.scores(torch.tensor([[1.0, 8.0]]))).all())


def test_nobody_to_learn_from():
    empty, full = judged([[1.0], [2.0]], [-1, -1]), judged([[1.0], [2.0]], [0, 1])
    with pytest.raises(DataError, match="no training user"):
        solve(empty, full, 2, rng())
    with pytest.raises(DataError, match="no validation user"):
        solve(full, empty, 2, rng())


def test_examples_of_some_rows():
    examples = Examples(np.array([7, 8, 9]), np.array([0, 3, 5]), np.array([3, 5, 6]), np.array([1, 2, 3, 4, 5, 6]),
                        np.array([0, 2, 3, 6]), np.arange(10, 16))  # fmt: skip
    few = examples.of(np.array([2, 0]))
    assert (few.users.tolist(), few.begin.tolist(), few.end.tolist()) == ([9, 7], [5, 0], [6, 3])
    assert (few.answers.tolist(), few.answer_starts.tolist()) == ([4, 5, 6, 1, 2], [0, 3, 5])
    assert few.answer_events.tolist() == [13, 14, 15, 10, 11]


@pytest.mark.parametrize("kind", ["next_item", "one_of"])
def test_a_head_is_measured_as_a_model_is(kind):
    table = torch.tensor([[0.0, 5.0, 4.0], [9.0, 9.0, 9.0], [1.0, 2.0, 3.0]])
    model = fixed(table, kind)
    data = data_of(model.tasks["t"], [[2], [4], [3]], [[1], [2], [-1]])
    head = Head((torch.eye(3), torch.zeros(3)), torch.zeros(3), torch.ones(3), 0, 0)
    told = {"ks": (1,), "metric": "ndcg@3" if kind == "next_item" else "macro_f1"}
    score, same = judge(head, table[[0, 2, 1]], data, model.tasks["t"], 3, **told), evaluate(model, data, **told)
    assert score.primary == same.primary == told["metric"] and score.values == same.values
    assert all((score.per_user[name] == same.per_user[name]).all() for name in same.per_user)
    assert score.notes == same.notes
    assert any("say nothing: 3 answers are ranked" in note for note in score.notes) == (kind == "next_item")


def test_a_wrong_class_with_the_same_score_wins():
    """Scores (x, -x, -2) for x = 0, 1, 2: nobody is first alone at 0; an answer outside the labels is a miss."""
    head = Head(
        (torch.tensor([[1.0], [-1.0], [0.0]]), torch.tensor([0.0, 0.0, -2.0])), torch.zeros(1), torch.ones(1), 0, 0
    )
    task = fixed(np.zeros((3, 3)), "one_of").tasks["t"]
    x = torch.tensor([[0.0], [1.0], [2.0], [1.0]])
    score = judge(head, x, data_of(task, [[2]] * 4, [[0], [0], [1], [-1]]), task, 3)
    values, per_user, table = score.values, score.per_user, score.confusion
    assert per_user["accuracy"].tolist() == [0, 1, 0, 0] and values["accuracy"] == 0.25
    assert table.sum() == 4 and table[3].sum() == 1
    chance = head.scores(x).softmax(1)
    assert per_user["log_loss"][1] == pytest.approx(-float(chance[1, 0].log()))
