"""Losses that score items by inner product, as pure functions of tensors.

Letters: M targets, N items (or labels), K negatives, d width; s = h . W_i + b_i.

    softmax_loss      -s_pos + log sum_all exp(s)                 logits of all items never exist at once
    sampled_softmax   -s_pos + log(exp s_pos + sum_K exp s_neg)   logQ correction of the negatives by `log_q`
    bce               softplus(-s_pos) + mean_K softplus(s_neg)   SASRec (Kang & McAuley, 2018)
    gbce              (beta softplus(-s_pos) + sum_K softplus(s_neg)) / (K + 1)   gSASRec (Petrov & Macdonald, 2023)
    bpr               mean_K softplus(s_neg - s_pos)              BPR (Rendle et al., 2009)

In gbce, alpha = K / (N - 1) and beta = alpha (t (1 - 1/alpha) + 1/alpha) = 1 - t (1 - alpha).
Accidental hits are given as s_neg = -inf by masked_fill, behind which no gradient goes, and then count nothing:
exp(-inf) = softplus(-inf) = 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from perdure.functional.products import by_onednn, times

__all__ = ["bce", "bpr", "gbce", "pair_scores", "sampled_softmax", "softmax_loss"]

CELLS = {"cpu": 1 << 19, "cuda": 1 << 26}  # logits alive at once: near a CPU's caches, a GPU's appetite
TILE = {"cpu": 1 << 18, "cuda": 1 << 26}  # the same, where a piece does not hold all items
GATHERED = 1 << 17  # numbers of item vectors gathered at once, half of a CPU's second cache
WHOLE = {"cpu": 1 << 13, "cuda": 1 << 15}  # items up to which one piece holds them all: three products, else four
COLUMNS = {"cpu": 1 << 9, "cuda": 1 << 15}  # items of a piece, where there are more


class _Softmax(torch.autograd.Function):
    """sum_m w_m log sum_n exp(h_m . W_n + b_n) - mean_a (h_{r_a} . W_{t_a} + b_{t_a}), over the items from `first` on.

    The gradients are made in the same sweep: of a piece with the softmax over its items alone, times what that piece is
    of the whole. A step holds one gradient of the table, and a piece of it while that is turned. Under autocast the
    matrix products run in its type; softmax, sums and gradients stay in the table's.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, table: Tensor, bias: Tensor | None, rows: Tensor, targets: Tensor, first: int
    ) -> Tensor:
        want_h, want_table, want_bias = ctx.needs_input_grad[:3]
        kind, n, count = h.device.type, len(table), len(targets)
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else table.dtype
        cells, tile, whole, columns = (most.get(kind, most["cuda"]) for most in (CELLS, TILE, WHOLE, COLUMNS))
        cells, columns = (cells, n - first) if n - first <= whole else (tile, columns)
        pieces = [slice(c, min(c + columns, n)) for c in range(first, n, columns)]
        size = min(max(16, cells // columns), max(len(h), 1))  # R, states looked at together
        spare = -len(h) % size  # states of weight 0 behind the last, so that all pieces have one shape
        with torch.autocast(kind, enabled=False):
            weight = torch.bincount(rows, minlength=len(h) + spare).to(table.dtype) / count  # (M + spare,)
            exact = F.pad(h.to(table.dtype), (0, 0, 0, spare))  # (M + spare, d)
            states, vectors = exact.to(low), table.to(low)  # (M + spare, d), (N, d)
            grad_h = torch.zeros_like(exact) if want_h else None  # (M + spare, d)
            grad_table = table.new_zeros(table.shape) if want_table else None  # (N, d)
            grad_bias = torch.zeros_like(bias) if want_bias and bias is not None else None  # (N,)
            total, one = table.new_zeros((), dtype=torch.float64), len(pieces) == 1
            for start in range(0, len(exact), size):
                part = slice(start, start + size)
                x, w = states[part], weight[part]  # (R, d), (R,)
                p, each = _softmax(x, vectors, bias, pieces)  # (R, columns), (pieces, R)
                lse = each[0] if one else each.logsumexp(0)  # (R,)
                total += (w * lse).sum().double()
                for piece, own in zip(pieces, each, strict=True):
                    share = w if one else w * (own - lse).exp_()  # (R,) what of the softmax is in this piece, weighted
                    if not one:
                        p = torch.softmax(_logits(x, vectors, bias, piece), dim=1)  # (R, columns)
                    if grad_bias is not None:
                        grad_bias[piece] += share @ p  # (columns,)
                    q = p.to(low)  # (R, columns)
                    if grad_h is not None:
                        grad_h[part].addcmul_(share[:, None], times(q, vectors[piece].T).to(table.dtype))  # (R, d)
                    if grad_table is not None:  # summed turned, as the product gives it
                        turned = grad_table[piece].view(table.shape[1], piece.stop - piece.start)  # (d, columns)
                        weighted = (share[:, None] * x).to(low).T  # (d, R)
                        if turned.dtype != low or by_onednn(weighted, q.T):
                            turned.add_(times(weighted, q.T))
                        else:
                            turned.addmm_(weighted, q)
            given = _sums(table, targets, rows)  # rows that have targets, and their targets' sum (., d)
            total -= (exact[given[0]] * given[1]).sum(dtype=torch.float64) / count
            if grad_h is not None:
                grad_h.index_add_(0, *given, alpha=-1 / count)
            if grad_table is not None:
                for piece in pieces:
                    turned = grad_table[piece].view(table.shape[1], piece.stop - piece.start)  # (d, columns)
                    grad_table[piece] = turned.T.clone()
                grad_table.index_add_(0, *_sums(exact, rows, targets), alpha=-1 / count)
            if bias is not None:
                total -= bias[targets].sum(dtype=torch.float64) / count
            if grad_bias is not None:
                grad_bias.index_add_(0, targets, grad_bias.new_full((count,), -1 / count))
        ctx.gradients = (None if grad_h is None else grad_h[: len(h)].to(h.dtype), grad_table, grad_bias)
        return total.to(table.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.gradients is None:
            raise RuntimeError("softmax_loss gives its gradients once: call it again instead of backward twice")
        scaled, ctx.gradients = [None if one is None else one.mul_(grads[0]) for one in ctx.gradients], None
        return (*scaled, None, None, None)


def _sums(vectors: Tensor, which: Tensor, whose: Tensor) -> tuple[Tensor, Tensor]:
    """(K,) the different rows of `whose` (A,), and of each the sum (K, d) of vectors[which] (A,), never gathered."""
    rows, begin, order = _grouped(whose)
    return rows, F.embedding_bag(which[order], vectors, begin, mode="sum")


def _grouped(whose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of `whose` (A,): its different rows, rising (K,), where each begins once sorted (K,), and that order (A,)."""
    whose, order = whose.sort(stable=True)  # (A,)
    rows, counts = whose.unique_consecutive(return_counts=True)  # (K,)
    return rows, counts.cumsum(0) - counts, order


def _logits(x: Tensor, table: Tensor, bias: Tensor | None, piece: slice) -> Tensor:
    """(R, columns), in float32 at least."""
    logits = times(x, table[piece])  # (R, columns)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    return logits if bias is None else logits.add_(bias[piece])


def _softmax(x: Tensor, table: Tensor, bias: Tensor | None, pieces: list[slice]) -> tuple[Tensor, Tensor]:
    """Of the last piece the softmax over its items (R, columns), of each the log-sum-exp over its items (pieces, R).

    On a CPU PyTorch's softmax is faster than its exponential.
    """
    p, kind = x, torch.promote_types(x.dtype, torch.float32)
    each = x.new_empty((len(pieces), len(x)), dtype=kind)  # (pieces, R) at once: small tensors would break up the heap
    for piece, lse in zip(pieces, each, strict=True):
        logits = _logits(x, table, bias, piece)  # (R, columns)
        top = logits.amax(1)  # (R,)
        p = torch.softmax(logits, dim=1)  # (R, columns)
        torch.sub(top, p.amax(1).log_(), out=lse)  # the largest p is at least 1/columns, so its logarithm is safe
    return p, each


class _Pairs(torch.autograd.Function):
    """s_mk = h_m . W_{i_mk}, with the rows of W gathered in pieces that stay in the cache, and not kept.

        dh_m = sum_k g_mk W_{i_mk}        dW_n = sum over the pairs with i_mk = n of g_mk h_m

    Both are weighted sums of rows, dW over the pairs sorted by item.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            ctx.kind, ctx.sparse, states = h.dtype, sparse, h.to(table.dtype)  # (M, d)
            ctx.save_for_backward(states, table, ids)
            s = table.new_empty(ids.shape)  # (M, K)
            size = max(1, GATHERED // (ids.shape[1] * table.shape[1]))  # R, states looked at together
            for x, some, to in zip(states.split(size), ids.split(size), s.split(size), strict=True):
                vectors = table.index_select(0, some.flatten()).view(*some.shape, -1)  # (R, K, d)
                torch.bmm(x[:, None], vectors.transpose(1, 2), out=to[:, None])  # (R, 1, K)
        return s

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (h, table, ids), grad_h, grad_table = ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            grad_h = F.embedding_bag(ids, table, mode="sum", per_sample_weights=grad.contiguous())  # (M, d)
            grad_h = grad_h.to(ctx.kind)
        if ctx.needs_input_grad[1]:
            rows, begin, pair = _grouped(ids.flatten())  # (n,), (n,), (M K,)
            weights = grad.flatten().index_select(0, pair)  # (M K,)
            state = pair.div_(ids.shape[1], rounding_mode="floor")  # (M K,)
            sums = F.embedding_bag(state, h, begin, mode="sum", per_sample_weights=weights)  # (n, d)
            if ctx.sparse:
                grad_table = torch.sparse_coo_tensor(
                    rows[None], sums, table.shape, check_invariants=False, is_coalesced=True
                )
            else:
                grad_table = torch.zeros_like(table).index_copy_(0, rows, sums)  # (N, d)
        return grad_h, grad_table, None, None


def pair_scores(h: Tensor, table: Tensor, ids: Tensor, bias: Tensor | None = None, sparse: bool = False) -> Tensor:
    """s for given pairs: (M, d) states and (M,) or (M, K) ids -> scores of the shape of `ids`.

    In the table's type, under autocast too. On a CPU in memory that grows with M x K, not with M x K x d.

    Args:
        sparse: give the table a sparse gradient that names only the rows in `ids`.
    """
    pairs = ids if ids.dim() == 2 else ids[:, None]  # (M, K)
    known = table.device.type == "cpu" and table.dtype in (torch.float32, torch.float64) and pairs.numel() > 0
    if known and not torch.compiler.is_compiling():
        s = _Pairs.apply(h, table, pairs, sparse).view(ids.shape)
    else:
        with torch.autocast(table.device.type, enabled=False):
            vectors = F.embedding(pairs, table, sparse=sparse)  # (M, K, d)
            s = torch.einsum("md,mkd->mk", h.to(table.dtype), vectors).view(ids.shape)
    return s if bias is None else s + bias[ids]


def softmax_loss(
    h: Tensor, table: Tensor, targets: Tensor, *, rows: Tensor | None = None, bias: Tensor | None = None, first: int = 0
) -> Tensor:
    """Mean cross-entropy of the full softmax, in memory that grows with M + N, not with M x N.

    Args:
        h: (M, d) states.
        table: (N, d); bias: (N,) or None.
        targets: (A,) row of the table for each target.
        rows: (A,) state each target belongs to; None when A = M, target m belonging to state m.
        first: rows of the table before this one are no items (2 skips padding and mask).

    Returns:
        Scalar: mean over the A targets of -s_target + log sum_{n >= first} exp(s_n). It gives its gradients once.
    """
    rows = torch.arange(len(h), device=h.device) if rows is None else rows  # (A,)
    return _Softmax.apply(h, table, bias, rows, targets, first)  # type: ignore[no-any-return]


def sampled_softmax(positive: Tensor, negative: Tensor, log_q: Tensor | None = None) -> Tensor:
    """Mean of -s_pos + log(exp s_pos + sum_k exp(s_neg_k - log_q_k)).

    Args:
        positive: (M,); negative: (M, K).
        log_q: log of the expected number of times each negative is drawn (K q), broadcast to (M, K); None for no
            correction. With it the sum over negatives estimates the sum over all items.
    """
    corrected = negative if log_q is None else negative - log_q  # (M, K)
    lse = torch.logaddexp(positive, torch.logsumexp(corrected, dim=-1))  # (M,)
    return (lse - positive).mean()


def bce(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of softplus(-s_pos) + mean_k softplus(s_neg). positive: (M,), negative: (M, K)."""
    return (F.softplus(-positive) + F.softplus(negative).mean(-1)).mean()


def gbce(positive: Tensor, negative: Tensor, n_items: int, t: float) -> Tensor:
    """gBCE with calibration t in [0, 1] (gSASRec, eq. 11): t = 0 is BCE over K + 1, t = 1 is calibrated.

    Args:
        positive: (M,); negative: (M, K).
        n_items: N, the size of the catalogue negatives are drawn from.
    """
    k = negative.shape[-1]
    alpha = k / max(n_items - 1, 1)
    beta = 1.0 - t * (1.0 - alpha)
    return ((beta * F.softplus(-positive) + F.softplus(negative).sum(-1)) / (k + 1)).mean()


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of softplus(s_neg - s_pos) = -log sigmoid(s_pos - s_neg). positive: (M,), negative: (M, K)."""
    return F.softplus(negative - positive[..., None]).mean()
