"""PTUM against a slow reference with the published vectors of places; who is a candidate; what it finds in a chain."""

from __future__ import annotations

import math

import pytest
import torch

from perdure.encoders.bert4rec import BERT4Rec
from perdure.encoders.sasrec import SASRec
from perdure.events.batch import Batch
from perdure.objectives.base import Learner
from perdure.objectives.ptum import PTUM

N, T, D = 10, 9, 12


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(kind: type = SASRec, **options) -> SASRec | BERT4Rec:
    made = kind(N, **{"width": D, "max_length": T, "dropout": 0.0, "readout": "attention", **options})
    made.reset(rng())
    with torch.no_grad():
        made.item_table[1:] += torch.randn(N + 1, D, generator=rng(5)) / 3
    return made


def learner(made, objective: PTUM) -> Learner:
    return Learner(made, made.vector, made.item_table, parts=objective.parts(made, None, rng(8)))


def histories(seed: int = 1) -> Batch:
    """Of 9, 2, 1, 3 and 6 events."""
    lengths = torch.tensor([9, 2, 1, 3, 6])
    return Batch(torch.randint(2, N + 2, (5, T), generator=rng(seed)), lengths, users=torch.arange(5))


def one(made, items: list[int]) -> torch.Tensor:
    """(d,) the vector of one history."""
    return made.vector(Batch(torch.tensor([items]), torch.tensor([len(items)])))[0].detach()


def slow(made, objective: PTUM, batch: Batch, masked, ahead, to_user: bool, seed: int) -> float:
    """L history by history, in numbers: `masked` (place) and `ahead` (k) give the vectors p."""
    histories = [row[:n] for row, n in zip(batch.items.tolist(), batch.lengths.tolist(), strict=True) if n > 1]
    kept = batch.of((batch.lengths > 1).nonzero().squeeze(1))
    draws, table, k_most = rng(seed), made.item_table.detach(), objective.following

    def choice(u, target, others, p):
        scores = [(u + p) @ table[j] if to_user else u @ (table[j] + p) for j in [target, *others]]
        wrong = [float(s) for s, j in zip(scores[1:], others, strict=True) if j != target]
        return math.log(sum(math.exp(s) for s in [float(scores[0]), *wrong])) - float(scores[0])

    lots = torch.rand(len(kept), generator=draws, dtype=torch.float64)
    places = [int(lot * len(history)) for lot, history in zip(lots.tolist(), histories, strict=True)]
    others = objective.candidates(kept, torch.arange(len(kept)), len(table), draws).tolist()
    mbp = [
        choice(one(made, [1 if t == m else i for t, i in enumerate(h)]), h[m], drawn, masked(m))
        for h, m, drawn in zip(histories, places, others, strict=True)
    ]
    asked = []
    for row, h in enumerate(histories):
        known = max(len(h) - k_most, 1)
        asked += [(row, one(made, h[:known]), h[known + k], k) for k in range(min(k_most, len(h) - known))]
    others = objective.candidates(kept, torch.tensor([row for row, *_ in asked]), len(table), draws).tolist()
    nbp = [choice(u, target, drawn, ahead(k)) for (_, u, target, k), drawn in zip(asked, others, strict=True)]
    return sum(mbp) / len(mbp) + objective.weight * sum(nbp) / len(nbp)


@pytest.mark.parametrize("made", [encoder(), encoder(readout="last"), encoder(BERT4Rec)], ids=["pool", "last", "both"])
@pytest.mark.parametrize("options", [{}, {"following": 3, "weight": 0.5}, {"others": "uniform", "negatives": 9}])
def test_the_loss_is_the_published_one_whatever_the_vectors_of_places(made, options):
    """Those of the reference are drawn at random and added to every candidate: they change nothing."""
    objective, p = PTUM(**options), torch.randn(2 * T, D, generator=rng(3))
    got = float(objective.loss(learner(made, objective), histories(), rng(4)).detach())
    assert learner(made, objective).parts is None
    reference = slow(made, objective, histories(), lambda m: p[m], lambda k: p[T + k], False, 4)
    assert got == pytest.approx(reference, rel=1e-4)


