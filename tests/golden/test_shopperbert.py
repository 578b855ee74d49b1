"""ShopperBERT against a slow reference, and how much it can tell where there is something to tell, and where not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from perdure.encoders.bert4rec import BERT4Rec
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.events.ids import Ids
from perdure.events.marks import Marks
from perdure.objectives.base import Learner
from perdure.objectives.shopperbert import ShopperBERT

N, T, KINDS = 40, 10, 4
ROWS = np.concatenate([[0, 0], 1 + np.arange(N) // (N // KINDS)])  # (N + 2,) a kind is ten items
TAGS = np.stack([1 + np.arange(N + 2) % 3, (np.arange(N + 2) % 2) * 3], 1)  # (N + 2, 2) one tag or two
MARKS = Marks(
    {"basket": Ids(["a", "b"], first=1)},
    dates=("hour", "weekday"),
    gaps=3,
    items={"kind": Ids(list("wxyz"), first=1), "tag": Ids(list("pqr"), first=1)},
    places=(0, 1, 1),
    ids=False,
    attributes=np.column_stack([ROWS, TAGS * (np.arange(N + 2) > 1)[:, None]]).astype(np.int32),
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(
    objective: ShopperBERT, dropout: float = 0.0, readout: str = "mean", marks: Marks = MARKS
) -> tuple[BERT4Rec, Learner]:
    encoder = BERT4Rec(N, width=16, max_length=T, dropout=dropout, readout=readout)
    encoder.read(marks)
    objective.read(marks)
    encoder.reset(rng(1))
    parts = objective.parts(encoder, None, rng(2))
    return encoder, Learner(encoder, encoder.vector, encoder.item_table, parts=parts)


def log(users: int, seed: int = 0) -> Batch:
    """Any purchases, some of whose dates are not told."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, T + 1, users)
    lengths[0] = T
    there = np.arange(T) < lengths[:, None]
    items = draw.integers(2, N + 2, (users, T)) * there
    marks = np.stack([draw.integers(0, size, (users, T)) for size in MARKS.sizes], -1) * there[..., None]
    return Batch(*map(torch.from_numpy, (items, lengths)), marks=torch.from_numpy(marks))


def test_the_loss_is_the_mean_of_the_heads():
    objective, batch = ShopperBERT(crop=1.0, shuffle=0.0, rate=0.4), log(6)
    encoder, learner = made(objective)
    with torch.no_grad():
        for linear in learner.parts.maps:
            linear.weight.normal_(generator=rng(3))
            linear.bias.normal_(generator=rng(4))
    got = float(objective.loss(learner, batch, rng(5)).detach())

    after = rng(5)
    torch.rand((), generator=after)  # the share of the crop
    masked = objective.masked.draw(batch, after)
    h = encoder(batch.hidden(masked, 1)).detach()
    maps = [(m.weight.detach().double(), m.bias.detach().double()) for m in learner.parts.maps]
    losses: list[list[float]] = [[] for _ in maps]
    for b, t in masked.nonzero().tolist():
        item, (_, hour, weekday, _) = int(batch.items[b, t]), batch.marks[b, t].tolist()
        kind, *tags = MARKS.attributes[item].tolist()
        for head, targets in enumerate([[kind], tags, [hour], [weekday]]):
            weight, bias = maps[head]
            scores = weight @ h[b, t].double() + bias
            losses[head] += [float(scores.logsumexp(0) - scores[y - 1]) for y in targets if y]
    assert [len(w) for w, _ in maps] == [4, 3, 24, 7] and all(losses)
    assert got == pytest.approx(sum(sum(one) / len(one) for one in losses) / 4, rel=1e-5)


def test_what_is_hidden_is_not_read():
    """Kind, tags and dates of a masked purchase change nothing that its state tells."""
    objective, batch = ShopperBERT(crop=1.0, shuffle=0.0), log(6)
    _, learner = made(objective)
    state, _, _ = objective.read_masked(learner, batch, rng(5))
    masked = objective.masked.draw(batch, rng(5))
    other = replace(
        batch,
        items=torch.where(masked, batch.items % N + 2, batch.items),
        marks=torch.where(masked[..., None], 1, batch.marks),
    )
    again, _, _ = objective.read_masked(learner, other, rng(5))
    assert torch.equal(state, again)


def test_a_view_keeps_a_run_of_the_log_and_dates_go_with_their_purchases():
    batch = log(40)
    told = {
        (b, int(i), *m) for b in range(40) for i, m in zip(batch.items[b], batch.marks[b].tolist(), strict=True) if i
    }
    view = ShopperBERT(crop=0.5, shuffle=1.0).view(batch, rng(1))
    assert bool((view.lengths <= batch.lengths).all()) and bool((2 * view.lengths >= batch.lengths).all())
    shown = [
        (b, int(i), *m) for b in range(40) for i, m in zip(view.items[b], view.marks[b].tolist(), strict=True) if i
    ]
    assert set(shown) <= told and len(shown) >= int(view.lengths.sum())
    plain = ShopperBERT(crop=1.0, shuffle=0.0).view(batch, rng(1))
    assert torch.equal(plain.items, batch.items) and not torch.equal(view.items[:, :3], batch.items[:, :3])


