"""The folder of a comparison made by hand: the shape of a real one, numbers drawn for the test and for nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from report import run_folder

from perdure.api import results as tables
from perdure.api.cells import Cell
from perdure.api.summary import LEVEL, RESAMPLES, summarise
from perdure.settings.streams import NOISE

TASKS = ["watch", "later", "liked", "age", "gender", "status"]
# method -> gain on a later task, share lost with every later task, bytes, seconds, growth of a step, keeps
METHODS: dict[str, tuple[float, float, int, float, float, bool]] = {
    "pcl": (0.060, 0.0, 6_000, 40.0, 0.0, True),
    "peterrec": (0.052, 0.0, 42_500, 70.0, 0.0, True),
    "teracon": (0.046, 0.002, 31_000, 160.0, 0.12, False),
    "lora": (0.041, 0.0, 21_000, 52.0, 0.0, True),
    "frozen": (0.030, 0.0, 3_300, 28.0, 0.0, True),
    "finetune": (0.012, 0.09, 3_300, 55.0, 0.0, False),
    "single": (0.0, 0.0, 1_110_000, 95.0, 0.0, True),
}
AT = "2026-01-02T10:02:07+00:00"


def write(
    folder: Path,
    methods: Sequence[str] = tuple(METHODS),
    encoders: Sequence[str] = ("sasrec",),
    seeds: Sequence[int] = (1, 2, 3),
    orders: Sequence[str] = ("forward",),
    protocols: Sequence[str] = ("clean",),
    tasks: Sequence[str] = TASKS,
    users: int = 80,
    sampled: bool = False,
    states: Mapping[str, tuple[str, str | None]] | None = None,
    folds: bool = False,
) -> Path:
    """A comparison in `folder`; `states` gives runs (by folder) another state than done, and their fault; `folds`: each
    seed tested other users."""
    states = states or {}
    folder.mkdir(parents=True, exist_ok=True)
    cells = [Cell(e, m, o, p, s) for p in protocols for s in seeds for e in encoders for o in orders for m in methods]
    done = [cell for cell in cells if cell.folder not in states]
    for cell in done:
        _run(folder, cell, list(tasks), users, sampled)
    frame = tables.results(folder, done, lambda cell: False)
    people = tables.users(folder, done)
    if folds:
        people = people.filter(pl.col("user").str.slice(1).cast(pl.Int64) % len(seeds) == pl.col("seed") - 1)
    keeps = {method: METHODS[method][5] for method in methods}
    groups = summarise(frame, people, keeps=keeps, noise=NOISE)
    frame.write_parquet(folder / "results.parquet")
    people.write_parquet(folder / "users.parquet")
    summary = {"format": 1, "level": LEVEL, "resamples": RESAMPLES, "against": None, "groups": groups}
    about = _about(methods, encoders, seeds, orders, protocols, tasks)
    about["cells"] = [_line(cell, *states.get(cell.folder, ("done", None))) for cell in cells]
    about["backbones"] = [
        _line(one, "done", None) for one in dict.fromkeys(cell.backbone for cell in cells if cell.method != "single")
    ]
    _json(folder / "summary.json", summary)
    _json(folder / "compare.json", about)
    return folder


def _about(methods, encoders, seeds, orders, protocols, tasks) -> dict[str, Any]:
    told = run_folder.run(methods[0], len(TASKS))
    told |= {"format": 1, "recipe": "recipes/six-tasks.toml", "state": "finished", "started": AT, "written": AT}
    told |= {"methods": [*methods], "encoders": [*encoders], "seeds": [*seeds]}
    told |= {"orders": [*orders], "protocols": [*protocols]}
    told["settings"]["tasks"] = [
        {"name": t, "kind": _kind(t), "where": None, "description": f"what {t}"} for t in tasks
    ]
    told["tuned"] = {methods[0]: {"train.learning_rate": 0.003, "tuning.length": 6}}
    finding = {"kind": "input", "severity": "note", "task": tasks[-1], "other": None, "count": 12, "of": 600}
    leak = {**finding, "kind": "history", "severity": "leak", "count": 321}
    told["findings"] = {"clean": [{**finding, "text": "12 of 600 answers stand in their own input"}]}
    if "as-coded" in protocols:
        told["findings"]["as-coded"] = [{**leak, "text": "321 of 600 test histories stand in training"}]
    return told


def _line(cell: Cell, state: str, fault: str | None) -> dict[str, Any]:
    key = {name: getattr(cell, name) for name in tables.KEY}
    return {**key, "folder": cell.folder, "state": state, "fault": fault, "backbone": None}


def _kind(task: str) -> str:
    return "next_item" if task == "watch" else "one_of" if task in ("age", "gender", "status", NOISE) else "item"


def _metric(task: str) -> str:
    return "accuracy" if _kind(task) == "one_of" else "ndcg@10"


def _ordered(tasks: list[str], order: str) -> list[str]:
    if order == "reversed":
        return [tasks[0], *tasks[:0:-1]]
    return [*tasks[:3], NOISE, *tasks[3:]] if order == "noisy" else tasks


def _run(out: Path, cell: Cell, names: list[str], users: int, sampled: bool) -> None:
    folder, tasks = out / cell.folder, _ordered(names, cell.order)
    folder.mkdir(parents=True)
    gain, loss, size, seconds, growth, _ = METHODS[cell.method]
    rng = np.random.default_rng([cell.seed, len(cell.encoder), list(METHODS).index(cell.method)])
    protocol = "sampled: 100 uniform, seed 0" if sampled else "full ranking"
    values, frames = {}, []
    history = np.random.default_rng(7).integers(1, 30, users)
    for k, task in enumerate(tasks):
        base = 0.2 + 0.5 * ((7 * names.index(task) + 3) % 10) / 10 if task != NOISE else 0.02
        top = base + (gain * (0.6 + 0.8 * rng.random()) if k and task != NOISE else 0.0)
        top += {"as-coded": 0.05, "user-each": 0.01}.get(cell.protocol, 0.0) - 0.01 * (cell.order == "noisy" and k > 3)
        values[task] = float(np.clip(top + rng.normal(0, 0.004), 0, 1))
    R = [[values[task] * (1 - loss) ** (t - k) for k, task in enumerate(tasks[: t + 1])] for t in range(len(tasks))]
    scores, costs, lines = [], [], []
    for t, after in enumerate(tasks):
        for k, task in enumerate(tasks[: t + 1]):
            how = "all classes" if _kind(task) == "one_of" else protocol
            told = {
                "after": after,
                "task": task,
                "metric": _metric(task),
                "value": R[t][k],
                "protocol": how,
                "n": users,
                "popularity": 0.99 if task == names[-1] else 0.01,
            }
            scores.append({**told, "low": R[t][k] - 0.02, "high": R[t][k] + 0.02})
        cost = {
            "task": after,
            "seconds": seconds * (1 + growth * t),
            "epochs": 9,
            "trainable": size // 4,
            "bytes": size,
        }
        costs.append({**cost, "peak_rss": (500 + 10 * len(cell.method)) * 2**20})
        step = {"seconds_per_step": 0.01 * seconds / 40 * (1 + growth * t)}
        lines += [line | step for line in _epochs(after, R[t][t])] if t or cell.method == "single" else []
    for k, task in enumerate(tasks):
        drawn, mean = np.random.default_rng([cell.seed, k]).random(users), R[-1][k]
        value = mean + min(mean, 1 - mean) * (drawn - drawn.mean())  # in [0, 1], and of this mean
        columns = {"task": [task] * users, "user": [f"u{n}" for n in range(users)], "history": history}
        frames.append(pl.DataFrame({**columns, "value": value}).cast({"history": pl.Int32, "value": pl.Float32}))
    pl.concat(frames).write_parquet(folder / "users.parquet")
    own = {"tuning": {"method": cell.method, f"{cell.method}_option": 0.5}, "encoder": {"name": cell.encoder}}
    own |= {"objective": {"name": "next_item", "path": "<script>alert(1)</script>"}, "pretrain": {"model": None}}
    origin = {"tuning.method": "override", "encoder.name": "override"}
    _json(folder / "run.json", {"settings": own, "origin": origin, "state": "finished"})
    _json(folder / "matrix.json", {"tasks": tasks, "R": R})
    _json(folder / "scores.json", scores)
    _json(folder / "cost.json", costs)
    if cell.method in ("pcl", "teracon"):
        raw = {task: rng.random(k) for k, task in enumerate(tasks)}
        told = {task: dict(zip(tasks, (raw[task] / raw[task].sum()).tolist(), strict=False)) for task in tasks[1:]}
        _json(folder / "relations.json", {tasks[0]: {}, **told})
    lines.append({"event": "warning", "text": "batch_size 128 is more than the 80 training examples"})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _epochs(task: str, top: float) -> list[dict[str, Any]]:
    return [
        {"event": "epoch", "task": task, "stage": "train", "epoch": e, "metric": _metric(task), "loss": 3.0 / e,
         "valid": top * (1 - float(np.exp(-e / 2.5)))}
        for e in range(1, 10)
    ]  # fmt: skip


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")
