"""LwF: its loss by hand and against all scores at once, what it shares, and what happens without it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.errors import SettingsError
from perdure.tuning.parts import histories

TASKS = [("watch", "next_item"), ("buy", "item"), ("age", "one_of")]


def life(encoder="sasrec", tasks=2, steps=3, method="lwf", **options):
    model = members.new_model(encoder, method, **options)
    for seed, (name, kind) in enumerate(TASKS[:tasks]):
        members.learn(model, name, kind, steps=steps, seed=seed)
    return model


def begun(encoder="sasrec", **options):
    """A model that is about to learn its third task, with its teacher; and a batch of that task."""
    model = life(encoder, **options)
    model.method.taught_by(copy.deepcopy(model).requires_grad_(False).eval())
    model.add(members.card("age", "one_of"), torch.Generator().manual_seed(5))
    return model, members.batch(3, size=32, answers=members.Y)


def moved(model):
    """The same model, a little elsewhere."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return model


@torch.inference_mode()
def answers(model, *tasks):
    data = members.batch(99, size=16)
    return torch.cat([model.score(data, task).flatten() for task in tasks])


def test_by_hand():
    """A class task whose teacher says 1 : 1 and the model exp(6) : 1; at T = 2 that is exp(3) : 1.

    sum q log(q / p) = -log 2 - (log p_1 + log p_2) / 2 = -log 2 - 3/2 + log(1 + exp 3)
    """
    model, data = begun(temperature=2.0)
    teacher = model.method.teacher
    del teacher.tasks["watch"]
    for m in (model, teacher):
        m.heads["buy"].table.data.zero_()
        m.heads["buy"].bias.data = torch.tensor([0.0, 0.0, *[-1e4] * (members.Y - 2)])  # two labels are left
    model.heads["buy"].bias.data[0] = 6.0
    lost = model.method.kept(model, model.represent(data), data).item()
    assert lost == pytest.approx(-math.log(2) - 1.5 + math.log(1 + math.exp(3)), rel=1e-5)


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_the_loss_is_the_papers_but_for_a_constant(encoder):
    """L_k - lambda sum_i sum_n q log p and its gradients, all scores at once."""
    model, data = begun(encoder, strength=0.5, temperature=3.0)
    teacher, values = model.method.teacher, []
    moved(model).eval()
    for slow in (False, True):
        model.zero_grad()
        if slow:
            loss = model.loss(data, "age", torch.Generator())
            for name in filter(model.ranks, teacher.tasks):  # smen's first task has no scores
                q = torch.softmax(teacher.score(data, name) / 3, 1)
                log_p = torch.log_softmax(model.score(data, name) / 3, 1)
                entropy = -(q * q.log()).sum(1).mean()
                loss = loss + 0.5 * (-(q * log_p).sum(1).mean() - entropy)
        else:
            loss = model.method.loss(model, "age", data, torch.Generator(), 0.0)
        loss.backward()
        values.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (a, ours), (b, theirs) = values
    torch.testing.assert_close(a, b)
    assert set(ours) == set(theirs)
    for n in ours:
        torch.testing.assert_close(ours[n], theirs[n], rtol=1e-3, atol=1e-5, msg=n)


def test_a_task_that_ranks_nothing_is_not_distilled():
    """What its table would score was never learned; without it the loss is that of the other tasks."""
    model, data = begun(objective={"name": "clue_seq", "views": "mask"})
    moved(model).eval()
    teacher, u = model.method.teacher, model.represent(data)
    kept = model.method.kept(model, u, data)
    q, log_p = (torch.log_softmax(m.score(data, "buy") / 2, 1) for m in (teacher, model))
    torch.testing.assert_close(kept, (q.exp() * (q - log_p)).sum(1).mean())
    del teacher.tasks["buy"]
    assert model.method.kept(model, u, data).item() == 0.0 < kept.item()


def test_at_its_start_nothing_is_lost():
    model, data = begun()
    u = model.eval().represent(data)
    assert abs(model.method.kept(model, u, data).item()) < 1e-6
    assert moved(model).method.kept(model, model.represent(data), data).item() > 1e-3


def test_strength_0_is_fine_tuning():
    assert torch.equal(answers(life(strength=0.0), "watch", "buy"), answers(life(method="finetune"), "watch", "buy"))


def test_holding_on_helps():
    """The same steps with and without distillation: older answers move less."""
    gaps = {}
    for strength in (0.0, 10.0):
        model = life("gru4rec", steps=10, strength=strength)
        before = answers(model, "buy")
        members.learn(model, "age", "one_of", steps=10, seed=2)
        gaps[strength] = float((answers(model, "buy") - before).square().mean())
    assert gaps[10.0] < gaps[0.0] / 2


def test_one_pass_of_each_model_whatever_the_number_of_tasks(monkeypatch):
    model, data = begun()
    asked = []
    for part in (model, model.method.teacher):
        real = part.backbone.vector
        monkeypatch.setattr(
            part.backbone, "vector", lambda batch, *via, real=real: (asked.append(len(batch)), real(batch, *via))[1]
        )
    model.method.loss(model, "age", data, torch.Generator(), 0.0)
    assert asked == [32, 32]


def test_a_later_next_item_task_is_asked_without_its_last_target():
    model = life()
    model.method.taught_by(copy.deepcopy(model).requires_grad_(False).eval())
    model.add(members.card("again", "next_item"), torch.Generator())
    window = members.batch(0, length=members.T + 1)
    assert torch.isfinite(model.method.loss(model, "again", window, torch.Generator().manual_seed(0), 0.5))


def test_warming_up_trains_the_new_head_alone():
    model, data = begun(warm_up=False)
    method = model.method
    method.stages = ("warm_up", "train")
    assert {id(p) for p in method.trains(model, "age", "warm_up")} == {id(p) for p in model.heads["age"].parameters()}
    assert method.trains(model, "watch", "warm_up") == []
    model.eval()
    for stage, distilled in (("warm_up", False), ("train", True)):
        method.enter(stage, model, "age")
        loss = method.loss(moved(model), "age", data, torch.Generator(), 0.0).item()
        plain = F.cross_entropy(  # many answers a user
            model.score(data, "age")[torch.repeat_interleave(torch.arange(32), data.answer_starts.diff())], data.answers
        )
        assert (loss > plain.item() + 1e-4) == distilled


def test_sparse_item_tables_are_refused():
    model = members.new_model("sasrec", "lwf", encoder={"sparse": True})
    with pytest.raises(SettingsError, match="sparse gradients of an item table that lwf holds"):
        model.add(members.card("watch", "next_item"), torch.Generator())


def test_a_window_of_one_event_asks_nothing():
    """It is a target, and nothing stands before it."""
    model = life(tasks=1)
    data = members.batch(1, size=4)
    data.lengths[:] = torch.tensor([3, 1, 4, 2])
    asked = histories(model, "watch", data)
    assert asked.lengths.tolist() == [2, 3, 1]
    assert torch.equal(asked.items, data.items[[0, 2, 3], :-1])
