"""Products by oneDNN are those of PyTorch, whatever the strides; what is not plain float32 is left to PyTorch."""

from __future__ import annotations

import pytest
import torch

from perdure.functional import products
from perdure.functional.products import times

by_onednn = pytest.mark.skipif(not products.WIDE, reason="needs a CPU with AVX-512 and oneDNN")


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 50])
def test_times_is_the_product_with_the_transposed(rows: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(rows, 64, generator=rng), torch.randn(80, 64, generator=rng)
    torch.testing.assert_close(times(x, w), x @ w.T, rtol=1e-5, atol=1e-5)


@by_onednn
def test_transposed_views() -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(50, 300, generator=rng), torch.randn(300, 64, generator=rng)
    torch.testing.assert_close(times(x, w.T), x @ w, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(times(w.T, x), w.T @ x.T, rtol=1e-5, atol=1e-4)


@by_onednn
def test_what_is_not_plain_float32_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(5, 64), torch.randn(64, 64)
    assert products._by_onednn(x, w)
    assert not products._by_onednn(x, w[:63])
    assert not products._by_onednn(x.double(), w.double())
    assert not products._by_onednn(x.to("meta"), w.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not products._by_onednn(x, w)
        assert times(x, w).dtype == torch.bfloat16
    monkeypatch.setattr(products, "WIDE", False)
    assert not products._by_onednn(x, w)
