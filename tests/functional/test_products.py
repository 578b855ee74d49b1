"""Products by oneDNN are those of F.linear, with the gradients, and who is asked alone gets the bits of a crowd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from perdure.functional import products
from perdure.functional.products import linear, times

by_onednn = pytest.mark.skipif(not products.WIDE, reason="needs a CPU with AVX-512 and oneDNN")


@pytest.mark.parametrize("shape", [(7, 64), (2, 9, 64), (1, 1, 64), (0, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_that_of_pytorch(shape: tuple[int, ...], bias: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=rng), torch.randn(80, 64, generator=rng)]
    given += [torch.randn(80, generator=rng)] if bias else []
    seed = torch.randn(*shape[:-1], 80, generator=rng)

    def all_of(product) -> list[torch.Tensor]:
        leaves = [one.clone().requires_grad_() for one in given]
        y = product(*leaves)
        return [y, *torch.autograd.grad(y, leaves, seed)]

    for ours, theirs in zip(all_of(linear), all_of(F.linear), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_it_gives_may_be_changed_in_place() -> None:
    x, w = torch.randn(2, 3, 64), torch.randn(64, 64, requires_grad=True)
    (ours,) = torch.autograd.grad(linear(x, w).relu_().sum(), w)
    (theirs,) = torch.autograd.grad(F.linear(x, w).relu().sum(), w)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@by_onednn
def test_transposed_views_and_single_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(50, 300, generator=rng), torch.randn(300, 64, generator=rng)
    torch.testing.assert_close(times(x, w.T), x @ w, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(times(w.T, x), w.T @ x.T, rtol=1e-5, atol=1e-4)
    crowd = times(x, w.T)
    for n in (2, 3, 4, 5, 17):
        assert torch.equal(times(x[:n], w.T), crowd[:n])


@by_onednn
def test_what_is_not_plain_float32_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(5, 64), torch.randn(64, 64)
    assert products._by_onednn(x, w)
    assert not products._by_onednn(x, w[:63])
    assert not products._by_onednn(x.double(), w.double())
    assert not products._by_onednn(x.to("meta"), w.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not products._by_onednn(x, w)
        assert linear(x, w).dtype == torch.bfloat16
    monkeypatch.setattr(products, "WIDE", False)
    assert not products._by_onednn(x, w)
