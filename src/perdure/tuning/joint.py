"""Joint: multi-task learning. One encoder and a head a task, learned from the data of all tasks at once.

Y. Ni et al., "Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce Tasks",
KDD 2018 (DUPN), which learns its tasks so; R. Caruana, "Multitask Learning", Machine Learning 1997.

    each step   k ~ p,  p_k = |D_k|^power / sum_j |D_j|^power;   theta, g_k descend on L_k(theta, g_k)
                in expectation the loss is sum_k p_k L_k

| paper | here | shape |
|---|---|---|
| theta | the backbone | |
| g_k | heads[task] | (Y, d), (Y,) |
| D_k | training examples of task k | |

The bound that methods which meet the tasks one by one are measured against, and no method of that kind: it needs the
data of all tasks together, and a task that comes later needs the whole to be learned anew. So R has its last row only
(and with start = "first" the first, too), and where no task was measured before the end nothing is said of forgetting.

Which state is kept is decided on the validation users of all tasks, by the geometric mean of their measures: it ranks
states alike whatever each measure is divided by (a baseline, its best value), so no scale has to be chosen. A measure
of 0 counts as 1e-6.

Differs: the paper gives no sampling of tasks (p here as in later practice, power = 0.5; 0 draws all alike, 1 in
proportion), and weighs losses instead. Learning rate, epochs and patience are those of the last task's settings, batch
sizes each task's own; an epoch has as many steps as one epoch of each task together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from torch import nn

from perdure.tuning.base import Method

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["Joint"]


class Joint(Method):
    """All tasks at once.

    Args:
        power: 0 draws every task as often, 1 in proportion to its training examples.
        start: learn all tasks from "scratch", or after the "first" task was learned alone (or taken over).
    """

    name: ClassVar[str] = "joint"
    paper: ClassVar[str] = "baseline (MTL; Ni et al., KDD 2018)"
    summary: ClassVar[str] = "one model learned from the data of all tasks at once; a new task means learning anew"
    keeps: ClassVar[bool] = False

    def __init__(
        self, *, power: Annotated[float, Ge(0), Le(1)] = 0.5, start: Literal["scratch", "first"] = "scratch"
    ) -> None:
        super().__init__()
        self.power, self.start = power, start

    def order(self, tasks: Sequence[str]) -> list[list[str]]:
        """All at once, after the first alone where the start is so."""
        return [list(tasks[:1]), list(tasks)] if self.start == "first" and len(tasks) > 1 else [list(tasks)]

    def shares(self, examples: Mapping[str, int]) -> dict[str, float]:
        """|D_k|^power."""
        return {task: float(n**self.power) for task, n in examples.items()}

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """The backbone and every head."""
        return [*model.backbone.parameters(), *model.heads.parameters()]
