"""The method on the page `add-a-method` is a real one: it learns, it keeps what it promises to keep."""

from __future__ import annotations

import pytest
import torch
from contracts import members
from docs.pages import ROOT, blocks, module

from perdure import registry
from perdure.events.ids import Ids
from perdure.model.store import build

PAGE = ROOT / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    path = tmp_path_factory.mktemp("tuning") / "scale.py"
    path.write_text(blocks(PAGE, "python")[0], encoding="utf-8")
    return module(path).Scale


@pytest.mark.parametrize("encoder", members.ENCODERS)
def test_the_example_keeps_its_promise(method, encoder):
    spec = {"encoder": {"name": encoder, "width": 16, "max_length": members.T}, "method": {"name": "scale"}}
    plain = "next_item" if registry.find("encoders", encoder).causal else "masked_item"
    spec["objective"] = {"name": members.STATELESS.get(encoder, plain)}
    items = Ids([f"i{i:02d}" for i in range(members.N)], first=2)

    def find(kind, name):
        return method if name == "scale" else registry.find(kind, name)

    model = build(spec, items, find, torch.Generator().manual_seed(0))
    model.eval()
    members.learn(model, "first", "next_item")
    data = members.batch(99)
    with torch.inference_mode():
        before = model.score(data, "first")
    members.learn(model, "second", "one_of")
    with torch.inference_mode():
        assert torch.equal(model.score(data, "first"), before)
    assert any((scale != 1).any() for scale in model.overlays["second"].parameters())
