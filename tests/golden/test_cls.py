"""The readout "cls": where the token stands, by hand; user vectors against one user at a time; what trains it and what
is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from contracts import members
from torch.nn import functional as F

from perdure.encoders.readouts import Token
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.objectives.base import Learner
from perdure.objectives.clue_seq import ClueSeq
from perdure.tuning.base import Overlay

ENCODERS = [name for name in members.ENCODERS if "readout" in members.options("encoders", name)]
CASES = [(name, {}) for name in [*ENCODERS, *(f"{name}+input" for name in ENCODERS)]]
CASES += [
    ("hstu", {"time": True}),
    ("bert4rec", {"block": "prenorm"}),
    *(("sasrec", {"block": block}) for block in ("prenorm", "postnorm")),
]


def model(name, method="frozen", **options):
    """A model that reads user vectors at a token, in evaluation mode."""
    options = {"readout": "cls", **options}
    return members.new_model(name, method, encoder=options, objective={"name": "clue_seq", "views": "crop"}).eval()


def token(encoder):
    """(d,) the weights of the site."""
    return cast(Token, encoder.layers["readout"]).vector


def users(batch):
    """Each user's events alone, without padding, and how many they are; of a user without events, one place."""
    for b, n in enumerate(batch.lengths.tolist()):
        yield batch.of(torch.tensor([b])).upto(max(n, 1)), n


def slow(encoder, alone, n, via=lambda site, layer, x, *context: layer(x, *context), first=False):
    """(d,) of one user: the n rows that the input makes, and the token behind or before them, through every layer."""
    places = torch.tensor([[*range(n), max(n - 1, 0)]])  # the token's time is the last event's

    def door(site, layer, x, *context):
        if site != "input":
            return via(site, layer, x, *context)
        rows = via(site, layer, alone.items, *encoder._input.told(alone))[:, : None if n else -1]
        one = token(encoder).expand(1, 1, -1)
        return torch.cat([one, rows] if first else [rows, one], 1)

    h = encoder(alone.picked(places, torch.tensor([n + 1])), door)[0]  # (P + n + 1, d)
    return h[0] if first else h[-1]


def with_empty(seed):
    """Histories of 1 to max_length events, and one of none."""
    data = members.batch(seed, size=8)
    lengths = data.lengths.clone().index_fill_(0, torch.tensor([3]), 0)
    return replace(data.hidden(torch.arange(members.T) >= lengths[:, None], 0), lengths=lengths)


def test_where_the_token_stands_by_hand():
    layer, x = Token(1), torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])[..., None]
    with torch.no_grad():
        layer.vector.fill_(7.0)
    stands = layer(x, torch.tensor([3, 1, 0]))[..., 0].tolist()
    assert [row[:n] for row, n in zip(stands, (4, 2, 1), strict=True)] == [[1, 2, 3, 7], [4, 7], [7]]


