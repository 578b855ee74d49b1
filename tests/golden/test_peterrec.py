"""PeterRec: patches and tokens by hand, readouts against one user at a time, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from contracts import members
from torch import nn
from torch.nn import functional as F

from perdure import registry
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning.base import everything
from perdure.tuning.peterrec import Patch, Patches, PeterRec, with_tokens

BOTH_WAYS = [name for name in members.STATEFUL if not registry.find("encoders", name).causal]
READOUTS = [(name, "cls") for name in members.STATEFUL] + [(name, "both") for name in BOTH_WAYS]
GELU_1 = 0.5 * (1 + math.erf(1 / math.sqrt(2)))  # 0.8413


class Double(nn.Module):
    """y = 2 x"""

    def forward(self, x):
        return 2 * x


def patch_of(down, bias, up, end):
    """A patch with the given weights."""
    down, up = torch.tensor(down), torch.tensor(up)
    patch = Patch(down.shape[1], len(down), torch.Generator())
    for weight, given in zip(patch.parameters(), (down, torch.tensor(bias), up, torch.tensor(end)), strict=True):
        weight.data = given
    return patch


def two_tasks(encoder="sasrec", kind="item", **options):
    model = members.new_model(encoder, "peterrec", **options)
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", kind, seed=1)
    return model


# -- patches ---


@pytest.mark.parametrize(
    ("form", "y"),
    [
        ("serial", [2 + 0.5 + GELU_1, 2 - 1.0 + 2 * GELU_1]),  # layer(x) = (2, 2); W_down (2, 2) + b = 1
        ("parallel", [2 + 0.5, 2 - 1.0]),  # W_down (1, 1) + b = 0
        ("parallel with skip", [2 + 0.5 + 1, 2 - 1.0 + 1]),
    ],
)
def test_a_patch_by_hand(form, y):
    patch = patch_of([[1.0, 0.0]], [-1.0], [[1.0], [2.0]], [0.5, -1.0])
    overlay = Patches({"a": patch}, {}, form, "last", None)
    x = torch.tensor([[[1.0, 1.0]]])
    torch.testing.assert_close(overlay.via(None)("a", Double(), x), torch.tensor([[y]]))
    assert torch.equal(overlay.via(None)("b", Double(), x), 2 * x)


def test_q_bottlenecks_are_one_as_wide():
    g = torch.Generator().manual_seed(0)
    q, hidden, d = 3, 2, 5
    downs, biases = torch.randn(q, hidden, d, generator=g), torch.randn(q, hidden, generator=g)
    ups, end, y = torch.randn(q, d, hidden, generator=g), torch.randn(d, generator=g), torch.randn(4, 7, d, generator=g)
    slow = y + end + sum(F.gelu(y @ downs[i].T + biases[i]) @ ups[i].T for i in range(q))
    wide = patch_of(
        downs.flatten(0, 1).tolist(), biases.flatten().tolist(), torch.cat(list(ups), 1).tolist(), [0.0] * d
    )
    wide.up.bias.data = end
    torch.testing.assert_close(y + wide(y), slow)


def test_what_the_official_configuration_stores():
    """16 patches of 2 * 256 * 64 + 64 + 256 = 33,088 and eight LayerNorms of 2 * 256, by the paper's C = 256."""
    model = members.new_model("nextitnet", "peterrec", encoder={"width": 256}, tune_norms="second")
    members.learn(model, "watch", "next_item", steps=0)
    model.add(members.card("buy", "item"), torch.Generator())
    overlay = model.overlays["buy"]
    assert sum(p.numel() for p in overlay.patches.parameters()) == 16 * 33_088
    assert sum(p.numel() for p in overlay.norms.parameters()) == 8 * 512
    assert list(overlay.norms) == [f"block{i}/norm2" for i in range(8)]