def test_the_measure_by_hand():
    """Heads that always tell kind w, tag q, hour 1 and weekday 1; of the tags of an item each is right."""
    objective = ShopperBERT(rate=0.99)
    _, learner = made(objective)
    with torch.no_grad():
        for linear, best in zip(learner.parts.maps, (0, 1, 0, 0), strict=True):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.bias[best] = 1.0
    items = torch.tensor([[2, 3], [12, 3], [4, 0], [4, 0]])
    marks = torch.tensor(
        [[[0, 1, 2, 0], [0, 1, 1, 0]], [[0, 0, 0, 0], [0, 0, 2, 0]], [[0, 5, 1, 0], [0, 0, 0, 0]], [[0] * 4] * 2]
    )
    batch = Batch(items, torch.tensor([2, 2, 1, 0]), marks=marks)
    kinds = [[1, 1], [0, 1], [1]]
    tags = [[int(2 in TAGS[i]) for i in row if i] for row in items[:3].tolist()]
    dates = [[1, 0, 1, 1], [0], [0, 1]]  # of those told
    wanted = [
        (sum(k) + sum(t) + sum(d)) / (len(k) + len(t) + len(d)) for k, t, d in zip(kinds, tags, dates, strict=True)
    ]
    assert objective.judge(learner, batch, rng()).tolist() == pytest.approx([*wanted, 0.0])


def test_nothing_to_mask_is_refused():
    for marks in (Marks(), Marks({"basket": Ids(["a"], first=1)}, gaps=3)):
        objective = ShopperBERT()
        objective.read(marks)
        with pytest.raises(SettingsError, match="nothing is told of events that could be masked"):
            objective.parts(BERT4Rec(N), None, rng())


@pytest.mark.parametrize("readout", ["attention", "anchors"])
def test_a_readout_that_would_not_learn_is_refused(readout):
    """The loss reads the states of masked purchases, never the readout's own weights."""
    with pytest.raises(SettingsError, match=f"readout '{readout}' has weights"):
        ShopperBERT().suits(BERT4Rec(N, width=16, max_length=T, readout=readout))
    ShopperBERT().suits(BERT4Rec(N, width=16, max_length=T, readout="max"))


@pytest.mark.parametrize("readout", ["mean", "last"])
def test_both_readouts_give_user_vectors(readout):
    encoder, learner = made(ShopperBERT(), readout=readout)
    batch = log(5)
    assert learner.vector(encoder.question(batch)).shape == (5, 16)


# -- a world whose answer is known -----------------------------------------------------------------------------------

SURE = 0.8  # of a purchase's kind, and of its hour, given what kind of user it is


def world(users: int, seed: int, types: int) -> Batch:
    """A purchase is of the user's own kind and hour with probability SURE, else any; with one type always any."""
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, KINDS, (users, 1)) if types > 1 else draw.integers(0, KINDS, (users, T))
    kind = np.where(draw.random((users, T)) < SURE, kind, draw.integers(0, KINDS, (users, T)))
    own = draw.integers(0, KINDS, (users, 1)) if types > 1 else draw.integers(0, KINDS, (users, T))
    hour = np.where(draw.random((users, T)) < SURE, own, draw.integers(0, KINDS, (users, T)))
    items = 2 + kind * (N // KINDS) + draw.integers(0, N // KINDS, (users, T))
    return Batch(torch.from_numpy(items), torch.full((users,), T), marks=torch.from_numpy(1 + hour[..., None]))


@pytest.mark.parametrize("types", [KINDS, 1], ids=["there", "noise"])
def test_it_tells_what_can_be_told_and_no_more(types):
    marks = replace(
        MARKS,
        events={},
        dates=("hour",),
        gaps=0,
        items={"kind": MARKS.items["kind"]},
        places=(0,),
        attributes=ROWS[:, None].astype(np.int32),
    )
    objective = ShopperBERT(rate=0.2)
    encoder, learner = made(objective, dropout=0.1, marks=marks)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([*encoder.train().parameters(), *learner.parts.parameters()], lr=3e-3)
    draw = rng(7)
    for step in range(120):
        optimizer.zero_grad()
        objective.loss(learner, world(64, step, types), draw).backward()
        optimizer.step()
    encoder.eval()
    with torch.no_grad():
        got = float(objective.judge(learner, world(600, 999, types), rng(1)).mean())
    best = SURE + (1 - SURE) / KINDS if types > 1 else 1 / KINDS  # who knows the user; who can but guess
    spread = math.sqrt(best * (1 - best) / (600 * 4))  # two masked purchases a user, two parts each
    assert abs(got - best) < 4 * spread
