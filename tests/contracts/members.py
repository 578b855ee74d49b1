"""Every encoder and every method there is, found, not listed; and a small model of any pair."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from perdure import registry
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences, Task, TaskData
from perdure.events.ids import Ids
from perdure.events.marks import Marks
from perdure.model.store import build
from perdure.model.user_model import TaskCard, UserModel

ENCODERS, METHODS = registry.names("encoders"), registry.names("methods")
PAIRS = [(e, m) for e in ENCODERS for m in METHODS]
STATELESS = {"smen": "lurm"}  # encoders that read a history as one, and what trains them
STATEFUL = [name for name in ENCODERS if name not in STATELESS]  # a state at each event
N, Y, T = 30, 7, 12
MARKS = Marks(
    {"behaviour": Ids(["buy", "cart", "view"], first=1)},
    gaps=4,
    items={"kind": Ids(["a", "b"], first=1), "tag": Ids(["x", "y"], first=1)},
    places=(0, 1, 1),
    width=3,
    attributes=np.random.default_rng(0).integers(0, 3, (N + 2, 3), np.int32) * (np.arange(N + 2)[:, None] > 1),
    vectors=np.random.default_rng(1).normal(size=(N + 2, 3)).astype(np.float32),
)
READS = {"input": MARKS, "mlp": replace(MARKS, join="mlp", ids=False)}  # what may stand behind an encoder's "+"


def options(kind: str, name: str) -> Mapping[str, inspect.Parameter]:
    """What the constructor of a part can be told."""
    return inspect.signature(registry.find(kind, name)).parameters


def batch(seed: int, size: int = 6, length: int = T, answers: int | None = None) -> Batch:
    """Random histories of 1 to `length` events with their times and marks, and one to three answers a user when
    asked."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, size)
    lengths[0] = length
    items = rng.integers(2, N + 2, (size, length)) * (np.arange(length) < lengths[:, None])
    times = np.cumsum(items**4, 1) * (items > 0)  # from seconds to weeks apart
    marks = np.stack([items % 4, items % 5], -1)  # (B, T, 2)
    tensors = (torch.from_numpy(one) for one in (items, lengths, times))
    base = Batch(*tensors, marks=torch.from_numpy(marks))
    if answers is None:
        return base
    counts = rng.integers(1, 4, size)
    labels = torch.from_numpy(rng.integers(0, answers, counts.sum()))
    starts = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
    return replace(base, answers=labels, answer_starts=starts)


def new_model(
    name: str,
    method: str,
    seed: int = 0,
    encoder: dict | None = None,
    tied: bool = True,
    objective: str | dict | None = None,
    **options: object,
) -> UserModel:
    """A small model without tasks; "sasrec+input" reads more of events than items."""
    name, _, rich = name.partition("+")
    plain = {"name": "next_item" if registry.find("encoders", name).causal else "masked_item", "tied": tied}
    if name in STATELESS:
        plain = {"name": STATELESS[name]}
    spec = {
        "encoder": {"name": name, "width": 16, "max_length": T, **(encoder or {})},
        "method": {"name": method, **options},
        "objective": objective if isinstance(objective, dict) else {"name": objective} if objective else plain,
    }
    generator = torch.Generator().manual_seed(seed)
    return build(spec, Ids([f"i{i:02d}" for i in range(N)], first=2), registry.find, generator, None, READS.get(rich))


def card(name: str, kind: str) -> TaskCard:
    """A task over all items, or over Y labels, some of which are items."""
    n = N if kind == "next_item" else Y
    label_items = np.arange(2, n + 2, dtype=np.int32) if kind != "one_of" else np.full(n, -1, dtype=np.int32)
    return TaskCard(
        name, kind, Ids([f"i{i:02d}" for i in range(n)]), label_items, np.arange(n), f"what a user does: {name}"
    )


def data(name: str, kind: str, seed: int) -> TaskData:
    """The users of `batch(seed)` as training users of a task."""
    some, told = batch(seed, answers=None if kind == "next_item" else Y), card(name, kind)
    starts = np.append(0, some.lengths.cumsum(0).numpy())
    sequences = Sequences(some.items[some.valid].numpy().astype(np.int32), starts)
    users, nobody = np.arange(len(some), dtype=np.int32), np.zeros(0, np.int64)
    answers = () if some.answers is None else (some.answers.numpy().astype(np.int32), some.answer_starts.numpy())
    none = Examples(nobody.astype(np.int32), nobody, nobody)
    task = Task(name, kind, answer="user.class" if kind == "one_of" else "item")
    train = Examples(users, starts[:-1], starts[1:], *answers)
    return TaskData(task, sequences, told.labels, told.label_items, train, none, none)


def learn(model: UserModel, name: str, kind: str, steps: int = 3, seed: int = 0) -> None:
    """A few honest steps on random data, with momentum and weight decay on, as the training loop does them."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    method = model.method
    if method.needs_teacher and model.tasks:
        method.taught_by(copy.deepcopy(model).requires_grad_(False).eval())
    model.add(card(name, kind), rng)
    asked = None if kind == "next_item" else Y
    for stage in method.stages:
        method.enter(stage, model, name)
        weights = method.trains(model, name, stage)
        chosen = {id(w) for w in weights}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        optimizer = torch.optim.AdamW(weights, lr=0.05, weight_decay=0.1)
        model.train()
        for step in range(steps):
            asked_now = batch(seed + step, answers=asked)
            optimizer.zero_grad()
            method.loss(model, name, asked_now, rng, step / steps).backward()
            shut = method.shut(model, name, stage)
            before = {w: w.detach().clone() for w in shut}
            optimizer.step()
            with torch.no_grad():
                for weight, share in shut.items():
                    weight.copy_(torch.where(share == 1, before[weight], weight))
        method.leave(stage, model, name)
    batches = (batch(seed + 50 + i, answers=asked) for i in range(2))
    method.remember(model, name, [data(name, kind, seed + 50)], batches, rng)
    method.taught_by(None)
    model.settle(name)
    model.eval()
