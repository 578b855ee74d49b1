"""What every objective owes: a loss to learn from, with all chance from the generator it is given."""

from __future__ import annotations

import members
import pytest
import torch

from perdure import registry

OPTIONS = {"clue_service": {"by": "behaviour"}}  # those without a default
NAMES = registry.names("objectives")
MEASURES = [name for name in NAMES if registry.find("objectives", name).measure]


@pytest.fixture(params=NAMES)
def model(request):
    """A model that begins its first task by each objective there is."""
    causal = registry.find("objectives", request.param).causal
    spec = {"name": request.param, **OPTIONS.get(request.param, {})}
    encoder = "bert4rec+input" if causal is False else "sasrec+input"
    made = members.new_model(encoder, "finetune", encoder={"dropout": 0.1}, objective=spec)
    made.add(members.card("watch", "next_item"), torch.Generator().manual_seed(0))
    return made


def test_it_says_what_it_is(model):
    assert model.objective.paper and model.objective.summary


def test_its_loss_is_a_number_to_learn_from(model):
    data, rng = members.batch(3), torch.Generator().manual_seed(1)
    loss = model.train().loss(data, "watch", rng)
    assert isinstance(loss, torch.Tensor) and loss.shape == (), "a loss is a scalar tensor, the mean of its terms"
    assert loss.requires_grad, "the loss has no way back to the weights: is something detached?"
    loss.backward()
    gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients), "its gradients are not finite"
    assert any(bool(g.any()) for g in gradients), "no weight of the encoder learns from it"
    assert model.terms(data, "watch") > 0


def test_all_chance_but_dropout_comes_from_the_generator(model):
    losses, data = [], members.batch(3)
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(model.eval().loss(data, "watch", torch.Generator().manual_seed(0)))
    assert torch.equal(*losses), "draw with generator=rng, never with the global one"


@pytest.mark.parametrize("model", MEASURES, indirect=True)
@torch.inference_mode()
def test_a_measure_is_one_value_a_user(model):
    data = members.batch(4)
    values = model.eval().judge(data, "watch", torch.Generator().manual_seed(0))
    assert values.shape == (len(data),) and bool(((values >= 0) & (values <= 1)).all())
