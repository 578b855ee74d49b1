"""LURM: clusters that are known, bags counted by hand, the reading against plain loops; what the contrast finds in a
world of types and in one without, and what of it a saved model keeps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import members

from perdure import registry
from perdure.encoders.smen import SMEN, training_events
from perdure.errors import ModelError, SettingsError, UsageError
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences, Task, TaskData
from perdure.events.ids import Ids
from perdure.events.marks import Marks
from perdure.functional.clustering import k_means, nearest, neighbour_vectors, positive_factors
from perdure.model import store
from perdure.objectives.base import Learner
from perdure.objectives.lurm import Lurm
from perdure.objectives.parts import agreement

N, T, TYPES = 40, 24, 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(dropout: float = 0.0, **options) -> SMEN:
    encoder = SMEN(N, width=16, max_length=T, dropout=dropout, **{"interests": 4, "scales": (1, 3), **options})
    encoder.reset(rng())
    return encoder


def walks(seed: int, users: int, types: int = TYPES) -> tuple[torch.Tensor, torch.Tensor]:
    """Type (users,), and items (users, T) of each user's own part of the catalogue; one type: nobody differs."""
    draw = rng(seed)
    kind = torch.randint(types, (users,), generator=draw)
    return kind, 2 + kind[:, None] * (N // types) + torch.randint(N // types, (users, T), generator=draw)


def told(items: torch.Tensor) -> TaskData:
    """A task whose training users are all of these but the last, and whose first user's first event is not trained."""
    users, starts = len(items) - 1, np.arange(len(items) + 1, dtype=np.int64) * T
    begin = starts[:users] + (np.arange(users) == 0)
    train = Examples(np.arange(users, dtype=np.int32), begin, starts[1 : users + 1])
    labels = Ids([f"i{i:02d}" for i in range(N)])
    sequences = Sequences(items.numpy().ravel().astype(np.int32), starts)
    rows = np.arange(2, N + 2, dtype=np.int32)
    return TaskData(Task("watch", "next_item"), sequences, labels, rows, train, train, train)


# -- items to interests ------------------------------------------------------------------------------------------------


def test_neighbours_by_a_slow_reference():
    """The same factors as those of the whole matrix, counted pair by pair."""
    draw = rng(1)
    owners, items = torch.arange(60).repeat_interleave(8), torch.randint(12, (480,), generator=draw)
    items = (items + owners * 3) % 12  # neighbours differ from chance
    counts = torch.zeros(12, 12, dtype=torch.float64)
    for e in range(480):
        for f in range(max(0, e - 2), min(480, e + 3)):
            if e != f and owners[e] == owners[f] and items[e] != items[f]:
                counts[items[e], items[f]] += 1
    alone = counts.sum(1)
    ppmi = (counts * counts.sum() / (alone[:, None] * alone)).log().clamp(min=0)
    size, turned = torch.linalg.eigh(ppmi)
    expected = torch.nn.functional.normalize(turned[:, -5:] * size[-5:].clamp(min=0).sqrt(), dim=1).float()
    found = neighbour_vectors(items, owners, 12, 5, 2, rng())
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [8, 40, 120])
def test_factors_hold_the_positive_part_though_most_large_eigenvalues_are_negative(width):
    """Eigenvalues as those of PPMI: one large, and more of the others below zero than above."""
    basis = torch.linalg.qr(torch.randn(120, 120, generator=rng(2))).Q
    size = torch.cat([torch.linspace(-8, -0.1, 70), torch.linspace(0.1, 5, 49), torch.tensor([50.0])])
    whole = basis * size @ basis.T
    found = positive_factors(whole.__matmul__, 120, width, rng())
    assert found.shape == (120, width)
    assert int((found.abs().amax(0) > 1e-6).sum()) == min(width, 50)
    best = size[-width:].clamp(min=0).sum().item()
    assert 0.99 * best < found.square().sum().item() <= best * (1 + 1e-4)  # the sum of the eigenvalues held


