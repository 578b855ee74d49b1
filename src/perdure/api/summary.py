"""From results and users of a comparison to what is told of it: one group for each encoder, order and protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from perdure.evaluation.comparison import SCORES, Reached, holm, p_value, resample, spread, t_test, transfers
from perdure.report.compared import ALONE, matrix_of

__all__ = ["GROUP", "LEVEL", "RESAMPLES", "summarise"]

GROUP = ("encoder", "order", "protocol")  # what is compared with one another has these in common
LEVEL, RESAMPLES = 0.95, 2000


def summarise(
    results: pl.DataFrame, users: pl.DataFrame, *, keeps: Mapping[str, bool], noise: str, against: str | None = None
) -> list[dict[str, Any]]:
    """Every group, in the order of the results.

    Args:
        results, users: as `results.results` and `results.users` give them.
        keeps: method -> whether it promises to.
        noise: name of the task of random labels, which is left out of every mean over tasks.
        against: the method that differences are told from; None: for each method the best of the others.
    """
    told = []
    for key, rows in results.group_by(GROUP, maintain_order=True):
        theirs = users.filter(*[pl.col(name) == value for name, value in zip(GROUP, key, strict=True)])
        without = (noise,) if key[1] == "noisy" else ()
        told.append({**dict(zip(GROUP, key, strict=True)), **_Group(rows, theirs, keeps, without).told(against)})
    return told


class _Group:
    """The methods of one encoder, order and protocol."""

    def __init__(self, rows: pl.DataFrame, users: pl.DataFrame, keeps: Mapping[str, bool], without: Sequence[str]):
        self.rows, self.keeps, self.without = rows, keeps, without
        last = rows.filter(pl.col("final")).unique("task", keep="first", maintain_order=True).sort("task_index")
        self.tasks: list[str] = last["task"].to_list()
        self.metrics = dict(zip(self.tasks, last["metric"], strict=True))
        self.measured = dict(zip(self.tasks, last["measured"], strict=True))
        self.counted = [place for place, task in enumerate(self.tasks) if task not in without]
        self.methods: list[str] = rows["method"].unique(maintain_order=True).to_list()
        self.runs = {m: self._runs(m) for m in self.methods}  # method -> seed -> its rows
        self.seeds = sorted({seed for runs in self.runs.values() for seed in runs})
        self.folds = _in_folds(users)
        self.final = {m: np.stack([_last(run, self.tasks) for run in self.runs[m].values()]) for m in self.methods}
        self.reached = self._reached(users)
        self.draws = resample(self.reached, RESAMPLES) if self.reached else {}

    def _runs(self, method: str) -> dict[int, pl.DataFrame]:
        own = self.rows.filter(pl.col("method") == method).sort("seed")
        return {int(key[0]): run for key, run in own.group_by("seed", maintain_order=True)}  # type: ignore[call-overload]

    def _reached(self, users: pl.DataFrame) -> dict[str, Reached]:
        """What every method reached, user by user; nothing where a measure has no value for a single user.

        A user's examples are told apart by their order.
        """
        if set(users["task"].unique()) != set(self.tasks):
            return {}
        names = users["user"].unique().sort()
        coded = users.with_columns(
            at=pl.col("user").replace_strict(names, pl.arange(len(names), eager=True)),
            nth=pl.int_range(pl.len()).over("method", "task", "seed", "user"),
        )
        reached = {}
        for method in self.methods:
            seeds, values, owners = tuple(self.runs[method]), [], []
            for task in self.tasks:
                own = coded.filter(pl.col("method") == method, pl.col("task") == task).sort("seed", maintain_order=True)
                wide = own.pivot("seed", index=["at", "nth"], values="value")  # a column a seed, null if untested
                values.append(wide.select(*map(str, seeds)).cast(pl.Float64).fill_null(np.nan).to_numpy().T)
                owners.append(wide["at"].to_numpy())
            reached[method] = Reached(seeds, tuple(values), tuple(owners))
        return reached

    # -- what is told ------------------------------------------------------------------------------------------------

    def told(self, against: str | None) -> dict[str, Any]:
        """tasks, metrics, measured, best, popularity, methods."""
        told = {method: self._method(method) for method in self.methods}
        p: dict[frozenset[str], float] = {}  # of each pair once: two methods can be each other's best other
        for method in self.methods:
            other = against if against in self.methods else self._best(beside=method)
            if other is not None and other != method:
                told[method]["against"] = other
                difference, draws = self._difference(method, other)
                if difference is not None:
                    value = float(difference[self.counted].mean())
                    told[method]["difference"] = spread(value, draws, LEVEL)
                    if draws is not None:
                        p[frozenset((method, other))] = told[method]["p"] = p_value(value, draws)
                        told[method]["t_test"] = self._t_tests(method, other)
        for pair, corrected in holm(p).items():
            for method in pair:
                if told[method]["against"] in pair:
                    told[method]["p_holm"] = corrected
        return {"tasks": self.tasks, "metrics": self.metrics, "measured": self.measured, "left_out": list(self.without),
                "seeds": self.seeds, "folds": self.folds,
                "best": self._best(), "popularity": self._popularity(), "methods": told}  # fmt: skip

    def _popularity(self) -> dict[str, float | None]:
        """Task -> what is reached by answering everybody with what is popular in training, mean over seeds."""
        told = self.rows.filter(pl.col("final")).unique(["task", "seed"]).group_by("task").agg(pl.mean("popularity"))
        means = dict(zip(told["task"], told["popularity"], strict=True))
        return {task: means.get(task) for task in self.tasks}

    def _best(self, beside: str = "") -> str | None:
        """The method with the best average, of all or of those that have a seed in common with one and are another.

        Where seeds test other users, one without all seeds met other users than the rest: its average is no match.
        """
        others = [
            method
            for method in self.methods
            if method != beside
            and (not beside or self._common(method, beside))
            and (not self.folds or len(self.runs[method]) == len(self.seeds))
        ]
        return max(others, key=lambda method: self.final[method][:, self.counted].mean(), default=None)

    def _method(self, method: str) -> dict[str, Any]:
        final, draws = self.final[method].mean(0), self._drawn(method)
        own = [None if draws is None else draws[:, k] for k in range(len(self.tasks))]  # each (B,)
        tasks = {t: spread(final[k], own[k], LEVEL, SCORES) for k, t in enumerate(self.tasks)}
        told: dict[str, Any] = {"keeps": self.keeps.get(method), "seeds": list(self.runs[method]), "tasks": tasks}
        told["average"] = self._mean(final, draws, SCORES)
        told |= self._gains(method) | self._transfers(method) | self._cost(method)
        return told | {"against": None, "difference": None, "p": None, "p_holm": None, "t_test": None}

    def _drawn(self, method: str, seeds: Sequence[int] | None = None) -> np.ndarray | None:
        return self.draws[method].drawn(seeds) if method in self.draws else None  # (B, K)

    def _mean(
        self, values: np.ndarray, draws: np.ndarray | None, within: tuple[float, float] = (-np.inf, np.inf)
    ) -> dict[str, float | None]:
        """Over the tasks that count: values (K,), draws (B, K)."""
        inner = None if draws is None else draws[:, self.counted].mean(1)
        return spread(float(values[self.counted].mean()), inner, LEVEL, within)

    def _common(self, a: str, b: str) -> list[int]:
        return [seed for seed in self.runs[a] if seed in self.runs[b]]

    def _at(self, method: str, seeds: Sequence[int]) -> np.ndarray:
        """(K,) means over some seeds."""
        own = list(self.runs[method])
        return self.final[method][[own.index(seed) for seed in seeds]].mean(0)

    def _difference(self, a: str, b: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """a - b on common seeds: (K,), and the draws (B,) of its mean; None where there is none."""
        seeds = self._common(a, b)
        if not seeds:
            return None, None
        mine, theirs = self._drawn(a, seeds), self._drawn(b, seeds)
        draws = None if mine is None or theirs is None else (mine - theirs)[:, self.counted].mean(1)
        return self._at(a, seeds) - self._at(b, seeds), draws

    def _t_tests(self, a: str, b: str) -> dict[str, float | None]:
        """Task -> p of the paired t-test over users, on common seeds."""
        mine, theirs, seeds = self.reached[a], self.reached[b], self._common(a, b)
        return {task: t_test(mine, theirs, k, seeds) for k, task in enumerate(self.tasks)}

    def _gains(self, method: str) -> dict[str, Any]:
        """gains: of each task over a model of its own, same seeds; gain: their mean; relative_gain: as shares of it."""
        seeds = self._common(method, ALONE) if ALONE in self.methods else []
        if not seeds:
            return {"gains": None, "gain": None, "relative_gain": None}
        mine, alone = self._at(method, seeds), self._at(ALONE, seeds)
        draws, base = self._drawn(method, seeds), self._drawn(ALONE, seeds)
        change = None if draws is None or base is None else draws - base  # (B, K)
        gains = {
            t: spread(mine[k] - alone[k], None if change is None else change[:, k], LEVEL)
            for k, t in enumerate(self.tasks)
        }
        relative = None
        if (alone[self.counted] > 0).all():
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = None if change is None or base is None else change / base
            relative = self._mean((mine - alone) / np.where(alone > 0, alone, np.nan), shares)
        return {"gains": gains, "gain": self._mean(mine - alone, change), "relative_gain": relative}

    def _transfers(self, method: str) -> dict[str, Any]:
        """Mean over seeds, and each seed's."""
        told: dict[str, list[Any]] = {}
        for seed, run in self.runs[method].items():
            alone = self.runs.get(ALONE, {}).get(seed)
            values = {} if alone is None else dict(zip(self.tasks, _last(alone, self.tasks).tolist(), strict=True))
            for name, value in transfers(matrix_of(run), values, self.without).items():
                told.setdefault(name, []).append(value)
        means: dict[str, Any] = {}
        for name, values in told.items():
            known = [value for value in values if value is not None]
            means[name] = {"mean": float(np.mean(known)) if known else None, "seeds": values}
        return means

    def _cost(self, method: str) -> dict[str, Any]:
        """Means over the later tasks and over seeds; the memory of the largest moment, its mean over seeds.

        What was spent on several tasks at once is told once, so seconds are summed and divided by the later tasks.
        """
        own = self.rows.filter(pl.col("method") == method, pl.col("bytes").is_not_null())  # a row for each task
        later, runs = own.filter(pl.col("task_index") > 0), len(self.runs[method])
        seconds = later["seconds"].sum() / (runs * (len(self.tasks) - 1)) if len(later) else None
        peak = own.group_by("seed").agg(pl.col("peak_rss").max())["peak_rss"].mean()
        told = {"trainable": later["trainable"].mean(), "bytes": later["bytes"].mean(), "seconds": seconds}
        return {**told, "peak_rss": peak, "backbone_shared": bool(own["backbone_shared"].all())}


def _in_folds(users: pl.DataFrame) -> bool:
    """Whether a seed did not test everyone that another seed tested."""
    tested = users.group_by("task", "user").agg(pl.col("seed").n_unique())
    seeds = users.group_by("task").agg(all=pl.col("seed").n_unique())
    return bool((tested.join(seeds, on="task").select(pl.col("seed") < pl.col("all"))).to_series().any())


def _last(run: pl.DataFrame, tasks: Sequence[str]) -> np.ndarray:
    """(K,) the values after the last task."""
    final = run.filter(pl.col("final"))
    values = dict(zip(final["task"], final["value"], strict=True))
    return np.array([values[task] for task in tasks])
