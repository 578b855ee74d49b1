"""HAT: hard attention to the task. Each task learns which units it uses; what earlier tasks use hardly moves.

J. Serra, D. Suris, M. Miron, A. Karatzoglou, "Overcoming Catastrophic Forgetting with Hard Attention to the Task", ICML
2018.

    a_l^t     = sigma(s e_l^t),   h_l <- a_l^t * h_l                            gates
    a_l^{<=t} = max(a_l^t, a_l^{<=t-1})   at s = s_max, once t is learned        units in use
    W_{l,ij}  moves by the share 1 - a_{l,i}^{<t}                                protection
    s         = 1/s_max + (s_max - 1/s_max) b     b from 0 to 1; s_max after     annealing
    dL/de    := s_max (cosh(s e) + 1) / (s (cosh(e) + 1)) dL/de                  compensation
    L' = L + c R,   R = sum_{l,i} a_{l,i}^t (1 - a_{l,i}^{<t}) / sum_{l,i} (1 - a_{l,i}^{<t})

| paper | here | shape |
|---|---|---|
| e_l^t | overlay.e, one number a unit, clamped to [-6, 6] | (units,) |
| a_l^{<=t} | method.used/..., at most 1 | (units,) |
| s_max | s_max | |
| c, lambda in the code | c | |
| b | how far the current of `rises` risings of s is | |

A unit is one output of a linear map, convolution or gate of a recurrent layer: row i of a module's weights and bias.
Gating the row, a (W x + b), is gating the unit before its activation; for ReLU and none that is gating it after.

Does it keep? Not bit for bit, and it does not promise to. Where every a^{<t} has rounded to exactly 0 or 1, nothing
that earlier tasks use moves at all; a gate in between lets its weights move by what is missing to 1.

Differs: the paper protects a weight by the smaller gate of its two ends; here by that of its output end alone, which is
stricter and, as residual streams are not gated, the same for all layers that read one. The share is taken from the
optimiser's step, not from the gradient, which Adam would scale back up. s rises `rises` times over the stage instead of
once an epoch (the same, where `rises` is the number of epochs), and a rise has five steps or more: in one step s could
not rise. Item table, positions and norms, which the paper's networks do not have, are learned by the first task and
frozen. The compensation is computed in closed form, without the clamp of s e to +-50. The optimiser (SGD there) is the
recipe's. Where a normalisation stands between a layer and its
activation (post-norm NextItNet), the gate stands before it, not behind the activation: a unit that is off enters the
normalisation as 0 and leaves it as a number, the same whatever its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from perdure.events.batch import Batch
from perdure.functional.gates import annealed_sigmoid, risen
from perdure.tuning.base import Method, Overlay, Reweighted, added, everything, key

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["HAT"]

LIMIT = 6.0  # of |e|

Units = dict[str, dict[str, list[str]]]  # site -> name of a group of units -> parameters whose row i makes unit i


class Gates(Reweighted):
    """Embeddings of one task; their gates on the rows of weights."""

    def __init__(self, units: Units, sizes: Mapping[str, int], s_max: float, generator: torch.Generator) -> None:
        super().__init__()
        self.units, self.s_max = units, s_max
        self.s = s_max  # while learning; set by the method before each loss
        self.e = nn.ParameterDict({name: torch.randn(size, generator=generator) for name, size in sizes.items()})

    def gate(self, name: str, s: float) -> Tensor:
        """a of one group of units, (units,)."""
        return annealed_sigmoid(self.e[name], s, self.s_max)

    def weights(self, site: str, layer: nn.Module) -> dict[str, Tensor]:
        """Every row of weights times its unit's gate; at s_max unless learning."""
        new: dict[str, Tensor] = {}
        for name, parameters in self.units.get(site, {}).items():
            a = self.gate(name, self.s if self.training else self.s_max)  # (units,)
            for p in parameters:
                weight = layer.get_parameter(p)  # (units, ...)
                new[p] = _rows(a, weight) * weight
        return new


