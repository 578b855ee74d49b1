"""Adding rows at places: what a GPU does, done on a CPU, gives the same, with the same gradients."""

from __future__ import annotations

import pytest
import torch

from perdure.functional.adding import added


class Card(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_added_by_hand_and_as_on_a_gpu(dim):
    generator, index = torch.Generator().manual_seed(0), torch.tensor([2, 0, 2, 2])
    shape = [3, 3, 3]
    x = torch.randint(0, 9, shape, generator=generator).double().requires_grad_()
    shape[dim] = len(index)
    values = torch.randint(0, 9, shape, generator=generator).double().requires_grad_()
    y, weight = added(x, dim, index, values), torch.rand(3, 3, 3, generator=generator)
    by_hand = x.detach().clone().movedim(dim, 0)
    for j, row in zip(index.tolist(), values.detach().movedim(dim, 0), strict=True):
        by_hand[j] += row
    assert torch.equal(y, by_hand.movedim(0, dim))
    card = x.as_subclass(Card)
    there = added(card, dim, index, values).as_subclass(torch.Tensor)
    assert card.is_cuda
    assert torch.equal(there, y)
    for one, other in zip(*(torch.autograd.grad((z * weight).sum(), (x, values)) for z in (y, there)), strict=True):
        assert torch.equal(one, other)


def test_what_is_added_to_stays():
    x = torch.zeros(3)
    added(x, 0, torch.tensor([1]), torch.ones(1))
    assert not x.any()
