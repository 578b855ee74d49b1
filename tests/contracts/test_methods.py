"""What every tuning method owes, on every encoder."""

from __future__ import annotations

import copy

import members
import pytest
import torch

from perdure import registry
from perdure.errors import SettingsError
from perdure.model import store
from perdure.model.files import tensor_digest

TASKS = [("watch", "next_item"), ("buy", "item"), ("age", "one_of"), ("like", "item")]
TASKS += [("status", "one_of"), ("visit", "item")]  # five after the first

VARIANTS = {
    "peterrec": [
        {"insertion": "parallel"},
        {"insertion": "parallel", "parallel_skip": True},
        {"patches": "one", "cardinality": 2, "tune_norms": False},
        {"readout": "cls", "tune_norms": "second"},
    ],
    "pcl": [
        {"context": "prefix"},
        {"context": "gate", "init_std": 0.1},
        {"values": "text"},
        {"values": "none", "length": 3},
        {"attention": "shared"},
    ],
    "conure": [{"prune": (0.5, 0.3)}],
    "ewc": [{"form": "online", "gamma": 0.5, "labels": "drawn"}, {"table": "frozen"}, {"table": "free", "group": 1}],
    "hat": [{"s_max": 50.0, "rises": 1}],
    "lora": [{"rank": 1, "alpha": 4.0}],
    "minet": [{"weight": 0.0, "loss": "softmax", "target_clicks": 2}, {"loss": "bpr", "negatives": 3}],
    "lwf": [{"strength": 0.5, "temperature": 1.0}],
    "melu": [{"order": "first", "steps": 2, "loss": "bpr"}, {"vectors": "backbone", "negatives": 4}],
    "piggyback": [{"tune_vectors": True}],
    "ppr": [
        {"variant": "full"},
        {"tokens": 3, "contrast": "none", "add": False},
        {"tokens": 0, "contrast": "none"},
        {"history": True},
    ],
    "replay": [{"memory": 3, "answers": 1, "older": "one", "heads": True}],
    "teracon": [
        {"relations": "anew", "first": "plain"},
        {"budget": 0.0, "min_rows": 0, "steepness": 6.0, "rates_at": "s"},
    ],
    "uaf": [
        {"choice": "soft"},
        {"choice": "rl", "warmup": 0.0, "top": 1, "negatives": 4},
        {"squash": True, "temperature": 10.0, "final_temperature": 10.0, "readout": "mean"},
    ],
}
CASES = [(*pair, {}) for pair in members.PAIRS]
CASES += [("sasrec", method, options) for method, variants in VARIANTS.items() for options in variants]
CASES += [("bert4rec", "peterrec", {"readout": "both"}), ("bert4rec+input", "peterrec", {"readout": "both"})]
CASES += [("sasrec+input", method, {}) for method in members.METHODS]
TOKEN = {"encoder": {"readout": "cls"}, "objective": {"name": "clue_seq", "views": "crop"}}
CASES += [("sasrec+input", method, TOKEN) for method in members.METHODS]


@pytest.fixture(params=CASES, ids=lambda case: "-".join([*case[:2], *map(str, case[2].values())]))
def model(request):
    """A model of each encoder x method, and of the methods' variants, that has learned its first task."""
    encoder, method, options = request.param
    made = members.new_model(encoder, method, **options)
    members.learn(made, "watch", "next_item")
    return made


@torch.inference_mode()
def answers(model):
    data = members.batch(99, size=16)
    return {task: model.score(data, task).clone() for task in model.tasks}


def test_older_tasks_answer_bit_for_bit_as_before(model):
    kept = {}
    for seed, (name, kind) in enumerate(TASKS[1:], 1):
        before = answers(model)
        members.learn(model, name, kind, seed=seed)
        after = answers(model)
        kept[name] = all(torch.equal(before[task], after[task]) for task in before)
    keeps, told = model.method.keeps, set(kept.values())
    if model.method.name == "hat" and False in told:  # its gates are all but shut: a task may move older answers by
        told.discard(True)  # less than their last bit, which one depends on the processor
    assert told == {keeps}, f"it says keeps = {keeps}; did older tasks answer as before, by task: {kept}"


def test_learning_moves_the_new_task(model):
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    start = answers(model)["buy"]
    del model.tasks["buy"], model.heads["buy"]
    if "buy" in model.overlays:
        del model.overlays["buy"]
    members.learn(model, "buy", "item", seed=1)
    assert not torch.allclose(start, answers(model)["buy"])


def test_a_new_task_begins_as_the_backbone(model):
    model.add(members.card("buy", "item"), torch.Generator().manual_seed(1))
    model.eval()
    data = members.batch(5)
    same = torch.equal(model.represent(data, "buy"), model.represent(data, None))
    assert same == model.method.begins_as_backbone, f"declare begins_as_backbone = {same}"


def test_save_load_same_answers(model, tmp_path):
    for seed, (name, kind) in enumerate(TASKS[1:3], 1):
        members.learn(model, name, kind, seed=seed)
    digest = store.save(model, tmp_path / "model")
    again = store.load(tmp_path / "model", registry.find)
    before, after = answers(model), answers(again)
    assert list(before) == list(after)
    lost = [task for task in before if not torch.equal(before[task], after[task])]
    assert not lost, f"loaded, {lost} answer otherwise: what they need again is to be a parameter or a buffer"
    assert store.save(again, tmp_path / "again") == digest
    members.learn(again, "like", "item", seed=3)  # a loaded model goes on learning
    members.learn(model, "like", "item", seed=3)
    same = torch.equal(answers(model)["like"], answers(again)["like"])
    assert same, "loaded, it learns otherwise: what a method remembers is to be a parameter or a buffer"


