"""ShopperBERT: what is known of hidden purchases, the levels of their category and the parts of their date.

K. Shin, H. Kwak, K.-M. Kim, M. Kim, Y.-J. Park, J. Jeong, S. Jung, "One4all User Representation for Recommender Systems
in E-commerce", arXiv 2106.00573, 2021.

    o_t  = (category levels, text, date parts) of purchase t                  encoders/features.py, [input] ids = false
    h    = encoder of o_1 .. o_n, some of them masked, after a crop and a shuffle of the log
    L    = (1 / J) sum_j mean over masked t of CE(W_j h_t + b_j, part j of o_t)       J = 9: 4 levels, 5 parts of a date
    u    = mean of the states (ShopperBERT-MP), or one state that reads all (ShopperBERT-CLS)

| paper | here | shape |
|---|---|---|
| parts c_1 .. c_4 | [input] items: parts.attributes, by item row; a list has several columns | (N + 2, C) |
| parts year .. hour | [input] dates: columns of Batch.marks | (B, T, M) |
| W_j, b_j | parts.maps[j] | (V_j, d), (V_j,) |
| MP, CLS | encoder.readout = "mean"; "last": the state asked for after the last event | (B, d) |

Differs: the paper's body was not available; this follows summaries of it. Every attribute and every part of a date
that [input] names is a head, so J is not always 9. Row 0, what is not told, is no target; of an attribute that is a
list all values are, each alike. Open there, and options here: the share of masked purchases, how much a crop keeps (a
share drawn from `crop` to 1 for every batch, so that long histories are met, too), how much of the log is shuffled. A
crop comes before the shuffle, which would leave it nothing adjacent. A purchase keeps its date when it is moved. What
stands for [CLS] is the state that the encoder asks with. It ranks nothing: the task is judged by the share of masked
parts that are told right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from perdure.encoders.base import MASK, Encoder
from perdure.errors import SettingsError
from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.losses import softmax_loss
from perdure.objectives.base import Learner, Objective
from perdure.objectives.masked_item import MaskedItem

if TYPE_CHECKING:
    from perdure.events.marks import Marks
    from perdure.events.profiles import Fields

__all__ = ["PurchaseParts", "ShopperBERT"]


class PurchaseParts(nn.Module):
    """J linear maps from states to what is known of a purchase.

    Args:
        marks: what is told of events. n_items: N. width: d.
    """

    attributes: Tensor

    def __init__(self, marks: Marks, n_items: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        dates = [place for place, name in enumerate(marks.names) if name.startswith("time.") and name != "time.gap"]
        items = [[at for at, place in enumerate(marks.places) if place == one] for one in range(len(marks.items))]
        self.columns, self.dates = items, dates  # columns of attributes of each head, then one mark a head
        sizes = [len(values) for values in marks.items.values()] + [marks.sizes[place] - 1 for place in dates]
        self.maps = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        held = torch.zeros(n_items + 2, len(marks.places), dtype=torch.int32)
        self.register_buffer("attributes", held if marks.attributes is None else torch.tensor(marks.attributes))
        for linear in self.maps:
            nn.init.normal_(linear.weight, std=0.02, generator=generator)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def targets(self, items: Tensor, marks: Tensor | None) -> list[Tensor]:
        """Item rows (M,) and marks (M, n) of purchases -> of each head the rows of its part, (M, c) with c columns, 0
        where it is not told."""
        rows = self.attributes[items].long()  # (M, C)
        dated = [] if marks is None else [marks[:, place, None] for place in self.dates]  # (M, 1)
        return [*(rows[:, columns] for columns in self.columns), *dated]


class ShopperBERT(Objective):
    """Masked parts of purchases.

    Args:
        rate: share of a history's purchases that is masked, at least one.
        crop: least share of a history that is kept, in one run; 1 keeps all.
        shuffle: share of what is kept that is put into another order, in one run; 0 leaves all where it is.
    """

    name: ClassVar[str] = "shopperbert"
    paper: ClassVar[str] = "Shin et al., arXiv 2106.00573"
    summary: ClassVar[str] = "predict categories and dates of hidden purchases"
    causal: ClassVar[bool | None] = False
    any_readout: ClassVar[bool] = True
    measure: ClassVar[str] = "masked_accuracy"

    def __init__(
        self,
        *,
        rate: Annotated[float, Gt(0), Lt(1)] = 0.15,
        crop: Annotated[float, Gt(0), Le(1)] = 0.6,
        shuffle: Annotated[float, Ge(0), Le(1)] = 1.0,
    ) -> None:
        super().__init__()
        self.crop, self.shuffle = crop, shuffle
        self.masked = MaskedItem(rate=rate, last=0.0)
        self._marks: Marks | None = None

    @classmethod
    def suits(cls, encoder: Encoder | type[Encoder]) -> None:
        """SettingsError where the encoder is none that it can train, or its readout has weights, which it would not."""
        super().suits(encoder)
        if not isinstance(encoder, type) and "readout" in encoder.sites():
            raise SettingsError(
                f"objective {cls.name} trains the state at each event, and readout {encoder.readout!r} has weights",
                expected='readout "mean", "last" or "max"',
                where="encoder.readout",
                fix='set encoder.readout = "mean"',
            )

    def read(self, marks: Marks) -> None:
        """What is known of purchases."""
        self._marks = marks

    def parts(self, encoder: Encoder, fields: Fields | None, generator: torch.Generator) -> PurchaseParts:
        """A linear map for each attribute of items and part of a date; SettingsError where [input] names none."""
        if self._marks is None or not (self._marks.items or self._marks.dates):
            raise SettingsError(
                "objective shopperbert: nothing is told of events that could be masked",
                expected="attributes of items, or dates",
                where="[input] items and dates",
                fix='name some, such as items = ["category"] and dates = ["hour", "weekday"]',
            )
        return PurchaseParts(self._marks, encoder.n_items, encoder.width, generator)

    def terms(self, batch: Batch, first: bool = False) -> float:
        """The purchases that are masked in the mean, of whole histories."""
        return self.masked.terms(batch)

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: the mean over the heads that have a target."""
        parts: PurchaseParts = learner.parts  # type: ignore[assignment]
        h, targets = self.read_masked(learner, self.view(batch, rng), rng)[:2]  # (M, d)
        losses = [h.sum() * 0.0]
        for linear, rows in zip(parts.maps, targets, strict=True):
            at, column = (rows > 0).nonzero(as_tuple=True)  # (K,)
            if len(at):
                weight, bias = linear.weight, linear.bias  # (V, d), (V,)
                losses.append(softmax_loss(h, weight, rows[at, column] - 1, rows=at, bias=bias))  # type: ignore[arg-type]
        return torch.stack(losses).sum() / max(len(losses) - 1, 1)

    def view(self, batch: Batch, rng: torch.Generator) -> Batch:
        """A crop of each history, shuffled."""
        share = self.crop + (1 - self.crop) * float(torch.rand((), generator=rng, device=rng.device))
        kept = views.crop(batch, share, rng) if self.crop < 1 else batch
        return views.reorder(kept, self.shuffle, rng) if self.shuffle else kept

    def read_masked(self, learner: Learner, batch: Batch, rng: torch.Generator) -> tuple[Tensor, list[Tensor], Tensor]:
        """States at masked purchases (M, d), of each head the rows of its part (M, c), and whose they are (M,)."""
        parts: PurchaseParts = learner.parts  # type: ignore[assignment]
        b, t = batch.items.shape
        masked = self.masked.draw(batch, rng)  # (B, T)
        at = masked.flatten().nonzero().squeeze(1)  # (M,)
        h = learner.encode(batch.hidden(masked, MASK))[:, -t:].reshape(b * t, -1)[at]  # (M, d), prompts cut off
        marks = None if batch.marks is None else batch.marks.flatten(0, 1)[at]  # (M, n)
        return h, parts.targets(batch.items.flatten()[at], marks), at // t

    def judge(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """(B,) the share of the masked parts that are told right, as drawn from the whole history; 0 where none is
        known. Of a list each of its values is right."""
        parts: PurchaseParts = learner.parts  # type: ignore[assignment]
        h, targets, owner = self.read_masked(learner, batch, rng)  # (M, d), (M,)
        right, known = h.new_zeros(len(batch)), h.new_zeros(len(batch))  # (B,)
        for linear, rows in zip(parts.maps, targets, strict=True):
            told = linear(h).argmax(1, keepdim=True) + 1  # (M, 1)
            right.index_add_(0, owner, (told == rows).any(1).to(h.dtype))
            known.index_add_(0, owner, (rows > 0).any(1).to(h.dtype))
        return right / known.clamp(min=1)
