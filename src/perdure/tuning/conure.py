"""CONURE: every task owns weights of one backbone. Train the free ones, keep the largest, retrain those, freeze them.

F. Yuan, G. Zhang, A. Karatzoglou, J. Jose, B. Kong, Y. Li, "One Person, One Model, One World: Learning Continual User
Representation without Forgetting", SIGIR 2021.

    A_{k-1} = sum_{i<k} M_i                                              owned already
    train     W_k = sg(W * A_{k-1}) + W * (1 - A_{k-1})
    prune     M_k = 1[|W| is among the (1 - p_k) largest of the free]    of every matrix
    retrain   W_k = sg(W * A_{k-1}) + W * M_k
    test j    W_j = sum_{i<=j} W * M_i                                   what later tasks do cannot reach it

| paper | here | shape |
|---|---|---|
| W | matrices of the layers that mix | (out, in) |
| M_1 .. M_k, disjoint | method.owner/..., the number k of a weight's task, 0 = free | (out, in) uint8 |
| sg | `shut`: the optimiser's step is undone where a weight is not the task's to move | (out, in) |
| p_k | prune | |

The first task is trained, pruned and retrained like all others. Free weights are not reset: a task starts from what the
one before left in them. Owned weights stay bit for bit, under weight decay and momentum too. Asked without a task, the
backbone answers with all its weights and does move.

Differs: a task keeps (1 - p_k) of the free weights of a matrix, rounded to a whole number. Item table, positions, norms
and biases are learned by the first task, its retraining included, and frozen for all later ones; the authors freeze the
table and the norms before that retraining, have no biases to train, and score with an output table of its own, where
here it may be the item table. Both stages of a task are trained by the same settings; the authors retrain for up to
2.5 times as many epochs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Lt, MinLen
from torch import Tensor, nn

from perdure.errors import UsageError
from perdure.functional.gates import largest
from perdure.tuning.base import Method, Overlay, Reweighted, added, everything, key, matrices

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["CONURE"]

MOST_TASKS = 255  # an owner is a byte


class View(Reweighted):
    """The weights one task sees: all while it trains, those of the tasks up to it once it is pruned."""

    def __init__(self, method: CONURE, number: int) -> None:
        super().__init__()
        self.shared = (method,)  # in a tuple, as it is no part of the overlay
        self.number, self.pruned = number, False

    def settle(self) -> None:
        """From here on, and when loaded: only what tasks up to this one own."""
        self.pruned = True

    def weights(self, site: str, layer: nn.Module) -> dict[str, Tensor]:
        """W_k of every matrix of a layer that mixes."""
        if not self.pruned:
            return {}
        (method,) = self.shared
        new: dict[str, Tensor] = {}
        for name in method.owned.get(site, ()):
            owner = method.owner(site, name)  # (out, in)
            new[name] = layer.get_parameter(name) * ((owner > 0) & (owner <= self.number))  # (out, in)
        return new


class CONURE(Method):
    """Disjoint ownership of the backbone's weights.

    Args:
        prune: p_k of each task, the share of the free weights that it leaves to later ones; the last entry serves all
            tasks after it.
    """

    name: ClassVar[str] = "conure"
    paper: ClassVar[str] = "Yuan et al., SIGIR 2021"
    summary: ClassVar[str] = "every task trains, prunes, retrains and then owns weights of one backbone"
    keeps: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("train", "retrain")

    def __init__(self, *, prune: Annotated[tuple[Annotated[float, Ge(0), Lt(1)], ...], MinLen(1)] = (0.7,)) -> None:
        super().__init__()
        self.prune = tuple(prune)
        self.owned: dict[str, list[str]] = {}  # site -> its matrices; filled by the first task

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """A view for every task, the first too."""
        if model.is_first(card.name):
            self.owned = {site: list(weights) for site, weights in matrices(model).items()}
            for site, name, weight in _each(model):
                self.register_buffer(f"owner/{key(site, name)}", torch.zeros_like(weight, dtype=torch.uint8))
        return View(self, _number(model, card.name))

    def owner(self, site: str, name: str) -> Tensor:
        """Number of the task that owns each weight of a matrix, from 1; 0 = free. (out, in) uint8"""
        return self.get_buffer(f"owner/{key(site, name)}")

    def capacity(self) -> float:
        """Share of the matrices' weights that are still free, in [0, 1]; 1 before the first task."""
        owners = list(self.buffers())
        return sum(int((o == 0).sum()) for o in owners) / sum(o.numel() for o in owners) if owners else 1.0

    def keeps_of(self, number: int, owner: Tensor) -> int:
        """How many weights of one matrix task `number` will own."""
        p = self.prune[min(number, len(self.prune)) - 1]
        return round((1 - p) * int((owner == 0).sum()))

    def enter(self, stage: str, model: UserModel, task: str) -> None:
        """UsageError when no weight is left to own."""
        number = _number(model, task)
        if stage == "train" and (
            number > MOST_TASKS or not any(self.keeps_of(number, self.owner(s, n)) for s, n, _ in _each(model))
        ):
            raise UsageError(
                f"no weights are left for task {task}: {self.capacity():.2%} are free after {number - 1} tasks",
                expected="a weight to own in at least one matrix",
                where="tuning.prune",
                fix="prune more of the earlier tasks, or begin anew with a wider encoder",
            )

    def leave(self, stage: str, model: UserModel, task: str) -> None:
        """After training: prune."""
        if stage != "train":
            return
        number = _number(model, task)
        for site, name, weight in _each(model):
            owner = self.owner(site, name)  # (out, in)
            owner[largest(weight.detach(), owner == 0, self.keeps_of(number, owner))] = number
        cast(View, model.overlays[task]).pruned = True

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Everything at first; then the matrices, where they are free, and the head."""
        if model.is_first(task):
            return everything(model, task)
        return [*(weight for _, _, weight in _each(model)), *added(model, task)]

    def shut(self, model: UserModel, task: str, stage: str) -> dict[nn.Parameter, Tensor]:
        """All weights but the free ones while training, all but the task's own while retraining."""
        mine = 0 if stage == "train" else _number(model, task)
        return {weight: (self.owner(site, name) != mine).to(weight.dtype) for site, name, weight in _each(model)}


def _number(model: UserModel, task: str) -> int:
    """k: the first task is 1."""
    return list(model.tasks).index(task) + 1


def _each(model: UserModel) -> list[tuple[str, str, nn.Parameter]]:
    """Site, name and weight of every matrix."""
    return [(site, name, weight) for site, weights in matrices(model).items() for name, weight in weights.items()]
