"""Masked-item prediction: some events of a history are hidden, and what stood there is predicted from both sides.

F. Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer", CIKM
2019, eq. 8.

    m      = max(1, round(rho n)), at most `most`           masked events of a history of n, drawn without replacement
    L      = mean over masked events t of  -log softmax_i(h_t . E_i)[i_t]
    with probability `last` a history has its last event masked alone, as it will be asked

| paper | here | shape |
|---|---|---|
| rho | rate | |
| i_t | items at masked events | (M,) |
| h_t | h | (M, d), masked events only |
| E, b^O | table, bias | (N + 2, d), (N + 2,) |

Only masked events meet the items, so memory grows with them and with the items, not with their product.

Differs: masks are drawn anew each time a history is met; the authors write ten masked copies of each window and one
with the last event masked (last = 1/11 here), and read those again and again. `corrupt` = "mask" puts the mask on every
drawn event, as their code does; "bert" on 80 %, another item on 10 % and the item itself on 10 %, as BERT (Devlin et
al., NAACL 2019) and RecTools do. Full softmax only.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from perdure.encoders.base import MASK
from perdure.events.batch import Batch
from perdure.functional.losses import softmax_loss
from perdure.objectives.base import Learner, Objective

__all__ = ["MaskedItem"]


class MaskedItem(Objective):
    """Hidden events from what stands before and after them.

    Args:
        rate: rho, share of a history's events that is masked.
        most: most events masked in a history; none for no limit.
        last: share of histories with nothing but their last event masked.
        corrupt: what stands at a masked event: always the "mask", or as in "bert" 80 % mask, 10 % another item, 10 %
            itself.
        tied: score with the table the encoder reads with; False for a table and bias of its own.
    """

    name: ClassVar[str] = "masked_item"
    paper: ClassVar[str] = "Sun et al., CIKM 2019"
    summary: ClassVar[str] = "predict hidden events from both sides"
    causal: ClassVar[bool | None] = False

    def __init__(
        self,
        *,
        rate: Annotated[float, Gt(0), Le(1)] = 0.2,
        most: Annotated[int, Ge(1)] | None = None,
        last: Annotated[float, Ge(0), Le(1)] = 0.1,
        corrupt: Literal["mask", "bert"] = "mask",
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.rate, self.most, self.last, self.corrupt, self.tied = rate, most, last, corrupt, tied

    def terms(self, batch: Batch, first: bool = False) -> float:
        """The events that are hidden in the mean."""
        counts = (batch.lengths * self.rate).round().clamp(min=1, max=self.most) * (1 - self.last) + self.last  # (B,)
        return float((counts * (batch.lengths > 0)).sum())

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: mean loss over the masked events of windows of T events."""
        b, t = batch.items.shape
        masked = self.draw(batch, rng)  # (B, T)
        hidden = batch.hidden(masked, self._stand_ins(batch.items, len(learner.table), rng))
        at = masked.flatten().nonzero().squeeze(1)  # (M,)
        h = learner.encode(hidden)[:, -t:].reshape(b * t, -1)[at]  # (M, d), prompts in front cut off
        return softmax_loss(h, learner.table, batch.items.flatten()[at], bias=learner.bias, first=2)

    def draw(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """(B, T) bool: which events are hidden, at least one of every history that has one."""
        valid, n = batch.valid, batch.lengths[:, None]  # (B, T), (B, 1)
        count = (n * self.rate).round().clamp(min=1, max=self.most)  # (B, 1)
        lots = self._rand(valid.shape, rng, valid.device).masked_fill(~valid, 2.0)  # (B, T)
        drawn = lots.argsort(1).argsort(1) < count  # (B, T) those with the smallest lots
        alone = self._rand((len(n), 1), rng, valid.device) < self.last  # (B, 1)
        end = torch.arange(valid.shape[1], device=valid.device) == n - 1  # (B, T)
        return torch.where(alone, end, drawn & valid)

    def _stand_ins(self, items: Tensor, rows: int, rng: torch.Generator) -> Tensor:
        """(B, T) what stands at an event if it is hidden."""
        mask = torch.full_like(items, MASK)  # (B, T)
        if self.corrupt == "mask":
            return mask
        dice = self._rand(items.shape, rng, items.device)  # (B, T)
        others = torch.randint(2, rows, items.shape, generator=rng, device=rng.device).to(items.device)  # (B, T)
        return torch.where(dice < 0.8, mask, torch.where(dice < 0.9, others, items))

    @staticmethod
    def _rand(shape: tuple[int, ...], rng: torch.Generator, device: torch.device) -> Tensor:
        return torch.rand(shape, generator=rng, device=rng.device).to(device)
