"""Products by oneDNN are those of PyTorch, whatever the strides; what is not plain float32 is left to PyTorch."""

from __future__ import annotations

import pytest
import torch

from perdure.functional import products
from perdure.functional.products import linear, one_shape, times


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products by oneDNN, also on processors where MKL is as fast."""
    if not products.THERE:
        pytest.skip("needs a CPU with AVX-512 and oneDNN")
    monkeypatch.setattr(products, "WIDE", True)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 50])
def test_times_is_the_product_with_the_transposed(rows: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(rows, 64, generator=rng), torch.randn(80, 64, generator=rng)
    torch.testing.assert_close(times(x, w), x @ w.T, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("wide")
def test_transposed_views() -> None:
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(50, 300, generator=rng), torch.randn(300, 64, generator=rng)
    torch.testing.assert_close(times(x, w.T), x @ w, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(times(w.T, x), w.T @ x.T, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("wide")
def test_what_is_not_plain_float32_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(5, 64), torch.randn(64, 64)
    assert products.by_onednn(x, w)
    assert not products.by_onednn(x, w[:63])
    assert not products.by_onednn(x.double(), w.double())
    assert not products.by_onednn(x.to("meta"), w.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not products.by_onednn(x, w)
        assert times(x, w).dtype == torch.bfloat16
    monkeypatch.setattr(products, "WIDE", False)
    assert not products.by_onednn(x, w)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes that `linear` would give to oneDNN, had this machine the processor; multiplied by PyTorch."""
    shapes = []

    def ours(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
        shapes.append(x.shape)
        return torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(products, "WIDE", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", ours, raising=False)
    return shapes


def test_layers_ask_onednn_only_for_shapes_that_come_often(asked: list[torch.Size]) -> None:
    x, few, w, b = torch.randn(32, 50, 64), torch.randn(32, 1, 64), torch.randn(80, 64), torch.randn(80)
    with torch.inference_mode():
        linear(x, w, b)
        with one_shape(False):
            linear(x, w, b)
        with one_shape(True):
            linear(few, w, b)
            linear(x.double(), w.double())
            assert not asked
            linear(x, w, b)
            linear(x, w)
        assert asked == [x.shape] * 2
        linear(x, w, b)
    with one_shape(True), torch.no_grad():
        linear(x, w, b)
    assert len(asked) == 2


def test_a_shape_is_forgotten_behind_an_error(asked: list[torch.Size]) -> None:
    x, w = torch.randn(1024, 64), torch.randn(64, 64)
    with pytest.raises(KeyError), one_shape(True):
        raise KeyError
    with torch.inference_mode():
        linear(x, w)
    assert not asked


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("biased", [True, False])
def test_linear_by_onednn_is_pytorch_s(biased: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, generator=rng) for shape in ((2, 700, 256), (64, 256), (64,)))
    bias = b if biased else None
    with torch.inference_mode(), one_shape(True):
        y = linear(x, w, bias)
    torch.testing.assert_close(y, torch.nn.functional.linear(x, w, bias), rtol=1e-5, atol=1e-4)


def test_gradients_pass_and_a_compiled_layer_has_no_break() -> None:
    x, w = torch.randn(1024, 64, requires_grad=True), torch.randn(64, 64)
    with one_shape(True):
        linear(x, w).sum().backward()
        torch.testing.assert_close(x.grad, w.sum(0).expand_as(x))
        whole = torch.compile(linear, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(x, w), x @ w.T)
