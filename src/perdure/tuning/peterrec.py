"""PeterRec: model patches (bottleneck adapters) in a frozen backbone, one set per task.

F. Yuan, X. He, A. Karatzoglou, L. Zhang, "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and
Recommendation", SIGIR 2020.

    MP(y)      = y + sum_{i=1..q} W_up_i gelu(W_down_i y + b_i) + b'
    serial     y <- MP(layer(x))                      after each layer ("two" a block) or each second one ("one")
    parallel   y <- layer(x) + MP(x) - x              with skip: y <- layer(x) + MP(x)

| paper | here | shape |
|---|---|---|
| q | cardinality | |
| W_down_i | patch.down, q stacked | (q hidden, d), hidden = d / (reduction q) |
| W_up_i, b' | patch.up | (d, q hidden), (d,) |
| LN of a block | norms | its weight and bias (d,) |

A sum of q bottlenecks with an element-wise activation is one bottleneck q times as wide, so it is computed as one.

Differs: W_up starts at zero, so a new patch begins as the backbone exactly; the readout is the last event, not an
appended CLS token; in the parallel form the official code's inner identity (`parallel_skip`) is off by default, because
with it a new patch does not begin as the backbone; the normalisation layers re-tuned (`tune_norms`) are all of the
encoder's, the official code's only the second of each block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Via
from perdure.events.batch import Batch
from perdure.tuning.base import Method, Overlay, own_unless_first, through

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["PeterRec"]


class Patch(nn.Module):
    """The bottleneck without its skip: (..., d) -> (..., d), zero at the start."""

    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.normal_(self.down.weight, std=0.02, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, y: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        return self.up(F.gelu(self.down(y)))


class Patches(Overlay):
    """Patches at sites that mix, and private normalisations."""

    def __init__(self, patches: dict[str, Patch], norms: dict[str, nn.Module], parallel: bool, skip: bool) -> None:
        super().__init__()
        self.patches = nn.ModuleDict(patches)
        self.norms = nn.ModuleDict(
            {
                site: nn.ParameterDict({n: p.detach().clone() for n, p in layer.named_parameters()})
                for site, layer in norms.items()
            }
        )
        self.parallel, self.skip = parallel, skip

    def via(self, batch: Batch) -> Via:
        """Layer plus patch; private weights at the norms."""
        return self._via

    def _via(self, site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        if site in self.norms:
            return through(layer, dict(self.norms[site].items()), x, *context)  # type: ignore[operator]
        y = layer(x, *context)
        if site not in self.patches:
            return y
        if not self.parallel:
            return y + self.patches[site](y)  # (B, T, d)
        y = y + self.patches[site](x)  # (B, T, d)
        return y + x if self.skip else y


class PeterRec(Method):
    """Adapters per task on a frozen backbone.

    Args:
        insertion: "serial" (after the layer) or "parallel" (beside it).
        patches: "two" of a block's layers are patched, or "one" (the second).
        reduction: d / (reduction * cardinality) hidden units a bottleneck, at least 1.
        cardinality: q bottlenecks a patch.
        tune_norms: a private copy of the normalisation layers per task.
        parallel_skip: as the official code, add the input once more in the parallel form.
    """

    name: ClassVar[str] = "peterrec"
    paper: ClassVar[str] = "Yuan et al., SIGIR 2020"
    summary: ClassVar[str] = "bottleneck adapters per task in a frozen backbone"
    keeps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        insertion: Literal["serial", "parallel"] = "serial",
        patches: Literal["one", "two"] = "two",
        reduction: Annotated[int, Ge(1)] = 4,
        cardinality: Annotated[int, Ge(1)] = 1,
        tune_norms: bool = True,
        parallel_skip: bool = False,
    ) -> None:
        super().__init__()
        self.insertion, self.patches, self.reduction = insertion, patches, reduction
        self.cardinality, self.tune_norms, self.parallel_skip = cardinality, tune_norms, parallel_skip
        self.begins_as_backbone = not (insertion == "parallel" and parallel_skip)

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Patches for every task but the first."""
        if model.is_first(card.name):
            return None
        sites = model.backbone.sites()
        width = model.backbone.width
        hidden = self.cardinality * max(1, width // (self.reduction * self.cardinality))
        mixing = [site for site, layer in sites.items() if getattr(layer, "role", "") == "mix"]
        chosen = mixing if self.patches == "two" or len(mixing) == 1 else mixing[1::2]
        norms = {s: layer for s, layer in sites.items() if self.tune_norms and getattr(layer, "role", "") == "norm"}
        patches = {site: Patch(width, hidden, generator) for site in chosen}
        return Patches(patches, norms, self.insertion == "parallel", self.parallel_skip)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Patches, private norms and the head."""
        return own_unless_first(model, task)
