"""A tiny world for the loop's tests: 30 items, 80 users, three tasks, a model of a few hundred numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from perdure import registry
from perdure.encoders.sasrec import SASRec
from perdure.events.examples import Examples, Sequences, Task, TaskData
from perdure.events.ids import Ids
from perdure.events.loader import Loader
from perdure.model.files import sha256, tensor_digest
from perdure.model.store import build
from perdure.model.user_model import UserModel
from perdure.objectives.next_item import NextItem
from perdure.train_settings import TrainSettings
from perdure.training.lifelong import learn
from perdure.training.loop import make_fabric
from perdure.training.runlog import RunLog

ITEMS, USERS = 30, 80
FABRIC = make_fabric()
METHODS = {name: registry.find("methods", name) for name in registry.names("methods")}
CLASSES = {"encoders": {"sasrec": SASRec}, "objectives": {"next_item": NextItem}, "methods": METHODS}
ORDER = ["next", "later", "kind"]
ONE_BY_ONE = [name for name, method in METHODS.items() if method().order(ORDER) == [[task] for task in ORDER]]


def find(kind: str, name: str) -> type:
    return CLASSES[kind][name]


def datas(seed: int = 0) -> dict[str, TaskData]:
    """next (next_item), later (item) and kind (one_of); what decides is the third of the items a user walks."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, USERS)
    lengths = rng.integers(3, 12, USERS)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    owner = np.repeat(np.arange(USERS), lengths)
    items = (2 + group[owner] * 10 + rng.integers(0, 10, len(owner))).astype(np.int32)
    sequences = Sequences(items, starts)
    item_ids = Ids([f"i{n:02d}" for n in range(ITEMS)], first=2)
    parts = np.split(rng.permutation(USERS), [48, 60])

    def asked(users: np.ndarray, answers: list[np.ndarray], cut: int = 0) -> Examples:
        told = np.concatenate(answers).astype(np.int32)
        ends = np.concatenate([[0], np.cumsum([len(a) for a in answers])]).astype(np.int64)
        return Examples(users.astype(np.int32), starts[users], starts[users + 1] - cut, told, ends)

    def next_item() -> TaskData:
        train = Examples(parts[0].astype(np.int32), starts[parts[0]], starts[parts[0] + 1])
        held = [asked(p, [items[starts[u + 1] - 1 : starts[u + 1]] - 2 for u in p], cut=1) for p in parts[1:]]
        labels = np.arange(2, ITEMS + 2, dtype=np.int32)
        return TaskData(Task("next", "next_item", "the next item"), sequences, item_ids, labels, train, *held)

    def later() -> TaskData:
        answers = {u: np.unique(group[u] * 4 + rng.integers(0, 4, 2)) for u in range(USERS)}
        labels = Ids([f"y{n:02d}" for n in range(12)])
        sets = [asked(p, [answers[u] for u in p]) for p in parts]
        return TaskData(Task("later", "item", "what comes later"), sequences, labels, np.full(12, -1, np.int32), *sets)

    def kind() -> TaskData:
        sets = [asked(p, [group[u : u + 1] for u in p]) for p in parts]
        labels = Ids(["a", "b", "c"])
        task = Task("kind", "one_of", "which kind of user", answer="user.kind")
        return TaskData(task, sequences, labels, np.full(3, -1, np.int32), *sets)

    return {"next": next_item(), "later": later(), "kind": kind()}


def model(method: str = "pcl", seed: int = 0, dropout: float = 0.2, **options) -> UserModel:
    spec = {
        "encoder": {"name": "sasrec", "width": 8, "blocks": 1, "heads": 2, "max_length": 10, "dropout": dropout},
        "method": {"name": method, **options},
        "objective": {"name": "next_item", "loss": "sampled", "negatives": 8},
    }
    item_ids = datas()["next"].labels
    return build(spec, item_ids, find, torch.Generator().manual_seed(seed))


def settings(**more) -> dict[str, TrainSettings]:
    chosen = TrainSettings(**{"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "weight_decay": 0.01, **more})
    return dict.fromkeys(ORDER, chosen)


@dataclass
class Score:
    """As much of evaluation.Score as a life asks for."""

    task: str
    value: float

    def to_dict(self) -> dict:
        return {"task": self.task, "value": self.value, "metric": "log score"}


def evaluate(model: UserModel, data: TaskData, split: str) -> Score:
    """Mean log-probability of the first answer: any change of a weight shows."""
    model.eval()
    total, n = 0.0, 0
    with torch.inference_mode():
        for batch in Loader(data.sequences, data.part(split), batch_size=64, max_length=10):
            scores = torch.log_softmax(model.score(batch, data.task.name).double(), -1)
            total += float(scores[torch.arange(len(batch)), batch.answers[batch.answer_starts[:-1]]].sum())
            n += len(batch)
    return Score(data.task.name, total / n)


class Bomb(BaseException):
    """The process is gone."""


class At(SimpleNamespace):
    """A display that does something at one step of the run, counted over all tasks."""

    count = 0

    def step(self, **line) -> None:
        self.count += 1
        if self.count == self.at:
            self.do()

    def epoch(self, **line) -> None: ...

    def row(self, *line) -> None: ...


IDENTITY = {"settings": {"train": {"epochs": 2}}, "data_digest": "d", "seed": 0, "device": "cpu"}


def live(folder, method: str = "pcl", show=None, resume: str = "auto", identity=IDENTITY, **more):
    """One session of a run in `folder`; (what it learned, the model)."""
    built = more.pop("model", None) or model(method)
    evaluate_with = more.pop("evaluate", evaluate)
    with RunLog(folder, identity, resume=resume) as run:
        out = learn(built, datas(), ORDER, settings(**more), run, evaluate=evaluate_with, show=show, fabric=FABRIC)
    return out, built


TIMES = ("seconds", "targets_per_second", "seconds_per_step", "at", "peak_rss")


def outcome(folder, out, built) -> dict:
    """All that must be equal, bit for bit, between an uninterrupted run and one that was stopped and resumed."""
    weights = {name: tensor_digest(tensor) for name, tensor in built.state_dict().items()}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    costs = [{k: v for k, v in cost.items() if k not in TIMES} for cost in out.costs]
    files = {p.name: sha256(p.read_bytes()) for p in (folder / "model").rglob("*.safetensors")}
    return {"R": out.matrix.rows, "weights": weights, "log": log, "costs": costs, "files": files, "scores": out.scores}
