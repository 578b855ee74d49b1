"""What the folder of a comparison tells, gathered for the page. What is not there is missing, never guessed. [reads]

compare.json      what is compared, settings with their origin, tuned settings, audit, versions, the state of every cell
summary.json      per encoder, order and protocol: what every method reached, gained, forgot and cost
results.parquet   every cell of every R, and the cost of each task
users.parquet     per user the value of each task's measure at the end, and how long a history was read
runs/             the run folders: log.jsonl for curves and step times, relations.json for what tasks draw on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perdure.errors import ModelError, shorten
from perdure.evaluation.matrix import Matrix
from perdure.report import words
from perdure.report.facts import Facts, Setting, document, lines, settings_of

__all__ = ["ALONE", "SLICES", "Compared", "Group", "doubts", "matrix_of", "read"]

ALONE = "single"  # learns each task alone: what gains are counted from
KEY = ("encoder", "order", "protocol")
ENOUGH = 3  # seeds, for p and intervals to say anything of other seeds
MANY = 8  # tasks or methods that are named
SLICES = (("0", 0, 0), ("1", 1, 1), ("2 to 5", 2, 5), ("6 to 20", 6, 20), ("more", 21, 2**31 - 1))  # events read


@dataclass(frozen=True)
class Group:
    """The methods of one encoder, order and protocol, as summary.json tells them.

    Attributes:
        encoder, order, protocol: what they have in common.
        tasks: in the order learned. left_out: of them those that count in no mean.
        metrics, measured: task -> measure, and how it was measured.
        methods: method -> its entry of summary.json; the best average first, those of `partial` last.
        popularity: task -> what is reached by what is popular; empty for comparisons that did not measure it.
        doubts: what to doubt of it. folds: each seed tested other users.
        rows: of results.parquet. users: of users.parquet.
        folders: method -> folders of its finished runs, by seed.
    """

    encoder: str
    order: str
    protocol: str
    tasks: list[str]
    left_out: list[str]
    metrics: dict[str, str]
    measured: dict[str, str]
    seeds: list[int]
    methods: dict[str, dict[str, Any]]
    rows: pl.DataFrame
    users: pl.DataFrame
    folders: dict[str, dict[int, Path]] = field(default_factory=dict)
    popularity: dict[str, float | None] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    folds: bool = False

    @property
    def partial(self) -> list[str]:
        """Methods without all folds: they met other users than the rest, so no score of theirs is held against it."""
        return [m for m, one in self.methods.items() if self.folds and one["seeds"] != self.seeds]

    @property
    def ranked(self) -> list[str]:
        """Methods whose scores are held against one another."""
        return [method for method in self.methods if method not in self.partial]

    @property
    def counted(self) -> list[str]:
        """Tasks that count in means."""
        return [task for task in self.tasks if task not in self.left_out]

    @property
    def sampled(self) -> str:
        """The words that go with every mean over tasks some of which were ranked among a sample; else empty."""
        told = sorted({text for task, text in self.measured.items() if text.startswith("sampled")})
        return "; ".join(told)

    def label(self, task: str) -> str:
        """The name of a task's measure, and `sampled` where it is."""
        told = self.metrics.get(task, "")
        return f"{told}, sampled" if self.measured.get(task, "").startswith("sampled") else told

    @cached_property
    def matrices(self) -> dict[str, list[Matrix]]:
        """Method -> R of each seed."""
        told: dict[str, list[Matrix]] = {}
        for (method, _), run in self.rows.sort("seed").group_by(["method", "seed"], maintain_order=True):
            told.setdefault(str(method), []).append(matrix_of(run))
        return {method: told[method] for method in self.methods if method in told}

    def mean_matrix(self, method: str) -> np.ndarray:
        """(K, K) mean over seeds; NaN where a task was not yet learned."""
        return np.mean([matrix.R for matrix in self.matrices[method]], 0)

    def forgotten(self, method: str) -> dict[str, float]:
        """Per older task: the best it ever was, less what it is at the end; mean over seeds. Empty where a method
        learned everything at once, and was measured once."""
        each = [matrix.forgotten() for matrix in self.matrices[method]]
        return {task: float(np.mean([one[task] for one in each])) for task in each[0]}

    def forgetting(self, method: str) -> float | None:
        """Mean of `forgotten` over the tasks that count; None where there is none."""
        lost = [value for task, value in self.forgotten(method).items() if task not in self.left_out]
        return float(np.mean(lost)) if lost else None

    def final(self, method: str, task: str) -> float | None:
        """Mean over seeds at the end; None where the method has no such task."""
        told = self.methods.get(method, {}).get("tasks", {}).get(task)
        return None if told is None else told["mean"]

    @property
    def top(self) -> dict[str, float]:
        """Task -> what the best method of it reached at the end."""
        return {task: max((self.final(m, task) or 0.0 for m in self.ranked), default=0.0) for task in self.tasks}

    def lost_nothing(self, method: str) -> bool:
        """Whether in every seed every older task ended as good as it ever was, and there was one."""
        lost = [value for matrix in self.matrices[method] for value in matrix.forgotten().values()]
        return bool(lost) and not any(lost)

    @cached_property
    def costs(self) -> dict[str, list[dict[str, Any]]]:
        """Method -> per task its cost, mean over seeds: task, seconds, epochs, trainable, bytes, peak_rss."""
        names = ["seconds", "epochs", "trainable", "bytes", "peak_rss"]
        own = self.rows.filter(pl.col("bytes").is_not_null())  # one row for each task
        means = own.group_by("method", "task", "task_index").agg(pl.col(names).mean()).sort("task_index")
        return {method: means.filter(pl.col("method") == method).to_dicts() for method in self.methods}

    @cached_property
    def logs(self) -> dict[str, dict[int, list[dict[str, Any]]]]:
        """Method -> seed -> the lines of its log."""
        return {
            method: {seed: _log(folder) for seed, folder in folders.items()} for method, folders in self.folders.items()
        }

    @cached_property
    def epochs(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Method -> task -> the epoch lines of its first run, those of all stages one after the other."""
        told: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for method, logs in self.logs.items():
            for line in logs[min(logs)]:
                if line.get("event") == "epoch":
                    told.setdefault(method, {}).setdefault(line["task"], []).append(line)
        return told

    @cached_property
    def steps(self) -> dict[str, dict[str, float]]:
        """Method -> task -> median seconds of a training step, mean over seeds; of all stages."""
        told: dict[str, dict[str, list[float]]] = {}
        for method, logs in self.logs.items():
            for log in logs.values():
                times: dict[str, list[float]] = {}
                for line in log:
                    if line.get("seconds_per_step"):
                        times.setdefault(line["task"], []).append(line["seconds_per_step"])
                for task, some in times.items():
                    told.setdefault(method, {}).setdefault(task, []).append(float(np.median(some)))
        return {method: {task: float(np.mean(v)) for task, v in tasks.items()} for method, tasks in told.items()}

    @cached_property
    def relations(self) -> dict[str, dict[str, dict[str, float]]]:
        """Method -> task -> earlier task -> how much it is drawn on, mean over seeds; of methods that tell."""
        told = {}
        for method, folders in self.folders.items():
            each = [document(folder, "relations.json") or {} for folder in folders.values()]
            mean = {}
            for task in self.tasks:
                some = [one[task] for one in each if one.get(task)]
                if some:
                    mean[task] = {earlier: float(np.mean([one[earlier] for one in some])) for earlier in some[0]}
            if mean:
                told[method] = mean
        return told

    @cached_property
    def settings(self) -> dict[str, list[Setting]]:
        """Method -> the settings of its first run."""
        firsts = {method: folders[min(folders)] for method, folders in self.folders.items()}
        return {method: settings_of(document(folder, "run.json") or {}) for method, folder in firsts.items()}

    @cached_property
    def slices(self) -> pl.DataFrame:
        """Columns method, task, slice (place in SLICES), value (mean over a user's seeds, then users), n (users).

        Without `partial`, so that all methods met the same users.
        """
        history = pl.col("history")
        place = pl.sum_horizontal([(history >= low).cast(pl.Int32) for _, low, _ in SLICES]) - 1
        each = (
            self.users.filter(pl.col("method").is_in(self.ranked))
            .with_columns(slice=place)
            .group_by("method", "task", "slice", "user")
        )
        users = each.agg(pl.col("value").mean())
        return users.group_by("method", "task", "slice").agg(pl.col("value").mean(), n=pl.len())


@dataclass(frozen=True)
class Compared:
    """A comparison, as far as its folder tells.

    Attributes:
        about: compare.json. facts: settings, data card and versions as a run's report takes them.
        groups: one for each encoder, order and protocol with finished runs.
        level: of every interval. against: the method differences are told from, None for the best of the others.
        missing: what the page would have shown, each with the reason.
    """

    folder: Path
    about: dict[str, Any]
    facts: Facts
    groups: list[Group] = field(default_factory=list)
    level: float = 0.95
    against: str | None = None
    missing: list[str] = field(default_factory=list)

    def axis(self, name: str) -> list[Any]:
        """The methods, encoders, seeds, orders or protocols that were asked for."""
        return list(self.about.get(name) or [])

    @property
    def main(self) -> list[Group]:
        """One group for each encoder: those of the first order and protocol. The page is about them."""
        return [g for g in self.groups if (g.order, g.protocol) == (self.axis("orders")[0], self.axis("protocols")[0])]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Backbones and cells with folder, state and fault."""
        return [*(self.about.get("backbones") or []), *(self.about.get("cells") or [])]

    def group(self, encoder: str, order: str, protocol: str) -> Group | None:
        """The group of these names, if it has finished runs."""
        return next((g for g in self.groups if (g.encoder, g.order, g.protocol) == (encoder, order, protocol)), None)

    @property
    def warnings(self) -> dict[str, int]:
        """What runs warned of -> how many of them did, the most frequent first."""
        logs = [log for group in self.groups for some in group.logs.values() for log in some.values()]
        told = Counter(
            text for log in logs for text in {line.get("text") for line in log if line["event"] == "warning"}
        )
        return {str(text): count for text, count in sorted(told.items(), key=lambda one: (-one[1], str(one[0])))}

    @cached_property
    def colours(self) -> dict[str, int]:
        """Method -> its place among the methods, which gives it one colour on the whole page."""
        return {method: place for place, method in enumerate(self.axis("methods"))}


def read(folder: Path | str) -> Compared:
    """Gather the folder of a comparison.

    Raises:
        ModelError: it is none, or a file of it cannot be read.
    """
    folder = Path(folder)
    about = document(folder, "compare.json")
    if about is None:
        raise ModelError(
            f"no compare.json in {shorten(folder)}",
            expected="the folder of a comparison",
            where=str(folder),
        )
    facts = Facts(folder=folder, run=about, settings=settings_of(about))
    summary, missing = document(folder, "summary.json") or {}, []
    if not summary:
        missing.append("There are no numbers yet: summary.json is written when all runs were tried.")
    results, users = (_table(folder / name) for name in ("results.parquet", "users.parquet"))
    for frame, name in ((results, "results.parquet"), (users, "users.parquet")):
        if frame is None and summary:
            missing.append(f"What stands in {name} is missing: there is no such file.")
    groups = (
        [_group(one, results, users, about, folder) for one in summary.get("groups", [])] if results is not None else []
    )
    late = _late(about, summary)
    if summary and late:
        missing.append(f"{late} finished after the summary was written; `perdure compare` again takes them in.")
    level, against = summary.get("level", 0.95), summary.get("against")
    return Compared(folder, about, facts, [g for g in groups if g.methods], level, against, missing)


def _group(
    told: Mapping[str, Any], results: pl.DataFrame, users: pl.DataFrame | None, about: Mapping[str, Any], folder: Path
) -> Group:
    chosen = [pl.col(name) == told[name] for name in KEY]
    rows = results.filter(*chosen)
    folds = bool(told.get("folds"))
    ranked = sorted(
        told["methods"].items(),
        key=lambda entry: (folds and entry[1]["seeds"] != told["seeds"], -(entry[1]["average"]["mean"] or 0.0)),
    )
    folders: dict[str, dict[int, Path]] = {}
    for cell in about.get("cells") or []:
        if cell["state"] == "done" and all(cell[name] == told[name] for name in KEY):
            folders.setdefault(cell["method"], {})[cell["seed"]] = folder / cell["folder"]
    return Group(
        **{name: told[name] for name in (*KEY, "tasks", "left_out", "metrics", "measured", "seeds")},
        methods=dict(ranked),
        rows=rows,
        users=(pl.DataFrame() if users is None else users.filter(*chosen)),
        folders={method: folders[method] for method, _ in ranked if method in folders},
        popularity=dict(told.get("popularity") or {}),
        doubts=doubts(told),
        folds=folds,
    )


def matrix_of(run: pl.DataFrame) -> Matrix:
    """R of one run, from its rows of results.parquet."""
    run = run.sort("after_index", "task_index")
    tasks = run.filter("final")["task"].to_list()
    return Matrix(tasks, [run.filter(pl.col("after_index") == at)["value"].to_list() for at in range(len(tasks))])


def doubts(group: Mapping[str, Any]) -> list[str]:
    """What to doubt of a group of summary.json: few seeds, and methods that are not above popularity.

    Every task that some method does not lift above it is named, with those methods.
    """
    seeds = len(group["seeds"])
    few = "p and the intervals know little of other seeds; three are the least, five are better"
    told = [f"{words.count(seeds, 'seed')} only: {few}"] if 0 < seeds < ENOUGH else []
    lacking = [m for m, one in group["methods"].items() if group.get("folds") and one["seeds"] != group["seeds"]]
    if lacking:
        who = f"{group['encoder']}: {words.few(lacking, MANY)} {'lacks' if len(lacking) == 1 else 'lack'} folds"
        told.append(f"{who}, so met other users than the rest: not held against it")
    weak: dict[str, list[str]] = {}
    for task, popular in (group.get("popularity") or {}).items():
        full = [(name, one["tasks"]) for name, one in group["methods"].items() if name not in lacking]
        reached = {name: tasks[task]["mean"] for name, tasks in full if task in tasks}
        below = [name for name, value in reached.items() if None not in (value, popular) and value <= popular]
        if below:
            weak[task] = below if len(below) < len(reached) else []
    none = [task for task, below in weak.items() if not below]
    told += [f"{group['encoder']}: no method is above popularity in {words.few(none, MANY)}"] if none else []
    each = [f"{words.few(below, MANY)} in {task}" for task, below in weak.items() if below]
    return told + ([f"{group['encoder']}: not above popularity: {'; '.join(each)}"] if each else [])


def _late(about: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """`3 runs`: those that are done and not in the summary."""
    known = {
        (*(group[name] for name in KEY), method, seed)
        for group in summary.get("groups", [])
        for method, one in group["methods"].items()
        for seed in one["seeds"]
    }
    done = [cell for cell in about.get("cells") or [] if cell["state"] == "done"]
    late = [cell for cell in done if (*(cell[name] for name in KEY), cell["method"], cell["seed"]) not in known]
    return words.count(len(late), "run", digits=True) if late else ""


def _table(path: Path) -> pl.DataFrame | None:
    if not path.exists():
        return None
    try:
        return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ModelError(
            f"{path.name} cannot be read: {shorten(error)}", where=str(path), fix="run `perdure compare` again"
        ) from error


def _log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    path = folder / "log.jsonl"
    return lines(path)[0] if path.exists() else []