def test_a_task_is_one_file_and_a_frozen_backbone_stays(model, tmp_path):
    store.save(model, tmp_path / "one")
    members.learn(model, "buy", "item", seed=1)
    store.save(model, tmp_path / "two")
    old = {p.relative_to(tmp_path / "one"): p.read_bytes() for p in (tmp_path / "one").rglob("*.safetensors")}
    new = {p.relative_to(tmp_path / "two"): p.read_bytes() for p in (tmp_path / "two").rglob("*.safetensors")}
    assert {str(p) for p in set(new) - set(old)} == {"tasks/buy.safetensors"}
    if model.method.keeps:
        trained = {id(p) for stage in model.method.stages for p in model.method.trains(model, "buy", stage)}
        frozen = not any(id(p) in trained for p in [*model.backbone.parameters(), *model.method.parameters()])
        assert all(new[path] == data for path, data in old.items() if frozen or path.parent.name == "tasks")


def test_same_seed_same_weights(model):
    twin = copy.deepcopy(model)
    for m in (model, twin):
        members.learn(m, "buy", "item", seed=7)
    mine, theirs = model.state_dict(), twin.state_dict()
    assert {k: tensor_digest(v) for k, v in mine.items()} == {k: tensor_digest(v) for k, v in theirs.items()}


STOPPED = [(method, options) for encoder, method, options in CASES if encoder == "sasrec"]
STOPPED += [("lwf", {"warm_up": True})]  # the first of whose stages trains nothing on the first task


@pytest.mark.parametrize(("method", "options"), STOPPED)
def test_a_stopped_stage_goes_on_from_its_tensors(method, options):
    """A run that goes on enters the stage it was in and no other; then it puts every tensor back."""
    stages = members.new_model("sasrec", method, **options).method.stages
    for number, stage in enumerate(stages):
        model, again = (members.new_model("sasrec", method, **options) for _ in range(2))
        go_through(stages, model, "watch", "next_item")
        go_through((), again, "watch", "next_item")
        for one in (model, again):
            one.settle("watch")
        if model.method.needs_teacher:
            teacher = copy.deepcopy(model).eval()
            model.method.taught_by(teacher)
            again.method.taught_by(teacher)
        go_through(stages[:number], model, "buy", "item")
        go_through((), again, "buy", "item")
        model.method.enter(stage, model, "buy")
        move(model)
        again.method.enter(stage, again, "buy")
        again.load_state_dict(model.state_dict())
        assert in_stage(stage, model, "buy") == in_stage(stage, again, "buy"), stage


def go_through(stages, model, name, kind):
    """A new task goes through stages; in each of them every weight moves."""
    model.add(members.card(name, kind), torch.Generator().manual_seed(1))
    for stage in stages:
        model.method.enter(stage, model, name)
        move(model)
        model.method.leave(stage, model, name)


@torch.no_grad()
def move(model):
    rng = torch.Generator().manual_seed(2)
    for weight in model.parameters():
        weight.add_(torch.empty_like(weight).normal_(std=0.1, generator=rng))


def in_stage(stage, model, name):
    """What a task answers, trains, shuts and loses, as names and digests."""
    model.eval()
    torch.manual_seed(3)
    names, rng = {weight: name for name, weight in model.named_parameters()}, torch.Generator().manual_seed(4)
    loss = model.method.loss(model, name, members.batch(5, answers=members.Y), rng, 0.5).detach()
    shut = {names[weight]: tensor_digest(share) for weight, share in model.method.shut(model, name, stage).items()}
    trained = {names[weight] for weight in model.method.trains(model, name, stage)}
    return tensor_digest(answers(model)[name]), tensor_digest(loss), trained, shut


def test_padding_never_changes_an_answer_through_an_overlay(model):
    members.learn(model, "buy", "item", seed=1)
    data = members.batch(6, length=8)
    pad = torch.nn.functional.pad
    longer = members.replace(data, items=pad(data.items, (0, 3)), times=None, marks=pad(data.marks, (0, 0, 0, 3)))
    with torch.inference_mode():
        torch.testing.assert_close(model.score(data, "buy"), model.score(longer, "buy"), rtol=1e-4, atol=1e-5)


def test_an_untied_head_has_a_table_of_its_own(tmp_path):
    model = members.new_model("sasrec", "frozen", tied=False)
    members.learn(model, "watch", "next_item")
    table = model.backbone.item_table
    assert model.heads["watch"].table.shape == table.shape and not torch.equal(model.heads["watch"].table, table)
    store.save(model, tmp_path / "model")
    again = store.load(tmp_path / "model", registry.find)
    assert torch.equal(answers(again)["watch"], answers(model)["watch"])


def test_pcl_refuses_heads_that_do_not_divide_the_width():
    model = members.new_model("sasrec", "pcl", heads=3)
    with pytest.raises(SettingsError, match="heads 3 does not divide"):
        model.add(members.card("watch", "next_item"), torch.Generator())


@pytest.mark.parametrize("name", members.METHODS)
def test_a_method_says_what_it_is(name):
    method = registry.find("methods", name)
    assert method.paper and method.summary and isinstance(method.keeps, bool) and method.stages
