"""Positions counted from the last event: as where padding stands on the left, and for the last state alone."""

from __future__ import annotations

import pytest
import torch
from contracts import members

from perdure.encoders.esasrec import ESASRec
from perdure.encoders.sasrec import SASRec
from perdure.events.batch import Batch

HISTORIES = [[5, 3, 9], [7], [2, 8, 4, 6, 3]]


def encoder(kind, positions):
    made = kind(members.N, width=8, max_length=members.T, positions=positions)
    made.reset(torch.Generator().manual_seed(3))
    return made.eval()


def batch(histories):
    longest = max(map(len, histories))
    items = torch.tensor([one + [0] * (longest - len(one)) for one in histories])
    return Batch(items, torch.tensor([len(one) for one in histories]))


@pytest.mark.parametrize("kind", [SASRec, ESASRec])
def test_the_last_event_has_the_last_position(kind):
    """A history of n events reads the last n position vectors: the same as an encoder that has those alone."""
    one = encoder(kind, "last")
    told = one.vector(batch(HISTORIES))
    for history, vector in zip(HISTORIES, told, strict=True):
        other = encoder(kind, "first")
        other.load_state_dict(one.state_dict())
        table = other.layers["input"].positions
        with torch.no_grad():
            table[: len(history)] = one.layers["input"].positions[-len(history) :]
        torch.testing.assert_close(other.vector(batch([history]))[0], vector)


def test_full_histories_are_alike_either_way():
    first, last = encoder(SASRec, "first"), encoder(SASRec, "last")
    full = batch([[2 + t % 7 for t in range(members.T)]])
    assert torch.equal(first.vector(full), last.vector(full))
    short = batch(HISTORIES)
    assert not torch.allclose(first.vector(short), last.vector(short), atol=1e-3)


def test_neither_padding_nor_what_comes_later_moves_a_position():
    """Windows whose last event is the answer, as a shifted loss reads them: it stands behind their end."""
    one = encoder(SASRec, "last")
    alone = torch.cat([one.vector(batch([history])) for history in HISTORIES])
    torch.testing.assert_close(one.vector(batch(HISTORIES)), alone)
    windows = batch([[*history, 9] for history in HISTORIES])
    inputs = windows.upto(windows.items.shape[1] - 1, windows.lengths - 1)
    torch.testing.assert_close(one.vector(inputs), alone)
    for row, history in enumerate(HISTORIES):
        torch.testing.assert_close(one(inputs)[row, : len(history)], one(batch([history]))[0])


def test_a_token_behind_the_events_moves_no_position():
    """What the site "input" gives of the events is the same with and without the token of the cls readout."""
    one = SASRec(members.N, width=8, max_length=5, positions="last", readout="cls")  # the longest history fills it
    one.reset(torch.Generator().manual_seed(3))
    seen = []

    def via(site, layer, x, *context):
        x = layer(x, *context)
        seen.extend([x] if site == "input" else [])
        return x

    one.eval().vector(batch(HISTORIES), via)
    data = batch(HISTORIES)
    torch.testing.assert_close(seen[0], one.layers["input"](data.items, data.lengths[:, None]))
