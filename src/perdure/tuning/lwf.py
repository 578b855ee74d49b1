"""LwF: learning without forgetting. Fine-tune, and keep answering older tasks as the model before did, on the new data.

Z. Li, D. Hoiem, "Learning without Forgetting", ECCV 2016 (IEEE TPAMI 40, 2018).

    L     = L_k(y, y^) + lambda_o sum_{i<k} L_old(y'_i, y^_i)
    L_old = - mean_users sum_n q_n log p_n,   q = softmax(y'_i / T),   p = softmax(y^_i / T)

| paper | here | shape |
|---|---|---|
| theta_s | backbone | |
| theta_o, theta_n | heads of earlier tasks, head of this one | (Y, d), (Y,) |
| y'_i, y^_i | scores of task i by the teacher and by the model learning, for the new task's users | (B, Y_i) |
| lambda_o | strength | |
| T | temperature | |

The teacher is the model as it was before the task. No overlay: all tasks read one user vector, so a step costs one
pass of the model, shared by all tasks (a next_item task, which learns at every event, has one of its own besides), one
pass of the teacher without gradients, and the heads, however many tasks there are.

Differs: the entropy of q, a constant, is taken off L_old, so that a model that answers as before is at 0, but for
dropout, which is on in the model that learns and off in the teacher, as in the paper. A next_item task is asked what
comes after a user's last event, over all items exactly, in pieces. A task whose objective ranks no items (`measure`)
has no answers to hold and is left out: its user vectors move as in fine-tuning. The teacher answers as each batch
comes (the paper records its answers for the whole of the new data first; they are the same, as inputs are not
augmented). The warm-up, in which the paper first trains the new head alone, is an option, off. Weight decay is the
recipe's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from perdure.events.batch import Batch
from perdure.functional.distillation import softened_kl
from perdure.tuning.base import Method, Overlay, added
from perdure.tuning.parts import all_weights, factors, histories, refuse_sparse

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["LwF"]


class LwF(Method):
    """Train everything on every task, with the answers of earlier tasks held near what they were.

    Args:
        strength: weight of an earlier task's term beside the new task's loss; 0 is fine-tuning, only that
            weight decay reaches older heads too.
        temperature: scores are divided by it before they become probabilities; larger tells more of unlikely labels.
        warm_up: a stage before, by the same settings, in which only the new head learns.
    """

    name: ClassVar[str] = "lwf"
    paper: ClassVar[str] = "Li & Hoiem, ECCV 2016"
    summary: ClassVar[str] = "fine-tuning that keeps answering older tasks as the model before did"
    keeps: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True

    def __init__(
        self,
        *,
        strength: Annotated[float, Ge(0)] = 1.0,
        temperature: Annotated[float, Gt(0)] = 2.0,
        warm_up: bool = False,
    ) -> None:
        super().__init__()
        self.strength, self.temperature = strength, temperature
        if warm_up:
            self.stages = ("warm_up", "train")  # type: ignore[misc]  # of this instance
        self.warming = False

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """None; SettingsError for an item table that could not be held."""
        refuse_sparse(model)
        return None

    def enter(self, stage: str, model: UserModel, task: str) -> None:
        """Nothing is distilled while only the head learns."""
        self.warming = stage == "warm_up"

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Everything; while warming up the new head, and nothing on the first task."""
        if stage != "warm_up":
            return all_weights(model)
        return [] if model.is_first(task) else added(model, task)

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """L, scalar."""
        if model.is_first(task) or self.warming:
            return model.loss(batch, task, rng)
        asked = histories(model, task, batch)
        u = model.represent(asked)  # (B, d)
        if model.tasks[task].kind == "next_item":
            new = model.loss(batch, task, rng)
        else:
            new = model.heads[task].loss(u, batch)  # type: ignore[operator]
        return new + self.strength * self.kept(model, u, asked)

    def kept(self, model: UserModel, u: Tensor, asked: Batch) -> Tensor:
        """sum_i L_old of the users of `asked`, whose vectors are u (B, d); scalar, at least 0."""
        teacher = self.teacher
        held = [name for name in teacher.tasks if model.ranks(name)]
        if not held:
            return u.new_zeros(())
        with torch.no_grad():
            old = teacher.represent(asked)  # (B, d)
        terms = [softened_kl(factors(model, i, u), factors(teacher, i, old), self.temperature) for i in held]
        return torch.stack(terms).sum()
