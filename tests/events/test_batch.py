"""A batch that is made shorter, picked from, hidden or divided keeps all its fields in step."""

from __future__ import annotations

from dataclasses import fields

import torch

from perdure.events.batch import Batch

FULL = Batch(
    torch.tensor([[2, 3, 4], [5, 6, 0]]),
    torch.tensor([3, 2]),
    torch.tensor([[10, 20, 30], [40, 50, 0]]),
    torch.tensor([7, 8]),
    torch.tensor([0, 1, 2]),
    torch.tensor([0, 1, 3]),
    torch.tensor([[1], [2]]),
    torch.tensor([[0.5], [0.25]]),
    torch.tensor([[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 9], [0, 0]]]),
)


def test_every_field_is_of_events_or_of_users_or_an_answer():
    named = [*Batch.OF_EVENTS, *Batch.OF_USERS, "answers", "answer_starts"]
    assert sorted(named) == sorted(f.name for f in fields(Batch))
    assert all(getattr(FULL, name).shape[:2] == (2, 3) for name in Batch.OF_EVENTS)
    assert all(len(getattr(FULL, name)) == 2 for name in Batch.OF_USERS)


def test_the_first_columns():
    short = FULL.upto(2)
    assert [getattr(short, name).shape[1] for name in Batch.OF_EVENTS] == [2, 2, 2]
    assert short.lengths.tolist() == [2, 2] and short.users is FULL.users
    assert FULL.upto(2, FULL.lengths - 1).lengths.tolist() == [2, 1]


def test_events_picked():
    some = FULL.picked(torch.tensor([[2, 0], [1, 1]]), torch.tensor([2, 1]))
    assert some.items.tolist() == [[4, 2], [6, 6]] and some.times.tolist() == [[30, 10], [50, 50]]
    assert some.marks.tolist() == [[[3, 6], [1, 4]], [[8, 9], [8, 9]]] and some.lengths.tolist() == [2, 1]


def test_what_is_hidden_is_told_by_no_mark():
    where = torch.tensor([[False, True, False], [True, False, False]])
    some = FULL.hidden(where, 1)
    assert some.items.tolist() == [[2, 1, 4], [1, 6, 0]] and some.times is FULL.times
    assert some.marks.tolist() == [[[1, 4], [0, 0], [3, 6]], [[0, 0], [8, 9], [0, 0]]]
    assert FULL.hidden(where, torch.full((2, 3), 9)).items.tolist() == [[2, 9, 4], [9, 6, 0]]
    assert FULL.items[0, 1] == 3 and FULL.marks[0, 1, 0] == 2


def test_some_of_the_users():
    some = FULL.of(torch.tensor([1, 1, 0]))
    assert some.users.tolist() == [8, 8, 7] and some.profile.tolist() == [[2], [2], [1]]
    assert some.items.tolist() == [[5, 6, 0], [5, 6, 0], [2, 3, 4]] and some.answers is None
    assert some.marks[:, 0, 0].tolist() == [7, 7, 1]
