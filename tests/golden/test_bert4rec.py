"""BERT4Rec: the formulas in plain loops, what is asked of it, and what masked events it learns from."""

from __future__ import annotations

import math

import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.encoders.base import MASK
from perdure.encoders.bert4rec import BERT4Rec
from perdure.encoders.sasrec import SASRec
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.objectives.base import Learner
from perdure.objectives.masked_item import MaskedItem
from perdure.objectives.next_item import NextItem


def encoder(**options):
    made = BERT4Rec(members.N, width=8, max_length=members.T, **options)
    made.reset(torch.Generator().manual_seed(3))
    for name, weight in made.named_parameters():
        if weight.dim() == 1:  # norms and biases away from one and zero
            torch.nn.init.normal_(weight, 0.5, 0.5, generator=torch.Generator().manual_seed(len(name)))
    return made.eval()


def norm(x, layer):
    if layer is None:
        return x
    centred = x - x.mean()
    return centred / (centred.square().mean() + 1e-8).sqrt() * layer.weight + layer.bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def slow(model, history):
    """(n,) item rows -> (n, d), one position and one head at a time."""
    sites = model.sites()
    table, positions = sites["input"].items, sites["input"].positions
    x = [norm(table[item] + positions[t], sites["input_norm"]) for t, item in enumerate(history)]
    for i in range(model.blocks):
        attention, feed = sites[f"block{i}/attention"], sites[f"block{i}/feedforward"]
        size, norms = model.width // attention.heads, [sites[f"block{i}/norm{j}"] for j in (1, 2)]
        ahead, after = [[layer if kind == model.kind else None for layer in norms] for kind in ("prenorm", "postnorm")]
        asked = [norm(one, ahead[0]) for one in x]
        q = [attention.query(one).split(size) for one in asked]
        k = [attention.key_value(one)[: model.width].split(size) for one in asked]
        v = [attention.key_value(one)[model.width :].split(size) for one in asked]
        mixed = []
        for t in range(len(x)):
            heads = []
            for head in range(attention.heads):
                scores = torch.stack([q[t][head] @ other[head] / math.sqrt(size) for other in k])  # all, later ones too
                heads.append(sum(a * other[head] for a, other in zip(scores.softmax(0), v, strict=True)))
            mixed.append(attention.out(torch.cat(heads)))
        x = [norm(a + b, after[0]) for a, b in zip(x, mixed, strict=True)]
        x = [norm(a + feed.down(gelu(feed.up(norm(a, ahead[1])))), after[1]) for a in x]
    if "projection" in sites:
        x = [gelu(sites["projection"].map(a)) for a in x]
    return torch.stack([norm(a, sites.get("norm")) for a in x])


