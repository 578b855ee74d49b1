"""The parts on the page `add-a-method` are real ones: they learn, keep what they promise, and pass the contracts."""

from __future__ import annotations

import copy
import importlib
import inspect

import pytest
import torch
from contracts import members
from docs.pages import ROOT, blocks, module
from laws.house import modules
from laws.test_law_names import code_words

from perdure import registry
from perdure.events.ids import Ids
from perdure.model.store import build

PAGE = ROOT / "docs" / "add-a-method.md"
METHODS = ("rescale", "bitfit")
OWN = {("methods", "rescale"): "Rescale", ("methods", "bitfit"): "BitFit"}
OWN |= {("encoders", "average"): "Average", ("objectives", "skipgram"): "SkipGram"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(kind, name) -> class, with the page's own among them."""
    own = {}
    for text, ((kind, name), cls) in zip(blocks(PAGE, "python"), OWN.items(), strict=True):
        path = tmp_path_factory.mktemp(kind) / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        own[kind, name] = getattr(module(path), cls)
    return lambda kind, name: own.get((kind, name)) or registry.find(kind, name)


def test_their_names_are_free():
    """As a law demands of the names of files: no other room has them among its words."""
    words = {room: set() for room in ("tuning", "encoders", "objectives", "model")}
    for one in modules():
        if one.room in words:
            words[one.room] |= code_words(one)
    assert not {name for kind, name in OWN if kind == "methods"} & (
        words["encoders"] | words["objectives"] | words["model"]
    )
    assert not {name for kind, name in OWN if kind == "encoders"} & (words["tuning"] | words["objectives"])


def made(page, encoder, method, objective):
    """A small model of these parts."""
    spec = {"encoder": {"name": encoder, "width": 16, "max_length": members.T}}
    spec |= {"method": {"name": method}, "objective": {"name": objective}}
    items = Ids([f"i{i:02d}" for i in range(members.N)], first=2)
    return build(spec, items, page, torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_the_method_keeps_its_promise(page, encoder, method):
    plain = "next_item" if registry.find("encoders", encoder).causal else "masked_item"
    model = made(page, encoder, method, members.STATELESS.get(encoder, plain))
    members.learn(model, "first", "next_item")
    data, begun = members.batch(99), copy.deepcopy(model)
    with torch.inference_mode():
        before = model.score(data, "first")
    members.learn(model, "second", "one_of")
    begun.add(members.card("second", "one_of"), torch.Generator())
    with torch.inference_mode():
        assert torch.equal(model.score(data, "first"), before)
    pairs = zip(model.overlays["second"].parameters(), begun.overlays["second"].parameters(), strict=True)
    assert any((own != first).any() for own, first in pairs)


def contracts(name, monkeypatch):
    """The tests of a contract that take one thing and nothing else."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "contracts"))
    every = {n: test for n, test in vars(importlib.import_module(name)).items() if n.startswith("test_")}
    found = [test for test in every.values() if list(inspect.signature(test).parameters) in (["encoder"], ["model"])]
    assert len(found) > 1
    return found


def test_the_encoder_owes_what_all_do(page, monkeypatch):
    for test in contracts("test_encoders", monkeypatch):
        test(made(page, "average", "frozen", "next_item").backbone)


def test_the_objective_owes_what_all_do(page, monkeypatch):
    for test in contracts("test_every_objective", monkeypatch):
        model = made(page, "average", "finetune", "skipgram")
        if not hasattr(test, "pytestmark"):  # that of a measure, which it has not
            model.add(members.card("watch", "next_item"), torch.Generator().manual_seed(0))
            test(model)


def test_the_objective_asks_within_the_history(page):
    """From the state at t the answer is one of the events behind it, and from the last nothing is asked."""
    model = made(page, "average", "finetune", "skipgram")
    model.add(members.card("watch", "next_item"), torch.Generator().manual_seed(0))
    data = members.batch(5)
    far = type(model.objective)(reach=members.T * 2)
    losses = [far.loss(model.learner("watch"), data, torch.Generator().manual_seed(s)) for s in range(2)]
    assert all(bool(torch.isfinite(loss)) for loss in losses) and not torch.equal(*losses)
    assert far.terms(data) == int((data.lengths - 1).sum())
