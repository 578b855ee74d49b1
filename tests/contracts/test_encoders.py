"""What every encoder owes every method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import members
import pytest
import torch
from torch.nn import functional as F

from perdure.encoders.base import Encoder, plain
from perdure.errors import SettingsError, UsageError
from perdure.events.batch import Batch

VARIANTS = {
    "sasrec": [{"block": "prenorm", "heads": 2}, {"block": "postnorm", "positions": "last"}],
    "nextitnet": [{"norm": "pre"}],
    "gru4rec": [{"blocks": 2}],
    "dupn": [{"context": "state"}, {"gaps": [60.0, 3600.0]}],
    "bert4rec": [{"projection": False, "heads": 1}, {"block": "prenorm"}],
    "hstu": [{"heads": 2, "time": True}],
    "esasrec": [{"heads": 2, "inner": 5}],
    "smen": [{"windows": "time", "scales": [3], "weight": "count"}, {"interests": 4, "weight": "once"}],
}
CASES = [(name, options) for name in members.ENCODERS for options in ({}, *VARIANTS.get(name, []))]
CASES += [(f"{e}+{rich}", {}) for e in members.ENCODERS for rich in members.READS if e not in members.STATELESS]


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]))
def encoder(request):
    """Each encoder there is, and its variants, small and in evaluation mode."""
    name, options = request.param
    return members.new_model(name, "frozen", encoder=options).backbone.eval()


def first(data, t):
    """The first t columns of a batch."""
    return data.upto(t)


def test_every_parameter_lives_in_exactly_one_site(encoder):
    names = {id(p): name for name, p in encoder.named_parameters()}
    owned = [names[id(p)] for layer in encoder.sites().values() for p in layer.parameters()]
    assert sorted(owned) == sorted(names.values())


def test_forward_visits_all_sites_in_order(encoder):
    visited = []

    def via(site, layer, x, *context):
        assert layer is encoder.sites()[site]
        visited.append(site)
        return layer(x, *context)

    h = encoder(members.batch(0), via)
    assert h.shape == (6, members.T, encoder.width), "a state at each event, (B, P + T, d)"
    assert visited == [site for site in encoder.sites() if site != "readout"], "each site once through `via`, in order"


def test_every_site_has_a_role(encoder):
    roles = {site: getattr(layer, "role", "") for site, layer in encoder.sites().items()}
    lost = [site for site, role in roles.items() if role not in {"input", "mix", "norm", "read"}]
    assert not lost, f"layers at {lost}: declare a role (encoders/parts.py), by which methods find what to adapt"
    assert next(iter(roles.values())) == "input"


@torch.inference_mode()
def test_more_padding_never_changes_an_answer(encoder):
    data = members.batch(1)
    short = first(data, members.T - 2)
    wider = {name: F.pad(getattr(short, name), (0, 2)) for name in ("items", "times")}
    longer = replace(short, **wider, marks=F.pad(short.marks, (0, 0, 0, 2)))
    torch.testing.assert_close(encoder.last(encoder(longer), longer), encoder.last(encoder(short), short))


@torch.inference_mode()
def test_what_stands_on_padding_is_never_read(encoder):
    data = members.batch(2)
    noise = torch.where(data.valid, data.items, torch.randint(2, members.N, data.items.shape))
    same = replace(data, items=noise)
    torch.testing.assert_close(encoder.last(encoder(data), data), encoder.last(encoder(same), same), rtol=0, atol=0)


@torch.inference_mode()
def test_one_user_alone_or_in_a_crowd(encoder):
    data = members.batch(3)
    crowd = encoder.last(encoder(data), data)
    for b, n in enumerate(data.lengths.tolist()):
        alone = data.of(torch.tensor([b])).upto(n)
        torch.testing.assert_close(encoder.last(encoder(alone), alone)[0], crowd[b], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_no_state_looks_ahead_unless_the_encoder_says_so(encoder):
    data = members.batch(4, size=2)
    changed = data.items.clone()
    changed[0, -1] = changed[0, -1] % members.N + 2
    a, b = encoder(data)[0], encoder(replace(data, items=changed))[0]
    assert torch.equal(a[:-1], b[:-1]) == encoder.causal
    assert not torch.equal(a[-1], b[-1])


@torch.inference_mode()
def test_a_question_is_short_enough_and_the_same_however_much_padding(encoder):
    data = members.batch(8, size=16)
    asked, before = encoder.question(data), data.items.clone()
    assert asked.items.shape[1] <= encoder.max_length and bool((asked.lengths <= encoder.max_length).all())
    assert torch.equal(data.items, before) and not asked.items[~asked.valid].any()
    few = data.lengths <= members.T - 4
    u = encoder.vector(encoder.question(first(data, members.T - 4)))
    torch.testing.assert_close(encoder.vector(asked)[few], u[few], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_short_way_to_a_user_vector_is_the_long_one(encoder):
    data = members.batch(7, size=16)
    empty = replace(data, lengths=data.lengths.clone().index_fill_(0, torch.tensor([3]), 0))
    for case in (data, empty):
        torch.testing.assert_close(encoder.vector(case), encoder.last(encoder(case), case), rtol=1e-4, atol=1e-5)
    visited = []
    encoder.vector(data, lambda site, layer, x, *context: (visited.append(site), layer(x, *context))[1])
    assert visited == list(encoder.sites())


READOUTS = ["mean", "max", "attention", "anchors", "cls"]
POOLING = [name for name in members.ENCODERS if "readout" in members.options("encoders", name)]


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", POOLING)
@torch.inference_mode()
def test_a_pooled_user_vector_reads_the_events_and_nothing_else(name, readout):
    encoder = members.new_model(name, "frozen", encoder={"readout": readout}, objective="clue_seq").backbone.eval()
    data, visited = members.batch(6, size=8), []

    def via(site, layer, x, *context):
        visited.append(site)
        return layer(x, *context)

    u = encoder.vector(encoder.question(data), via)
    assert visited == list(encoder.sites()) and ("readout" in visited) == (readout not in ("mean", "max"))
    h = encoder(data)
    if readout in ("mean", "attention"):  # attention begins even
        torch.testing.assert_close(
            u, torch.stack([s[:n].mean(0) for s, n in zip(h, data.lengths.tolist(), strict=True)])
        )
    if readout == "max":
        torch.testing.assert_close(
            u, torch.stack([s[:n].amax(0) for s, n in zip(h, data.lengths.tolist(), strict=True)])
        )
    noise = torch.where(data.valid, data.items, torch.randint(2, members.N, data.items.shape))
    torch.testing.assert_close(encoder.vector(replace(data, items=noise)), u)
    empty = replace(data, lengths=torch.zeros_like(data.lengths))
    assert torch.isfinite(encoder.vector(empty)).all()


def test_an_objective_of_states_refuses_a_pooled_readout():
    with pytest.raises(SettingsError, match="readout is 'mean'"):
        members.new_model("sasrec", "frozen", encoder={"readout": "mean"})


@torch.inference_mode()
def test_prompts_may_stand_in_front(encoder):
    data = members.batch(5)
    token = torch.ones(1, 1, encoder.width)

    def via(site, layer, x, *context):
        y = layer(x, *context)
        return torch.cat([token.expand(len(y), 1, -1), y], 1) if site == "input" else y

    h = encoder(data, via)
    assert h.shape[1] == members.T + 1
    assert encoder.last(h, data).shape == (len(data), encoder.width)
    empty = Batch(torch.zeros(1, 1, dtype=torch.long), torch.tensor([0]), torch.zeros(1, 1, dtype=torch.long))
    assert torch.isfinite(encoder.last(encoder(empty, via), empty)).all()


@pytest.mark.parametrize("layers", [{}, {"input": torch.nn.Embedding(members.N + 2, 4)}])
def test_an_encoder_without_its_input_says_so(layers):
    class Mine(Encoder):
        name = "mine"

        def forward(self, batch, via=plain):
            return self.embed(batch, via)

    mine = Mine(members.N, 4, members.T)
    mine.layers.update(layers)
    with pytest.raises(UsageError, match="encoder mine") as fault:
        mine(members.batch(0))
    assert "EventEmbedding" in fault.value.expected and fault.value.fix


def test_fresh_draws_other_weights_of_the_same_shape(encoder):
    twin = encoder.fresh(torch.Generator().manual_seed(9))
    again = encoder.fresh(torch.Generator().manual_seed(9))
    for name, weight in encoder.state_dict().items():
        assert twin.state_dict()[name].shape == weight.shape
        assert torch.equal(twin.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(twin.item_table, encoder.item_table)


@torch.no_grad()
def test_reset_draws_every_weight(encoder):
    """A weight that is not drawn would be what it was: a fresh encoder is a copy of one that has learned."""
    for weight in encoder.parameters():
        weight.fill_(torch.nan)
    encoder.reset(torch.Generator().manual_seed(1))
    left = [name for name, weight in encoder.named_parameters() if not torch.isfinite(weight).all()]
    assert not left, f"{left} keep their values: give the layer a role and a `reset` that draws all it owns"


def test_site_names_are_part_of_the_format():
    """Renaming a site breaks every model on disk: change this file only together with the format version."""
    golden = json.loads((Path(__file__).parent / "sites.json").read_text())
    sites = {name: list(members.new_model(name, "frozen").backbone.sites()) for name in members.ENCODERS}
    new = {name: names for name, names in sites.items() if name not in golden}
    assert not new, f"write the sites of a new encoder into tests/contracts/sites.json: {json.dumps(new)}"
    assert sites == golden
