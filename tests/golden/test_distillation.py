"""Distillation by hand, and against references that make all scores at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from perdure.functional import distillation
from perdure.functional.distillation import Factors, logit_mse, softened_kl

TAU = 2.0


def scores(x: Factors) -> torch.Tensor:
    return x.h @ x.table.T + (0 if x.bias is None else x.bias)


def naive_mse(student, teacher):
    return F.mse_loss(scores(student), scores(teacher))


def naive_kl(student, teacher):
    p, q = (torch.log_softmax(scores(x) / TAU, 1) for x in (student, teacher))
    return F.kl_div(p, q, reduction="batchmean", log_target=True)


def kl(student, teacher):
    return softened_kl(student, teacher, TAU)


def test_by_hand():
    """Two rows, two labels: gaps (1, -2), (0, 3); and one row whose odds go from 1 : 1 to 3 : 1."""
    teacher = Factors(torch.eye(2), torch.zeros(2, 2), torch.tensor([1.0, 1.0]))
    student = Factors(torch.eye(2), torch.tensor([[1.0, 0.0], [-3.0, 2.0]]), torch.tensor([1.0, 2.0]))
    assert float(logit_mse(student, teacher)) == pytest.approx((1 + 4 + 0 + 9) / 4)
    one = torch.ones(1, 1)
    even, odds = Factors(one, torch.zeros(2, 1)), Factors(one, torch.tensor([[TAU * math.log(3)], [0.0]]))
    # q = (1/2, 1/2), p = (3/4, 1/4): sum q log(q / p) = log 2 - log(3) / 2
    assert float(kl(odds, even)) == pytest.approx(math.log(2) - math.log(3) / 2, rel=1e-5)


@pytest.mark.parametrize("cells", [1, 1 << 18])  # rows in pieces, and all at once
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [(logit_mse, naive_mse), (kl, naive_kl)], ids=["mse", "kl"])
@given(seed=st.integers(0, 1000), m=st.integers(1, 60), n=st.integers(1, 30))  # more and fewer rows than 2 d
@settings(max_examples=20, deadline=None)
def test_value_and_gradients_are_those_of_all_scores_at_once(cells, with_bias, ours, theirs, seed, m, n):
    g = torch.Generator().manual_seed(seed)

    def drawn() -> Factors:
        h, table, bias = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((m, 5), (n, 5), (n,)))
        return Factors(h, table, bias if with_bias else None)

    student, teacher = drawn(), drawn()
    values = []
    for f in (ours, theirs):
        leaf = Factors(*(None if x is None else x.clone().requires_grad_() for x in student))
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(distillation.CELLS, "cpu", cells)
            loss = f(leaf, teacher)
            (3 * loss).backward()
        values.append([loss.detach(), *(x.grad for x in leaf if x is not None)])
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("m", [3, 40])
def test_a_student_that_is_its_teacher_has_lost_nothing(m):
    same = Factors(torch.randn(m, 4), torch.randn(9, 4), torch.randn(9))
    assert float(logit_mse(same, same)) < 1e-10 and abs(float(kl(same, same))) < 1e-6


def test_nothing_as_large_as_all_scores_is_made(monkeypatch):
    """400 rows and 500 labels: the largest tensor stays below half of 400 x 500."""
    monkeypatch.setitem(distillation.CELLS, "cpu", 1)
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(x.numel() for x in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(x))
            return out

    student = Factors(torch.randn(400, 4, requires_grad=True), torch.randn(500, 4, requires_grad=True))
    teacher = Factors(torch.randn(400, 4), torch.randn(500, 4))
    for f in (logit_mse, kl):
        made.clear()
        with Watch():
            f(student, teacher).backward()
        assert max(made) < 400 * 500 / 2


def test_gradients_are_given_once():
    h = torch.randn(3, 4, requires_grad=True)
    loss = logit_mse(Factors(h, torch.randn(5, 4)), Factors(torch.randn(3, 4), torch.randn(5, 4)))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_mixed_precision_compares_in_the_tables_type():
    h, table = torch.randn(40, 4), torch.randn(30, 4)
    teacher = Factors(torch.randn(40, 4), torch.randn(30, 4))
    with torch.autocast("cpu", torch.bfloat16):
        for f in (logit_mse, kl):
            mixed = f(Factors(h.bfloat16(), table), teacher)
            assert mixed.dtype == torch.float32
            torch.testing.assert_close(mixed, f(Factors(h.bfloat16().float(), table), teacher))
