"""LoRA: a low-rank update of the frozen backbone's matrices, one set per task.

E. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang, W. Chen, "LoRA: Low-Rank Adaptation of Large Language
Models", ICLR 2022.

    h = W_0 x + (alpha / r) B A x                     A random, B = 0 at the start
      = (W_0 + (alpha / r) B A) x

| paper | here | shape |
|---|---|---|
| W_0 | matrices of the layers that mix, frozen after the first task | (out, in) |
| A | overlay.down/... | (r, in) |
| B | overlay.up/... | (out, r) |
| r | rank, at most min(out, in) of its matrix | |
| alpha | alpha | |

B = 0, so a new task begins as the backbone exactly. The second form is computed, once a batch; the sum is never stored,
so a task's file holds A, B and its head.

Differs: the paper adapts the query and value projections of attention; here all matrices of the layers that mix
(attention, feed-forward, convolutions, the stacked gates of a recurrent layer), and a stacked matrix gets one update of
rank r. A is drawn as in the authors' code, U(+-1/sqrt(in)), not from a Gaussian; their dropout before A is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from perdure.tuning.base import Method, Overlay, Reweighted, key, matrices, own_unless_first

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["LoRA"]


class Updates(Reweighted):
    """A and B of every matrix."""

    def __init__(
        self, adapted: dict[str, dict[str, nn.Parameter]], rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.adapted = {site: list(weights) for site, weights in adapted.items()}
        self.alpha = alpha
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for site, weights in adapted.items():
            for name, weight in weights.items():
                r, bound = min(rank, *weight.shape), 1 / math.sqrt(weight.shape[1])
                a = torch.empty(r, weight.shape[1]).uniform_(-bound, bound, generator=generator)  # (r, in)
                self.down[key(site, name)] = nn.Parameter(a)
                self.up[key(site, name)] = nn.Parameter(torch.zeros(len(weight), r))  # (out, r)

    def weights(self, site: str, layer: nn.Module) -> dict[str, Tensor]:
        """W_0 + (alpha / r) B A for every matrix of a layer that mixes."""
        new: dict[str, Tensor] = {}
        for name in self.adapted.get(site, ()):
            a, b = self.down[key(site, name)], self.up[key(site, name)]  # (r, in), (out, r)
            new[name] = torch.addmm(layer.get_parameter(name), b, a, alpha=self.alpha / len(a))  # (out, in)
        return new


class LoRA(Method):
    """Low-rank updates of a frozen backbone.

    Args:
        rank: r of every update.
        alpha: an update counts alpha / r.
    """

    name: ClassVar[str] = "lora"
    paper: ClassVar[str] = "Hu et al., ICLR 2022"
    summary: ClassVar[str] = "low-rank updates of a frozen backbone's matrices, one set per task"
    keeps: ClassVar[bool] = True

    def __init__(self, *, rank: Annotated[int, Ge(1)] = 8, alpha: Annotated[float, Gt(0)] = 8.0) -> None:
        super().__init__()
        self.rank, self.alpha = rank, alpha

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Updates for every task but the first."""
        if model.is_first(card.name):
            return None
        return Updates(matrices(model), self.rank, self.alpha, generator)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """A, B and the head."""
        return own_unless_first(model, task)
