"""An event's vector from all that is told of it, against numbers worked by hand and a loop over the parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import members
from model.crafted import edit
from torch.nn import functional as F

from perdure.encoders.parts import EventEmbedding
from perdure.errors import ModelError, UsageError
from perdure.events.ids import Ids
from perdure.events.marks import Marks
from perdure.model import store
from perdure.registry import find

KINDS = Ids(["a", "b"], first=1)
BY_HAND = Marks(
    {"behaviour": Ids(["view"], first=1)},
    items={"kind": KINDS},
    places=(0, 0),
    width=1,
    attributes=np.array([[0, 0], [0, 0], [1, 2], [2, 0]], np.int32),
    vectors=np.array([[0], [0], [1], [-2]], np.float32),
)


def by_hand(**changes) -> EventEmbedding:
    """Two items and one number an event: items are 1, 2, 3, 4 by row; views add 10; kinds a and b 100 and 200; what is
    not told adds 0.5 and 0.25; vectors count a thousandfold."""
    made = EventEmbedding(2, 1)
    made.read(replace(BY_HAND, **changes))
    with torch.no_grad():
        made.items.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        made.features.table.copy_(torch.tensor([[0.5], [10.0], [0.25], [100.0], [200.0]]))
        made.features.project.fill_(1000.0)
    return made.eval()


ITEMS, TOLD = torch.tensor([[2, 3, 1, 0]]), torch.tensor([[[1], [0], [0], [0]]])


def test_the_parts_are_summed():
    wanted = [3 + 10 + 300 + 1000, 4 + 0.5 + 200.25 - 2000, 2 + 0.5 + 0.5, 1 + 0.5 + 0.5]
    assert by_hand()(ITEMS, TOLD)[0, :, 0].tolist() == wanted


def test_without_ids_only_padding_and_mask_keep_their_own_vectors():
    wanted = [1 + 10 + 300 + 1000, 1 + 0.5 + 200.25 - 2000, 2 + 0.5 + 0.5, 1 + 0.5 + 0.5]
    assert by_hand(ids=False)(ITEMS, TOLD)[0, :, 0].tolist() == wanted


def test_an_mlp_reads_the_parts_one_after_the_other():
    made = by_hand(join="mlp")
    up, down = made.features.up, made.features.down
    up.weight.data, up.bias.data = torch.tensor([[1.0, 0.5, 0.25, 0.125]]), torch.tensor([-3.0])
    down.weight.data, down.bias.data = torch.tensor([[2.0]]), torch.tensor([1.0])
    inner = torch.tensor(3 + 0.5 * 10 + 0.25 * 300 + 0.125 * 1000 - 3)  # item, behaviour, kinds, vector
    assert made(ITEMS, TOLD)[0, 0].item() == pytest.approx(1313 + 2 * F.gelu(inner).item() + 1)


def test_what_is_not_told_begins_at_zero_and_is_one_row_a_part():
    model = members.new_model("sasrec+input", "frozen")
    features = model.backbone.layers["input"].features
    begins = [0, 4, 9, 12]  # three behaviours, four gaps, two kinds, two tags, and for each what is not told
    assert features.offsets.tolist() == [0, 4, 9, 12, 12] and len(features.table) == 15
    assert [not row.any() for row in features.table] == [place in begins for place in range(15)]


@torch.inference_mode()
def test_events_without_marks_are_events_of_which_nothing_is_told():
    backbone = members.new_model("gru4rec+input", "frozen").backbone.eval()
    data = members.batch(0)
    silent = replace(data, marks=torch.zeros_like(data.marks))
    assert torch.equal(backbone(replace(data, marks=None)), backbone(silent))
    assert not torch.equal(backbone(data), backbone(silent))
    with pytest.raises(UsageError, match="1 marks"):
        backbone(replace(data, marks=data.marks[..., :1]))


def test_nothing_changes_where_nothing_is_told():
    plain, told = members.new_model("sasrec", "frozen"), members.new_model("sasrec", "frozen")
    told.backbone.read(Marks())
    told.backbone.reset(torch.Generator().manual_seed(1))
    plain.backbone.reset(torch.Generator().manual_seed(1))
    mine, theirs = plain.backbone.state_dict(), told.backbone.state_dict()
    assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_read_of_events_is_saved_with_the_model(tmp_path):
    model = members.new_model("sasrec+mlp", "frozen")
    store.save(model, tmp_path / "model")
    again = store.load(tmp_path / "model", find)
    assert again.marks == model.marks and again.marks.attributes is None
    data = members.batch(1)
    assert torch.equal(again.represent(data), model.eval().represent(data))
    assert (again.backbone.layers["input"].features.attributes.numpy() == members.MARKS.attributes).all()


@pytest.mark.parametrize(
    "change",
    [
        {"gaps": -1},
        {"gaps": 10**6},
        {"width": 2**30},
        {"join": "product"},
        {"ids": 1},
        {"dates": ["century"]},
        {"places": [0, 0, 5]},
        {"events": [["behaviour", ["view", "view"]]]},
        {"items": [["kind", [1]]]},
        {"more": 1},
        {"gaps": 5},
    ],
    ids=str,
)
def test_a_model_folder_that_tells_something_else_is_refused(change, tmp_path):
    store.save(members.new_model("sasrec+input", "frozen"), tmp_path / "model")
    edit(tmp_path / "model", lambda manifest: manifest["input"].update(change))
    with pytest.raises(ModelError):
        store.load(tmp_path / "model", find)


def test_attributes_that_no_value_has_are_refused(tmp_path):
    model = members.new_model("sasrec+input", "frozen")
    model.backbone.layers["input"].features.attributes[5, 1] = 3
    store.save(model, tmp_path / "model")
    with pytest.raises(ModelError, match="attributes"):
        store.load(tmp_path / "model", find)
