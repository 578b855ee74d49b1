"""CONURE: who owns what by hand, the weights each task sees against the paper's masks, and what would break it."""

from __future__ import annotations

import copy

import pytest
import torch
from contracts import members
from model import crafted
from safetensors.torch import load_file

from perdure import registry
from perdure.api import show
from perdure.errors import ModelError, UsageError
from perdure.functional.gates import largest
from perdure.model import store
from perdure.tuning.base import key, matrices
from perdure.tuning.conure import CONURE, View

TASKS = [("watch", "next_item"), ("buy", "item"), ("age", "one_of")]


def life(encoder="nextitnet", tasks=3, **options):
    model = members.new_model(encoder, "conure", **options)
    for seed, (name, kind) in enumerate(TASKS[:tasks]):
        members.learn(model, name, kind, seed=seed)
    return model


def owner(model, site, name, weight):
    """Number of the task that owns each weight, from 1; 0 = free. The bits of the files, one by one."""
    number = torch.zeros(weight.numel(), dtype=torch.int64)
    for k, view in enumerate((model.overlays[task] for task in model.tasks), 1):
        for at, byte in enumerate(view.get_buffer(f"owned/{key(site, name)}").tolist()):
            for bit in range(8):
                if byte >> bit & 1:
                    assert number[8 * at + bit] == 0, "two tasks own this weight"
                    number[8 * at + bit] = k
    return number.view(weight.shape)


def each(model):
    return [(s, n, w, owner(model, s, n, w)) for s, ws in matrices(model).items() for n, w in ws.items()]


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
    for _, _, weight, owners in each(model):
        for k, share in ((1, 0.3), (2, 0.21), (3, 0.147), (0, 0.343)):
            assert int((owners == k).sum()) == pytest.approx(share * weight.numel(), abs=1.5)
    assert model.method.capacity(model) == pytest.approx(0.343, abs=0.005)


def test_each_task_has_its_own_prune():
    owners = torch.cat([o.flatten() for *_, o in each(life(tasks=2, prune=(0.5, 0.0)))])
    assert [float((owners == k).float().mean()) for k in (1, 2, 0)] == [0.5, 0.5, 0.0]


def test_pruning_keeps_the_largest_of_the_free():
    model = life(tasks=1)
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    before = {(s, n): (w.detach().clone(), o.clone()) for s, n, w, o in each(model)}
    model.method.leave("train", model, "buy")
    for s, n, w, owners in each(model):
        old, was = before[s, n]
        assert torch.equal(w, old), "pruning frees weights, it does not change them"
        assert torch.equal(owners == 1, was == 1)
        assert w[owners == 2].abs().min() >= w[owners == 0].abs().max()


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_weights_seen_are_the_sum_of_masks_up_to_the_task(encoder):
    model, data = life(encoder), members.batch(9, size=16)
    for j, (task, _) in enumerate(TASKS, 1):
        plain = copy.deepcopy(model.backbone)
        with torch.no_grad():
            for site, weights in matrices(model).items():
                for name, w in weights.items():
                    masks = [(owner(model, site, name, w) == i).float() for i in range(1, j + 1)]  # M_1 .. M_j
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
        for _, _, w, owners in each(model):
            w[owners == 0] = 7.0
        assert same(answers(model, "watch", "buy"), before)
        for _, _, w, owners in each(model):
            w[owners == 2] += 1.0
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
    assert model.method.capacity(model) == 0.0
    with pytest.raises(UsageError, match=r"no weights are left for task buy: 0\.00% are free after 1 task\n"):
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


def test_a_copy_has_masks_of_its_own():
    model = life(tasks=2)
    twin, before = copy.deepcopy(model), answers(model, "watch", "buy")
    for buffer in twin.overlays.buffers():
        buffer.zero_()
    assert same(answers(model, "watch", "buy"), before)
    assert not same(answers(twin, "watch"), before[:1]) and not same(answers(twin, "buy"), before[1:])


def test_a_task_s_file_holds_one_bit_a_weight_and_no_other_file_grows(tmp_path):
    """The file of a task: its head, its labels and ceil(out in / 8) bytes for every matrix."""
    conure, frozen = life("sasrec"), members.new_model("sasrec", "frozen")
    for seed, (name, kind) in enumerate(TASKS):
        members.learn(frozen, name, kind, seed=seed)
    for name, model in (("conure", conure), ("frozen", frozen)):
        store.save(model, tmp_path / name)
    bits = sum(-(-w.numel() // 8) for _, _, w, _ in each(conure))
    assert not (tmp_path / "conure" / "method.safetensors").exists()
    for task, _ in TASKS:
        mine, plain = (load_file(tmp_path / name / f"tasks/{task}.safetensors") for name in ("conure", "frozen"))
        assert sum(t.nbytes for t in mine.values()) == sum(t.nbytes for t in plain.values()) + bits


def test_what_is_left_is_shown(tmp_path):
    model = life("sasrec")
    store.save(model, tmp_path / "model")
    left = show(tmp_path / "model")["capacity"]
    assert left == model.method.capacity(model) == pytest.approx(0.343, abs=0.005)
    assert f"Left to later tasks: {left:.1%} of the backbone" in (tmp_path / "model" / "README.md").read_text()


WRONG = {
    "missing": lambda bits: None,
    "is (31,) uint8, expected (32,)": lambda bits: bits[:-1],
    "is (32,) float32": lambda bits: bits.float(),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_mask_that_is_none_is_named(tmp_path, fault):
    """Folders whose digests are right and whose masks are not; without masks, as before each lay with its task."""
    place = "overlay.owned/block0/attention/query/weight"
    store.save(life("sasrec"), tmp_path / "model")

    def change(tensors):
        if (wrong := WRONG[fault](tensors.pop(place))) is not None:
            tensors[place] = wrong

    crafted.rewrite(tmp_path / "model", "tasks/buy.safetensors", change)
    with pytest.raises(ModelError) as caught:
        store.load(tmp_path / "model", registry.find)
    told = caught.value
    assert place in told.found and fault in told.found and told.where.endswith("tasks/buy.safetensors")
    assert told.expected and "learn it again" in told.fix


def test_a_damaged_mask_is_found(tmp_path):
    store.save(life("sasrec"), tmp_path / "model")
    path = tmp_path / "model" / "tasks" / "buy.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"digest mismatch: tasks/buy\.safetensors") as caught:
        store.load(tmp_path / "model", registry.find)
    assert caught.value.expected and caught.value.fix and str(path) in caught.value.where
