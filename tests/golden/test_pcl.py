"""PCL's equations against numbers worked by hand and a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from contracts import members
from torch import Tensor

from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning.pcl import Attention, Context, Prompt

ROWS = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])  # p_k, t = 3: the last row belongs to the last event


class Events(torch.nn.Module):
    """An input layer that gives every event the vector (1, 1), and padding too."""

    def forward(self, items: Tensor) -> Tensor:
        return torch.ones(*items.shape, 2)  # (B, T, 2)


def prompted(how: str, context: torch.nn.Module | None = None) -> Tensor:
    """Two users, of four events and of one, through a prompt at the input."""
    prompt = Prompt(ROWS.clone(), context, how)  # type: ignore[arg-type]
    batch = Batch(torch.tensor([[2, 3, 4, 5], [6, 0, 0, 0]]), torch.tensor([4, 1]))
    return prompt.via(batch)("input", Events(), batch.items)


class Said(torch.nn.Module):
    """A context that is known."""

    def forward(self) -> Tensor:
        return torch.tensor([1.0, -1.0])


def test_a_prompt_is_added_to_the_last_t_events_and_to_no_padding():
    x = prompted("add")
    assert x[0].tolist() == [[1, 1], [11, 21], [31, 41], [51, 61]]
    assert x[1].tolist() == [[51, 61], [1, 1], [1, 1], [1, 1]]  # one event: the last row


def test_where_bags_are_read_their_last_entries_have_the_prompt():
    """One item, twelve times, in one bag: one entry."""
    model = members.new_model("smen", "pcl", encoder={"scales": [1]}, length=3, init_std=1.0)
    members.learn(model, "watch", "next_item")
    members.learn(model, "buy", "item")
    prompt, seen = model.overlays["buy"], []
    data = Batch(torch.full((1, 12), 5), torch.tensor([12]))

    def via(site, layer, x, *context):
        y = prompt.via(data)(site, layer, x, *context)
        if site == "input":
            seen.append(y - layer(x, *context))  # (1, 1, d)
        return y

    with torch.no_grad():
        model.backbone.vector(data, via)
        assert not torch.allclose(model.represent(data), model.represent(data, "buy"))
    torch.testing.assert_close(seen[0], prompt.prompt[None, -1:])


def test_how_the_context_enters():
    assert prompted("add", Said())[0, 3].tolist() == [52, 60]
    assert prompted("gate", Said())[0, 3].tolist() == [101, 1]  # 1 + 50 (1 + 1), 1 + 60 (1 - 1)
    front = prompted("prefix", Said())
    assert front.shape == (2, 5, 2) and front[0, 0].tolist() == [1, -1] and front[0, 4].tolist() == [51, 61]


@torch.no_grad()
def slow(a: Attention, g: Tensor, memory: Tensor) -> Tensor:
    """c_k before W_o, one head and one task after the other."""
    size, k = a.query.out_features // a.heads, len(g)
    values = [a.recall(memory[j]) if a.recall is not None and j < k - 1 else a.value(g[j]) for j in range(k)]
    heads = []
    for h in range(a.heads):
        part = slice(h * size, (h + 1) * size)
        logits = [float(a.query(g[-1])[part] @ a.key(g[j])[part]) / math.sqrt(size) for j in range(k)]
        weights = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
        heads.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
    return torch.cat(heads)


def test_attention_over_tasks_against_one_at_a_time():
    rng = torch.Generator().manual_seed(0)
    g, memory = torch.randn(4, 8, generator=rng), torch.randn(3, 6, generator=rng)
    for recalls in (True, False):
        attention = Attention(8, 6, 2, recalls, rng)
        torch.testing.assert_close(attention(g, memory), slow(attention, g, memory))
        torch.testing.assert_close(attention.weights(g).sum(0), torch.ones(2))


def test_a_shared_attention_belongs_to_no_task_and_collapses_with_it():
    rng = torch.Generator().manual_seed(1)
    attention = Attention(8, 2, 1, True, rng)
    context = Context(torch.randn(2, 8, generator=rng), torch.randn(1, 2, generator=rng), attention, own=False)
    assert [name for name, _ in context.named_parameters()] == ["out.weight"]
    torch.nn.init.eye_(context.out.weight)
    prompt = Prompt(ROWS.clone(), context, "add")
    before = prompt.combined().detach().clone()
    torch.testing.assert_close(before, ROWS + slow(attention, context.g, context.memory))
    prompt.settle()
    torch.nn.init.ones_(attention.query.weight)  # what a later task does
    assert torch.equal(prompt.combined(), before) and not list(prompt.parameters())


@pytest.mark.parametrize("context", ["prefix", "gate"])
def test_a_place_for_a_context_that_never_comes_is_refused(context):
    with pytest.raises(SettingsError, match=f'context = "{context}" and values = "none"'):
        members.new_model("sasrec", "pcl", values="none", context=context)
