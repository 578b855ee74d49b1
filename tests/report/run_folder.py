"""A run folder made by hand: the shape of a real one, numbers chosen for the test and for nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

TASKS = ["watch", "later", "liked", "age", "gender", "status"]
METRIC = {
    "watch": "ndcg@10",
    "later": "ndcg@10",
    "liked": "ndcg@10",
    "age": "accuracy",
    "gender": "accuracy",
    "status": "accuracy",
}
ORACLE = {"watch": 0.61, "later": 0.52, "liked": 0.47, "age": 0.80, "gender": 0.90, "status": 0.70}


def write(folder: Path, method: str = "pcl", loss: float = 0.0, learned: int = 6, sampled: bool = False) -> Path:
    """A run of `learned` tasks; an older task loses the share `loss` of its score with every later task."""
    folder.mkdir(parents=True, exist_ok=True)
    R = [
        [0.9 * ORACLE[task] * (1 - loss) ** (t - k) if k <= t else None for k, task in enumerate(TASKS)]
        for t in range(learned)
    ]
    protocol = "sampled: 100 uniform, seed 0" if sampled else "full ranking"
    documents: dict[str, Any] = {
        "run.json": run(method, learned),
        "matrix.json": {"tasks": TASKS, "R": R, "metrics": METRIC},
        "oracle.json": ORACLE,
        "scores.json": [score(task, R[-1][k], protocol) for k, task in enumerate(TASKS[:learned])],
        "cost.json": [
            {
                "task": t,
                "seconds": 30.5 / (1 + k),
                "epochs": 12 - k,
                "trainable": 250000 if k == 0 else 9216 + k,
                "bytes": 80000 * (k == 0) + 41000,
            }
            for k, t in enumerate(TASKS[:learned])
        ],
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    lines = [line for k, task in enumerate(TASKS[:learned]) for line in epochs(task, 12 - k)]
    lines.append(
        {
            "event": "warning",
            "text": "liked: 14 answers of the test users never occur in training; each counts as a miss",
        }
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def epochs(task: str, count: int) -> list[dict[str, Any]]:
    top = 0.9 * ORACLE[task]
    return [
        {"event": "epoch", "task": task, "stage": "train", "epoch": e, "loss": 0.8 + 2.2 * math.exp(-e / 3), "metric": METRIC[task],
         "valid": top * (1 - math.exp(-e / 2.5)) - 0.004 * max(0, e - 8)}
        for e in range(1, count + 1)
    ]  # fmt: skip


def score(task: str, value: float, protocol: str) -> dict[str, Any]:
    values = {"hr@10": min(1.0, 1.4 * value), METRIC[task]: value}
    return {"task": task, "n": 600, "metric": METRIC[task], "value": value, "low": value - 0.02, "high": value + 0.02,
            "protocol": protocol, "values": values, "notes": []}  # fmt: skip


def run(method: str, learned: int) -> dict[str, Any]:
    return {
        "name": "quickstart", "state": "finished" if learned == len(TASKS) else "interrupted", "seed": 0, "threads": 2,
        "device": "cpu", "precision": "32-true", "started": "2026-01-02 10:00:00 UTC", "finished": "2026-01-02 10:02:07 UTC",
        "settings": {
            "encoder": {"name": "sasrec", "width": 64, "blocks": 2, "dropout": 0.1},
            "tuning": {"method": method, "prompts": 10, "path": "<script>alert(1)</script>"},
            "train": {"epochs": 20, "batch_size": 128, "learning_rate": 0.001, "optimizer": "adam", "patience": 5},
            "tasks": [{"name": task, "kind": "next_item" if k == 0 else "item"} for k, task in enumerate(TASKS)],
        },
        "origin": {"encoder.name": "recipe.toml", "tuning.method": "-s", "tuning.path": "recipe.toml", "train.epochs": "recipe.toml"},
        "versions": {"perdure": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6", "polars": "2.1.0"},
        "data": {"digest": "4f1c" * 16, "card": {"users": 4000, "items": 300, "events": 80123, "sparsity": "93.3%",
                 "first_event": "2020-01-01", "last_event": "2020-12-31", "duplicates_dropped": 17, "quarantined": 0}},
        "tasks": {task: {"kind": "next_item", "description": f"what {task} asks", "labels": 300, "train": 3200, "valid": 200, "test": 600} for task in TASKS},
    }  # fmt: skip
