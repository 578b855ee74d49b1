"""Every encoder, pre-trained by the objective that suits it: it finds a chain that is there, and none in pure noise;
and what only marks of events tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perdure import registry
from perdure.evaluation.evaluate import evaluate
from perdure.events.examples import Examples, Sequences, Task, TaskData
from perdure.events.ids import Ids
from perdure.events.loader import Loader
from perdure.events.marks import Marked, Marks
from perdure.model.store import build
from perdure.train_settings import TrainSettings
from perdure.training.cards import card_of
from perdure.training.loop import fit, make_fabric

ITEMS, LENGTH, LEARN, ASK, SURE = 20, 10, 800, 400, 0.9


def histories(chained):
    """(LEARN + ASK, LENGTH) item rows: each follows the one before by a rule with probability SURE, or is drawn."""
    rng = np.random.default_rng(0)
    rule, items = rng.permutation(ITEMS), rng.integers(0, ITEMS, (LEARN + ASK, LENGTH))
    for t in range(1, LENGTH) if chained else ():
        follows = rng.random(len(items)) < SURE
        items[follows, t] = rule[items[follows, t - 1]]
    return (items + 2).astype(np.int32)


def data_of(items):
    """Some users to learn from; of the others the last event is asked for."""
    starts = np.arange(LEARN + ASK + 1, dtype=np.int64) * LENGTH
    learn, ask = np.arange(LEARN, dtype=np.int32), np.arange(LEARN, LEARN + ASK, dtype=np.int32)
    train = Examples(learn, starts[learn], starts[learn + 1])
    answers = items[ask, -1] - 2
    test = Examples(ask, starts[ask], starts[ask + 1] - 1, answers, np.arange(ASK + 1, dtype=np.int64))
    sequences = Sequences(items.ravel(), starts, np.cumsum(np.full(items.size, 60)))
    labels = Ids([f"i{n:02d}" for n in range(ITEMS)])
    rows = np.arange(2, ITEMS + 2, dtype=np.int32)
    return TaskData(Task("next", "next_item"), sequences, labels, rows, train, test, test, {})


def learned(encoder, objective, data, epochs):
    """A small model after some epochs; it reads the marks that go with the data."""
    generator = torch.Generator().manual_seed(0)
    spec = {"encoder": encoder, "method": {"name": "frozen"}, "objective": objective}
    marks = None if data.sequences.marks is None else data.sequences.marks.marks
    model = build(spec, Ids([f"i{n:02d}" for n in range(ITEMS)], first=2), registry.find, generator, None, marks)
    model.add(card_of(data), generator)
    settings = TrainSettings(epochs=epochs, batch_size=32, learning_rate=3e-3, patience=0)
    length = model.backbone.max_length + model.objective.extra
    loader = Loader(
        data.sequences,
        data.train,
        batch_size=32,
        max_length=length,
        generator=generator,
        times=model.backbone.reads_times,
    )
    torch.manual_seed(0)
    fit(model, "next", "train", settings, loader=loader, rng=torch.Generator().manual_seed(1), fabric=make_fabric())
    return model.eval()


CASES = [({"name": name}, {}) for name in registry.names("encoders") if name != "smen"]  # which reads no order
CASES += [({"name": "hstu", "time": True}, {}), ({"name": "bert4rec"}, {"corrupt": "bert", "last": 0.5})]


@pytest.mark.parametrize("chained", [True, False], ids=["chain", "noise"])
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join([case[0]["name"], *map(str, [*case[0]][1:]), *case[1]])
)
def test_what_is_there_is_found(case, chained):
    encoder, options = case
    causal = registry.find("encoders", encoder["name"]).causal
    objective = {"name": "next_item" if causal else "masked_item", **options}
    data = data_of(histories(chained))
    epochs = 3 if not chained else 10 if causal else 50  # masks are fewer, and where they stand must be learned, too
    model = learned({"width": 16, "max_length": LENGTH, "dropout": 0.0, **encoder}, objective, data, epochs)
    score = evaluate(model, data, "test", ks=(1,), seen="keep").values["hr@1"]
    if chained:
        assert score > 0.9 * (SURE + (1 - SURE) / ITEMS)  # the best possible is .905
    else:
        assert score < 1 / ITEMS + 4 * np.sqrt(1 / ITEMS / ASK)  # chance, and four standard errors


def told(kind):
    """A chain with three rules; which one rules an event is told by its behaviour, or by how long ago the event before
    was. "vectors": one rule, and the item is told by its vector alone."""
    rng = np.random.default_rng(0)
    shape = (LEARN + ASK, LENGTH)
    which = rng.integers(0, 3, shape) if kind != "vectors" else np.zeros(shape, np.int64)
    rules, items = np.stack([rng.permutation(ITEMS) for _ in range(3)]), rng.integers(0, ITEMS, shape)
    for t in range(1, LENGTH):
        items[:, t] = rules[which[:, t - 1], items[:, t - 1]]
    times = (60 ** (1 + which)).cumsum(1).ravel()  # a minute, an hour, two and a half days
    table = np.concatenate([np.zeros((2, ITEMS)), np.eye(ITEMS)]).astype(np.float32)  # (N + 2, S)
    marks = {
        "behaviour": Marks({"behaviour": Ids(["buy", "cart", "view"], first=1)}),
        "gap": Marks(gaps=32),
        "vectors": Marks(width=ITEMS, vectors=table, ids=False),
    }[kind]
    rows = (which + 1).astype(np.int16).reshape(-1, 1)
    return (items + 2).astype(np.int32), Marked(marks, rows, times)


@pytest.mark.parametrize(
    ("kind", "encoder"), [("behaviour", "sasrec"), ("behaviour", "dupn"), ("gap", "gru4rec"), ("vectors", "sasrec")]
)
def test_what_is_told_of_events_is_used(kind, encoder):
    items, marks = told(kind)
    data, scores = data_of(items), {}
    for read in (True, False):
        if read or kind != "vectors":  # their chain can be found from the items, too
            data = replace(data, sequences=replace(data.sequences, marks=marks if read else None))
            model = learned({"name": encoder, "width": 32, "max_length": LENGTH, "dropout": 0.0},
                            {"name": "next_item"}, data, 10)  # fmt: skip
            scores[read] = evaluate(model, data, "test", ks=(1,), seen="keep").values["hr@1"]
    assert scores[True] > 0.9  # the best possible is 1
    assert scores.get(False, 0) < 1 / 3 + 1 / ITEMS + 4 * np.sqrt(2 / 9 / ASK)  # one rule of three, drawn
