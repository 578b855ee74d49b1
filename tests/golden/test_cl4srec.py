"""CL4SRec against a slow reference; its options are next_item's; what it learns in a chain, and in noise."""

from __future__ import annotations

import math

import pytest
import torch
from annotated_types import Ge

from perdure import registry
from perdure.encoders.sasrec import SASRec
from perdure.events import views
from perdure.events.batch import Batch
from perdure.objectives.base import Learner
from perdure.objectives.cl4srec import CL4SRec
from perdure.objectives.next_item import NextItem
from perdure.settings import schema_of

N, B, T = 30, 5, 9


def encoder(dropout: float = 0.0) -> SASRec:
    made = SASRec(N, width=12, max_length=T, dropout=dropout)
    made.reset(torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.item_table[1:] += (
            torch.randn(N + 1, 12, generator=torch.Generator().manual_seed(5)) / 3
        )  # states far apart
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(seed: int = 1) -> Batch:
    """Windows of T + 1 events at most; the third user has two events, hence one input."""
    items = torch.randint(2, N + 2, (B, T + 1), generator=rng(seed))
    return Batch(items, torch.tensor([10, 7, 2, 10, 5]), users=torch.arange(B))


def learner(made: SASRec) -> Learner:
    return Learner(made, made.vector, made.item_table)


def slow_contrast(made: SASRec, objective: CL4SRec, batch: Batch, seed: int) -> float:
    """L_cl user by user, each view encoded alone."""
    inputs = Batch(batch.items[:, :-1], batch.lengths - 1)
    parts, order = views.augmented(inputs, objective.shares, rng(seed))
    alone = [(part.items[row, :n], n) for part in parts for row, n in enumerate(part.lengths.tolist())]
    z = [made.vector(Batch(alone[at][0][None], torch.tensor([alone[at][1]])))[0].detach() for at in order.tolist()]
    if objective.cosine:
        z = [one / one.norm() for one in z]
    total = 0.0
    for i in range(2 * B):
        twin = (i + B) % (2 * B)
        s = [float(z[i] @ z[j]) / objective.tau for j in range(2 * B)]
        total -= s[twin] - math.log(sum(math.exp(s[j]) for j in range(2 * B) if j != i))
    return total / (2 * B)


@pytest.mark.parametrize(("similarity", "tau"), [("dot", 1.0), ("cosine", 0.2)])
def test_the_contrast_is_that_of_the_paper(similarity, tau):
    made, batch = encoder(), windows()
    objective = CL4SRec(similarity=similarity, tau=tau)
    got = float(objective.contrast(learner(made), batch, rng(3)).detach())
    assert got == pytest.approx(slow_contrast(made, objective, batch, 3), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"loss": "bce", "negatives": 1, "share": "position"}, {"loss": "gbce"}])
def test_the_loss_is_next_item_and_lambda_times_the_contrast(options):
    made, batch = encoder(), windows()
    objective, draws = CL4SRec(weight=0.3, **options), rng(3)
    got = objective.loss(learner(made), batch, rng(3)).detach()
    predicted = NextItem(**options).loss(learner(made), batch, draws).detach()
    contrast = objective.contrast(learner(made), batch, draws).detach()  # draws go on where next_item's ended
    assert torch.equal(got, predicted + 0.3 * contrast)
    assert torch.equal(CL4SRec(weight=0, **options).loss(learner(made), batch, rng(3)).detach(), predicted)


def test_windows_of_one_user_are_no_negatives_of_each_other():
    made, batch = encoder(), windows()
    twice = batch.of(torch.tensor([0, 1, 0]))
    parts, order = views.augmented(twice.upto(T, twice.lengths - 1), CL4SRec().shares, rng(4))
    z = torch.cat([made.vector(part) for part in parts])[order].detach()
    s = (z @ z.T).exp()
    expected = 0.0
    for i, twin, others in [(0, 3, (1, 4)), (1, 4, (0, 2, 3, 5)), (2, 5, (1, 4))]:
        for x, y in [(i, twin), (twin, i)]:
            expected -= float((s[x, y] / (s[x, y] + sum(s[x, j] for j in others))).log()) / 6
    assert float(CL4SRec().contrast(learner(made), twice, rng(4)).detach()) == pytest.approx(expected, rel=1e-5)


def test_all_options_of_next_item_are_options():
    mine, theirs = schema_of(CL4SRec).model_fields, schema_of(NextItem).model_fields
    assert mine.keys() - theirs.keys() == {"weight", "tau", "similarity", "crop", "mask", "reorder"}
    for name, field in theirs.items():
        assert (mine[name].annotation, mine[name].default) == (field.annotation, field.default)
    assert mine["negatives"].metadata == [Ge(1)]
    made = registry.find("objectives", "cl4srec")(tied=False, loss="gbce", t=0.5)
    assert not made.tied and made.next_item.t == 0.5


def chained(seed: int, sure: float, users: int = 64) -> Batch:
    """Each item is followed by the next one with probability `sure`, else by any."""
    draw = rng(seed)
    items = torch.randint(N, (users, T + 1), generator=draw)
    for t in range(1, T + 1):
        follows = torch.rand(users, generator=draw) < sure
        items[:, t] = torch.where(follows, (items[:, t - 1] + 1) % N, items[:, t])
    return Batch(items + 2, torch.full((users,), T + 1), users=torch.arange(users))


def trained(sure: float, steps: int) -> float:
    """hr@1 on new users after some steps."""
    made, objective, draw = encoder(dropout=0.1), CL4SRec(), rng(7)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.zero_grad()
        objective.loss(learner(made.train()), chained(step, sure), draw).backward()
        optimizer.step()
    asked = chained(999, sure, 500)
    with torch.inference_mode():
        scores = made.eval().vector(asked.upto(T)) @ made.item_table[2:].T
    return float((scores.argmax(1) + 2 == asked.items[:, -1]).float().mean())


def test_it_finds_a_chain_and_none_in_noise():
    assert trained(0.9, 250) > 0.85  # the best possible is .903
    assert trained(0.0, 60) < 1 / N + 4 * math.sqrt(1 / N / 500)
