"""CONURE: who owns what by hand, the weights each task sees against the paper's masks, and what would break it."""

from __future__ import annotations

import copy

import pytest
import torch
from contracts import members

from perdure.errors import UsageError
from perdure.functional.gates import largest
from perdure.tuning.base import matrices
from perdure.tuning.conure import CONURE, View

TASKS = [("watch", "next_item"), ("buy", "item"), ("age", "one_of")]


def life(encoder="nextitnet", tasks=3, **options):
    model = members.new_model(encoder, "conure", **options)
    for seed, (name, kind) in enumerate(TASKS[:tasks]):
        members.learn(model, name, kind, seed=seed)
    return model


def each(model):
    return [(s, n, w, model.method.owner(s, n)) for s, ws in matrices(model).items() for n, w in ws.items()]


@torch.inference_mode()
def answers(model, *tasks):
    return [model.score(members.batch(9, size=16), task) for task in tasks]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_largest_by_hand():
    w = torch.tensor([[1.0, -5.0, 3.0], [-4.0, 0.0, 2.0]])
    among = torch.tensor([[True, False, True], [True, True, True]])
    assert largest(w, among, 2).tolist() == [[False, False, True], [True, False, False]]
    assert not largest(w, among, 0).any()
    assert torch.equal(largest(w, among, 5), among)
    assert largest(torch.zeros(10), torch.ones(10, dtype=torch.bool), 3).sum() == 3  # ties: still exactly so many


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_owned_shares_are_the_papers(encoder):
    """p = 0.7: 30, 21 and 14.7 % of every matrix; 34.3 % left."""
    model = life(encoder)
    for _, _, weight, owner in each(model):
        for k, share in ((1, 0.3), (2, 0.21), (3, 0.147), (0, 0.343)):
            assert int((owner == k).sum()) == pytest.approx(share * weight.numel(), abs=1.5)
    assert model.method.capacity() == pytest.approx(0.343, abs=0.005)


def test_each_task_has_its_own_prune():
    owners = torch.cat([o.flatten() for *_, o in each(life(tasks=2, prune=(0.5, 0.0)))])
    assert [float((owners == k).float().mean()) for k in (1, 2, 0)] == [0.5, 0.5, 0.0]


def test_pruning_keeps_the_largest_of_the_free():
    model = life(tasks=1)
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    before = {(s, n): (w.detach().clone(), o.clone()) for s, n, w, o in each(model)}
    model.method.leave("train", model, "buy")
    for s, n, w, owner in each(model):
        old, was = before[s, n]
        assert torch.equal(w, old), "pruning frees weights, it does not change them"
        assert torch.equal(owner == 1, was == 1)
        assert w[owner == 2].abs().min() >= w[owner == 0].abs().max()


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_weights_seen_are_the_sum_of_masks_up_to_the_task(encoder):
    model, data = life(encoder), members.batch(9, size=16)
    for j, (task, _) in enumerate(TASKS, 1):
        plain = copy.deepcopy(model.backbone)
        with torch.no_grad():
            for site, weights in matrices(model).items():
                for name, w in weights.items():
                    masks = [(model.method.owner(site, name) == i).float() for i in range(1, j + 1)]  # M_1 .. M_j
                    plain.sites()[site].get_parameter(name).copy_(sum(w * m for m in masks))
            torch.testing.assert_close(model.represent(data, task), plain.vector(plain.question(data)), rtol=0, atol=0)


def test_a_new_task_trains_with_all_weights_and_starts_from_stale_ones():
    model, data = life(tasks=1), members.batch(9)
    stale = {(s, n): w[o == 0].clone() for s, n, w, o in each(model)}
    assert all(w.abs().sum() > 0 for w in stale.values())
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    model.method.enter("train", model, "buy")
    assert all(torch.equal(w[o == 0], stale[s, n]) for s, n, w, o in each(model))
    with torch.no_grad():
        assert torch.equal(model.represent(data, "buy"), model.backbone.vector(data))


def test_what_is_shut():
    model = life(tasks=1)
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    shut = model.method.shut(model, "buy", "train")
    assert all(torch.equal(shut[w] == 1, o == 1) for _, _, w, o in each(model))
    model.method.leave("train", model, "buy")
    shut = model.method.shut(model, "buy", "retrain")
    assert all(torch.equal(shut[w] == 0, o == 2) for _, _, w, o in each(model))


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_a_task_hangs_on_its_own_and_earlier_weights_only(encoder):
    model = life(encoder, tasks=2)
    before = answers(model, "watch", "buy")
    with torch.no_grad():
        for _, _, w, owner in each(model):
            w[owner == 0] = 7.0
        assert same(answers(model, "watch", "buy"), before)
        for _, _, w, owner in each(model):
            w[owner == 2] += 1.0
    after = answers(model, "watch", "buy")
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_retraining_moves_owned_weights_of_the_first_task_too():
    model = members.new_model("sasrec", "conure")
    seen = []
    leave = CONURE.leave

    def look(self, stage, model, task):
        leave(self, stage, model, task)
        seen.append([(w.detach().clone(), o.clone()) for *_, w, o in each(model)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CONURE, "leave", look)
        members.learn(model, "watch", "next_item")
    for (w, o), (later, same_owner) in zip(*seen, strict=True):
        assert torch.equal(o, same_owner)
        assert torch.equal(w[o == 0], later[o == 0]) and not torch.equal(w[o == 1], later[o == 1])


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_item_table_positions_norms_and_biases_are_the_first_tasks(encoder):
    model = life(encoder, tasks=1)
    masked = {id(w) for _, _, w, _ in each(model)}
    still = [(p, p.detach().clone()) for p in model.backbone.parameters() if id(p) not in masked]
    members.learn(model, "buy", "item", seed=1)
    assert still and all(torch.equal(p, before) for p, before in still)


def test_capacity_ends_with_a_clear_error():
    model = life(tasks=1, prune=(0.0,))
    assert model.method.capacity() == 0.0
    with pytest.raises(UsageError, match=r"no weights are left for task buy: 0\.00% are free after 1 tasks"):
        members.learn(model, "buy", "item", seed=1)


def test_the_promise_would_break_without_shut(monkeypatch):
    model = life(tasks=2)
    before = answers(model, "watch", "buy")
    monkeypatch.setattr(CONURE, "shut", lambda self, model, task, stage: {})
    members.learn(model, "age", "one_of", seed=2)
    assert not same(answers(model, "watch", "buy"), before)


def test_the_promise_would_break_if_tasks_saw_later_weights(monkeypatch):
    model = life(tasks=2)
    monkeypatch.setattr(View, "weights", lambda self, site, layer: {})
    before = answers(model, "watch")
    members.learn(model, "age", "one_of", seed=2)
    assert not same(answers(model, "watch"), before)


def test_a_copy_has_owners_of_its_own():
    model = life(tasks=2)
    twin, before = copy.deepcopy(model), answers(model, "watch", "buy")
    for buffer in twin.method.buffers():
        buffer.zero_()
    assert same(answers(model, "watch", "buy"), before)
    assert not same(answers(twin, "watch", "buy"), before)
