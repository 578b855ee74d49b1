"""Frozen backbone with a linear head per task: the linear probe, the floor every overlay must beat.

Standard practice of representation learning; in this field the lower bound for PeterRec, Piggyback and PCL.

    s_k(u) = W_k f(u) + b_k,   f fixed after the first task

| paper | here | shape |
|---|---|---|
| f | backbone | |
| W_k, b_k | heads[task] | (Y, d), (Y,) |

Differs: nothing. A later next_item task has nothing to learn where the objective's head is tied to the item table,
which is frozen: `check` and the run say so, and `objective.tied = false` gives it a head of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from perdure.tuning.base import Method, own_unless_first

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["Frozen"]


class Frozen(Method):
    """Train the head only."""

    name: ClassVar[str] = "frozen"
    paper: ClassVar[str] = "baseline (linear probe)"
    summary: ClassVar[str] = "frozen backbone, a linear head per task"
    keeps: ClassVar[bool] = True

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """The task's head."""
        return own_unless_first(model, task)
