"""UPRec against a slow reference, and what it learns in a world where users differ, and in one where they do not."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from perdure.encoders.bert4rec import BERT4Rec
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences
from perdure.events.friends import Friends
from perdure.events.ids import Ids
from perdure.events.profiles import Fields, Profiles
from perdure.objectives.base import Learner
from perdure.objectives.masked_item import MaskedItem
from perdure.objectives.uprec import UPRec, alike, near_by_square

N, T, TYPES, HELD = 40, 8, 4, 96
FIELDS = Fields({"region": Ids(["n", "s", "w"], first=1), "age": Ids(["20", "30", "70"], first=1)})


def encoder(dropout: float = 0.0) -> BERT4Rec:
    made = BERT4Rec(N, width=16, max_length=T, dropout=dropout)
    made.reset(torch.Generator().manual_seed(0))
    return made


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(objective: UPRec, made: BERT4Rec, fields: Fields | None) -> Learner:
    parts = objective.parts(made, fields, rng(1))
    return Learner(made, lambda batch: made.vector(made.question(batch)), made.item_table, parts=parts)


def maps_of(view: Learner) -> list[torch.nn.Linear]:
    return [attribute.map for attribute in view.parts.attributes]


def data(items: np.ndarray, train: np.ndarray, friends: Friends | None, profiles: Profiles | None) -> SimpleNamespace:
    """As much of TaskData as the objective reads: histories (U, T), and the users to learn from."""
    starts = np.arange(len(items) + 1, dtype=np.int64) * items.shape[1]
    examples = Examples(train.astype(np.int32), starts[train], starts[train + 1])
    return SimpleNamespace(
        train=examples, sequences=Sequences(items.ravel(), starts), friends=friends, profiles=profiles
    )


def batch_of(items: np.ndarray, users: np.ndarray, profiles: Profiles | None) -> Batch:
    rows = None if profiles is None else profiles.of(users).tensors()[0]
    lengths = torch.full((len(users),), items.shape[1])
    return Batch(torch.from_numpy(items[users]).long(), lengths, users=torch.from_numpy(users), profile=rows)


def small() -> tuple[np.ndarray, Friends, Profiles]:
    """Six users: 0-1-2 and 3-4-5 are chains of friends, 0 and 3 know nobody else."""
    draw = np.random.default_rng(3)
    items = draw.integers(2, N + 2, (6, T)).astype(np.int32)
    friends = Friends.of(np.array([0, 1, 3, 4]), np.array([1, 2, 4, 5]), 6)
    rows = np.array([[1, 1], [0, 2], [2, 0], [1, 1], [3, 3], [2, 3]], np.int32)
    return items, friends, Profiles(FIELDS, rows, np.zeros((6, 0), np.float32))


def test_attributes_are_told_by_cross_entropy_and_huber():
    items, _, profiles = small()
    made, objective = encoder(), UPRec(friends=0.0, item=0.5, attributes=2.0, numbers=["age"], delta=0.7)
    objective.prepare(torch.ones(N), data(items, np.arange(6), None, profiles))
    view, batch = learner(objective, made, FIELDS), batch_of(items, np.arange(6), profiles)
    with torch.no_grad():
        for linear in maps_of(view):
            linear.weight.normal_(generator=rng(2))
            linear.bias.normal_(generator=rng(3))
    got = float(objective.loss(view, batch, rng(4)).detach())

    h = made(batch).detach().double()  # (6, T, d)
    u = [[max(float(h[b, t, j]) for t in range(T)) for j in range(16)] for b in range(6)]
    region, age = ((m.weight.tolist(), m.bias.tolist()) for m in maps_of(view))
    mean, spread = 40.0, math.sqrt((20**2 + 10**2 + 30**2) / 3)
    target = {1: (20 - mean) / spread, 2: (30 - mean) / spread, 3: (70 - mean) / spread}
    entropy, huber = [], []
    for b in range(6):
        where, how_old = profiles.rows[b].tolist()
        score = [dot(w, u[b]) + bias for w, bias in zip(*region, strict=True)]
        if where:
            entropy.append(math.log(sum(map(math.exp, score))) - score[where - 1])
        if how_old:
            e = abs(dot(age[0][0], u[b]) + age[1][0] - target[how_old])
            huber.append(0.5 * e * e if e <= 0.7 else 0.7 * (e - 0.35))
    assert len(entropy) == len(huber) == 5
    masked = float(MaskedItem().loss(view, batch, rng(4)).detach())
    expected = 0.5 * masked + 2.0 * (sum(entropy) / 5 + sum(huber) / 5)
    assert got == pytest.approx(expected, rel=1e-5)


def test_a_friend_is_told_from_those_who_are_not_near():
    items, friends, profiles = small()
    made, objective = encoder(), UPRec(item=0.0, attributes=0.0, friends=3.0)
    objective.prepare(torch.ones(N), data(items, np.arange(5), friends, profiles))  # user 5 may not be read
    view, users = learner(objective, made, FIELDS), np.array([0, 1, 2, 3, 4])
    with torch.no_grad():
        view.parts.distance.normal_(generator=rng(2))
    got = float(objective.loss(view, batch_of(items, users, profiles), rng(4)).detach())

    u = made(batch_of(items, np.arange(6), None)).detach().double().amax(1)  # (6, d)
    w = view.parts.distance.detach().double()
    lots = torch.rand(5, generator=rng(4), dtype=torch.float64).tolist()
    drawn = {0: 1, 1: [0, 2][lots[1] >= 0.5], 2: 1, 3: 4, 4: 3}
    same = {(a, b) for a in range(6) for b in range(6) if a != b and alike_by_hand(profiles.rows[a], profiles.rows[b])}
    near = {(a, b) for chain in ((0, 1, 2), (3, 4, 5)) for a in chain for b in chain} | same
    total = 0.0
    for a, c in drawn.items():
        candidates = [c, *(other for q, other in drawn.items() if q != a and (a, other) not in near)]
        sims = [-float((w * (u[a] - u[x]) ** 2).sum()) for x in candidates]
        total += math.log(sum(map(math.exp, sims))) - sims[0]
    assert got == pytest.approx(3.0 * total / 5, rel=1e-5)
    assert total > 1.0  # somebody was a negative


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def alike_by_hand(a: np.ndarray, b: np.ndarray) -> bool:
    both = [(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True) if x and y]
    return bool(both) and all(x == y for x, y in both)


def test_near_identical_profiles():
    a = torch.tensor([[1, 2, 3], [1, 0, 0], [0, 0, 0]])
    b = torch.tensor([[1, 2, 4], [2, 2, 3], [1, 2, 3]])
    assert alike(a, b, 1.0).tolist() == [[False, False, True], [True, False, True], [False, False, False]]
    assert alike(a, b, 0.6).tolist() == [[True, True, True], [True, False, True], [False, False, False]]


def test_who_is_near_is_no_negative_and_the_own_friend_always_counts():
    u, c = torch.randn(3, 4, generator=rng()), torch.randn(3, 4, generator=rng(1))
    weight = torch.ones(4)
    everyone = torch.ones(3, 3, dtype=torch.bool)
    assert float(near_by_square(u, c, weight, everyone)) == 0.0
    sims = -((u[:, None] - c) ** 2).sum(-1)
    expected = -sims.log_softmax(1).diagonal().mean()
    assert torch.allclose(near_by_square(u, c, weight, ~everyone), expected, atol=1e-5)


def test_a_batch_without_friends_or_attributes_is_masked_items():
    items, friends, profiles = small()
    made, objective = encoder(), UPRec()
    objective.prepare(torch.ones(N), data(items, np.arange(6), friends, profiles))
    unknown = Profiles(FIELDS, np.zeros((6, 2), np.int32), profiles.vectors)
    view, batch = learner(objective, made, FIELDS), batch_of(items, np.array([0]), unknown)
    assert torch.equal(objective.loss(view, batch, rng(4)), MaskedItem().loss(view, batch, rng(4)))


def test_what_cannot_be_told_is_refused():
    made = encoder()
    with pytest.raises(SettingsError, match="no profile field 'sex'"):
        UPRec(fields=["sex"]).parts(made, FIELDS, rng())
    with pytest.raises(SettingsError, match="values of region are no numbers"):
        UPRec(numbers=["region"]).parts(made, FIELDS, rng())
    items, _, _ = small()
    with pytest.raises(SettingsError, match="nothing is told of users"):
        UPRec().prepare(torch.ones(N), data(items, np.arange(6), None, None))


# -- a world whose answer is known -----------------------------------------------------------------------------------


def world(types: int, users: int) -> tuple[np.ndarray, np.ndarray, Friends]:
    """A user's type is the region, says who is a friend, and with several types says what is taken; with one, nothing
    can be told from a history."""
    draw = np.random.default_rng(5)
    kind = draw.integers(0, TYPES, users)
    span = N // types
    taken = 2 + (kind % types)[:, None] * span + draw.integers(0, span, (users, T))
    a = np.repeat(np.arange(users), 3)
    of_kind = [np.flatnonzero(kind == k) for k in range(TYPES)]
    b = np.array([draw.choice(of_kind[kind[u]]) for u in a])
    return taken.astype(np.int32), kind, Friends.of(a, b, users)


def trained(types: int, **weights: float) -> tuple[BERT4Rec, Learner, np.ndarray, np.ndarray]:
    """The model after some steps, its learner, and the histories and types of users it has not met."""
    users = 400
    items, kind, friends = world(types, users + HELD)
    fields = Fields({"kind": Ids([str(k) for k in range(TYPES)], first=1)})
    profiles = Profiles(fields, (kind + 1)[:, None].astype(np.int32), np.zeros((users + HELD, 0), np.float32))
    made, objective = encoder(dropout=0.1), UPRec(**weights, alike=None)
    objective.prepare(torch.ones(N), data(items, np.arange(users), friends, profiles))
    view, draw, order = learner(objective, made.train(), fields), rng(7), np.random.default_rng(0)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([*made.parameters(), *view.parts.parameters()], lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        objective.loss(view, batch_of(items, order.choice(users, 64, replace=False), profiles), draw).backward()
        optimizer.step()
    made.eval()
    return made, view, items[users:], kind[users:]


@pytest.mark.parametrize(("types", "least", "most"), [(TYPES, 0.97, 1.0), (1, 0.0, 0.45)], ids=["there", "noise"])
def test_an_attribute_is_found_where_there_is_one(types, least, most):
    made, view, items, kind = trained(types, friends=0.0)
    with torch.no_grad():
        u = made(batch_of(items, np.arange(HELD), None)).amax(1)
        right = (maps_of(view)[0](u).argmax(1).numpy() == kind).mean()
    assert least <= right <= most  # chance is 0.25 and its standard error 0.044


@pytest.mark.parametrize(("types", "least", "most"), [(TYPES, 0.95, 1.0), (1, 0.0, 0.45)], ids=["there", "noise"])
def test_friends_are_found_where_tastes_are_theirs(types, least, most):
    made, view, items, kind = trained(types, attributes=0.0)
    with torch.no_grad():
        u = made(batch_of(items, np.arange(HELD), None)).amax(1)
        scaled = (u[:, None] - u).square() @ view.parts.distance + torch.eye(HELD) * 1e9
    right = (kind[scaled.argmin(1).numpy()] == kind).mean()
    assert least <= right <= most