def test_an_item_without_neighbours_has_no_vector():
    items, owners = torch.tensor([0, 1, 0, 1, 2, 3]), torch.tensor([0, 0, 1, 1, 2, 3])
    assert neighbour_vectors(items, owners, 5, 3, 5, rng()).any(1).tolist() == [True, True, False, False, False]
    assert not neighbour_vectors(items[4:], owners[4:], 5, 3, 5, rng()).any()


def test_centres_find_the_clusters_there_are():
    middle = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    mine = torch.arange(300) % 3
    x = middle[mine] + torch.randn(300, 2, generator=rng())
    centres = k_means(x, 3, rng())
    order = nearest(middle, centres)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(centres[order], torch.stack([x[mine == k].mean(0) for k in range(3)]), rtol=0, atol=0.3)
    assert torch.equal(order[mine], nearest(x, centres))
    assert nearest(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0]])).item() == 0  # as near: the first


def test_items_of_a_type_are_one_interest_and_an_item_never_met_is_none():
    items = walks(0, 200)[1]
    items[items == 9] = 8  # item row 9 is never met
    encoder = made()
    encoder.study(told(items), rng(5))
    found = encoder.interest_of
    assert found[:2].tolist() == [0, 0] and found[9].item() == 0
    assert [len(set(found[2 + k : 12 + k].tolist()) - {0}) for k in (0, 10, 20, 30)] == [1] * 4
    assert set(found[2:].tolist()) == {0, 2, 3, 4, 5}
    twin = made()
    twin.study(told(items), rng(5))
    assert torch.equal(twin.interest_of, found)


def test_given_vectors_are_clustered_and_an_item_never_met_takes_the_nearest():
    items = walks(0, 200)[1]
    items[items == 9] = 8
    vectors = np.zeros((N + 2, 3), np.float32)
    vectors[2:, 0] = np.arange(N) // 10
    vectors[41] = 0  # of one, nothing is known
    encoder = made()
    encoder.read(Marks(width=3, vectors=vectors))
    encoder.study(told(items), rng())
    found = encoder.interest_of
    assert found[9] == found[8] and len(set(found[12:22].tolist())) == 1 and found[41].item() == 0
    with pytest.raises(SettingsError, match="names more of an event"):
        encoder.read(Marks(gaps=4))


def test_only_training_events_are_studied():
    items = walks(0, 5)[1]
    found, owners = training_events(told(items))
    assert found.tolist() == items[:4].flatten().tolist()[1:]
    assert owners.tolist() == [0] * (T - 1) + [1] * T + [2] * T + [3] * T


def test_where_nothing_is_learned_of_items_each_is_its_own_interest():
    encoder = made(interests=64)
    lone = told(walks(0, 3)[1])
    empty = replace(lone, train=Examples(lone.train.users[:0], lone.train.begin[:0], lone.train.end[:0]))
    encoder.study(empty, rng())
    assert encoder.interest_of[2:].tolist() == list(range(2, N + 2))


# -- bags, and how they are read ---------------------------------------------------------------------------------------


def histories() -> Batch:
    lengths = torch.tensor([T, 7, 2, 1, 0])
    items = torch.randint(2, N + 2, (5, T), generator=rng(4)) * (torch.arange(T) < lengths[:, None])
    return Batch(items, lengths, torch.randint(0, 500, (5, T), generator=rng(5)).cumsum(1))


def test_windows_by_hand():
    items = torch.ones(3, 7, dtype=torch.long) * 2
    batch = Batch(items, torch.tensor([7, 2, 0]), torch.tensor([[0, 10, 20, 29, 30, 58, 59]] * 3))
    by_events, by_time = made(), made(windows="time")
    assert by_events.places(batch, 3)[0].tolist() == [0, 0, 1, 1, 2, 2, 2]  # a third of 7 from the newest on
    assert by_events.places(batch, 3)[1, :2].tolist() == [1, 2]  # fewer events than windows: the last ones
    assert by_time.places(batch, 3)[0].tolist() == [0, 0, 1, 1, 1, 2, 2]  # 60 seconds: 0-19, 20-39, 40-59
    assert by_time.places(batch, 6)[0].tolist() == [0, 1, 2, 2, 3, 5, 5]
    with pytest.raises(UsageError, match="have no times"):
        by_time.places(replace(batch, times=None), 3)


