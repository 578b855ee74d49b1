"""Piggyback: a binary mask per task on the weights of one frozen backbone.

A. Mallya, D. Davis, S. Lazebnik, "Piggyback: Adapting a Single Network to Multiple Tasks by Learning to Mask Weights",
ECCV 2018.

    m      = 1[R > tau]
    y      = (m * W) x + b                            in place of W x + b
    dL/dR := dL/dm = dL/d(m * W) * W                  straight-through: the step passes gradients as if it were identity

| paper | here | shape |
|---|---|---|
| W | matrices of the layers that mix, frozen after the first task | (out, in) |
| m^r, here R | overlay.scores, only while learning | (out, in) |
| m | overlay.bits/..., one bit a weight, all that is kept once the task is learned | (ceil(out in / 8),) uint8 |
| tau | threshold | |

R starts at one value above tau: a new mask is all ones, so a new task begins as the backbone exactly. Weight decay on R
would pull it below tau; the authors use none.

Differs: the matrices of convolutions, attention, feed-forward and recurrent layers are masked alike; the item table and
the positions are not masked. Norms and biases stay the backbone's unless `tune_vectors`, as in the authors' code by
default. The optimiser and its rate (Adam, 1e-4 there) are the recipe's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from perdure.errors import SettingsError
from perdure.functional.gates import pack, straight_through_step, unpack
from perdure.tuning.base import Method, Overlay, Reweighted, key, matrices, own_unless_first

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["Piggyback"]


class Masks(Reweighted):
    """Scores while learning, bits once settled; and private vectors where asked."""

    scores: nn.ParameterDict | None

    def __init__(
        self,
        masked: dict[str, dict[str, nn.Parameter]],
        own: dict[str, dict[str, nn.Parameter]],
        threshold: float,
        init: float,
    ) -> None:
        super().__init__()
        self.masked = {site: list(weights) for site, weights in masked.items()}
        self.vectors = {site: list(vectors) for site, vectors in own.items()}
        self.threshold = threshold
        self.scores = nn.ParameterDict(
            {key(s, n): torch.full_like(w, init) for s, weights in masked.items() for n, w in weights.items()}
        )
        self.own = nn.ParameterDict({key(s, n): p.detach().clone() for s, ps in own.items() for n, p in ps.items()})

    def settle(self) -> None:
        """One bit a weight takes the place of its score."""
        scores, self.scores = self.scores, None
        for name, r in scores.items() if scores is not None else ():
            self.register_buffer(f"bits/{name}", pack(r.detach() > self.threshold))  # (ceil(out in / 8),)

    def mask(self, name: str, weight: Tensor) -> Tensor:
        """m of one weight, (out, in), zeros and ones in its dtype."""
        if self.scores is not None:
            return straight_through_step(self.scores[name], self.threshold)
        return unpack(self.get_buffer(f"bits/{name}"), weight.shape).to(weight.dtype)

    def weights(self, site: str, layer: nn.Module) -> dict[str, Tensor]:
        """m * W for every matrix of a layer that mixes, and the private vectors."""
        new: dict[str, Tensor] = {}
        for name in self.masked.get(site, ()):
            weight = layer.get_parameter(name)  # (out, in)
            new[name] = self.mask(key(site, name), weight) * weight  # (out, in)
        return new | {name: self.own[key(site, name)] for name in self.vectors.get(site, ())}


class Piggyback(Method):
    """Binary masks on a frozen backbone.

    Args:
        threshold: tau; a weight is used where its score is larger.
        init: score of every weight at the start, above the threshold.
        tune_vectors: a private copy of every norm, bias and other vector that is no matrix, per task.
    """

    name: ClassVar[str] = "piggyback"
    paper: ClassVar[str] = "Mallya et al., ECCV 2018"
    summary: ClassVar[str] = "a binary mask per task on the weights of a frozen backbone, one bit a weight"
    keeps: ClassVar[bool] = True

    def __init__(self, *, threshold: float = 5e-3, init: float = 1e-2, tune_vectors: bool = False) -> None:
        super().__init__()
        if init <= threshold:
            raise SettingsError(
                f"init {init:g} is not above threshold {threshold:g}",
                where="tuning.init, tuning.threshold",
                fix="a new mask must begin with all weights in use",
            )
        self.threshold, self.init, self.tune_vectors = threshold, init, tune_vectors

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Scores for every task but the first."""
        if model.is_first(card.name):
            return None
        own = {
            site: {name: p for name, p in layer.named_parameters() if p.dim() == 1}
            for site, layer in model.backbone.sites().items()
            if self.tune_vectors
        }
        return Masks(matrices(model), own, self.threshold, self.init)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Scores, private vectors and the head."""
        return own_unless_first(model, task)
