"""Views of histories: other histories of the same users, as contrastive objectives compare them. Each is drawn for the
whole batch at once, and from its generator alone.

| view | what it does | source |
|---|---|---|
| crop | keeps a run of ceil(share n) events, of one at least | CL4SRec, Xie et al., ICDE 2022, eq. 5: floor(share n) |
| mask | hides floor(share n) events behind the mask row | the same, eq. 6 |
| reorder | shuffles a run of floor(share n) events | the same, eq. 7 |
| sample | ceil(share n) events, wherever they are | LURM, arXiv 2110.11337, whose exact form is not published |
| parts | half of the events, wherever they are, and the rest | the same |
| halves | every other event, and the rest: two histories without a common event | standard split-half practice |

A view of a history of n events has at least one event wherever n > 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from perdure.events.batch import Batch

__all__ = ["OPERATORS", "augmented", "crop", "halves", "mask", "only", "parts", "reorder", "sample"]


def crop(batch: Batch, share: float, rng: torch.Generator) -> Batch:
    """A run of ceil(share n) events of each history, share in (0, 1], from a place drawn evenly."""
    n = batch.lengths  # (B,)
    kept = torch.minimum((n.double() * share).ceil().long(), n)  # (B,)
    begin = (_rand((len(n),), batch, rng) * (n - kept + 1)).long()  # (B,)
    at = begin[:, None] + torch.arange(max(int(kept.max()), 1), device=n.device)  # (B, T')
    return _picked(batch, at, kept)


def mask(batch: Batch, share: float, rng: torch.Generator, row: int = 1) -> Batch:
    """`row` in place of floor(share n) events of each history, share in [0, 1), drawn evenly."""
    hidden = _drawn(batch, rng) < (batch.lengths.double() * share).long()[:, None]  # (B, T)
    return batch.hidden(hidden, row)


def reorder(batch: Batch, share: float, rng: torch.Generator) -> Batch:
    """The events of a run of floor(share n) of each history, share in [0, 1], in an order drawn evenly. Times stay
    where they are: they ascend, whatever happens when."""
    n, t = batch.lengths, batch.items.shape[1]  # (B,)
    moved = (n.double() * share).long()  # (B,)
    begin = (_rand((len(n),), batch, rng) * (n - moved + 1)).long()[:, None]  # (B, 1)
    place = torch.arange(t, device=n.device).expand(len(n), t)  # (B, T)
    inside = (place >= begin) & (place < begin + moved[:, None])  # (B, T)
    keys = torch.where(inside, begin + _rand(batch.items.shape, batch, rng) * moved[:, None], place)  # (B, T)
    order = keys.argsort(dim=1, stable=True)  # (B, T); stable: before what follows, should a lot round up to its key
    return replace(_picked(batch, order, n), times=batch.times)


def only(batch: Batch, where: Tensor) -> Batch:
    """The events of `where` (B, T) bool, nowhere on padding, in their order."""
    lengths = where.sum(1)  # (B,)
    first = where.to(torch.uint8).argsort(dim=1, descending=True, stable=True)  # (B, T)
    return _picked(batch, first[:, : max(int(lengths.max()), 1)], lengths)


def sample(batch: Batch, share: float, rng: torch.Generator) -> Batch:
    """ceil(share n) events of each history, share in (0, 1], drawn evenly, in their order."""
    n = batch.lengths  # (B,)
    kept = torch.minimum((n.double() * share).ceil().long(), n)  # (B,)
    return only(batch, _drawn(batch, rng) < kept[:, None])


def parts(batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch]:
    """Half of the events of each history, drawn evenly, one more where they are odd, and the others, both in their
    order; a single event is both parts."""
    n, drawn = batch.lengths, _drawn(batch, rng)  # (B,), (B, T)
    half = (n + 1) // 2  # (B,)
    begin = torch.where(n == 1, 0, half)  # (B,)
    inside = (drawn >= begin[:, None]) & batch.valid  # (B, T)
    return only(batch, drawn < half[:, None]), only(batch, inside)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first, third, fifth ... event of each history, and the others; a single event is both halves."""
    n, t = batch.lengths, batch.items.shape[1]  # (B,)
    at = 2 * torch.arange(max((t + 1) // 2, 1), device=n.device).expand(len(n), -1)  # (B, T')
    lone = (n == 1)[:, None]  # (B, 1)
    others = torch.where(lone, at, at + 1)  # (B, T')
    return _picked(batch, at, (n + 1) // 2), _picked(batch, others, torch.where(n == 1, n, n // 2))


OPERATORS = {"crop": crop, "mask": mask, "reorder": reorder}  # (batch, share, rng) -> batch


def augmented(batch: Batch, shares: Mapping[str, float], rng: torch.Generator) -> tuple[list[Batch], Tensor]:
    """Two views of each history, by two different operators drawn for it; each is made from the history itself.

    Args:
        shares: operator ("crop", "mask", "reorder") -> its share; two or more.

    Returns:
        The 2B views of B 1 or more users, one batch an operator, and (2B,) where among them all the first view of each
        user stands, then where the second does.
    """
    kinds = _rand((len(batch), len(shares)), batch, rng).argsort(1)[:, :2].T.flatten()  # (2B,)
    owners = torch.arange(len(batch), device=kinds.device).repeat(2)  # (2B,)
    places = [(kinds == i).nonzero().squeeze(1) for i in range(len(shares))]  # one (R,) an operator
    drawn = [(OPERATORS[kind], share, at) for (kind, share), at in zip(shares.items(), places, strict=True) if len(at)]
    return [make(batch.of(owners[at]), share, rng) for make, share, at in drawn], torch.cat(places).argsort()


def _drawn(batch: Batch, rng: torch.Generator) -> Tensor:
    """(B, T): a place in an order of each history's events, drawn evenly; padding stands behind them."""
    return _rand(batch.items.shape, batch, rng).masked_fill(~batch.valid, 2.0).argsort(1).argsort(1)


def _picked(batch: Batch, at: Tensor, lengths: Tensor) -> Batch:
    """The events at positions `at` (B, T') of each history, the first `lengths` (B,) of which count."""
    return batch.picked(at.clamp(max=batch.items.shape[1] - 1), lengths)


def _rand(shape: tuple[int, ...], batch: Batch, rng: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64).to(batch.items.device)
