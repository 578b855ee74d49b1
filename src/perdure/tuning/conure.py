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
| M_k, disjoint | overlay.owned/..., one bit a weight | (ceil(out in / 8),) uint8 |
| sg | `shut`: the optimiser's step is undone where a weight is not the task's to move | (out, in) |
| p_k | prune | |

A task's file holds its own mask, beside its head; what task j sees is the union of j of them. The first task is
trained, pruned and retrained like all others. Free weights are not reset: a task starts from what the one before left
in them. Owned weights stay bit for bit, under weight decay and momentum too. Asked without a task, the backbone answers
with all its weights and does move.

Differs: a task keeps (1 - p_k) of the free weights of a matrix, rounded to a whole number. Item table, positions, norms
and biases are learned by the first task, its retraining included, and frozen for all later ones; the authors freeze the
table and the norms before that retraining, have no biases to train, and score with an output table of its own, where
here it may be the item table. Both stages of a task are trained by the same settings; the authors retrain for up to 2.5
times as many epochs. A task's loss is its own, cross-entropy over all its labels, and user vectors are read as the
encoder says; the authors take losses against one drawn negative with a penalty on the task's table (for the first task
a sampled softmax), and read the state at a separator behind the last event. `prune` is 0.7 for all tasks (theirs: 0.5
from the seventh on).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Lt, MinLen
from torch import Tensor, nn

from perdure.errors import UsageError
from perdure.functional.gates import largest, pack, unpack
from perdure.tuning.base import Method, Overlay, Reweighted, added, everything, key, matrices

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["CONURE"]

Matrices = dict[str, dict[str, nn.Parameter]]  # site -> name in its layer -> weight


class View(Reweighted):
    """The weights one task sees: all while it trains, its own and those of the tasks before it once it is pruned.

    Args:
        masked: every matrix that tasks share.
        before: the views of the tasks before, in a tuple, as they are no part of this one.
    """

    def __init__(self, masked: Matrices, before: tuple[View, ...]) -> None:
        super().__init__()
        self.masked = {site: list(weights) for site, weights in masked.items()}
        self.before, self.pruned = before, False
        for place, weight in _each(masked):
            self.register_buffer(place, pack(torch.zeros_like(weight, dtype=torch.bool)))  # (ceil(out in / 8),)

    def settle(self) -> None:
        """From here on, and when loaded: only what tasks up to this one own."""
        self.pruned = True

    def weights(self, site: str, layer: nn.Module) -> dict[str, Tensor]:
        """W_k of every matrix of a layer that mixes."""
        new: dict[str, Tensor] = {}
        for name in self.masked.get(site, ()) if self.pruned else ():
            weight = layer.get_parameter(name)  # (out, in)
            new[name] = weight * owned((*self.before, self), _place(site, name), weight)  # (out, in)
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

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """A view for every task, the first too."""
        return View(matrices(model), tuple(_view(model, task) for task in model.tasks if task != card.name))

    def capacity(self, model: UserModel) -> float | None:
        """Share of the matrices' weights that no task owns."""
        views = [_view(model, task) for task in model.tasks]
        free = [~owned(views, place, weight) for place, weight in _each(matrices(model))]  # each (out, in)
        return sum(int(f.sum()) for f in free) / sum(f.numel() for f in free)

    def keeps_of(self, view: View, free: Tensor) -> int:
        """How many weights of one matrix a task will own, of those that are free, (out, in) bool."""
        p = self.prune[min(len(view.before), len(self.prune) - 1)]
        return round((1 - p) * int(free.sum()))

    def enter(self, stage: str, model: UserModel, task: str) -> None:
        """UsageError when no weight is left to own. Once it is pruned, a task sees what it owns."""
        view, each = _view(model, task), _each(matrices(model))
        view.pruned = stage == "retrain"
        if stage == "train" and not any(self.keeps_of(view, ~owned(view.before, *one)) for one in each):
            n = len(view.before)
            left = f"{self.capacity(model):.2%} are free after {n} task{'s' * (n > 1)}"
            raise UsageError(
                f"no weights are left for task {task}: {left}",
                expected="a weight to own in at least one matrix",
                where="tuning.prune",
                fix="prune more of the earlier tasks, or begin anew with a wider encoder",
            )

    def leave(self, stage: str, model: UserModel, task: str) -> None:
        """After training: prune."""
        if stage != "train":
            return
        view = _view(model, task)
        for place, weight in _each(matrices(model)):
            free = ~owned(view.before, place, weight)  # (out, in)
            view.get_buffer(place).copy_(pack(largest(weight.detach(), free, self.keeps_of(view, free))))

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Everything at first; then the matrices, where they are free, and the head."""
        if model.is_first(task):
            return everything(model, task)
        return [*(weight for _, weight in _each(matrices(model))), *added(model, task)]

    def shut(self, model: UserModel, task: str, stage: str) -> dict[nn.Parameter, Tensor]:
        """What earlier tasks own while training, all but the task's own while retraining."""
        view, shut = _view(model, task), {}
        for place, weight in _each(matrices(model)):
            held = owned(view.before, place, weight) if stage == "train" else ~owned([view], place, weight)  # (out, in)
            shut[weight] = held.to(weight.dtype)
        return shut


def owned(views: Iterable[View], place: str, weight: Tensor) -> Tensor:
    """The sum of the masks that tasks have of one matrix, (out, in) bool."""
    none = pack(torch.zeros_like(weight, dtype=torch.bool))  # (ceil(out in / 8),)
    return unpack(reduce(torch.bitwise_or, (view.get_buffer(place) for view in views), none), weight.shape)


def _view(model: UserModel, task: str) -> View:
    return cast(View, model.overlays[task])


def _place(site: str, name: str) -> str:
    """Under what a view keeps its mask of a matrix."""
    return f"owned/{key(site, name)}"


def _each(masked: Matrices) -> list[tuple[str, nn.Parameter]]:
    """Place and weight of every matrix."""
    return [(_place(site, name), weight) for site, weights in masked.items() for name, weight in weights.items()]