@pytest.mark.parametrize(("q", "hidden"), [(1, 4), (2, 2 * 2), (4, 4 * 1), (8, 8 * 1)])
def test_each_bottleneck_is_4_q_times_as_narrow(q, hidden):
    overlay = two_tasks(cardinality=q).overlays["buy"]  # d = 16
    assert {p.down.out_features for p in overlay.patches.values()} == {hidden}


def test_one_or_two_patches_a_block():
    both = [f"block{i}/conv{j}" for i in range(8) for j in (1, 2)]
    assert list(two_tasks("nextitnet").overlays["buy"].patches) == both
    assert list(two_tasks("nextitnet", patches="one").overlays["buy"].patches) == both[1::2]


@pytest.mark.parametrize(
    ("encoder", "patched", "second"),
    [
        ("sasrec", ["feedforward"], ["norm2"]),
        ("esasrec", ["feedforward"], ["norm2"]),
        ("bert4rec", ["feedforward"], ["norm2"]),
        ("hstu", ["attention"], ["norm"]),
    ],
)
def test_one_patch_and_the_second_norm_are_the_last_of_every_block(encoder, patched, second):
    overlay = two_tasks(encoder, patches="one", tune_norms="second").overlays["buy"]
    assert list(overlay.patches) == [f"block{i}/{layer}" for i in range(2) for layer in patched]
    assert list(overlay.norms) == [f"block{i}/{layer}" for i in range(2) for layer in second]
    both = list(two_tasks(encoder).overlays["buy"].patches)
    assert [site for site in both if site != "projection"] == [
        f"block{i}/{layer}" for i in range(2) for layer in dict.fromkeys(["attention", *patched])
    ]  # no gate has one


def test_where_there_are_no_blocks_the_last_layer_and_the_last_norm_count():
    overlay = two_tasks("gru4rec", patches="one", tune_norms="second").overlays["buy"]
    assert list(overlay.patches) == ["gru0"] and list(overlay.norms) == ["norm"]


@pytest.mark.parametrize(("tune_norms", "count"), [(True, 16), ("second", 8), (False, 0)])
def test_private_norms(tune_norms, count):
    model = two_tasks("nextitnet", tune_norms=tune_norms)
    own = model.overlays["buy"].norms
    assert len(own) == count
    assert all(not torch.equal(ps["weight"], model.backbone.sites()[site].weight) for site, ps in own.items())


# -- tokens ---


def histories():
    items = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0], [0, 0, 0, 0]])
    times = torch.tensor([[10, 20, 30, 40], [50, 60, 0, 0], [0, 0, 0, 0]])
    return Batch(items, torch.tensor([4, 2, 0]), times, torch.tensor([1, 2, 3]))


