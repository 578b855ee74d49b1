"""Contrastive losses under mixed precision: what is divided by a small temperature is multiplied exactly."""

from __future__ import annotations

import pytest
import torch

from perdure.functional.contrastive import both_ways, info_nce, nt_xent, similarity_order
from perdure.objectives.uprec import near_by_square

USERS = torch.arange(8)
NEAR = torch.zeros(8, 8, dtype=torch.bool)
LOSSES = {
    "info_nce": lambda a, b: info_nce(a, b, 0.01),
    "inner products": lambda a, b: info_nce(a, b, 0.01, cosine=False),
    "both_ways": lambda a, b: both_ways(a, b, 0.01, USERS),
    "nt_xent": lambda a, b: nt_xent(a, b, 0.01),
    "similarity_order": lambda a, b: similarity_order(torch.cat([a, b]), torch.cat([b, a]), USERS),
    "near_by_square": lambda a, b: near_by_square(a, b, torch.ones(16), NEAR),
}


@pytest.mark.parametrize("name", LOSSES)
def test_mixed_precision_changes_no_loss_and_no_gradient(name):
    """Users near one spot, as they begin: what tells them apart is small beside what they share."""
    draw = torch.Generator().manual_seed(0)
    spot = 3 * torch.randn(16, generator=draw)
    a, b = ((spot + 0.05 * torch.randn(8, 16, generator=draw)).requires_grad_() for _ in range(2))
    exact = LOSSES[name](a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = LOSSES[name](a, b)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, exact)
    for one, other in zip(torch.autograd.grad(mixed, (a, b)), torch.autograd.grad(exact, (a, b)), strict=True):
        assert one.abs().sum() > 0 and torch.equal(one, other)
    assert LOSSES[name](a.bfloat16(), b.bfloat16()).dtype == torch.float32
