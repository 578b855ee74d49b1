"""clue_seq against a slow reference, and what it learns in a world where users differ, and in one where they do not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from perdure.encoders.sasrec import SASRec
from perdure.events.batch import Batch
from perdure.objectives.base import Learner
from perdure.objectives.clue_seq import ClueSeq
from perdure.objectives.lurm import Lurm
from perdure.objectives.parts import agreement

N = 40


def encoder(dropout: float = 0.0, readout: str = "mean") -> SASRec:
    made = SASRec(N, width=16, max_length=12, dropout=dropout, readout=readout)
    made.reset(torch.Generator().manual_seed(0))
    return made


def learner(made: SASRec) -> Learner:
    return Learner(made, made.vector, made.item_table)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def histories(seed: int, users: int = 32, types: int = 4) -> Batch:
    """Users of a type take items of its own quarter of the catalogue; one type: no user differs from another."""
    draw = rng(seed)
    kind = torch.randint(types, (users, 1), generator=draw)
    span = N // types
    items = 2 + kind * span + torch.randint(span, (users, 12), generator=draw)
    return Batch(items, torch.full((users,), 12), users=torch.arange(users))


@pytest.mark.parametrize("views", ["crop", "mask", "reorder", "augment"])
def test_the_loss_is_that_of_the_paper(views):
    made, objective, batch = encoder(), ClueSeq(views=views, tau=0.2), histories(1, users=5)
    got = objective.loss(learner(made), batch, rng(3))
    a, b = (made.vector(view).detach() for view in objective.pair(batch, rng(3)))

    def one_way(x, y):
        total = 0.0
        for u in range(5):
            cosines = [float(torch.cosine_similarity(x[u], y[v], dim=0)) / 0.2 for v in range(5)]
            total -= cosines[u] - math.log(sum(math.exp(c) for c in cosines))
        return total / 5

    assert float(got.detach()) == pytest.approx((one_way(a, b) + one_way(b, a)) / 2, rel=1e-5)


def test_dropout_alone_makes_two_views():
    made, batch = encoder(dropout=0.3).train(), histories(2)
    first, second = ClueSeq().pair(batch, rng())
    assert not torch.equal(made.vector(first), made.vector(second))
    assert torch.isfinite(ClueSeq().loss(learner(made), batch, rng()))


def test_a_user_without_events_is_no_negative():
    made, batch = encoder(), histories(3, users=6)
    blank = Batch(batch.items, torch.tensor([12, 12, 12, 12, 12, 0]))
    assert torch.equal(
        ClueSeq(views="mask").loss(learner(made), blank, rng()),
        ClueSeq(views="mask").loss(learner(made), batch.of(torch.arange(5)), rng()),
    )


@pytest.mark.parametrize("objective", [ClueSeq(views="crop"), Lurm()])
def test_another_window_of_a_user_is_no_negative(objective):
    """Rows 0 and 1 are windows of one user: neither row's loss knows the other."""
    made, batch = encoder(), histories(4, users=6)
    split = replace(batch, users=torch.tensor([0, 0, 2, 3, 4, 5]))
    a, b = (made.vector(view).detach() for view in objective.pair(split, rng()))
    terms = []
    for x, y in ((a, b), (b, a)):
        cosines = torch.nn.functional.cosine_similarity(x[:, None], y, dim=2) / objective.tau  # (6, 6)
        for u in range(6):
            kept = [v for v in range(6) if v == u or {u, v} != {0, 1}]
            terms.append(float(cosines[u, kept].logsumexp(0) - cosines[u, u]))
    assert float(objective.loss(learner(made), split, rng()).detach()) == pytest.approx(sum(terms) / 12, rel=1e-5)


def test_agreement_of_several_rows_of_a_user():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    b = a[[1, 0, 2]]  # each of the first two is nearer to the other's
    assert agreement(a, b).tolist() == [0, 0, 1]
    assert agreement(a, b, torch.tensor([7, 7, 8])).tolist() == [1, 1, 1]


def test_agreement_counts_who_finds_themselves():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert agreement(a, a).tolist() == [1, 1, 1]
    assert agreement(a, a[[1, 0, 2]]).tolist() == [0, 0, 1]
    assert agreement(torch.ones(3, 2), torch.ones(3, 2)).tolist() == [0, 0, 0]  # nobody stands out


def trained(types: int) -> float:
    """Share of pairs of held-out users with the nearest other user of their own type, after some steps."""
    made, objective, draw = encoder(dropout=0.1), ClueSeq(views="crop"), rng(7)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for step in range(60):
        optimizer.zero_grad()
        objective.loss(learner(made.train()), histories(step, types=types), draw).backward()
        optimizer.step()
    batch = histories(999, users=64, types=types)
    with torch.inference_mode():
        u = torch.nn.functional.normalize(made.eval().vector(batch), dim=1)
    nearest = (u @ u.T).fill_diagonal_(-2).argmax(1)
    labels = (batch.items[:, 0] - 2) // (N // 4) if types > 1 else torch.randint(4, (64,), generator=rng(5))
    return float((labels[nearest] == labels).float().mean())


def test_it_finds_the_types_there_are_and_none_in_noise():
    assert trained(4) > 0.95
    assert trained(1) < 0.5
