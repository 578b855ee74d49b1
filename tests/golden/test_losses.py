"""Losses against numbers worked by hand and against slow references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from perdure.functional import losses, products
from perdure.functional.dropout import dropout
from perdure.functional.negatives import Negatives
from perdure.functional.text import hashed_words


def reference(h, table, bias, targets, rows=None):
    """Cross-entropy with all logits alive at once."""
    logits = h @ table.T + (0 if bias is None else bias)
    return F.cross_entropy(logits if rows is None else logits[rows], targets)


@pytest.mark.parametrize("columns", [1 << 15, 7])  # all items in one piece, and items in pieces
@pytest.mark.parametrize("with_bias", [False, True])
@given(seed=st.integers(0, 1000), m=st.integers(1, 40), n=st.integers(2, 30))
@settings(max_examples=25, deadline=None)
def test_softmax_loss_and_its_gradients_are_the_full_cross_entropy(columns, with_bias, seed, m, n):
    g = torch.Generator().manual_seed(seed)
    h, table = torch.randn(m, 5, generator=g, dtype=torch.float64), torch.randn(n, 5, generator=g, dtype=torch.float64)
    bias = torch.randn(n, generator=g, dtype=torch.float64) if with_bias else None
    rows = torch.randint(m, (m + 3,), generator=g)
    targets = torch.randint(n, (m + 3,), generator=g)
    values = []
    for f in (
        lambda *x: losses.softmax_loss(x[0], x[1], targets, rows=rows, bias=x[2]),
        lambda *x: reference(*x, targets, rows),
    ):
        leaves = [t if t is None else t.clone().requires_grad_() for t in (h, table, bias)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(losses.WHOLE, "cpu", columns)
            patch.setitem(losses.COLUMNS, "cpu", columns)
            patch.setitem(losses.CELLS, "cpu", 64)
            patch.setitem(losses.TILE, "cpu", 64)
            loss = f(*leaves)
            (3 * loss).backward()
        values.append([loss.detach(), *(t.grad for t in leaves if t is not None)])
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("wide", [False, True])
def test_softmax_loss_is_the_same_whichever_library_multiplies(wide, monkeypatch):
    """In float32, with a table and pieces large enough for oneDNN where it is asked."""
    monkeypatch.setattr(products, "WIDE", wide and products.THERE)
    g = torch.Generator().manual_seed(0)
    h, table, targets = torch.randn(300, 64, generator=g), torch.randn(500, 64, generator=g), torch.arange(300)
    values = []
    for f in (losses.softmax_loss, lambda h, table, targets: F.cross_entropy(h @ table.T, targets)):
        leaves = [h.clone().requires_grad_(), table.clone().requires_grad_()]
        loss = f(*leaves, targets)
        loss.backward()
        values.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_vectors_without_a_number_leave_the_bias_to_learn():
    h, table, bias = torch.zeros(3, 0), torch.zeros(4, 0, requires_grad=True), torch.zeros(4, requires_grad=True)
    loss = losses.softmax_loss(h, table, torch.tensor([1, 1, 2]), bias=bias)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(4.0).log())
    torch.testing.assert_close(bias.grad, torch.tensor([0.25, 0.25 - 2 / 3, 0.25 - 1 / 3, 0.25]))


def test_rows_before_the_first_item_are_no_items():
    h, table = torch.randn(6, 3), torch.randn(9, 3, requires_grad=True)
    targets = torch.tensor([2, 8, 5, 5, 3, 2])
    loss = losses.softmax_loss(h, table, targets, first=2)
    torch.testing.assert_close(loss, F.cross_entropy(h @ table[2:].T, targets - 2))
    loss.backward()
    assert table.grad[:2].abs().sum() == 0 and table.grad[2:].abs().sum() > 0


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("columns", [1 << 15, 7])
def test_softmax_loss_under_autocast_is_near_the_full_precision(columns, with_bias, monkeypatch):
    monkeypatch.setitem(losses.WHOLE, "cpu", columns)
    monkeypatch.setitem(losses.COLUMNS, "cpu", columns)
    h, table = torch.randn(40, 16), torch.randn(30, 16)
    targets, bias = torch.randint(30, (40,)), torch.randn(30) if with_bias else None
    values = []
    for on in (False, True):
        leaves = [t if t is None else t.clone().requires_grad_() for t in (h, table, bias)]
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            loss = losses.softmax_loss(leaves[0], leaves[1], targets, bias=leaves[2])
        loss.backward()
        values.append([loss.detach(), *(t.grad for t in leaves if t is not None)])
    for exact, low in zip(*values, strict=True):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, exact, rtol=0.05, atol=0.01)


def test_softmax_loss_gives_its_gradients_once():
    h = torch.randn(3, 2, requires_grad=True)
    loss = losses.softmax_loss(h, torch.randn(4, 2), torch.tensor([0, 1, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


def test_softmax_loss_survives_huge_scores():
    h, table = torch.tensor([[300.0], [-300.0]]), torch.tensor([[1.0], [-1.0], [0.0]])
    loss = losses.softmax_loss(h, table, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(600.0)


def test_frozen_inputs_cost_no_gradient():
    h, table = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3)
    losses.softmax_loss(h, table, torch.tensor([0, 1, 2, 3])).backward()
    assert h.grad is not None and table.grad is None


def plain_pairs(h, table, ids):
    """Scores with the vectors of all pairs alive at once."""
    vectors = table[ids]
    return (h * vectors).sum(-1) if ids.dim() == 1 else torch.einsum("md,mkd->mk", h, vectors)


@pytest.mark.parametrize("gathered", [1, 40, 1 << 17])  # a state at a time, a few with fewer left over, all at once
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 5), (0, 3), (0,)])
def test_pair_scores_and_their_gradients_are_those_of_the_plain_gather(gathered, shape, monkeypatch):
    monkeypatch.setattr(losses, "GATHERED", gathered)
    g = torch.Generator().manual_seed(0)
    h = torch.randn(shape[0], 4, generator=g, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 4, generator=g, dtype=torch.float64, requires_grad=True)
    ids, weight = torch.randint(1, 8, shape, generator=g), torch.randn(shape, generator=g, dtype=torch.float64)
    bias = torch.randn(9, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: losses.pair_scores(x[0], x[1], ids, x[2]), (h, table, bias))
    ours, theirs = losses.pair_scores(h, table, ids), plain_pairs(h, table, ids)
    assert ours.shape == ids.shape
    torch.testing.assert_close(ours, theirs)
    want = torch.autograd.grad((weight * theirs).sum(), (h, table))
    torch.testing.assert_close(torch.autograd.grad((weight * ours).sum(), (h, table)), want)
    named = torch.autograd.grad((weight * losses.pair_scores(h, table, ids, sparse=True)).sum(), table)[0]
    assert named.is_coalesced() and torch.equal(named.indices()[0], ids.unique())
    torch.testing.assert_close(named.to_dense(), want[1])


def test_pair_scores_with_one_side_frozen_and_of_two_types():
    ids = torch.tensor([[0, 2], [2, 2]])
    h, table = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [9.0], [3.0]])
    moved = table.clone().requires_grad_()
    losses.pair_scores(h, moved, ids).sum().backward()
    assert moved.grad.flatten().tolist() == [1, 0, 5]  # 1; none; 1 + 2 + 2
    moved = h.bfloat16().requires_grad_()
    scores = losses.pair_scores(moved, table, ids)
    scores.sum().backward()
    assert scores.dtype == torch.float32 and scores.tolist() == [[1, 3], [6, 6]]
    assert moved.grad.dtype == torch.bfloat16 and moved.grad.flatten().tolist() == [4, 6]


@pytest.mark.parametrize("compiled", [False, True])
def test_pair_scores_under_autocast_have_the_tables_type(compiled):
    h, table, ids = torch.randn(6, 8), torch.randn(20, 8, requires_grad=True), torch.randint(20, (6, 3))
    score = torch.compile(losses.pair_scores, backend="eager") if compiled else losses.pair_scores
    with torch.autocast("cpu", torch.bfloat16):
        scores = score(h, table, ids)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, plain_pairs(h, table, ids))


def test_pair_scores_keep_nothing_as_large_as_all_pairs_vectors():
    kept = []
    h, table, ids = torch.randn(60, 8, requires_grad=True), torch.randn(20, 8), torch.randint(20, (60, 50))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        losses.pair_scores(h, table, ids)
    assert max(kept) == ids.numel()


def test_pair_scores_compiled_are_the_same():
    h, table, ids = torch.randn(6, 8), torch.randn(20, 8, requires_grad=True), torch.randint(20, (6, 3))
    compiled = torch.compile(losses.pair_scores, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(h, table, ids), losses.pair_scores(h, table, ids))


def test_sampled_losses_by_hand():
    positive, negative = torch.tensor([1.0]), torch.tensor([[0.0, 2.0]])
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    assert losses.bce(positive, negative).item() == pytest.approx(softplus(-1) + (softplus(0) + softplus(2)) / 2)
    assert losses.bpr(positive, negative).item() == pytest.approx((softplus(-1) + softplus(1)) / 2)
    lse = math.log(math.e + 1 + math.exp(2))
    assert losses.sampled_softmax(positive, negative).item() == pytest.approx(lse - 1)
    corrected = math.log(math.e + math.exp(-math.log(0.5)) + math.exp(2 - math.log(0.25)))
    log_q = torch.tensor([0.5, 0.25]).log()
    assert losses.sampled_softmax(positive, negative, log_q).item() == pytest.approx(corrected - 1)


def test_gbce_beta_is_the_published_one():
    """K = 256, t = 0.75: beta = .306 at 3,416 items (gSASRec); t = 0 is BCE, t = 1 gives beta = alpha."""
    beta = (losses.gbce(torch.tensor([0.0]), torch.full((1, 256), -torch.inf), 3416, 0.75) * 257 / math.log(2)).item()
    assert beta == pytest.approx(0.306, abs=5e-4)
    positive, negative = torch.randn(5), torch.randn(5, 4)
    plain = (F.softplus(-positive) + F.softplus(negative).sum(-1)).mean() / 5
    torch.testing.assert_close(losses.gbce(positive, negative, 100, 0.0), plain)


def test_accidental_hits_count_nothing():
    positive, negative = torch.tensor([0.3]), torch.tensor([[0.1, 0.7]])
    masked = torch.tensor([[0.1, 0.7, -torch.inf]])
    torch.testing.assert_close(losses.sampled_softmax(positive, masked), losses.sampled_softmax(positive, negative))
    assert losses.bpr(positive, masked).isfinite()


def test_log_q_makes_sampled_softmax_estimate_the_full_one():
    g = torch.Generator().manual_seed(0)
    h, table = torch.randn(1, 4, generator=g), torch.randn(50, 4, generator=g)
    sampler = Negatives(torch.arange(50), alpha=0.75)
    drawn = sampler.draw((200_000,), g)
    negative = h @ table[drawn].T
    estimate = torch.logsumexp(negative - sampler.log_q[drawn] - math.log(200_000), 1)
    torch.testing.assert_close(estimate, torch.logsumexp(h @ table.T, 1), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_negatives_follow_popularity_to_alpha(alpha):
    counts = torch.tensor([1, 4, 16, 0])
    drawn = Negatives(counts, alpha).draw((200_000,), torch.Generator().manual_seed(1))
    want = counts.clamp(min=1).double().pow(alpha)
    got = torch.bincount(drawn, minlength=4) / len(drawn)
    torch.testing.assert_close(got.double(), want / want.sum(), atol=0.005, rtol=0)


def test_dropout_keeps_the_mean_and_its_gradient_the_mask():
    torch.manual_seed(0)
    x = torch.ones(200_001, requires_grad=True)
    y = dropout(x, 0.2, True)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    assert (y == 0).double().mean().item() == pytest.approx(51 / 256, abs=0.005)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert dropout(x, 0.2, False) is x and dropout(x, 0.0, True) is x


def test_hashed_words_are_the_same_everywhere_and_share_meaning_by_words():
    a, b, c = (hashed_words(t, 64) for t in ("likes of later films", "later films watched", "age of the user"))
    assert a.norm().item() == pytest.approx(1.0)
    assert a @ b > a @ c
    assert hashed_words("", 8).abs().sum() == 0
    assert hashed_words("perdure", 8).tolist() == pytest.approx(hashed_words("Perdure!", 8).tolist())
