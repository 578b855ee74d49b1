"""TERACON: soft masks on what layers put out, made from all tasks' embeddings; earlier tasks are held by distillation.

S. Kim, N. Lee, D. Kim, M. Yang, C. Park, "Task Relation-aware Continual User Representation Learning", KDD 2023.

    p_l^t  = w_t tanh(s e_l^t) + sum_{i != t} (w_i^+ tanh(s e_l^i) + w_i^- tanh(-s e_l^i)) + b        eq. (12)
    m_l^t  = sigma(s p_l^t),   y <- m_l^t * y   of every layer l that mixes                           eq. (13)
    s      = 1/s_max + (s_max - 1/s_max) x   x from 0 to 1; s_max once learned                        eq. (19)
    rho_i  = 1 - mean_l sigma(c cos(m_l^i, m_l^k))   m_l^i of the teacher, for the new task k         eq. (15)
    L_KR   = sum_{i<k} rho_i / (sum_j rho_j) MSE(y^_i, y~_i)   over rho_i B users of the batch        eq. (14), (16)
    L      = L_k + alpha L_KR                                                                         eq. (18)

| paper | here | shape |
|---|---|---|
| e_l^t | overlay.e, at first U(0, 2), clamped to [-6, 6] | (L, d) |
| w_t, b of the mask of t | overlay.own, overlay.bias | (L,) |
| w_i^+, w_i^- of earlier tasks i in the mask of t | overlay.reads | (L, t - 1, 2) |
| w_t^+, w_t^- of t in the masks of earlier tasks | overlay.read_by | (L, t - 1, 2) |
| y^_i, y~_i, scores of task i, all its labels | the model's, the teacher's | (R_i, Y_i) |
| c | steepness (6 in the authors' code, 2 in that of their DITTO) | |
| x | how far the current of `rises` risings of s is | |

The teacher is the model as it was before task k. All weights stay trainable, so nothing is kept bit for bit. The
matrix of relations grows by a row and a column a task, both in the file of the new task. A mask stands behind every
layer that mixes; in post-norm blocks behind the normalisation and activation that follow it, which is where the paper
has it.

What a step costs: the rows of all earlier tasks go through the model in one pass, each row with its task's mask, and
through the teacher in another without gradients; together they are at most `budget` B rows, shared out by expected
need, rounded at random so that every task's weight is right on average. So a step has at most 1 + 4/3 budget times the
products of a plain one, for any number of tasks; at task 20 it took 1.65 to 1.81 times as long. MSE of a task with N
labels never makes all scores of a batch at once.

Differs, each with the published way where it is an option: a task gets at least `min_rows` rows (published: floor(rho
B), which may be none) and all together at most `budget` B (published: no limit, budget = 0). c is 2 (published:
steepness = 6, where rho stays below .01 unless masks have little in common), and rho is taken from masks at s_max
(published: rates_at = "s", that of the step, where early masks all look alike) and from weights as they are (published:
as they were a step ago, 0.9 in the first). Relations already learned are kept, and new ones in older masks start at 0,
so that making room for a task changes no older answer (published: relations = "anew", all drawn again at each new
task). The first task has the relation-aware mask from the start (published: first = "plain", sigma(s e) until there is
a second task). s rises `rises` times over the stage instead of once an epoch, in five steps or more. Task 1 is asked
what comes after the last event, and answers so when served (published: after the event before). What is distilled goes
through the encoder without dropout, which the paper's does not have. A task whose objective ranks no items (`measure`)
has no scores: it has masks, and no part in L_KR. Loss on padding, batches dropped at the end, and a wrong mask for task
1 after two tasks, all in the authors' code, are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Via
from perdure.events.batch import Batch
from perdure.functional.distillation import logit_mse
from perdure.functional.gates import risen
from perdure.model.user_model import without_dropout
from perdure.tuning.base import Method, Overlay
from perdure.tuning.parts import all_weights, factors, histories, refuse_sparse

if TYPE_CHECKING:
    from perdure.model.user_model import ByTask, TaskCard, UserModel

__all__ = ["TERACON"]

LIMIT = 6.0  # of |e|


class Masks(Overlay):
    """One task's embeddings, how its mask reads the other tasks', and how those before it read its own.

    Args:
        sites: what is masked, L sites of width d.
        overlays: of all tasks, this one not yet among them.
    """

    def __init__(
        self, sites: list[str], width: int, method: TERACON, overlays: ByTask, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.shared = (method, overlays)  # in a tuple, as they are no part of the overlay
        self.sites, self.number = sites, len(list(overlays.children()))  # t - 1
        self.e = nn.Parameter(2 * torch.rand(len(sites), width, generator=generator))  # (L, d)
        self.own, self.bias = nn.Parameter(torch.empty(len(sites))), nn.Parameter(torch.empty(len(sites)))  # (L,)
        self.reads = nn.Parameter(torch.empty(len(sites), self.number, 2))  # (L, t - 1, 2)
        self.read_by = nn.Parameter(torch.zeros(len(sites), self.number, 2))  # (L, t - 1, 2)
        self.seed = int(torch.randint(2**62, (), generator=generator))  # of relations drawn again
        with torch.no_grad():
            _draw([self.own, self.reads], self.bias, generator)

    def via(self, batch: Batch) -> Via:
        """The task's masks for every row; at s_max unless learning."""
        method, overlays = self.shared
        masks = method.masks(_in_order(overlays), method.s if self.training else method.s_max)  # (k, L, d)
        return _masked(self.sites, masks[self.number, None])