@pytest.mark.parametrize(("name", "options"), CASES)
@torch.inference_mode()
def test_a_user_vector_is_the_state_at_the_token_of_one_user_alone(name, options):
    encoder, data = model(name, **options).backbone, with_empty(1)
    assert int(data.lengths.max()) == encoder.max_length  # a full history loses nothing
    u = encoder.vector(encoder.question(data))
    expected = torch.stack([slow(encoder, alone, n) for alone, n in users(data)])
    torch.testing.assert_close(u, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_where_all_look_at_all_the_first_place_is_as_good():
    encoder, data = model("bert4rec").backbone, with_empty(2)
    expected = torch.stack([slow(encoder, alone, n, first=True) for alone, n in users(data)])
    torch.testing.assert_close(encoder.vector(data), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
@torch.inference_mode()
def test_it_reads_every_event_and_no_state_reads_it(name):
    encoder, data = model(name).backbone, members.batch(3, length=5)
    u, h = encoder.vector(data), encoder(data)
    for t in range(5):
        other = data.items.clone()
        other[0, t] = other[0, t] % members.N + 2
        moved = (encoder.vector(replace(data, items=other)) != u).any(1)
        assert moved.tolist() == [True] + [False] * (len(data) - 1)
    token(encoder).add_(1.0)
    assert torch.equal(encoder(data), h) and bool((encoder.vector(data) != u).any(1).all())


@pytest.mark.parametrize("name", ["sasrec+input", "gru4rec", "bert4rec", "hstu"])
@pytest.mark.parametrize("method", ["pcl", "ppr", "peterrec", "uaf"])
def test_overlays_meet_events_as_they_stand_and_the_token_behind_them(name, method):
    """pcl adds to the last events, ppr stands in front of the first, peterrec behind every layer that mixes."""
    made = model(name, method, **({"time": True} if name == "hstu" else {}))
    members.learn(made, "watch", "next_item", steps=1)
    members.learn(made, "buy", "item", seed=1)
    data, overlay = members.batch(4, size=8), cast(Overlay, made.overlays["buy"])
    with torch.inference_mode():
        expected = [slow(made.backbone, alone, n, overlay.via(alone)) for alone, n in users(data)]
        if method == "uaf":  # the token's own site is copied too, and mixed
            expected = [made.represent(alone, "buy")[0] for alone, _ in users(data)]
        torch.testing.assert_close(made.represent(data, "buy"), torch.stack(expected), rtol=1e-4, atol=1e-5)
        assert method == "uaf" or not torch.equal(made.represent(data, "buy"), made.represent(data))


def histories(seed, types=4):
    """Users of a type take items of its own quarter of the catalogue."""
    draw = torch.Generator().manual_seed(seed)
    span = members.N // types
    kind = torch.randint(types, (32, 1), generator=draw)
    items = 2 + kind * span + torch.randint(span, (32, members.T), generator=draw)
    return Batch(items, torch.full((32,), members.T), users=torch.arange(32))


def steps(encoder, weights, rate, number, fresh):
    """The loss of each step on `weights` alone, with the same users and views in every step, or others (`fresh`)."""
    objective, learner = ClueSeq(views="crop"), Learner(encoder, encoder.vector, encoder.item_table)
    optimizer, losses = torch.optim.Adam(weights, lr=rate), []
    for step in range(number):
        seed = step if fresh else 0
        loss = objective.loss(learner, histories(seed), torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("name", ENCODERS)
def test_the_token_learns(name):
    """While all else stands still, the loss that reads it falls."""
    encoder = model(name).backbone
    losses = steps(encoder, [token(encoder)], 0.003, 20, fresh=False)
    assert losses[-1] < losses[0] - 1e-4


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "bert4rec"])
def test_users_of_a_type_are_near_once_it_has_learned(name):
    encoder = model(name).backbone
    steps(encoder.train(), list(encoder.parameters()), 3e-3, 60, fresh=True)
    batch = histories(999)
    with torch.inference_mode():
        u = F.normalize(encoder.eval().vector(batch), dim=1)
    nearest = (u @ u.T).fill_diagonal_(-2).argmax(1)
    types = (batch.items[:, 0] - 2) // (members.N // 4)
    assert float((types[nearest] == types).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("name", "objective"), [("sasrec", "next_item"), ("bert4rec", "masked_item"), ("bert4rec+input", "shopperbert")]
)
def test_objectives_of_states_which_would_never_train_it_are_refused(name, objective):
    with pytest.raises(SettingsError, match=r"readout.*'cls'"):
        members.new_model(name, "frozen", encoder={"readout": "cls"}, objective=objective)


@pytest.mark.parametrize("readout", ["cls", "both"])
def test_peterrec_reads_no_token_of_its_own_besides(readout):
    made = members.new_model("bert4rec", "peterrec", encoder={"readout": "cls"}, objective="lurm", readout=readout)
    members.learn(made, "watch", "next_item", steps=1)
    with pytest.raises(SettingsError, match="reads user vectors by 'cls'"):
        members.learn(made, "age", "one_of")


@torch.inference_mode()
def test_padding_is_never_read():
    encoder, data = model("bert4rec").backbone, members.batch(5, length=8)
    longer = Batch(F.pad(data.items, (0, 4)), data.lengths)
    torch.testing.assert_close(encoder.vector(longer), encoder.vector(data), rtol=1e-4, atol=1e-5)
