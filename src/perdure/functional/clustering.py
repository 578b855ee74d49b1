"""Vectors of items from who stands near whom, and clusters of vectors. Pure functions, drawn from a generator alone.

    PPMI_ij = max(0, log(n_ij n / (n_i n_j)))        n_ij: pairs of i and j at most `reach` events apart in one history
    v_i     = row i of Q L^1/2, of unit length;  Q L Q' the largest positive part of PPMI
    Q      <- orthonormal part of (PPMI + c I) Q,  c = half of |least eigenvalue|, as Q' PPMI Q tells it so far
    c_k    <- (N_k c_k + sum of the drawn points nearest to c_k) / (N_k + how many)

O. Levy, Y. Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014 (PPMI and its factors);
N. Halko, P. Martinsson, J. Tropp, "Finding Structure with Randomness", SIAM Review 2011, algorithm 4.4 (the factors of
a large sparse matrix); D. Sculley, "Web-Scale K-Means Clustering", WWW 2010 (mini-batches); D. Arthur and
S. Vassilvitskii, "k-means++", SODA 2007 (where the centres begin).

PPMI has zeros on its diagonal and so many negative eigenvalues; without c those that are large would take the place of
positive ones. With it no negative one, -|least| to 0, is further from 0 than c, and every positive one is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["k_means", "nearest", "neighbour_vectors", "positive_factors"]

SPARE = 10  # columns more than asked for, which make the largest ones exact sooner
TURNS = 10  # of the matrix on its own image
POINTS = 4096  # of a mini-batch


def neighbour_vectors(
    items: Tensor, owners: Tensor, n: int, width: int, reach: int, generator: torch.Generator
) -> Tensor:
    """Vectors of items that are alike where the items have the same neighbours.

    Args:
        items: (E,) int64 in 0..n-1, histories one after the other; owners: (E,) int64, whose event each is.
        n: number of items. width: S, size of a vector. reach: events apart that still count as neighbours, 1 or more.

    Returns:
        (n, min(S, n)) of unit length; zeros for an item that has no neighbour it meets more often than by chance.
    """
    pairs = []
    for gap in range(1, min(reach, len(items) - 1) + 1):
        a, b = items[:-gap], items[gap:]  # (E - gap,)
        met = (owners[gap:] == owners[:-gap]) & (a != b)  # (E - gap,)
        pairs.append(a[met] * n + b[met])
    one_way = torch.cat(pairs) if pairs else items.new_zeros(0)  # (Q,)
    both = torch.cat([one_way, one_way % n * n + one_way // n])  # (2 Q,)
    pair, count = both.unique(return_counts=True)  # (R,), (R,)
    a, b, count = pair // n, pair % n, count.double()  # (R,)
    often = torch.zeros(n, dtype=torch.float64).index_add(0, a, count)  # (n,)
    ppmi = (count * often.sum() / (often[a] * often[b])).log().clamp(min=0).float()  # (R,)
    begins = torch.searchsorted(a, torch.arange(n))  # (n,) of each row of the matrix

    def image(q: Tensor) -> Tensor:
        return F.embedding_bag(b, q, begins, mode="sum", per_sample_weights=ppmi)  # (n, k)

    vectors = positive_factors(image, n, width, generator)  # (n, S)
    known = torch.zeros(n).index_add(0, a, ppmi) > 0  # (n,)
    return F.normalize(vectors * known[:, None], dim=1)


def positive_factors(image: Callable[[Tensor], Tensor], n: int, width: int, generator: torch.Generator) -> Tensor:
    """V (n, min(width, n)) with V V' the largest positive part of a symmetric matrix, or near it where eigenvalues are
    near each other; `image` is its product with (n, k). A column of no positive eigenvalue is zero."""
    k, kept, least = min(width + SPARE, n), min(width, n), torch.zeros(())
    q = torch.linalg.qr(torch.randn(n, k, generator=generator)).Q  # (n, k)
    for _ in range(TURNS):
        turned = image(q)  # (n, k)
        least = torch.minimum(least, torch.linalg.eigvalsh(q.T @ turned)[0])
        q = torch.linalg.qr(turned - least / 2 * q).Q  # (n, k)
    size, turned = torch.linalg.eigh(q.T @ image(q))  # (k,), (k, k), ascending
    return q @ turned[:, -kept:] * size[-kept:].clamp(min=0).sqrt()  # (n, S)


def k_means(x: Tensor, k: int, generator: torch.Generator, steps: int = 100) -> Tensor:
    """(n, S) points, n >= k >= 1 -> (k, S) centres of clusters, after `steps` mini-batches."""
    centres = _apart(x[torch.randperm(len(x), generator=generator)[: max(POINTS, 4 * k)]], k, generator)  # (k, S)
    held = torch.ones(k)  # (k,) N
    for _ in range(steps):
        drawn = x[torch.randint(len(x), (min(POINTS, len(x)),), generator=generator)]  # (b, S)
        mine = nearest(drawn, centres)  # (b,)
        came = torch.zeros(k).index_add(0, mine, torch.ones(len(drawn)))  # (k,)
        total = torch.zeros_like(centres).index_add(0, mine, drawn)  # (k, S)
        centres = (held[:, None] * centres + total) / (held + came)[:, None]  # (k, S)
        held = held + came  # (k,)
    return centres


def nearest(x: Tensor, centres: Tensor) -> Tensor:
    """(n, S), (k, S) -> (n,) int64: which centre is nearest to each point; of two as near, the first."""
    half = centres.square().sum(1) / 2  # (k,)
    return torch.cat([(half - part @ centres.T).argmin(1) for part in x.split(POINTS)])  # (n,)


def _apart(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k of the points (n, S), each drawn in proportion to its squared distance from those before it."""
    lots = torch.rand(k, generator=generator, dtype=torch.float64)  # (k,)
    rows, far = [int(lots[0] * len(x))], torch.full((len(x),), torch.inf)  # (n,)
    for lot in lots[1:]:
        far = torch.minimum(far, (x - x[rows[-1]]).square().sum(1))  # (n,)
        upto = far.double().cumsum(0)  # (n,)
        rows.append(min(int(torch.searchsorted(upto, lot * upto[-1], right=True)), len(x) - 1))
    return x[rows]
