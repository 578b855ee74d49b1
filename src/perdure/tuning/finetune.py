"""Naive sequential fine-tuning ("SinMoAll"): one model, all of it trained on task after task. It forgets.

Baseline of CONURE (F. Yuan et al., SIGIR 2021), where it collapses on all but the last task.

    theta <- argmin L_k(theta), started at the theta of task k - 1

| paper | here | shape |
|---|---|---|
| theta | backbone | |
| g_k | heads[task] | (Y, d), (Y,) |

Differs: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

from perdure.tuning.base import Method, everything

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["Finetune"]


class Finetune(Method):
    """Train everything on every task."""

    name: ClassVar[str] = "finetune"
    paper: ClassVar[str] = "baseline (SinMoAll in CONURE, SIGIR 2021)"
    summary: ClassVar[str] = "one model trained on task after task, unprotected"
    keeps: ClassVar[bool] = False

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """The backbone and the task's head."""
        return everything(model, task)
