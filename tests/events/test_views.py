"""Views keep a user's events, and as many of them as they say."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.events import views
from perdure.events.batch import Batch

LENGTHS = [10, 7, 1, 0, 4]


def histories() -> Batch:
    """Events 2, 3, 4, ... of each user, at times ten times their number."""
    lengths = torch.tensor(LENGTHS)
    valid = torch.arange(10) < lengths[:, None]
    items = (torch.arange(10) + 2 + 100 * torch.arange(5)[:, None]) * valid
    return Batch(items, lengths, 10 * items)


def rows(batch: Batch) -> list[list[int]]:
    return [row[:n] for row, n in zip(batch.items.tolist(), batch.lengths.tolist(), strict=True)]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_a_crop_is_a_run_of_the_history_with_its_times(seed, share):
    whole, cut = histories(), views.crop(histories(), share, rng(seed))
    for before, after in zip(rows(whole), rows(cut), strict=True):
        assert len(after) == min(-int(-len(before) * share // 1), len(before))  # ceil
        assert not after or after == before[before.index(after[0]) :][: len(after)]
    at = cut.valid
    assert torch.equal(cut.times[at], 10 * cut.items[at])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 0.99))
def test_a_mask_hides_its_share_and_nothing_else(seed, share):
    whole, hidden = histories(), views.mask(histories(), share, rng(seed), row=1)
    for before, after in zip(rows(whole), rows(hidden), strict=True):
        assert after.count(1) == int(len(before) * share)
        assert all(b in (a, 1) for a, b in zip(before, after, strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_a_reordering_shuffles_one_run(seed, share):
    whole, moved = histories(), views.reorder(histories(), share, rng(seed))
    for before, after in zip(rows(whole), rows(moved), strict=True):
        assert sorted(after) == before
        changed = [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        assert not changed or changed[-1] - changed[0] < int(len(before) * share)
    assert torch.equal(moved.times, whole.times)


def test_every_place_of_a_crop_and_every_order_is_as_likely():
    batch = histories().of(torch.zeros(4000, dtype=torch.int64))
    starts = torch.bincount(views.crop(batch, 0.8, rng(0)).items[:, 0] - 2, minlength=3)
    assert starts.tolist() == [starts[0], starts[1], starts[2]] and bool((starts > 1200).all())
    three = Batch(torch.tensor([[2, 3, 4]]).expand(6000, 3), torch.full((6000,), 3))
    orders = views.reorder(three, 1.0, rng(1)).items
    counts = torch.unique(orders, dim=0, return_counts=True)[1]
    assert len(counts) == 6 and bool((counts > 850).all())


def test_two_events_change_places_every_second_time():
    two = Batch(torch.tensor([[2, 3]]).expand(40000, 2), torch.full((40000,), 2))
    share = (views.reorder(two, 1.0, rng(0)).items[:, 0] == 3).float().mean()
    assert abs(float(share) - 0.5) < 0.01  # four standard errors


def test_halves_share_no_event():
    odd, even = views.halves(histories())
    assert rows(odd)[0] == [2, 4, 6, 8, 10] and rows(even)[0] == [3, 5, 7, 9, 11]
    assert rows(odd)[1] == [102, 104, 106, 108] and rows(even)[1] == [103, 105, 107]
    assert rows(odd)[2] == rows(even)[2] == [202] and rows(odd)[3] == rows(even)[3] == []


SHARES = {"crop": 0.6, "mask": 0.3, "reorder": 0.6}


def operator(before: list[int], after: list[int]) -> str:
    """Which of the three made `after` of ten events."""
    if len(after) < len(before):
        return "crop" if after == before[before.index(after[0]) :][: len(after)] else "none"
    if 1 in after:
        return "mask" if all(b in (a, 1) for a, b in zip(before, after, strict=True)) else "none"
    return "reorder" if sorted(after) == before else "none"


def test_two_views_are_by_two_operators_each_of_the_history_itself():
    batch = histories().of(torch.tensor([0] * 3000))
    before = rows(batch)[0]
    parts, order = views.augmented(batch, SHARES, rng(2))
    made = [row for part in parts for row in rows(part)]
    views_of = [(operator(before, made[a]), operator(before, made[b])) for a, b in order.view(2, -1).T.tolist()]
    counts = {pair: views_of.count(pair) for pair in set(views_of)}
    assert set(counts) == {(a, b) for a in SHARES for b in SHARES if a != b}  # never one alone, never "none"
    assert min(counts.values()) > 500 - 4 * (3000 * 5 / 36) ** 0.5


def test_views_stand_in_the_order_of_the_users():
    batch = histories().of(torch.tensor([4, 0, 1, 2]))
    parts, order = views.augmented(batch, SHARES, rng(3))
    made = [set(row) - {1} for part in parts for row in rows(part)]
    for place, at in enumerate(order.tolist()):
        assert made[at] <= set(rows(batch)[place % 4])
    assert sorted(order.tolist()) == list(range(8))