def test_a_token_after_the_last_event_by_hand():
    found = with_tokens(histories(), False, 9)
    assert found.items.tolist() == [[5, 6, 7, 8, 1], [9, 4, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert found.lengths.tolist() == [5, 3, 1] and found.users.tolist() == [1, 2, 3]
    assert found.times[0].tolist() == [10, 20, 30, 40, 40] and found.times[1, :3].tolist() == [50, 60, 60]


def test_a_token_on_either_side_by_hand():
    found = with_tokens(histories(), True, 9)
    assert found.items.tolist() == [[1, 5, 6, 7, 8, 1], [1, 9, 4, 1, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert found.lengths.tolist() == [6, 4, 2]
    assert found.times[0].tolist() == [10, 10, 20, 30, 40, 40]


def test_the_oldest_events_make_room():
    assert with_tokens(histories(), False, 4).items.tolist() == [[6, 7, 8, 1], [9, 4, 1, 0], [1, 0, 0, 0]]
    found = with_tokens(histories(), True, 4)
    assert found.items.tolist() == [[1, 7, 8, 1], [1, 9, 4, 1], [1, 1, 0, 0]]
    assert found.lengths.tolist() == [4, 4, 2] and found.times[0].tolist() == [30, 30, 40, 40]


# -- readouts ---


@pytest.mark.parametrize("token", ["own", "mask"])
@pytest.mark.parametrize(("encoder", "readout"), READOUTS)
def test_readouts_are_what_one_user_alone_gives_by_the_formula(encoder, readout, token):
    """[x.., CLS] or [CLS, x.., CLS] built as lists, every layer called in turn, states picked by hand."""
    model = two_tasks(encoder, readout=readout, token=token)
    overlay, data = model.overlays["buy"], members.batch(8, size=16)
    assert (overlay.token is not None) == (token == "own")
    own = torch.zeros(model.backbone.width) if overlay.token is None else overlay.token
    assert token == "mask" or bool((own != 0).any())  # it has learned
    with torch.no_grad():
        fast = model.represent(data, "buy")
    for b, n in enumerate(data.lengths.tolist()):
        events = data.items[b, :n].tolist()
        tokens = 2 if readout == "both" else 1
        events = events[max(0, n + tokens - members.T) :]
        row = [1] * (tokens - 1) + events + [1]

        def via(site, layer, x, *context, row=row):
            y = overlay.via(None)(site, layer, x, *context)
            if site != "input":
                return y
            return torch.stack([y[0, i] + own * (item == 1) for i, item in enumerate(row)])[None]

        with torch.no_grad():
            h = model.backbone(Batch(torch.tensor([row]), torch.tensor([len(row)])), via)[0]
        slow = h[-1] if readout == "cls" else h[0] + h[-1]
        torch.testing.assert_close(fast[b], slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("encoder", "readout"), READOUTS)
def test_more_padding_never_changes_what_is_read(encoder, readout):
    model, data = two_tasks(encoder, readout=readout), members.batch(6, length=8)
    longer = Batch(F.pad(data.items, (0, 3)), data.lengths)
    with torch.no_grad():
        torch.testing.assert_close(model.score(data, "buy"), model.score(longer, "buy"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", [name for name in members.STATEFUL if name not in BOTH_WAYS])
def test_a_first_token_is_refused_where_states_look_back_only(encoder):
    with pytest.raises(SettingsError, match='readout "both" reads a token before the first event') as caught:
        two_tasks(encoder, readout="both")
    assert encoder in caught.value.found and "cls" in caught.value.fix


def test_an_encoder_without_room_for_tokens_is_refused():
    with pytest.raises(SettingsError, match="max_length 2 leaves no room"):
        model = members.new_model("sasrec", "peterrec", encoder={"max_length": 2}, readout="cls")
        model.add(members.card("watch", "next_item"), torch.Generator())
        model.add(members.card("buy", "item"), torch.Generator())


def test_a_later_next_item_task_is_read_at_its_events():
    model, data = two_tasks(kind="next_item", readout="cls"), members.batch(3)
    assert model.overlays["buy"].token is None
    with torch.no_grad():
        last = model.backbone.last(model.states(data, "buy"), data)
        torch.testing.assert_close(model.represent(data, "buy"), last, rtol=1e-4, atol=1e-5)


def test_the_promise_would_break_if_the_backbone_moved(monkeypatch):
    model, data = two_tasks(readout="cls"), members.batch(9)
    monkeypatch.setattr(PeterRec, "trains", lambda self, model, task, stage: everything(model, task))
    with torch.inference_mode():
        before = model.score(data, "buy")
    members.learn(model, "like", "item", seed=2)
    with torch.inference_mode():
        assert not torch.equal(model.score(data, "buy"), before)


@pytest.mark.parametrize(("encoder", "options"), [("sasrec", {"readout": "mean"}), ("smen", {})])
def test_a_token_is_not_read_where_all_states_are_pooled(encoder, options):
    model = members.new_model(encoder, "peterrec", encoder=options, objective="lurm", readout="cls")
    members.learn(model, "watch", "next_item")
    with pytest.raises(SettingsError, match="reads user vectors by"):
        members.learn(model, "age", "one_of")
