"""Seconds of processor time for full-ranking evaluation, and of ranking against a naive argsort, in the same run.

    PYTHONPATH=src python benchmarks/evaluation.py [--users 6040] [--items 3416] [--length 50] [--events 165]

The model is a SASRec (d = 64, 2 blocks, 2 heads) with random weights: the cost does not depend on how good it
is. History lengths are geometric around `--events`, as in MovieLens-1M. One thread. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from perdure.encoders.sasrec import SASRec
from perdure.evaluation.evaluate import evaluate
from perdure.evaluation.ranking import rank_blocks
from perdure.events.examples import Examples, Sequences, Task, TaskData
from perdure.events.ids import Ids
from perdure.inference.represent import represent, seen_cells
from perdure.model.user_model import TaskCard, UserModel
from perdure.objectives.next_item import NextItem
from perdure.tuning.finetune import Finetune


def best(work: Callable[[], Any], repeats: int = 3) -> float:
    """Least processor seconds of a few runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def world(users: int, items: int, events: float, length: int) -> tuple[UserModel, TaskData]:
    """A model with random weights and a log without meaning, of the size asked."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.geometric(1 / (events - 18), users) + 18, 20, items // 2)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    log = (rng.zipf(1.3, starts[-1]) % items + 2).astype(np.int32)
    labels = Ids([str(i) for i in range(items)])
    rows = np.arange(2, items + 2, dtype=np.int32)
    answers = log[starts[1:] - 1] - 2
    test = Examples(np.arange(users, dtype=np.int32), starts[:-1], starts[1:] - 1, answers, np.arange(users + 1))
    data = TaskData(Task("next", "next_item"), Sequences(log, starts), labels, rows, test, test, test)
    generator = torch.Generator().manual_seed(0)
    encoder = SASRec(items, width=64, blocks=2, heads=2, max_length=length)
    encoder.reset(generator)
    model = UserModel(encoder, Finetune(), NextItem(), Ids([str(i) for i in range(items)], first=2))
    model.add(TaskCard("next", "next_item", labels, rows, np.ones(items)), generator)
    return model, data


def naive(u: torch.Tensor, table: torch.Tensor, data: TaskData) -> np.ndarray:
    """What many libraries do: all scores, a loop over users to leave out what was seen, a whole argsort."""
    scores = (u @ table.T).numpy()
    test = data.test
    for i in range(len(test)):
        seen = data.sequences.items[test.begin[i] : test.end[i]] - 2
        target = scores[i, test.answers[i]]
        scores[i, seen] = -np.inf
        scores[i, test.answers[i]] = target
    order = np.argsort(-scores, axis=1)
    return (order == test.answers[:, None]).argmax(1) + 1


def main() -> None:
    """Measures and prints."""
    asked = argparse.ArgumentParser(description=__doc__)
    for name, default in (("users", 6040), ("items", 3416), ("length", 50), ("events", 165)):
        asked.add_argument(f"--{name}", type=int, default=default)
    size = SimpleNamespace(**vars(asked.parse_args()))
    torch.set_num_threads(1)
    model, data = world(size.users, size.items, size.events, size.length)
    test = data.test
    items, labels = np.asarray(data.sequences.items), np.concatenate([[-1, -1], np.arange(size.items)])
    u = represent(model, "next", data.sequences, test.begin, test.end)
    table = model.backbone.item_table.detach()[2:]

    def ranks() -> np.ndarray:
        return rank_blocks(
            lambda a, b: u[a:b] @ table.T,
            size.items,
            test.answers,
            np.arange(size.users + 1),
            seen=lambda a, b: seen_cells(labels, items, test.begin[a:b], test.end[a:b]),
        ).rank

    same = bool((ranks() == naive(u, table, data)).mean() > 0.999)  # equal but for ties
    told = {
        **vars(size),
        "whole_evaluation_cpu_s": best(lambda: evaluate(model, data)),
        "user_vectors_cpu_s": best(lambda: represent(model, "next", data.sequences, test.begin, test.end)),
        "ranking_cpu_s": best(ranks, 5),
        "naive_argsort_cpu_s": best(lambda: naive(u, table, data), 2),
        "same_ranks": same,
    }
    told["naive_to_counting"] = told["naive_argsort_cpu_s"] / told["ranking_cpu_s"]
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()}))


if __name__ == "__main__":
    main()
