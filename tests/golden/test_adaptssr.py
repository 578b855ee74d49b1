"""AdaptSSR by numbers worked by hand and a slow reference; what it finds where users differ, and where they do not."""

from __future__ import annotations

import math

import pytest
import torch

from perdure.encoders.sasrec import SASRec
from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.contrastive import similarity_order
from perdure.objectives.adaptssr import AdaptSSR
from perdure.objectives.base import Learner

N = 40


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(dropout: float = 0.0) -> SASRec:
    made = SASRec(N, width=16, max_length=12, dropout=dropout, readout="mean")
    made.reset(rng())
    return made


def learner(made: SASRec) -> Learner:
    return Learner(made, made.vector, made.item_table)


def histories(seed: int, users: int = 64, types: int = 4) -> tuple[Batch, torch.Tensor]:
    """Users of a type take seven of ten items from its own quarter of the catalogue, the others anywhere; one type: no
    user differs from another. And the type of each, (B,)."""
    draw = rng(seed)
    kind, span = torch.randint(types, (users, 1), generator=draw), N // types
    own = torch.rand(users, 12, generator=draw) < 0.7
    items = (
        2 + torch.where(own, kind * span, 0) + torch.randint(N, (users, 12), generator=draw) % torch.where(own, span, N)
    )
    return Batch(items, torch.full((users,), 12), users=torch.arange(users)), kind[:, 0]


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_the_loss_by_hand():
    """Two users in a plane: angles 0, 60 and 150, 240 of the views, each view 0 away from its second encoding but the
    first, which is 90 away from it. Cosines of 60 degrees are .5, of 90 are 0, of 120 -.5, of 150 -.866."""
    a = torch.tensor([at(0), at(150), at(60), at(240)])  # first views of both users, then second views
    b = torch.tensor([at(90), at(150), at(60), at(240)])
    users = torch.arange(2)
    c30 = math.cos(math.radians(30))
    # view 1 of user 1 at 0: own 0; the other view at 60, twice: .5, .5; others at 150, 240: -.866, -.5
    # view 1 of user 2 at 150: own 1; the other view at 240, twice: 0, 0; others at 0, 90, 60: -.866, .5, 0
    # view 2 of user 1 at 60: own 1; the other view at 0 and 90: .5, .866; others at 150, 240: 0, -1
    # view 2 of user 2 at 240: own 1; the other view at 150, twice: 0, 0; others at 0, 90, 60: -.5, -.866, -1
    mixed = 1 - (0.5 + c30) / 2
    by_user = [
        0.5 * (0 - 0.5) + 0.5 * (0.5 + 0.5),
        1.0 * (1 - 0) + 0.0 * (0 - 0.5),
        mixed * (1 - c30) + (1 - mixed) * (0.5 - 0),
        1.0 * (1 - 0) + 0.0 * (0 + 0.5),
    ]
    expected = sum(math.log1p(math.exp(-x)) for x in by_user) / 4
    assert float(similarity_order(a, b, users)) == pytest.approx(expected, rel=1e-6)
    assert float(similarity_order(3 * a, 7 * b, users)) == pytest.approx(expected, rel=1e-6)  # cosines
    one, two = 1 - 0.25, 1 - (0.5 + c30) / 4
    by_batch = [
        one * (0 - 0.5) + (1 - one) * (0.5 + 0.5),
        one * (1 - 0) + (1 - one) * (0 - 0.5),
        two * (1 - c30) + (1 - two) * (0.5 - 0),
        two * (1 - 0) + (1 - two) * (0 + 0.5),
    ]
    expected = sum(math.log1p(math.exp(-x)) for x in by_batch) / 4
    assert float(similarity_order(a, b, users, "batch")) == pytest.approx(expected, rel=1e-6)


def test_a_user_alone_has_no_others_and_rows_of_one_user_are_none():
    a = torch.randn(4, 8, generator=rng(1), requires_grad=True)
    loss = similarity_order(a, torch.randn(4, 8, generator=rng(2)), torch.zeros(2, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss) and bool(torch.isfinite(a.grad).all())
    apart = similarity_order(a, torch.randn(4, 8, generator=rng(2)), torch.arange(2))
    assert float(apart.detach()) > float(loss.detach())  # others are nearer than -1


def test_the_objective_encodes_each_view_twice_from_the_history_itself():
    made, objective, (batch, _) = encoder(), AdaptSSR(), histories(1, users=5)
    got = float(objective.loss(learner(made), batch, rng(3)).detach())
    parts, order = views.augmented(batch, {"crop": 0.4, "mask": 0.6, "reorder": 0.6}, rng(3))
    z = torch.cat([made.vector(part) for part in parts])[order].detach()
    assert got == pytest.approx(float(similarity_order(z, z, torch.arange(5))), rel=1e-5)  # no dropout: own = 1
    made = encoder(dropout=0.3).train()
    torch.manual_seed(0)
    wet = float(objective.loss(learner(made), batch, rng(3)).detach())
    torch.manual_seed(0)
    first, second = (torch.cat([made.vector(part) for part in parts])[order].detach() for _ in range(2))
    assert not torch.equal(first, second)
    assert wet == pytest.approx(float(similarity_order(first, second, torch.arange(5))), rel=1e-5)


def test_a_user_without_events_has_no_part_in_it():
    made, (batch, _) = encoder(), histories(3, users=6)
    blank = Batch(batch.items, torch.tensor([12, 12, 12, 12, 12, 0]), users=batch.users)
    some = batch.of(torch.arange(5))
    assert torch.equal(*(AdaptSSR().loss(learner(made), one, rng()) for one in (blank, some)))


def trained(types: int, adapt: str, steps: int) -> float:
    """Share of new users whose nearest other user is of their own type, after so many steps."""
    made, objective, draw = encoder(dropout=0.1), AdaptSSR(adapt=adapt), rng(7)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        objective.loss(learner(made.train()), histories(step, types=types)[0], draw).backward()
        optimizer.step()
    batch, kind = histories(999, types=types)
    with torch.inference_mode():
        u = torch.nn.functional.normalize(made.eval().vector(batch), dim=1)
    nearest = (u @ u.T).fill_diagonal_(-2).argmax(1)
    labels = kind if types > 1 else torch.randint(4, (64,), generator=rng(5))
    return float((labels[nearest] == labels).float().mean())


@pytest.mark.parametrize("adapt", ["user", "batch"])
def test_it_finds_the_types_there_are(adapt):
    assert trained(4, adapt, 0) < 0.65  # means of item vectors drawn at random
    assert trained(4, adapt, 80) > 0.72


def test_it_finds_none_in_noise():
    assert trained(1, "user", 40) < 0.5  # chance is .25
