"""From a prepared log to a Score: every kind of task, on a model that knows nothing and one that knows the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from perdure.encoders.sasrec import SASRec
from perdure.evaluation.evaluate import evaluate
from perdure.events import sequences, synthetic
from perdure.events.data_settings import DataSettings
from perdure.events.tasks import History, Split, Task, compile_tasks
from perdure.inference.recommend import recommend
from perdure.model.user_model import TaskCard, UserModel
from perdure.objectives.next_item import NextItem
from perdure.tuning.finetune import Finetune


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> tuple[UserModel, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("world")
    asked = synthetic.world(folder / "log", users=300, items=72, targets=24, longest=20).settings()
    events = sequences.prepare(DataSettings(**asked["data"]), folder / "store")
    tasks = [Task(**task) for task in asked["tasks"]]
    data = compile_tasks(events, tasks, History(**asked["history"]), Split(**asked["split"]))
    generator = torch.Generator().manual_seed(0)
    backbone = SASRec(events.n_items, width=16, max_length=12)
    backbone.reset(generator)
    model = UserModel(backbone, Finetune(), NextItem(), events.item_ids)
    for name, one in data.items():
        popularity = np.bincount(one.train.answers, minlength=len(one.labels))
        model.add(TaskCard(name, one.task.kind, one.labels, one.label_items, popularity), generator)
    return model, data


def test_every_task_is_measured(life):
    model, data = life
    for name, one in data.items():
        for split in ("valid", "test"):
            score = evaluate(model, one, split)
            assert score.n > 20 and 0 <= score.value <= 1 and all(len(v) == score.n for v in score.per_user.values())
            low, high = score.interval()
            assert low <= score.value <= high
            if one.task.kind != "one_of":
                assert 0.3 < score.values["auc"] < 0.7, name  # knows nothing


def test_the_first_recommendation_is_the_hit_at_one(life):
    model, data = life
    for name, one in data.items():
        test, texts = one.test, model.item_ids.text
        histories = [texts(one.sequences.items[a:b]) for a, b in zip(test.begin, test.end, strict=True)]
        answers = recommend(model, name, histories, 1)
        score = evaluate(model, one, ks=(1,))
        for i, answer in enumerate(answers):
            right = test.answers[test.answer_starts[i] : test.answer_starts[i + 1]]
            hit = answer.items[0] in one.labels.text(right[right >= 0])
            # a right answer the user has met stays in the ranking, though it would not be recommended
            met = np.isin(one.label_items[right], one.sequences.items[test.begin[i] : test.end[i]]).any()
            measured = score.per_user["accuracy" if one.task.kind == "one_of" else "hr@1"][i]
            assert met or measured == hit


def test_an_oracle_reaches_one(life):
    """A model whose scores are the answers themselves: every measure that can reach 1 does."""
    model, data = life
    one = data["age"]

    class Knows(type(model)):
        def score_of(self, u, task):
            return (
                torch.nn.functional.one_hot(torch.from_numpy(one.test.answers[: len(u)]).long(), len(one.labels)) * 50.0
            )

    model.__class__ = Knows
    try:
        score = evaluate(model, one)
    finally:
        model.__class__ = UserModel
    best = dict.fromkeys(("accuracy", "macro_precision", "macro_recall", "macro_f1", "auc"), 1) | {"log_loss": 0}
    assert score.values == pytest.approx(best, abs=1e-6)
