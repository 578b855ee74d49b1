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
AT = "2026-01-02T10:02:07+00:00"
ORACLE = {"watch": 0.61, "later": 0.52, "liked": 0.47, "age": 0.80, "gender": 0.90, "status": 0.70}


def write(folder: Path, method: str = "pcl", loss: float = 0.0, learned: int = 6, sampled: bool = False) -> Path:
    """A run of `learned` tasks; an older task loses the share `loss` of its score with every later task."""
    folder.mkdir(parents=True, exist_ok=True)
    R = [[0.9 * ORACLE[task] * (1 - loss) ** (t - k) for k, task in enumerate(TASKS[: t + 1])] for t in range(learned)]
    protocol = "sampled: 100 uniform, seed 0" if sampled else "full ranking"
    rows = [score(TASKS[t], task, R[t][k], protocol) for t in range(learned) for k, task in enumerate(TASKS[: t + 1])]
    documents: dict[str, Any] = {
        "run.json": run(method, learned),
        "matrix.json": {"tasks": TASKS[:learned], "R": R, "metrics": METRIC},
        "oracle.json": ORACLE,
        "scores.json": rows,
        "cost.json": [cost(k, task) for k, task in enumerate(TASKS[:learned])],
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
        {
            "event": "epoch",
            "task": task,
            "stage": "train",
            "epoch": e,
            "step": 25 * e,
            "loss": 0.8 + 2.2 * math.exp(-e / 3),
            "valid": top * (1 - math.exp(-e / 2.5)) - 0.004 * max(0, e - 8),
            "seconds": 2.5 * e,
            "targets_per_second": 50000.0 + e,
            "metric": METRIC[task],
            "at": AT,
        }
        for e in range(1, count + 1)
    ]


def cost(k: int, task: str) -> dict[str, Any]:
    trainable, size = (250000, 121000) if k == 0 else (9216 + k, 41000)
    told = {"task": task, "seconds": 30.5 / (1 + k), "epochs": 12 - k, "trainable": trainable, "bytes": size}
    return {**told, "peak_rss": 600 * 2**20}


def score(after: str, task: str, value: float, protocol: str) -> dict[str, Any]:
    values = {"hr@10": min(1.0, 1.4 * value), METRIC[task]: value}
    told = {"after": after, "task": task, "n": 600, "metric": METRIC[task], "value": value, "low": value - 0.02}
    told |= {"high": value + 0.02, "popularity": 0.95 if task == "status" else 0.125}
    return {**told, "protocol": protocol, "values": values, "notes": []}


def run(method: str, learned: int) -> dict[str, Any]:
    tasks = [{"name": task, "kind": "next_item" if k == 0 else "item", "where": None} for k, task in enumerate(TASKS)]
    return {
        "name": "quickstart",
        "state": "finished" if learned == len(TASKS) else "interrupted",
        "method": method,
        "seed": 0,
        "threads": 2,
        "cpu": "AVX2",
        "device": "cpu",
        "started": "2026-01-02T10:00:00+00:00",
        "settings": {
            "data": {"path": "events.csv", "columns": {"user": "u", "item": "i"}},
            "encoder": {"name": "sasrec", "width": 64, "blocks": 2, "dropout": 0.1},
            "objective": {"name": "next_item"},
            "tuning": {"method": method, "prompts": 10, "path": "<script>alert(1)</script>"},
            "train": {"epochs": 20, "batch_size": 128, "learning_rate": 0.001, "optimizer": "adam", "patience": 5},
            "tasks": tasks,
        },
        "origin": {
            "data.columns.user": "recipe",
            "encoder.name": "recipe",
            "tuning.method": "override",
            "tuning.path": "recipe",
            "train.epochs": "recipe",
        },
        "versions": {"perdure": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6", "polars": "2.1.0"},
        "data_digest": "4f1c" * 16,
        "data_card": {
            "counts": {"events": 80123, "users": 4000, "items": 300},
            "books": {"received": 80140, "stored": 80123, "duplicate": 17, "quarantined": 0, "filtered": 0},
            "quarantined": {},
            "filtered": {"min_item_count": 0, "min_user_count": 0},
            "density": 0.0667,
            "history_length": {"0%": 3, "5%": 6, "25%": 12, "50%": 19, "75%": 27, "95%": 38, "100%": 40, "mean": 20.03},
            "users_with_one_event": 0,
            "id_spellings_merged": {},
            "time_range": {"first": "2020-01-01T00:00:00Z", "last": "2020-12-31T23:59:59Z", "seconds": [0, 1]},
            "columns": {"behaviour": {"values": 2, "missing": 3, "often": {"view": 70000, "buy": 10120}}},
            "notes": ["no order column"],
        },
    }
