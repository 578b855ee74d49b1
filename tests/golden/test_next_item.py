"""Next item against a slow reference, target by target, for all who may share a draw and all losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from perdure.events.batch import Batch
from perdure.functional.negatives import Negatives
from perdure.objectives.base import Learner
from perdure.objectives.next_item import NextItem

N, D, K, B, T = 6, 3, 4, 3, 5
COUNTS = torch.tensor([1.0, 2.0, 9.0, 4.0, 3.0, 1.0])


def rng(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows() -> Batch:
    """Few items, so that negatives hit targets and histories often; the second user has one target."""
    return Batch(torch.randint(2, N + 2, (B, T + 1), generator=rng()), torch.tensor([6, 2, 4]))


def numbers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States (B, T, d), table (N + 2, d) and bias (N + 2,), which take gradients."""
    shapes = ((B, T, D), (N + 2, D), (N + 2,))
    states, table, bias = (torch.randn(one, generator=rng(), dtype=torch.float64) for one in shapes)
    return states.requires_grad_(), table.requires_grad_(), bias.requires_grad_()


def one_target(kind: str, s: torch.Tensor, negative: list[torch.Tensor], log_q: list[float], t: float) -> torch.Tensor:
    """The loss of one target with score s and the negatives that are left of K."""
    if kind == "sampled":
        return (s.exp() + sum((n - q).exp() for n, q in zip(negative, log_q, strict=True))).log() - s
    if kind == "bpr":
        return sum((F.softplus(n - s) for n in negative), torch.zeros(())) / K
    missed = sum((F.softplus(n) for n in negative), torch.zeros(()))
    if kind == "bce":
        return F.softplus(-s) + missed / K
    beta = 1 - t * (1 - K / (N - 1))
    return (beta * F.softplus(-s) + missed) / (K + 1)


@pytest.mark.parametrize("kind", ["sampled", "gbce", "bce", "bpr"])
@pytest.mark.parametrize("share", ["position", "sequence", "batch"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_loss_is_that_of_each_target_alone(kind, share, sparse):
    batch, (states, table, bias) = windows(), numbers()
    objective = NextItem(loss=kind, negatives=K, share=share, alpha=0.5, log_q=True, t=0.6)
    objective.prepare(COUNTS)
    learner = Learner(lambda inputs: states, lambda inputs: states[:, -1], table, bias, sparse=sparse)
    ours = objective.loss(learner, batch, rng())

    q = COUNTS.sqrt() / COUNTS.sqrt().sum()
    at = [(b, t) for b in range(B) for t in range(int(batch.lengths[b]) - 1)]
    shape = {"position": (len(at), K), "sequence": (B, K), "batch": (K,)}[share]
    drawn = Negatives(COUNTS, 0.5).draw(shape, rng()) + 2
    losses = []
    for m, (b, t) in enumerate(at):
        target = int(batch.items[b, t + 1])
        own = {"position": lambda m=m: drawn[m], "sequence": lambda b=b: drawn[b], "batch": lambda: drawn}[share]()
        barred = batch.items[b].tolist() if share == "sequence" else [target]
        left = [n for n in own.tolist() if n not in barred]
        score = lambda n, h=states[b, t]: h @ table[n] + bias[n]  # noqa: E731
        log_q = [math.log(K * float(q[n - 2])) for n in left]
        losses.append(one_target(kind, score(target), [score(n) for n in left], log_q, 0.6))
    theirs = torch.stack(losses).mean()

    torch.testing.assert_close(ours, theirs, check_dtype=False, rtol=1e-6, atol=1e-7)
    leaves = (states, table, bias)
    for got, want in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        assert got.is_sparse == (sparse and got.shape == table.shape)
        torch.testing.assert_close(got.to_dense() if got.is_sparse else got, want, rtol=1e-6, atol=1e-7)


def test_negatives_of_every_position_give_a_gradient_that_names_each_row_once():
    states, table, bias = numbers()
    learner = Learner(lambda inputs: states, lambda inputs: states[:, -1], table, bias, sparse=True)
    objective = NextItem(loss="bpr", negatives=K, share="position")
    gradient = torch.autograd.grad(objective.loss(learner, windows(), rng()), table)[0]
    assert gradient.is_coalesced()


@pytest.mark.parametrize("share", ["position", "sequence", "batch"])
@pytest.mark.parametrize("kind", ["softmax", "sampled"])
@pytest.mark.parametrize("first", [False, True])
def test_the_last_events_alone_are_predicted_from_the_vectors_of_what_came_before(kind, share, first):
    states, table, bias = numbers()
    batch = Batch(torch.randint(2, N + 2, (B, T + 1), generator=rng()), torch.tensor([6, 1, 4]))
    seen = []

    def vector(inputs: Batch) -> torch.Tensor:
        seen.append((inputs.items.tolist(), inputs.lengths.tolist()))
        return states[:, 0]  # (B, d)

    objective = NextItem(loss=kind, negatives=K, share=share, targets="last")
    objective.prepare(COUNTS)
    learner = Learner(lambda inputs: states[:, :0], vector, table, bias, first=first)
    ours = objective.loss(learner, batch, rng())
    assert seen == [(batch.items[:, :-1].tolist(), [5, 0, 3])]

    asked = [0, 1, 2] if first else [0, 2]  # nothing came before the only event of the second user
    assert objective.terms(batch, first) == len(asked)
    shape = {"position": (len(asked), K), "sequence": (B, K), "batch": (K,)}[share]
    drawn = Negatives(COUNTS, 0.0).draw(shape, rng()) + 2
    losses = []
    for m, b in enumerate(asked):
        target = int(batch.items[b, batch.lengths[b] - 1])
        scores = table @ states[b, 0] + bias
        own = {"position": lambda m=m: drawn[m], "sequence": lambda b=b: drawn[b], "batch": lambda: drawn}[share]()
        barred = batch.items[b].tolist() if share == "sequence" else [target]
        others = range(2, N + 2) if kind == "softmax" else [target, *(n for n in own.tolist() if n not in barred)]
        losses.append(scores[list(others)].logsumexp(0) - scores[target])
    torch.testing.assert_close(ours, torch.stack(losses).mean(), check_dtype=False, rtol=1e-6, atol=1e-7)