class HAT(Method):
    """Gates on units, learned per task, and earlier tasks' units protected by them.

    Args:
        c: weight of the regulariser that leaves units to later tasks; larger uses fewer.
        s_max: how hard gates are once learned.
        rises: times s rises from 1 / s_max to s_max over the stage, fewer where it has few steps. The paper's schedule
            is one an epoch.
    """

    name: ClassVar[str] = "hat"
    paper: ClassVar[str] = "Serra et al., ICML 2018"
    summary: ClassVar[str] = "near-binary gates on units per task; units in use hardly move"
    keeps: ClassVar[bool] = False
    begins_as_backbone: bool = False

    def __init__(
        self,
        *,
        c: Annotated[float, Ge(0)] = 0.75,
        s_max: Annotated[float, Gt(1)] = 400.0,
        rises: Annotated[int, Ge(1)] = 20,
    ) -> None:
        super().__init__()
        self.c, self.s_max, self.rises = c, s_max, rises

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Gates for every task, the first too."""
        units = _units(model)
        sizes: dict[str, int] = {}
        for site, layer in model.backbone.sites().items():
            sizes |= {name: len(layer.get_parameter(ps[0])) for name, ps in units.get(site, {}).items()}
        if model.is_first(card.name):
            for name, size in sizes.items():
                self.register_buffer(f"used/{name}", torch.zeros(size, device=model.backbone.item_table.device))
        return Gates(units, sizes, self.s_max, generator)

    def used(self, name: str) -> Tensor:
        """a^{<t} of one group of units, (units,)."""
        return self.get_buffer(f"used/{name}")

    def capacity(self, model: UserModel) -> float | None:
        """Share of the units that no task uses."""
        used = torch.cat(list(self.buffers()))  # (all units,)
        return float((1 - used).mean())

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Everything at first; then the gated weights, the embeddings and the head."""
        if model.is_first(task):
            return everything(model, task)
        return [*(weight for _, weight in _gated(model)), *added(model, task)]

    def shut(self, model: UserModel, task: str, stage: str) -> dict[nn.Parameter, Tensor]:
        """a^{<t} of the unit a weight leads to."""
        if model.is_first(task):
            return {}
        return {weight: _rows(self.used(name), weight) for name, weight in _gated(model)}

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """L + c R, with s as far as the progress tells."""
        gates = cast(Gates, model.overlays[task])
        gates.s = self.s_at(progress)
        for e in gates.e.values():
            e.data.clamp_(-LIMIT, LIMIT)  # after each step, that is before the next
        return model.loss(batch, task, rng) + self.c * self.regulariser(gates)

    def s_at(self, progress: float) -> float:
        """s at a share of the stage."""
        return risen(self.s_max, self.rises, progress, self.stage_steps)

    def regulariser(self, gates: Gates) -> Tensor:
        """R, scalar in [0, 1]: the share of the free units that this task takes."""
        free = {name: 1 - self.used(name) for name in gates.e}
        taken = torch.stack([(gates.gate(name, gates.s) * free[name]).sum() for name in free]).sum()
        return taken / torch.stack([f.sum() for f in free.values()]).sum().clamp(min=1e-6)

    def leave(self, stage: str, model: UserModel, task: str) -> None:
        """What this task uses is in use from now on."""
        gates = cast(Gates, model.overlays[task])
        with torch.no_grad():
            for name in gates.e:
                self.used(name).copy_(torch.maximum(self.used(name), gates.gate(name, self.s_max)))


def _units(model: UserModel) -> Units:
    """The units of every layer that mixes: parameters of one module with as many rows belong to the same units, but for
    those that the module names as `no_rows` of its maps: as many are chance there."""
    units: Units = {}
    for site, layer in model.backbone.sites().items():
        if getattr(layer, "role", "") != "mix":
            continue
        groups = units.setdefault(site, {})
        for prefix, module in layer.named_modules():
            for name, weight in module.named_parameters(prefix, recurse=False):
                group = key(site, f"{prefix}.{len(weight)}".strip("."))
                own = name.rpartition(".")[2]
                if group in groups and own in getattr(module, "no_rows", ()):
                    group = f"{group}/{own}"
                groups.setdefault(group, []).append(name)
    return units


def _gated(model: UserModel) -> list[tuple[str, nn.Parameter]]:
    """Group of units and weight, for every gated weight."""
    sites = model.backbone.sites()
    return [
        (name, sites[site].get_parameter(p))
        for site, groups in _units(model).items()
        for name, ps in groups.items()
        for p in ps
    ]


def _rows(a: Tensor, weight: Tensor) -> Tensor:
    """(units,) -> (units, 1, ...) to stand before a weight's rows."""
    return a.view(-1, *[1] * (weight.dim() - 1))