class TERACON(Method):
    """Relation-aware soft masks, and earlier tasks' scores distilled on the new task's users.

    Args:
        alpha: weight of what is distilled.
        s_max: how hard masks are once learned.
        rises: times s rises from 1 / s_max to s_max over the stage, fewer where it has few steps. The authors' schedule
            is one an epoch.
        steepness: c; how far similar masks lower the share of users that a task is distilled on.
        rates_at: how hard the masks are whose likeness sets that share: as at "s_max", or at the "s" of the step.
        min_rows: users at least that every earlier task is distilled on in a step, while `budget` allows.
        budget: users at most that all earlier tasks are distilled on in a step, as a share of the batch; 0 sets no
            limit.
        relations: what a new task does to the relations between earlier ones: "kept", or "anew" (drawn again).
        first: mask of the only task: "related", or "plain" (sigma(s e)).
    """

    name: ClassVar[str] = "teracon"
    paper: ClassVar[str] = "Kim et al., KDD 2023"
    summary: ClassVar[str] = "soft masks that look at all tasks' embeddings; earlier tasks distilled"
    keeps: ClassVar[bool] = False
    begins_as_backbone: bool = False
    needs_teacher: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0)] = 0.7,
        s_max: Annotated[float, Gt(1)] = 50.0,
        rises: Annotated[int, Ge(1)] = 20,
        steepness: Annotated[float, Ge(0), Le(80)] = 2.0,
        rates_at: Literal["s_max", "s"] = "s_max",
        min_rows: Annotated[int, Ge(0)] = 20,
        budget: Annotated[float, Ge(0)] = 0.5,
        relations: Literal["kept", "anew"] = "kept",
        first: Literal["related", "plain"] = "related",
    ) -> None:
        super().__init__()
        self.alpha, self.s_max, self.rises, self.steepness = alpha, s_max, rises, steepness
        self.rates_at, self.min_rows, self.budget = rates_at, min_rows, budget
        self.anew, self.first = relations == "anew", first
        self.s = s_max  # while learning; set before each loss

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Masks for every task, the first too."""
        refuse_sparse(model)
        return Masks(_sites(model), model.backbone.width, self, model.overlays, generator)

    def enter(self, stage: str, model: UserModel, task: str) -> None:
        """Where relations are not kept: all of them are drawn again."""
        overlays = _in_order(model.overlays)
        if self.anew and len(overlays) > 1:
            rng = torch.Generator().manual_seed(overlays[-1].seed)
            with torch.no_grad():
                for overlay in overlays:
                    _draw([overlay.own, overlay.reads, overlay.read_by], overlay.bias, rng)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Everything, earlier tasks' overlays and heads too."""
        return all_weights(model)

    def masks(self, overlays: list[Masks], s: float) -> Tensor:
        """m of all tasks, (k, L, d)."""
        e = torch.stack([overlay.e for overlay in overlays])  # (k, L, d)
        if len(overlays) == 1 and self.first == "plain":
            return torch.sigmoid(s * e)
        bias = torch.stack([overlay.bias for overlay in overlays])  # (k, L)
        with torch.autocast(e.device.type, enabled=False):
            p = torch.einsum("til,ild->tld", _relations(overlays), torch.tanh(s * e)) + bias[..., None]  # eq. (12)
            return torch.sigmoid(s * p)  # (k, L, d)

    def s_at(self, progress: float) -> float:
        """s at a share of the stage."""
        return risen(self.s_max, self.rises, progress, self.stage_steps)

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """L_k + alpha L_KR, with s as far as the progress tells; scalar."""
        self.s = self.s_at(progress)
        for overlay in _in_order(model.overlays):
            overlay.e.data.clamp_(-LIMIT, LIMIT)  # after each step, that is before the next
        new = model.loss(batch, task, rng)
        return new if model.is_first(task) else new + self.alpha * self.kept(model, histories(model, task, batch), rng)

    def kept(self, model: UserModel, batch: Batch, rng: torch.Generator) -> Tensor:
        """L_KR, scalar: the gaps between the model's and the teacher's scores of earlier tasks."""
        teacher = self.teacher
        mine, theirs = _in_order(model.overlays), _in_order(teacher.overlays)
        held = [number for number, name in enumerate(teacher.tasks) if model.ranks(name)]  # E of the k - 1
        rho = self.rates(mine, theirs)[held]  # (E,)
        expected = self.rows(rho, len(batch))  # (E,)
        at, of = _drawn(expected, len(batch), rng)  # (R,), (R,)
        if not len(at):
            return rho.new_zeros(())
        asked = model.backbone.question(batch.of(at))
        masked = torch.tensor(held, device=of.device)[of]  # (R,) the mask of each row
        with torch.no_grad():
            via = _masked(mine[0].sites, self.masks(theirs, self.s)[masked])
            old = teacher.backbone.vector(asked, via)  # (R, d)
        with without_dropout(model.backbone):
            u = model.backbone.vector(asked, _masked(mine[0].sites, self.masks(mine, self.s)[masked]))  # (R, d)
        counts = torch.bincount(of, minlength=len(rho))  # (E,)
        weights = rho / rho.sum() * (counts / expected).to(rho.dtype)  # (E,)
        parts = [part.split(counts.tolist()) for part in (u, old)]
        names = [list(teacher.tasks)[number] for number in held]
        gaps = [
            weight * logit_mse(factors(model, name, v), factors(teacher, name, w))
            for name, weight, v, w in zip(names, weights, *parts, strict=True)
            if len(v)
        ]
        return torch.stack(gaps).sum()

    @torch.no_grad()
    def rates(self, mine: list[Masks], theirs: list[Masks]) -> Tensor:
        """rho of every earlier task, (k - 1,)."""
        s = self.s if self.rates_at == "s" else self.s_max
        cosine = _cosine(self.masks(theirs, s), self.masks(mine, s)[-1])  # (k - 1, L)
        return torch.sigmoid(-self.steepness * cosine).mean(1)  # eq. (15), above 0 for all c up to 80

    def rows(self, rho: Tensor, size: int) -> Tensor:
        """How many of `size` users each earlier task is distilled on in the mean, (k - 1,) float64."""
        wanted = (rho.double() * size).clamp(min=min(self.min_rows, size))  # (k - 1,)
        most = max(self.budget * size, 1.0) if self.budget else torch.inf
        return wanted * (most / wanted.sum()).clamp(max=1.0)

    @torch.no_grad()
    def relations(self, model: UserModel, task: str) -> dict[str, float]:
        """Likeness of the task's masks to each earlier task's: cosine in [0, 1], the mean over sites."""
        masks = self.masks(_in_order(model.overlays), self.s_max)  # (k, L, d)
        number = list(model.tasks).index(task)
        return dict(zip(model.tasks, _cosine(masks[:number], masks[number]).mean(1).tolist(), strict=False))