def test_vectors_of_places_that_are_added_to_the_user():
    made, objective = encoder(), PTUM(places="user", following=3)
    told = learner(made, objective)
    with torch.no_grad():
        told.parts.table.normal_(generator=rng(6))
    loss = objective.loss(told, histories(), rng(4))
    loss.backward()
    p = told.parts.table.detach()
    assert p.shape == (T + 2, D)

    def ahead(k):
        return torch.zeros(D) if k == 0 else p[T - 1 + k]  # the nearest has none: as items are ranked

    assert float(loss.detach()) == pytest.approx(
        slow(made, objective, histories(), lambda m: p[m], ahead, True, 4), rel=1e-4
    )
    assert bool(told.parts.table.grad[T:].any(1).all())


def test_candidates_are_events_of_others_each_as_likely():
    batch = histories()
    rows = torch.tensor([3, 0])
    marked = Batch(torch.arange(5 * T).view(5, T) + 2, batch.lengths)  # every event another item
    drawn = PTUM(negatives=20_000).candidates(marked, rows, 99, rng(1)) - 2
    for row, found in zip(rows.tolist(), drawn, strict=True):
        stands = marked.items[marked.valid] - 2
        expected = [e for e in stands.tolist() if e // T != row]
        counts = torch.bincount(found, minlength=5 * T)
        assert sorted(counts.nonzero().flatten().tolist()) == expected
        mean = 20_000 / len(expected)
        assert bool(((counts[expected] - mean).abs() < 5 * mean**0.5).all())


def test_a_history_alone_has_any_item_for_a_candidate():
    alone = histories().of(torch.tensor([0]))
    drawn = PTUM(negatives=5000).candidates(alone, torch.tensor([0]), N + 2, rng(1))
    assert set(drawn.flatten().tolist()) == set(range(2, N + 2))
    made, objective = encoder(), PTUM()
    assert torch.isfinite(objective.loss(learner(made, objective), alone, rng()))


def chained(seed: int, sure: float, users: int = 256) -> Batch:
    """Each item is followed by the next one with probability `sure`, else by any."""
    draw = rng(seed)
    items = torch.randint(N, (users, T + 2), generator=draw)
    for t in range(1, T + 2):
        follows = torch.rand(users, generator=draw) < sure
        items[:, t] = torch.where(follows, (items[:, t - 1] + 1) % N, items[:, t])
    return Batch(items + 2, torch.full((users,), T + 2), users=torch.arange(users))


def ranked(sure: float, steps: int, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Items of new users from the best on (500, N), and their next two (500, 2), after some steps."""
    made, objective, draw = encoder(readout="last", dropout=0.1), PTUM(negatives=16, **options), rng(7)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    for step in range(steps):
        optimizer.zero_grad()
        objective.loss(learner(made.train(), objective), chained(step, sure).upto(T), draw).backward()
        optimizer.step()
    asked = chained(999, sure, 500)
    with torch.inference_mode():
        scores = made.eval().vector(asked.upto(T)) @ made.item_table[2:].T  # (500, N)
    return scores.argsort(1, descending=True) + 2, asked.items[:, T:]


def test_it_finds_the_next_event_of_a_chain():
    found, following = ranked(0.9, 200, following=1)
    assert float((found[:, 0] == following[:, 0]).float().mean()) > 0.85  # the best possible is .91


def test_it_finds_the_next_two_events_of_a_chain():
    found, following = ranked(0.9, 200)
    first = (found[:, :2] == following[:, :1]).any(1).float().mean()
    second = (found[:, :2] == following[:, 1:]).any(1).float().mean()
    assert float(first) > 0.8 and float(second) > 0.5  # the best possible are .91 and .83, chance is .2


def test_it_finds_nothing_in_noise():
    found, following = ranked(0.0, 60)
    assert float((found[:, 0] == following[:, 0]).float().mean()) < 1 / N + 4 * math.sqrt(1 / N / 500)