@pytest.mark.parametrize("options", [{}, {"projection": False}, {"block": "prenorm", "projection": False}], ids=str)
@torch.inference_mode()
def test_states_are_those_of_the_formulas(options):
    model, data = encoder(**options), members.batch(1)
    h = model(data)
    for b, n in enumerate(data.lengths.tolist()):
        torch.testing.assert_close(h[b, :n], slow(model, data.items[b, :n].tolist()), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_postnorm_sasrec_is_one_block_that_looks_back_only():
    """The last of its states is then that of BERT4Rec, which looks to both sides of what has come so far."""
    both = encoder(blocks=1, projection=False)
    back = SASRec(members.N, width=8, heads=2, blocks=1, max_length=members.T, block="postnorm").eval()
    back.load_state_dict(both.state_dict())
    data = members.batch(1)
    h = back(data)
    for b, n in enumerate(data.lengths.tolist()):
        for t in range(1, n + 1):
            torch.testing.assert_close(h[b, t - 1], slow(both, data.items[b, :t].tolist())[-1], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_user_vector_is_the_state_at_a_mask_after_the_last_event():
    model = encoder()
    items = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])
    asked = model.question(Batch(items, torch.tensor([3, 1])))
    assert asked.items.tolist() == [[5, 6, 7, MASK, 0], [8, MASK, 0, 0, 0]] and asked.lengths.tolist() == [4, 2]
    u = model.vector(asked)
    torch.testing.assert_close(u[0], slow(model, [5, 6, 7, MASK])[-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(u[1], slow(model, [8, MASK])[-1], rtol=1e-4, atol=1e-5)


def test_the_oldest_event_makes_room_for_the_mask():
    full = torch.arange(2, 2 + members.T)[None]
    model = encoder()
    asked = model.question(Batch(full, torch.tensor([members.T])))
    assert asked.items.tolist() == [[*range(3, 2 + members.T), MASK]] and asked.lengths.tolist() == [members.T]
    one_less = model.question(Batch(full, torch.tensor([members.T - 1])))
    assert one_less.items.tolist() == [[*range(2, 1 + members.T), MASK]]
    nobody = model.question(Batch(torch.zeros(1, 1, dtype=torch.long), torch.tensor([0])))
    assert nobody.items.tolist() == [[MASK, 0]] and nobody.lengths.tolist() == [1]


def test_a_model_asks_with_the_mask():
    model = members.new_model("bert4rec", "frozen")
    members.learn(model, "watch", "next_item")
    data = members.batch(9)
    with torch.inference_mode():
        u = model.backbone.vector(model.backbone.question(data))
        assert torch.equal(model.represent(data, "watch"), u)
        assert not torch.allclose(u, model.backbone.vector(data), atol=1e-3)


# -- the objective ---


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*lengths):
    items = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for b, n in enumerate(lengths):
        items[b, :n] = torch.arange(n) % (members.N - 1) + 2
    return Batch(items, torch.tensor(lengths))


@pytest.mark.parametrize(
    ("rate", "most", "wanted"), [(0.2, None, [1, 1, 2, 8]), (0.5, 3, [1, 2, 3, 3]), (1.0, None, [1, 4, 10, 40])]
)
def test_how_many_events_are_masked(rate, most, wanted):
    data = batch(1, 4, 10, 40)
    masked = MaskedItem(rate=rate, most=most, last=0.0).draw(data, rng())
    assert masked.sum(1).tolist() == wanted and not (masked & ~data.valid).any()


def test_every_event_is_masked_as_often_and_the_last_alone_as_asked():
    data = batch(*[10] * 4000)
    masked = MaskedItem(rate=0.3, last=0.0).draw(data, rng())
    torch.testing.assert_close(masked.float().mean(0), torch.full((10,), 0.3), atol=0.03, rtol=0)
    masked = MaskedItem(rate=0.3, last=0.25).draw(data, rng())
    alone = masked.sum(1) == 1
    assert alone.float().mean().item() == pytest.approx(0.25, abs=0.03) and masked[alone][:, -1].all()


def test_the_same_generator_draws_the_same_masks():
    data = batch(*[10] * 50)
    first, again, other = (MaskedItem().draw(data, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def seen_by_the_encoder(objective, data):
    """What the loss shows the encoder, and the loss with a slow reference of it."""
    table, shown = torch.randn(members.N + 2, 8, generator=rng(5)), []
    h = torch.randn(*data.items.shape, 8, generator=rng(6))

    def encode(hidden):
        shown.append(hidden)
        return F.pad(h, (0, 0, 2, 0))  # two prompt positions in front

    loss = objective.loss(Learner(encode, encode, table), data, rng(7))
    masked = objective.draw(data, rng(7))
    logits = torch.stack([h[b, t] @ table[2:].T for b, t in masked.nonzero()])
    return shown[0], masked, loss, F.cross_entropy(logits, data.items[masked] - 2)


@pytest.mark.parametrize("last", [0.0, 0.5])
def test_the_loss_is_the_cross_entropy_of_masked_events_alone(last):
    data = batch(10, 3, 7, 1)
    hidden, masked, loss, reference = seen_by_the_encoder(MaskedItem(rate=0.4, last=last), data)
    torch.testing.assert_close(loss, reference)
    assert torch.equal(hidden.items, torch.where(masked, MASK, data.items))


def test_as_bert_does_eight_one_and_one_in_ten():
    data = batch(*[20] * 2000)
    hidden, masked, *_ = seen_by_the_encoder(MaskedItem(rate=0.5, last=0.0, corrupt="bert"), data)
    new, old = hidden.items[masked], data.items[masked]
    shares = torch.stack([new == MASK, (new != MASK) & (new != old), new == old]).double().mean(1)
    torch.testing.assert_close(shares, torch.tensor([0.8, 0.1, 0.1], dtype=torch.double), atol=0.01, rtol=0)
    assert new[new != MASK].min() >= 2 and new.max() < members.N + 2
    assert torch.equal(hidden.items[~masked], data.items[~masked])


def test_who_can_be_trained_by_what():
    both, back = encoder(), members.new_model("sasrec", "frozen").backbone
    MaskedItem().suits(both)
    NextItem().suits(back)
    with pytest.raises(SettingsError, match="next_item cannot train bert4rec, which sees the events to be predicted"):
        NextItem().suits(both)
    with pytest.raises(SettingsError, match="masked_item cannot train sasrec, which looks back only"):
        MaskedItem().suits(back)
