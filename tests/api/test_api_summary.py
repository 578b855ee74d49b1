"""What is told of a comparison, from tables made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest

from perdure.api.results import KEY, RESULTS
from perdure.api.summary import summarise

HOW = {"encoder": "sasrec", "order": "forward", "protocol": "clean"}


def told(
    values: Mapping[str, np.ndarray], seeds: Mapping[str, int] | None = None, **asked: Any
) -> dict[str, dict[str, Any]]:
    """What is told of methods that reached these values of one task's users, in one seed each, 1 where not said."""
    rows, users = [], []
    for method, reached in values.items():
        run = {**HOW, "method": method, "seed": (seeds or {}).get(method, 1), "task": "a"}
        rows.append({**dict.fromkeys(RESULTS), **run, "after": "a", "after_index": 0, "task_index": 0, "final": True,
                     "metric": "ndcg@10", "measured": "full ranking", "value": float(np.mean(reached))})  # fmt: skip
        users += [{**run, "user": f"u{at}", "history": 1, "value": value} for at, value in enumerate(reached)]
    frame = pl.DataFrame(
        users, schema={**KEY, "task": pl.String, "user": pl.String, "history": pl.Int32, "value": pl.Float32}
    )
    (group,) = summarise(pl.DataFrame(rows, schema=RESULTS), frame, keeps={}, noise="noise", **asked)
    return group["methods"]


def test_two_methods_are_one_test():
    """Each is the best other of the other: p of the same difference, which has nothing to be corrected for."""
    rng = np.random.default_rng(0)
    both = told({"a": rng.random(60) + 0.1, "b": rng.random(60)})
    assert both["a"]["p"] == both["b"]["p"] < 1
    assert both["a"]["p_holm"] == both["b"]["p_holm"] == both["a"]["p"]


def test_three_methods_are_two_tests():
    """a against b is b against a; c against a."""
    rng = np.random.default_rng(1)
    three = told({"a": rng.random(60) + 0.2, "b": rng.random(60) + 0.1, "c": rng.random(60)})
    assert [three[name]["against"] for name in "abc"] == ["b", "a", "a"]
    small, large = sorted((three["a"]["p"], three["c"]["p"]))
    corrected = {small: 2 * small, large: max(2 * small, large)}
    assert {name: one["p_holm"] for name, one in three.items()} == pytest.approx(
        {name: corrected[one["p"]] for name, one in three.items()}
    )
    apart = told({"a": rng.random(60) + 0.2, "b": rng.random(60) + 0.1, "c": rng.random(60)}, against="c")
    assert apart["c"]["p_holm"] is None and all(apart[name]["against"] == "c" for name in "ab")


def test_the_best_other_is_one_with_a_seed_in_common():
    """c is best, and nobody else has its seed."""
    rng = np.random.default_rng(2)
    told_of = told({"a": rng.random(60), "b": rng.random(60), "c": rng.random(60) + 1}, {"c": 2})
    assert [told_of[name]["against"] for name in "abc"] == ["b", "a", None]
    assert told_of["a"]["p"] == told_of["b"]["p"] is not None and told_of["c"]["difference"] is None


def test_p_does_not_depend_on_how_exactly_values_are_stored():
    """Ten users, of whom one is ranked fourth by a and seventh by b. A resample that draws that user n times differs by
    n d, and all but those of n = 1 lie as far from d as 0 does: 2 d too, whatever float32 makes of it."""
    ndcg = 1 / np.log2([5.0] * 10 + [5.0] * 9 + [8.0])
    both = told({"a": ndcg[:10], "b": ndcg[10:]})
    once = 10 * 0.1 * 0.9**9
    assert both["a"]["p"] == pytest.approx(1 - once, abs=0.03)
