"""User vectors: the same alone or in a crowd, whatever the batch, and never with dropout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inference.people import ENCODERS, Fixed, cards, crowd, fixed, tiny

from perdure.encoders import parts
from perdure.errors import DataError, NonFiniteError, UsageError
from perdure.events.batch import Batch
from perdure.events.examples import Sequences
from perdure.functional import products
from perdure.inference import represent as room
from perdure.inference.represent import label_of_item, represent, scores_of, seen_cells


def ragged(histories):
    items = np.array([i for h in histories for i in h], np.int32)
    starts = np.concatenate([[0], np.cumsum([len(h) for h in histories])]).astype(np.int64)
    return Sequences(items, starts), starts[:-1], starts[1:]


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("task", [None, "next", "age"])
def test_equals_one_plain_forward_each(encoder, task):
    model, people = tiny(encoder), crowd(40, 20)  # up to 20 events, 12 are read
    u = represent(model, task, *ragged(people), batch_size=7)
    assert u.shape == (40, 16) and u.dtype == torch.float32 and not u.requires_grad
    for i, history in enumerate(people):
        kept = torch.tensor([history[-12:]])
        with torch.no_grad():
            model.eval()
            alone = model.represent(Batch(kept, torch.tensor([kept.shape[1]])), task)[0]
        assert torch.allclose(u[i], alone, atol=1e-5)
        assert torch.allclose(represent(model, task, *ragged([history]))[0], u[i], atol=1e-5)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_company_and_order_change_nothing(encoder, monkeypatch):
    model, people = tiny(encoder), crowd(50, 14, seed=3)
    whole = represent(model, "next", *ragged(people))
    order = np.random.default_rng(0).permutation(50)
    mixed = represent(model, "next", *ragged([people[i] for i in order]), batch_size=3)
    assert torch.allclose(mixed, whole[torch.from_numpy(order)], atol=1e-6)
    monkeypatch.setattr(room, "TOKENS", 8)  # one history a batch
    assert torch.allclose(represent(model, "next", *ragged(people)), whole, atol=1e-6)


def test_the_padded_length_is_the_history_s_own():
    lengths = np.array([1, 8, 9, 12, 0, 50, 3])
    seen = {}
    for rows, width, _ in room._batches(np.minimum(lengths, 12), lengths > 0, 12, 2, None):
        seen |= dict.fromkeys(rows.tolist(), width)
        assert len(rows) <= 2
    assert seen == {0: 8, 1: 8, 6: 8, 2: 12, 3: 12, 5: 12}


def test_only_whole_batches_of_a_shape_that_comes_often_are_told_so():
    lengths = np.array([8] * (2 * room.OFTEN + 1) + [16] * (2 * room.OFTEN - 1))
    told = [(width, len(rows), often) for rows, width, often in room._batches(lengths, lengths > 0, 16, 2, None)]
    assert told == [(8, 2, True)] * room.OFTEN + [(8, 1, False)] + [(16, 2, False)] * (room.OFTEN - 1) + [
        (16, 1, False)
    ]


def test_layers_are_told_what_comes_often(monkeypatch):
    model, people = tiny(), crowd(40, 20)
    whole, seen = represent(model, "next", *ragged(people)), []

    def ours(x, weight, bias=None):
        seen.append((x.shape[0], products._often.get() and torch.is_inference_mode_enabled()))
        return torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(parts, "linear", ours)
    assert torch.allclose(represent(model, "next", *ragged(people), batch_size=2), whole, atol=1e-6)
    assert {often for _, often in seen} == {True, False} and {n for n, often in seen if often} == {2}
    assert not products._often.get()


def test_no_events_gives_zeros_and_popularity():
    model = tiny()
    u = represent(model, "next", *ragged([[], [5, 6], []]))
    assert not u[0].any() and not u[2].any() and u[1].any()
    sequences, begin, end = ragged([[], [5, 6], []])
    scores = scores_of(model, "next", u, np.array([True, False, True]), sequences.items, begin, end)
    assert scores[0].tolist() == model.tasks["next"].popularity.tolist()
    classes = scores_of(model, "age", u, np.array([True, False, True]), sequences.items, begin, end).softmax(1)
    assert classes[0].tolist() == pytest.approx([2 / 8, 5 / 8, 1 / 8])
    assert represent(model, "next", *ragged([])).shape == (0, 16)
    assert not represent(model, "next", *ragged([[]])).any()


def test_dropout_is_off_and_modes_come_back():
    model, people = tiny(), crowd(5, 10)
    model.train()
    model.heads.eval()
    one, two = (represent(model, "next", *ragged(people)) for _ in range(2))
    assert torch.equal(one, two)
    assert model.training and model.backbone.training and not model.heads.training


def test_the_answer_may_be_used_outside_inference_mode():
    u = represent(tiny(), "next", *ragged(crowd(3, 5)))
    (u * torch.ones(1, requires_grad=True)).sum().backward()
    u += 1


def test_memory_maps_will_do(tmp_path):
    sequences, begin, end = ragged(crowd(9, 9))
    np.save(tmp_path / "items.npy", sequences.items)
    mapped = Sequences(np.load(tmp_path / "items.npy", mmap_mode="r"), sequences.starts)
    assert torch.equal(represent(tiny(), None, mapped, begin, end), represent(tiny(), None, sequences, begin, end))


def test_refusals():
    model, people = tiny(), ragged(crowd(3, 5))
    with pytest.raises(UsageError, match="did you mean later"):
        represent(model, "latr", *people)
    with pytest.raises(UsageError):
        represent(model, "next", *people, batch_size=0)
    with pytest.raises(DataError, match="row 99"):
        represent(model, "next", *ragged([[5, 99]]))
    with torch.no_grad():
        model.backbone.item_table[7] = float("nan")
    with pytest.raises(NonFiniteError):
        represent(model, "next", *ragged([[3, 7]]))
    with pytest.raises(NonFiniteError):
        sequences, begin, end = ragged([[2], [3], [2], [3]])
        scores_of(fixed([[float("inf"), 0.0]] * 2), "t", torch.eye(4), np.zeros(4, bool), sequences.items, begin, end)
    assert represent(tiny(), "next", *ragged([[3, 7]])).shape == (1, 16)


def test_labels_of_items_and_what_was_seen():
    _, later, age = cards()
    assert label_of_item(age, 30) is None
    labels = label_of_item(later, 30)
    assert labels is not None and labels[:7].tolist() == [-1, -1, 0, -1, 1, -1, 2]
    rows, columns = seen_cells(labels, np.array([2, 3, 4, 4, 6, 5]), np.array([0, 2, 6]), np.array([2, 6, 6]))
    assert rows.tolist() == [0, 1, 1, 1] and columns.tolist() == [0, 1, 1, 2]


def test_stand_in_keeps_the_face_of_a_model():
    assert isinstance(fixed(torch.eye(3)), Fixed)
