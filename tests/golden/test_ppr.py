"""PPR's equations against numbers worked by hand, and what it may and may not read."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.encoders.base import MASK
from perdure.errors import SettingsError, UsageError
from perdure.events.ids import Ids
from perdure.events.profiles import Fields
from perdure.functional.contrastive import info_nce
from perdure.model import store
from perdure.model.user_model import TaskCard
from perdure.registry import find
from perdure.tuning.ppr import Personal

FIELDS = Fields({"gender": Ids(["F", "M"], first=1), "age": Ids(["old", "young"], first=1)}, width=2)


def learned(hides: str = "", **options):
    """A model that knows a first task and a personal one, and a batch of users with profiles."""
    model = members.new_model("sasrec", "ppr", **options)
    model.fields = FIELDS
    members.learn(model, "watch", "next_item")
    rng = torch.Generator().manual_seed(1)
    model.add(replace(members.card("buy", "item"), hides=hides), rng)
    profile = torch.tensor([[1, 2], [0, 2], [2, 0], [0, 0], [1, 1], [2, 2]])
    source = torch.tensor([[1.0, 2], [0, 0], [3, 4], [0, 0], [5, 6], [0, 1]])
    return model.eval(), replace(members.batch(3), profile=profile, source=source)


def test_the_profile_is_its_fields_and_the_vector_from_elsewhere():
    model, batch = learned(field_width=3)
    overlay = model.overlays["buy"]
    x = overlay.profile(batch)  # (6, 3 + 3 + 2)
    assert x.shape == (6, 8) and not x[3].any()  # nothing is known: all zero
    assert torch.equal(x[0, :3], overlay.x.fields[0].weight[1]) and torch.equal(x[0, 6:], batch.source[0])
    assert not x[1, :3].any() and x[1, 3:6].any()  # the gender is missing


def test_a_task_never_reads_its_own_answer():
    model, batch = learned(hides="gender")
    changed = replace(batch, profile=torch.stack([3 - batch.profile[:, 0].clamp(min=1), batch.profile[:, 1]], 1))
    assert torch.equal(model.score(batch, "buy"), model.score(changed, "buy"))
    other, same = learned(hides="age")
    assert not torch.equal(other.represent(same, "buy"), other.represent(replace(same, profile=changed.profile), "buy"))


def test_tokens_in_front_and_the_profile_behind():
    model, batch = learned(tokens=2, activation="relu")
    overlay: Personal = model.overlays["buy"]
    with torch.no_grad():
        overlay.add[2].bias.fill_(0.5)
        x = overlay.profile(batch)
        tokens = F.relu(x @ overlay.down.weight.T + overlay.down.bias) @ overlay.up.weight.T + overlay.up.bias
        seen = {}

        def watched(site, layer, y, *context):
            seen[site] = overlay.door(x)(site, layer, y, *context)
            return seen[site]

        model.backbone(batch, watched)
    assert seen["input"].shape[1] == 2 + batch.items.shape[1]
    torch.testing.assert_close(seen["input"][:, :2], tokens.view(6, 2, 16))
    torch.testing.assert_close(seen["input"][:, 2:], model.backbone.layers["input"](batch.items))
    with torch.no_grad():
        bare, states = model.backbone(batch, overlay.door(x)), overlay.states(model.backbone, batch)
    torch.testing.assert_close(states - bare, (0.5 * torch.ones(16)).expand_as(bare), atol=1e-5, rtol=0)


@pytest.mark.parametrize("readout", ["last", "mean", "max", "cls", "attention", "anchors"])
@pytest.mark.parametrize("tokens", [0, 2])
def test_the_profile_is_added_to_the_user_however_states_become_one(readout, tokens):
    model, batch = learned(encoder={"readout": readout}, objective="clue_seq", tokens=tokens)
    overlay: Personal = model.overlays["buy"]
    with torch.no_grad():
        overlay.add[2].weight.normal_(generator=torch.Generator().manual_seed(1))
        x = overlay.profile(batch)
        bare = model.backbone.vector(batch, overlay.door(x))
        torch.testing.assert_close(model.represent(batch, "buy"), bare + overlay.add(x))


def test_nothing_is_added_that_nothing_is_read_for():
    """And a later next_item task scored with a frozen table then has nothing to learn, which is no error."""
    model = members.new_model("sasrec", "ppr", tokens=0, contrast="none")
    members.learn(model, "watch", "next_item")
    model.add(members.card("next", "next_item"), torch.Generator())
    assert model.overlays["next"].add is None and not list(model.overlays["next"].parameters())
    assert learned(add=False)[0].overlays["buy"].add is None


def test_what_a_user_did_is_the_mean_of_the_items_read():
    model, batch = learned(history=True)
    batch = replace(batch, lengths=torch.tensor([12, 2, 1, 0, 3, 4]), profile=None, source=None)
    x, table = model.overlays["buy"].profile(batch), model.backbone.item_table
    assert x.shape == (6, 2 * 8 + 2 + 16) and not x[:, :18].any() and not x[3].any()
    torch.testing.assert_close(x[1, 18:], (table[batch.items[1, 0]] + table[batch.items[1, 1]]) / 2)
    asked = model.backbone.question(batch)
    torch.testing.assert_close(model.overlays["buy"].profile(asked), x)  # what asks is no event
    with pytest.raises(SettingsError, match="would tell task 'next' what comes next"):
        model.add(members.card("next", "next_item"), torch.Generator())


def test_what_a_user_did_before_an_event_is_read_where_each_has_a_window_of_its_own(monkeypatch):
    model = members.new_model("sasrec", "ppr", history=True, objective={"name": "next_item", "targets": "last"})
    members.learn(model, "watch", "next_item", steps=1)
    members.learn(model, "read", "next_item", steps=1)
    batch, read = members.batch(3), []
    overlay: Personal = model.overlays["read"]
    profile = overlay.profile
    monkeypatch.setattr(overlay, "profile", lambda inputs: read.append(inputs.lengths) or profile(inputs))
    loss = model.method.loss(model, "read", batch, torch.Generator().manual_seed(0), 0.0)
    assert torch.isfinite(loss) and len(read) == 2  # the loss of the task, and the contrast
    assert all(torch.equal(lengths, (batch.lengths - 1).clamp(min=0)) for lengths in read)


@pytest.mark.parametrize("objective", ["next_item", "cl4srec"])
@pytest.mark.parametrize("tokens", [0, 1])
def test_windows_of_one_event_each_are_predicted_from_nothing(objective, tokens):
    """As they come together: a batch is of windows of like length."""
    how = {"name": objective, "targets": "last"}
    model = members.new_model("sasrec", "ppr", history=True, tokens=tokens, objective=how)
    members.learn(model, "watch", "next_item", steps=1)
    members.learn(model, "read", "next_item", steps=1)
    batch = members.batch(3)
    batch = batch.upto(1, torch.ones_like(batch.lengths))
    assert model.terms(batch, "read") == len(batch)
    loss = model.method.loss(model, "read", batch, torch.Generator().manual_seed(0), 0.0)
    assert torch.isfinite(loss)


def test_what_a_user_did_is_a_view_where_there_is_no_profile():
    model = members.new_model("sasrec", "ppr", history=True, contrast="profile")
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item")
    loss = model.method.contrasted(model, "buy", members.batch(3), torch.Generator().manual_seed(0))
    assert float(loss.detach()) > 0


def test_without_tokens_it_is_the_backbone_and_the_profile_beside_it():
    model, batch = learned(tokens=0, contrast="none", variant="full")
    overlay: Personal = model.overlays["buy"]
    assert overlay.down is None and not any("up" in name for name, _ in overlay.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(model.represent(batch, "buy"), model.represent(batch))  # MLP_a begins at zero
        overlay.add[2].weight.normal_()
        more = overlay.add(overlay.profile(batch))
        torch.testing.assert_close(model.represent(batch, "buy"), model.represent(batch) + more)
        nobody = replace(batch, lengths=torch.zeros_like(batch.lengths))
        torch.testing.assert_close(model.represent(nobody, "buy"), more)
        states = overlay.states(model.backbone, batch)
    assert states.shape[1] == 1 + batch.items.shape[1]
    torch.testing.assert_close(states[:, 0], more)


def test_a_user_without_events_is_answered_from_the_profile():
    model, batch = learned()
    nobody = replace(batch, items=torch.zeros(6, 1, dtype=torch.long), lengths=torch.zeros(6, dtype=torch.long))
    u = model.represent(nobody, "buy")
    assert not torch.equal(u[0], u[1]) and torch.isfinite(u).all()


def test_the_last_token_learns_to_predict_the_first_event():
    model, batch = learned(contrast="none")
    model.add(members.card("next", "next_item"), torch.Generator())
    one = replace(batch, items=batch.items[:, :1], lengths=batch.lengths.clamp(max=1))
    loss = model.loss(one, "next", torch.Generator())  # windows of one event: nothing but the first to predict
    nobody = replace(one, items=torch.zeros(6, 1, dtype=torch.long), lengths=torch.zeros(6, dtype=torch.long))
    scores = model.score(nobody, "next")  # (6, N)
    torch.testing.assert_close(loss, F.cross_entropy(scores, one.items[:, 0] - 2))


def test_info_nce_by_hand():
    a, b = torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([[3.0, 0], [1, 1]])
    c = 1 / math.sqrt(2)  # cosines: [[1, c], [0, c]]
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(2 * c)))
    second = -math.log(math.exp(2 * c) / (math.exp(0) + math.exp(2 * c)))
    assert float(info_nce(a, b, 0.5)) == pytest.approx((first + second) / 2, abs=1e-6)
    assert float(info_nce(a, b, 0.5, torch.ones(2, 2, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


def test_masks_of_the_contrastive_loss_come_from_its_generator():
    model, batch = learned()
    losses = [model.method.contrasted(model, "buy", batch, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_the_event_that_asks_is_in_every_view():
    model = members.new_model("bert4rec", "ppr")
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item")
    asked, overlay = model.backbone.question(members.batch(3)), model.overlays["buy"]
    door = overlay.door(overlay.profile(asked), lambda shape: torch.zeros(shape, dtype=torch.bool))
    with torch.no_grad():
        y = door("input", model.backbone.sites()["input"], asked.items)[:, 1:]  # (B, T, d), the token in front cut off
    assert torch.equal(y.any(-1), asked.items == MASK)


def test_without_tokens_nothing_of_the_profile_is_in_a_view():
    """u_s does not read it then, and a view equal to the whole would only push users apart."""
    losses = {}
    for contrast in ("profile", "items", "both"):
        model, batch = learned(tokens=0, variant="full", contrast=contrast)
        rng = torch.Generator().manual_seed(0)
        losses[contrast] = float(model.method.contrasted(model, "buy", batch, rng).detach())
    assert losses["profile"] == 0 and losses["both"] == losses["items"] > 0


def test_light_trains_little_and_full_all():
    small, _ = learned()
    whole, _ = learned(variant="full")
    assert small.method.keeps and not whole.method.keeps
    backbone = {id(p) for p in small.backbone.parameters()}
    assert not any(id(p) in backbone for p in small.method.trains(small, "buy", "train"))
    assert all(p in set(whole.method.trains(whole, "buy", "train")) for p in whole.backbone.parameters())


def test_light_trains_at_most_a_hundredth_of_fine_tuning():
    """As in docs/ppr.md: 3,416 films, what is known of users there, and the options of recipes/ml1m-cold.toml."""
    values = {"gender": 2, "age_code": 7, "occupation": 21}
    fields = Fields({name: Ids([str(n) for n in range(count)], first=1) for name, count in values.items()})
    films, rows = Ids([str(n) for n in range(3416)], first=2), np.arange(2, 3418)
    trained = []
    for options in ({"hidden": 8}, {"variant": "full", "tokens": 0, "contrast": "none"}):
        encoder, method = {"name": "sasrec", "width": 64, "max_length": 50}, {"name": "ppr", **options}
        spec = {"encoder": encoder, "method": method, "objective": {"name": "next_item"}}
        model = store.build(spec, films, find, torch.Generator(), fields)
        for name in ("warm", "cold"):
            model.add(TaskCard(name, "next_item", Ids(films.text(rows)), rows, np.ones(3416)), torch.Generator())
        trained.append(sum(weight.numel() for weight in {*model.method.trains(model, "cold", "train")}))
    assert trained == [1816, 274264] and trained[0] <= 0.01 * trained[1]


@pytest.mark.parametrize("options", [{}, {"tokens": 3, "contrast": "profile"}, {"add": False, "history": True}])
def test_older_prompts_answer_bit_for_bit_as_before(options):
    """With profiles: fields, vectors from elsewhere, users without either, and one without events."""
    model, batch = learned(**options)
    model.settle("buy")
    asked = replace(batch, lengths=batch.lengths * (torch.arange(6) != 2))
    before = {task: model.score(asked, task) for task in model.tasks}
    rng = torch.Generator().manual_seed(2)
    model.add(members.card("like", "item"), rng)
    weights = model.method.trains(model, "like", "train")
    optimizer, start = torch.optim.AdamW(weights, lr=0.05, weight_decay=0.1), model.score(asked, "like")
    answers = {"answers": torch.arange(6), "answer_starts": torch.arange(7)}
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model.method.loss(model, "like", replace(batch, **answers), rng, 0.0).backward()
        optimizer.step()
    model.eval()
    assert not torch.equal(model.score(asked, "like"), start)
    assert all(torch.equal(model.score(asked, task), old) for task, old in before.items())


def test_fields_are_saved_and_loaded(tmp_path):
    model, batch = learned(hides="age")
    model.settle("buy")
    store.save(model, tmp_path / "model")
    again = store.load(tmp_path / "model", find)
    assert again.fields == FIELDS and again.tasks["buy"].hides == "age"
    assert torch.equal(model.score(batch, "buy"), again.score(batch, "buy"))


def test_profiles_as_told():
    profiles, strange = FIELDS.told([{"gender": "M", "age": None}, {"age": "ancient"}, {}])
    assert profiles.rows.tolist() == [[2, 0], [0, 0], [0, 0]] and strange == [[], ["age=ancient"], []]
    assert profiles.known().tolist() == [True, False, False] and not profiles.known(without="gender").any()
    with pytest.raises(UsageError, match="no profile field 'gendre'") as fault:
        FIELDS.told([{"gendre": "F"}])
    assert "gender" in fault.value.fix
    with pytest.raises(UsageError) as fault:
        Fields({}).told([{"gender": "F"}])
    assert fault.value.expected == "none: this model reads no profile"
