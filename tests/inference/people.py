"""Small models and tasks whose answers can be checked by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from perdure.encoders.gru4rec import GRU4Rec
from perdure.encoders.nextitnet import NextItNet
from perdure.encoders.sasrec import SASRec
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences, Task, TaskData
from perdure.events.ids import Ids
from perdure.model.user_model import TaskCard, UserModel
from perdure.objectives.next_item import NextItem
from perdure.tuning.finetune import Finetune

ITEMS = 30
ENCODERS: dict[str, Any] = {"sasrec": SASRec, "gru4rec": GRU4Rec, "nextitnet": NextItNet}


def item_ids(n: int = ITEMS) -> Ids:
    return Ids([f"i{n:03d}" for n in range(n)], first=2)


def cards(n: int = ITEMS, seed: int = 0) -> list[TaskCard]:
    """next: all items; later: every second item, and one label that is no item of the vocabulary; age: classes."""
    rng = np.random.default_rng(seed)
    every = Ids(item_ids(n).text(np.arange(2, n + 2)))
    half = np.arange(2, n + 2, 2, dtype=np.int32)
    later = Ids([*item_ids(n).text(half), "elsewhere"])
    return [
        TaskCard("next", "next_item", every, np.arange(2, n + 2, dtype=np.int32), rng.integers(0, 9, n)),
        TaskCard("later", "item", later, np.append(half, -1).astype(np.int32), rng.integers(1, 9, len(later))),
        TaskCard("age", "one_of", Ids(["old", "young", "middle"]), np.full(3, -1, np.int32), np.array([2, 5, 1])),
    ]


def tiny(encoder: str = "sasrec", n: int = ITEMS, max_length: int = 12, seed: int = 0) -> UserModel:
    """A real model with random weights, spread so that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    backbone = (
        ENCODERS[encoder](n, width=16, max_length=max_length) if encoder == "sasrec" else ENCODERS[encoder](n, width=16)
    )
    backbone.max_length = max_length
    backbone.reset(generator)
    model = UserModel(backbone, Finetune(), NextItem(), item_ids(n))
    for card in cards(n, seed):
        model.add(card, generator)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.empty_like(p).normal_(std=0.2, generator=generator))
    return model


class Fixed(nn.Module):
    """A model that gives the scores it is told: the row of a history's last item."""

    def __init__(self, scores: Tensor, card: TaskCard, ids: Ids, max_length: int = 8) -> None:
        super().__init__()
        self.table, self.item_ids, self.tasks, self.manifest = scores, ids, {card.name: card}, {}
        self.overlays: dict[str, nn.Module] = {}
        self.backbone = SimpleNamespace(width=len(ids) + 2, n_items=len(ids), max_length=max_length, reads_times=False)

    card = UserModel.card

    def ranks(self, task: str) -> bool:
        return True

    def represent(self, batch: Batch, task: str | None = None) -> Tensor:
        last = batch.items[torch.arange(len(batch)), batch.lengths - 1]
        return nn.functional.one_hot(last, self.backbone.width).float()

    def score_of(self, u: Tensor, task: str) -> Tensor:
        return u @ self.table

    def recalls(self, task: str) -> bool:
        return False


def fixed(scores: Any, kind: str = "next_item", popularity: Any = None) -> UserModel:
    """A Fixed model over as many items as there are rows of scores; rows are by item, columns by label."""
    table = torch.as_tensor(scores, dtype=torch.float32)
    n, y = table.shape
    ids = Ids([f"i{k:03d}" for k in range(n)], first=2)
    labels = Ids([f"i{k:03d}" for k in range(y)] if kind != "one_of" else [f"class{k}" for k in range(y)])
    rows = np.arange(2, y + 2, dtype=np.int32) if kind != "one_of" else np.full(y, -1, np.int32)
    card = TaskCard("t", kind, labels, rows, np.ones(y) if popularity is None else np.asarray(popularity))
    whole = torch.cat([torch.zeros(2, y), table])
    return cast(UserModel, Fixed(whole, card, ids))


def data_of(card: TaskCard, inputs: list[list[int]], answers: list[list[int]]) -> TaskData:
    """Test examples from item rows and label rows."""
    items = np.array([i for h in inputs for i in h], np.int32)
    starts = np.concatenate([[0], np.cumsum([len(h) for h in inputs])]).astype(np.int64)
    answer_starts = np.concatenate([[0], np.cumsum([len(a) for a in answers])]).astype(np.int64)
    flat = np.array([a for given in answers for a in given], np.int32)
    test = Examples(np.arange(len(inputs), dtype=np.int32), starts[:-1], starts[1:], flat, answer_starts)
    none = Examples(
        np.zeros(0, np.int32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int32),
        np.zeros(1, np.int64),
    )
    task = Task(card.name, cast(Any, card.kind), answer="user.x" if card.kind == "one_of" else "item")
    return TaskData(task, Sequences(items, starts), card.labels, card.label_items, none, none, test)


def crowd(n: int, longest: int, seed: int = 0, items: int = ITEMS) -> list[list[int]]:
    """Random histories of 1 to `longest` item rows."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, items + 2, rng.integers(1, longest + 1)).tolist() for _ in range(n)]