@pytest.mark.parametrize("windows", ["events", "time"])
def test_bags_are_counts_of_interests(windows):
    encoder, batch = made(windows=windows), histories()
    bags = encoder.bags(batch)
    assert bags.counts.sum(1).tolist() == (2 * batch.lengths).tolist()  # every event once at each scale
    for user, n in enumerate(batch.lengths.tolist()):
        expected = Counter()
        for begin, k in ((0, 1), (1, 3)):
            places = encoder.places(batch, k)[user]
            expected.update((begin + int(places[t]), int(encoder.interest_of[batch.items[user, t]])) for t in range(n))
        rows = zip(*(field[user].tolist() for field in bags), strict=True)
        assert {(window, interest): count for interest, window, count in rows if count} == expected


@pytest.mark.parametrize("weight", ["log", "count", "once"])
def test_the_reading_by_plain_loops(weight):
    encoder, batch = made(weight=weight, anchors=2).eval(), histories()
    e, a = encoder.layers["input"].items.detach() * 4, encoder.layers["bags"]  # scaled by sqrt(16)
    of = {"log": lambda c: math.log(1 + c), "count": float, "once": lambda c: 1.0}[weight]
    bags, rows = encoder.bags(batch), []
    for user in range(len(batch)):
        windows = []
        for window in range(4):
            bag = [(v, c) for v, w, c in zip(*(f[user].tolist() for f in bags), strict=True) if c and w == window]
            read = []
            for q in a.queries.detach():
                z, shares = torch.zeros(16), [math.exp(float(q @ e[v]) / 4) for v, _ in bag]
                for (v, c), share in zip(bag, shares, strict=True):
                    z = z + share / sum(shares) * of(c) * e[v]
                read.append(z)
            windows.append(a.map(torch.cat(read)))
        scales = enumerate((windows[:1], windows[1:]))
        ends = [encoder.layers[f"scale{i}/gru"].gru(torch.stack(w))[1][0] for i, w in scales]
        rows.append(encoder.layers["norm"](encoder.layers["scales"].map(torch.cat(ends))))
    torch.testing.assert_close(encoder.vector(batch), torch.stack(rows), rtol=1e-4, atol=1e-5)


def test_a_bag_does_not_grow_with_the_history():
    encoder = made()
    long = Batch(torch.randint(2, N + 2, (1, 100_000), generator=rng()), torch.tensor([100_000]))
    bags = encoder.bags(long)
    assert bags.interests.shape[1] == 4 * 4  # windows x interests
    assert torch.isfinite(encoder.vector(long)).all()


# -- the objective -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", ["parts", "samples"])
def test_the_loss_is_that_of_two_samples(views):
    encoder, objective, batch = made(), Lurm(views=views, tau=0.2), histories()
    got = objective.loss(Learner(encoder, encoder.vector, encoder.item_table), batch, rng(3)).detach()
    a, b = (encoder.vector(view).detach() for view in objective.pair(batch.of(torch.arange(4)), rng(3)))

    def one_way(x, y):
        cosines = [[float(torch.cosine_similarity(x[u], y[v], dim=0)) / 0.2 for v in range(4)] for u in range(4)]
        return -sum(row[u] - math.log(sum(map(math.exp, row))) for u, row in enumerate(cosines)) / 4

    assert float(got) == pytest.approx((one_way(a, b) + one_way(b, a)) / 2, rel=1e-5)