def _sites(model: UserModel) -> list[str]:
    """What is masked: the layers that mix, or, where every activation comes with a normalisation directly behind one of
    them, that normalisation."""
    layers = list(model.backbone.sites().items())
    mixing = [i for i, (_, layer) in enumerate(layers) if getattr(layer, "role", "") == "mix"]
    joined = {i for i, (_, layer) in enumerate(layers) if getattr(layer, "relu", False)}
    behind = joined if joined <= {i + 1 for i in mixing} else set()
    return [layers[i + 1 if i + 1 in behind else i][0] for i in mixing]


def _masked(sites: list[str], m: Tensor) -> Via:
    """The door with masks (B, L, d), or (1, L, d) for all rows alike."""
    at = {site: number for number, site in enumerate(sites)}

    def via(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        y = layer(x, *context)  # (B, T, d)
        return y * m[:, at[site], None].to(y.dtype) if site in at else y  # eq. (13)

    return via


def _in_order(overlays: ByTask) -> list[Masks]:
    """All tasks', in the order learned."""
    return cast(list[Masks], list(overlays.children()))


def _draw(weights: list[nn.Parameter], bias: nn.Parameter, generator: torch.Generator) -> None:
    """Relations at their start: weights Normal(0, 0.01), bias 0.1, which opens every mask."""
    for weight in weights:
        weight.copy_(torch.empty(weight.shape).normal_(std=0.01, generator=generator))
    bias.fill_(0.1)


def _relations(overlays: list[Masks]) -> Tensor:
    """Weight of tanh(s e^i) in the mask of t, (k, k, L) at [t, i]: w_t, or w_i^+ - w_i^-, as tanh is odd."""
    w = overlays[0].own[None, None]  # (1, 1, L)
    for overlay in overlays[1:]:
        reads, read_by = ((x[..., 0] - x[..., 1]).T for x in (overlay.reads, overlay.read_by))  # (t - 1, L)
        w = torch.cat([torch.cat([w, read_by[:, None]], 1), torch.cat([reads, overlay.own[None]])[None]])  # (t, t, L)
    return w


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of masks (k, L, d) and (L, d), site by site: (k, L)."""
    return F.cosine_similarity(a, b[None], dim=-1)


def _drawn(expected: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Users and earlier tasks of the rows distilled in a step, (R,) and (R,), task after task; a task's users differ.

    Task i gets expected_i rows, rounded up or down at random with that mean, and all together their sum.
    """
    edges = (expected.cumsum(0) + torch.rand((), generator=rng, device=rng.device, dtype=torch.float64)).floor()
    counts = edges.diff(prepend=edges.new_zeros(1))  # (k - 1,)
    order = torch.rand(len(expected), size, generator=rng, device=rng.device).argsort(1)  # (k - 1, B)
    of, place = (torch.arange(size, device=rng.device) < counts[:, None]).nonzero(as_tuple=True)  # (R,)
    return order[of, place], of
