"""Exact top-k: against a stable sort, ties and marks included."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.inference.topk import top


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**16), st.integers(1, 5), st.integers(1, 12), st.integers(1, 15), st.sampled_from([1, 2, 3, 1000])
)
def test_equals_a_stable_sort(seed, n, y, k, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n, y)).astype(np.float32)
    scores[rng.random((n, y)) < 0.2] = -np.inf
    values, columns = top(torch.from_numpy(scores), k)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(scores, order, 1)
    assert (values.numpy() == expected).all()
    chosen = expected > -np.inf
    assert (columns.numpy()[chosen] == order[chosen]).all()