def test_parts_are_the_history_divided():
    batch = histories()
    ordered = replace(batch, items=torch.arange(2, T + 2).repeat(5, 1) * batch.valid)
    one, other = Lurm().pair(ordered, rng())
    for user, n in enumerate(batch.lengths.tolist()):
        a = one.items[user, : one.lengths[user]].tolist()
        b = other.items[user, : other.lengths[user]].tolist()
        assert a == sorted(a) and b == sorted(b) and sorted(a + b) == list(range(2, n + 2)) + [2] * (n == 1)
        assert len(a) == (n + 1) // 2
    sample, _ = Lurm(views="samples", share=0.3).pair(ordered, rng())
    assert sample.lengths.tolist() == [8, 3, 1, 1, 0]
    assert not torch.equal(sample.items, Lurm(views="samples", share=0.3).pair(ordered, rng(1))[0].items)


def tastes(seed: int, users: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Items (users, T) of the four that each user likes, drawn for each user."""
    draw = rng(seed)
    liked = torch.rand(users, N, generator=draw).argsort(1)[:, :4]  # (users, 4)
    return torch.arange(users), 2 + liked.gather(1, torch.randint(4, (users, T), generator=draw))


def trained(world, **options) -> tuple[float, float]:
    """Share of held-out users whose nearest other user is of their kind, and the agreement of their halves."""
    encoder, objective, draw = made(dropout=0.1, **options), Lurm(), rng(7)
    encoder.study(told(world(0, 300)[1]), rng())
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    learner = Learner(encoder.train(), encoder.vector, encoder.item_table)
    for step in range(60):
        optimizer.zero_grad()
        objective.loss(learner, Batch(world(step + 1, 32)[1], torch.full((32,), T)), draw).backward()
        optimizer.step()
    kind, items = world(999, 64)
    asked = Batch(items, torch.full((64,), T))
    with torch.inference_mode():
        encoder.eval()
        u = torch.nn.functional.normalize(encoder.vector(asked), dim=1)
        agrees = objective.judge(learner, asked, draw)
    other = (u @ u.T).fill_diagonal_(-2).argmax(1)
    return float((kind[other] == kind).float().mean()), float(agrees.mean())


def test_it_finds_the_types_there_are():
    assert trained(walks)[0] > 0.95


def test_it_finds_users_by_their_tastes():
    assert trained(tastes, interests=N)[1] > 0.8


def test_it_finds_nothing_in_noise():
    labels = torch.randint(TYPES, (64,), generator=rng(5))
    found, agrees = trained(lambda seed, users: (labels, walks(seed, users, 1)[1]), interests=20)
    assert found < 1 / TYPES + 4 * math.sqrt(3 / 16 / 64) and agrees < 1 / 64 + 4 * math.sqrt(1 / 64 / 64)


def test_agreement_of_equal_vectors_is_none():
    assert agreement(torch.ones(3, 2), torch.ones(3, 2)).tolist() == [0, 0, 0]


# -- the model ---------------------------------------------------------------------------------------------------------


def test_interests_are_saved_and_checked(tmp_path):
    model = members.new_model("smen", "frozen", encoder={"interests": 5})
    model.backbone.interest_of[2:] = torch.randint(2, 7, (members.N,), generator=rng())
    members.learn(model, "watch", "next_item")
    store.save(model, tmp_path / "model")
    again = store.load(tmp_path / "model", registry.find)
    assert torch.equal(again.backbone.interest_of, model.backbone.interest_of)
    model.backbone.interest_of[3] = 7  # of 2 to 6
    store.save(model, tmp_path / "bad")
    with pytest.raises(ModelError, match="interest is none of the table"):
        store.load(tmp_path / "bad", registry.find)


def test_what_learns_states_refuses_it():
    with pytest.raises(SettingsError, match="trains the state at each event"):
        members.new_model("smen", "frozen", objective="masked_item")
    with pytest.raises(SettingsError, match="scales"):
        made(scales=())
