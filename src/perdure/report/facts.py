"""What a run folder tells, gathered for the page. A file not there is missing, never guessed. [reads]

run.json      effective settings with their origin, versions, data_card and data_digest, seed, threads, state
log.jsonl     one line per event: epochs with loss and validation score, that with what was counted, rows of R, warnings
matrix.json   tasks and R; R[t][k] is the score on task k after learning task t
scores.json   every score behind R: users, interval, protocol, all metrics, notes
cost.json     per task: seconds, epochs, trainable parameters, bytes of its file, peak memory
oracle.json   the best score that can be reached on each task, where the world is known (synthetic data)
alone.json    the score of each task learned alone, where such a run was made
compare/      runs of other methods on the same tasks, where they were made
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.errors import ModelError, shorten
from perdure.evaluation.matrix import Matrix

__all__ = ["Facts", "Setting", "document", "lines", "read", "settings_of"]

Setting = tuple[str, str, Any, str]  # section, key, value, origin

SECTIONS = [
    "tasks",
    "tuning",
    "encoder",
    "objective",
    "pretrain",
    "train",
    "data",
    "history",
    "split",
    "evaluate",
    "run",
]


@dataclass
class Facts:
    """One run, as far as its folder tells.

    Attributes:
        tasks: names of the tasks learned so far, in order.
        planned: names of all tasks the run is to learn.
        matrix: R as a value with its averages.
        R: the same as full rows, R[t][k], None where task k was not yet learned.
        oracle, alone: best reachable score, and score when learned alone, per task; empty where unknown.
        others: method -> matrix of its run on the same tasks.
        epochs: per task its epoch lines in order: stage, epoch, loss, valid, metric, best.
        scores: per task its last score: n, metric, value, low, high, protocol, values, notes.
        counted: per task its validation score with what its method counted after training, where it did.
        cost: per task: seconds, epochs, trainable, bytes, peak_rss.
        settings: all of them.
        last: time of the last line of the log.
        missing: what the page would have shown if the folder held it, each with the reason.
    """

    folder: Path
    run: dict[str, Any]
    tasks: list[str] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)
    matrix: Matrix = field(default_factory=Matrix)
    R: list[list[float | None]] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    oracle: dict[str, float] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    others: dict[str, Matrix] = field(default_factory=dict)
    epochs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    cost: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    last: str = ""


def read(folder: Path | str) -> Facts:
    """Gather a run folder.

    Raises:
        ModelError: the folder is no run folder, or one of its files cannot be read.
    """
    folder = Path(folder)
    run = document(folder, "run.json")
    if run is None:
        fix = "name the run's folder, not the store's" if folder.exists() else "there is no such folder"
        if (folder / "tries" / "compare.json").is_file():
            fix = f"this is a search: its tries are a comparison, {shorten(folder / 'tries')}"
        raise ModelError(
            f"no run.json or compare.json in {shorten(folder)}",
            expected="the folder that `perdure learn`, `quickstart` or `compare` wrote",
            where=str(folder),
            fix=fix,
        )
    facts = Facts(folder=folder, run=run)
    facts.planned = [str(task.get("name")) for task in (run.get("settings") or {}).get("tasks") or []]
    _matrix(facts)
    _scores(facts)
    _cost(facts)
    _log(facts)
    facts.settings = settings_of(run)
    for name, into in (("oracle.json", facts.oracle), ("alone.json", facts.alone)):
        told = document(folder, name) or {}
        into.update({task: float(v) for task, v in told.items() if isinstance(v, int | float)})
    for other in sorted(folder.glob("compare/*/matrix.json")):
        matrix = Matrix.from_dict(document(other.parent, other.name))
        if matrix.tasks == facts.matrix.tasks:
            facts.others[other.parent.name] = matrix
    return facts


def document(folder: Path, name: str) -> Any:
    """A JSON file of a folder, None where it is not there.

    Raises:
        ModelError: it cannot be read.
    """
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{name} cannot be read: {shorten(error)}", where=str(path), fix="resume or repeat the run"
        ) from error


def _matrix(facts: Facts) -> None:
    told = document(facts.folder, "matrix.json")
    if not told or not told.get("R"):
        facts.missing.append("the matrix R: the run has not finished its first task (no matrix.json)")
        return
    try:
        facts.matrix = Matrix.from_dict(told)
    except ModelError as error:
        raise ModelError(
            f"matrix.json: {error.found}", where=str(facts.folder), fix="resume or repeat the run"
        ) from error
    facts.tasks = list(facts.matrix.tasks)
    width = len(facts.tasks)
    facts.R = [[*row, *[None] * (width - len(row))] for row in facts.matrix.rows]
    facts.metrics = dict(facts.matrix.metrics)


def _scores(facts: Facts) -> None:
    told = document(facts.folder, "scores.json")
    if told is None:
        facts.missing.append("users, intervals and protocol behind each score (no scores.json)")
        return
    for score in told:
        facts.scores[score["task"]] = score  # in order of time: the last one stands


def _cost(facts: Facts) -> None:
    told = document(facts.folder, "cost.json")
    if told is None:
        facts.missing.append("what each task cost (no cost.json)")
        return
    facts.cost = {row["task"]: row for row in told}


def lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a log.jsonl, and how many more cannot be read."""
    told, broken = [], 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told.append(json.loads(text))
        except json.JSONDecodeError:
            broken += 1
    return told, broken


def _log(facts: Facts) -> None:
    path = facts.folder / "log.jsonl"
    if not path.exists():
        facts.missing.append("learning curves (no log.jsonl)")
        return
    told, broken = lines(path)
    for line in told:
        if line.get("event") == "epoch":
            facts.epochs.setdefault(line["task"], []).append(line)
        elif line.get("event") == "counted":
            facts.counted[line["task"]] = line["valid"]
        elif line.get("event") == "warning" and line.get("text") not in facts.notes:
            facts.notes.append(str(line.get("text")))
    facts.last = str(next((line["at"] for line in reversed(told) if line.get("at")), ""))
    if broken:
        facts.missing.append(
            f"{broken} line{'s' * (broken > 1)} of log.jsonl that cannot be read (a run cut off while writing)"
        )


def settings_of(run: dict[str, Any]) -> list[Setting]:
    """Every setting that a document tells."""
    origins, told = run.get("origin") or {}, run.get("settings") or {}
    order = sorted(told, key=lambda name: SECTIONS.index(name) if name in SECTIONS else len(SECTIONS))
    return [
        (section, key, value, str(origins.get(key, "default")))
        for section in order
        for key, value in _leaves(told[section], section)
    ]


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is neither a table nor a list of tables."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for place, entry in enumerate(value):
            yield from _leaves(entry, f"{key}.{place}")
    else:
        yield key, value
