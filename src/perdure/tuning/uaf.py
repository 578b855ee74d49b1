"""UAF: for every user and block, the frozen pre-trained block or the task's fine-tuned copy of it, as a policy decides.

L. Chen, F. Yuan, J. Yang, X. He, C. Li, M. Yang, "User-specific Adaptive Fine-tuning for Cross-domain Recommendations",
TKDE 2021 (arXiv 2106.07864).

    h_l      = a_l B'_l(h_{l-1}) + (1 - a_l) B_l(h_{l-1})           B frozen, B' the copy that is tuned
    s        = W mean_t(policy network(x_1 .. x_n)) + b              two logits a block
    soft     a_l = sigma(s_l0)
    hard     a_l = 1[z_l + g_l > 0],  z_l = s_l0 - s_l1,  g_l = -log(1/v - 1), v uniform: both logits' Gumbel noise
             d a_l / d z_l := d sigma((z_l + g_l) / tau) / d z_l     straight-through, tau falls as training goes on
    rl       a drawn as for hard, with that gradient where `straight`; the loss gets  -(r(a) - r(a*)) sum_l log p(a_l)
             r(a) = 1 - gamma (1 - |a| / L)^2 for a hit, -gamma for a miss;  a*_l = 1[z_l > 0];  p(a_l = 1) = sigma(z_l)
    answers  a_l = 1[z_l > 0]  (soft: as above): nothing is drawn

| paper | here | shape |
|---|---|---|
| B_l | a block: the sites that share what stands before the slash in their names | L of them |
| B'_l | overlay.copies | as the backbone's layers |
| s | door.logits | (B, L, 2) |
| a | door.a | (B, L) |
| tau | temperature, falling to final_temperature | |
| hit | the answer is among the `top` of itself and `negatives` uniform labels | (B,) |

A copy begins as its block, and y + a (y' - y) of equal y, y' is y bit for bit: a new task begins as the backbone. Every
block is computed twice, and a task stores a copy of all blocks and its policy.

Differs: the official code squashes the logits by a sigmoid before it takes their difference, so that no choice is ever
surer than 73 %, at tau = 10 throughout; that is `squash`, `temperature = final_temperature = 10`. Here they are raw,
and tau falls from 1 to 1/2. Its answers draw noise, and so does its a*: not here. a = 1 is in fact rewarded, as coded:
r of a hit is largest where all blocks are tuned. The policy starts to learn by reward after `warmup` of the training
(epoch 5 of 50 there). Its network is the published one, two residual blocks of causal convolutions, dilations 1 and 4,
and reads the backbone's event vectors, which are frozen as all of the backbone, where theirs tunes them and an item
table of its own; its last layer starts at zero. The GRU policy and the random one are left out. A block and its copy
meet where their outputs are added to something: at the end of a block of NextItNet, as published, and after each half
of a transformer's. That is the same for a in {0, 1}, not quite for soft, nor quite for the gradient of "hard". The user
vector is the state at the last event, or, as published, the `readout` "mean" of all; the loss is the task's own
cross-entropy in place of one uniform negative. For several answers of a user, r is their mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Encoder, Via
from perdure.encoders.parts import CausalConv, Norm
from perdure.encoders.readouts import mean_of_events
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.functional.gates import straight_through_step
from perdure.functional.losses import pair_scores
from perdure.model.heads import LabelsHead
from perdure.tuning.base import Method, Overlay, own_unless_first
from perdure.tuning.parts import entries

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["UAF"]

Choice = Literal["hard", "soft", "rl"]
Decide = Callable[[Tensor], Tensor]  # logits (B, L, 2) -> a (B, L)


class Policy(nn.Module):
    """Two residual blocks of causal convolutions over event vectors, their mean, and two logits a block."""

    def __init__(self, width: int, blocks: int, generator: torch.Generator) -> None:
        super().__init__()
        self.convs = nn.ModuleList(CausalConv(width, 3, dilation) for dilation in (1, 2, 4, 8))
        self.norms = nn.ModuleList(Norm(width, relu=True) for _ in self.convs)
        self.out = nn.Linear(width, 2 * blocks)
        for conv in self.convs:
            cast(CausalConv, conv).reset(generator)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, d), of which `lengths` (B,) positions are events -> (B, L, 2)."""
        for i in (0, 2):
            y = self.norms[i](self.convs[i](x))  # (B, T, d)
            x = x + self.norms[i + 1](self.convs[i + 1](y))  # (B, T, d)
        return self.out(mean_of_events(x, lengths)).view(len(x), -1, 2)  # (B, L, 2)


class Door:
    """`via` of one batch: asks the policy at the input, then mixes every block with its copy.

    Attributes:
        logits, a: what the policy said and what was decided, (B, L, 2) and (B, L), once the input is passed.
    """

    logits: Tensor
    a: Tensor

    def __init__(self, routes: Routes, decide: Decide) -> None:
        self.routes, self.decide = routes, decide
        self.block = -1  # that was passed last, and what came out of it: mixed, of the backbone, of the copy
        self.mixed, self.own, self.tuned = (torch.empty(0),) * 3

    def __call__(self, site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        """y + a (y' - y), of the layer's shape. A layer that reads just what the one before it in its block gave, reads
        y in the backbone and y' in the copy."""
        if site not in self.routes.copies:  # the input, which comes first
            y = layer(x, *context)
            self.logits = self.routes.policy(y, entries(x)).float()  # (B, L, 2)
            self.a = self.decide(self.logits)  # (B, L)
            return y
        block, given = self.routes.place[site], (x, *context)
        goes_on = block == self.block
        y = layer(*(self.own if goes_on and one is self.mixed else one for one in given))
        other = self.routes.copies[site](*(self.tuned if goes_on and one is self.mixed else one for one in given))
        a = self.a[:, block].view(-1, *[1] * (y.dim() - 1))  # (B, 1, 1), of a pooling (B, 1)
        self.block, self.own, self.tuned = block, y, other
        self.mixed = torch.lerp(y, other, a.to(y.dtype))
        return self.mixed


class Routes(Overlay):
    """Copies of all blocks, and the policy that chooses."""

    def __init__(
        self,
        sites: dict[str, nn.Module],
        width: int,
        choice: Choice,
        squash: bool,
        readout: Literal["last", "mean"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        blocks = list(dict.fromkeys(site.partition("/")[0] for site in sites))
        self.place = {site: blocks.index(site.partition("/")[0]) for site in sites}
        self.choice, self.squash, self.readout = choice, squash, readout
        self.copies = nn.ModuleDict({site: copy.deepcopy(layer) for site, layer in sites.items()})
        self.policy = Policy(width, len(blocks), generator)

    def via(self, batch: Batch) -> Via:
        """The door of these users, without chance."""
        return Door(self, self.decide)

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """(B, d), without chance."""
        return self.read(backbone, batch, self.decide)[0]

    def read(self, backbone: Encoder, batch: Batch, decide: Decide) -> tuple[Tensor, Door]:
        """User vectors (B, d), and the door with what was decided."""
        if self.readout == "mean":
            door = Door(self, decide)
            return mean_of_events(backbone(batch, door), batch.lengths), door
        asked = backbone.question(batch)
        door = Door(self, decide)
        return backbone.vector(asked, door), door

    def decide(self, logits: Tensor) -> Tensor:
        """a (B, L) from logits (B, L, 2): how older tasks answer, and a soft task always."""
        if self.choice == "soft":
            return torch.sigmoid(logits[..., 0])
        return (self.preference(logits) > 0).to(logits.dtype)

    def preference(self, logits: Tensor) -> Tensor:
        """z (B, L) from logits (B, L, 2)."""
        if self.squash:
            logits = torch.sigmoid(logits)
        return logits[..., 0] - logits[..., 1]


class UAF(Method):
    """A choice for each user and block between the frozen backbone and the task's copy of it.

    Args:
        choice: "hard" (by straight-through Gumbel), "soft" (a mixture), or "rl" (hard, learned from reward).
        squash: as the official code, a sigmoid on the logits before they are compared.
        temperature: tau of hard choices at the beginning of the training.
        final_temperature: tau at its end.
        gamma: of the reward: what a miss costs, and a hit with no block tuned.
        top: a hit is an answer among the best `top` of itself and the negatives.
        negatives: labels drawn uniformly for each answer.
        warmup: share of the training before the policy learns from reward.
        readout: the user vector is the state at the "last" event, or the "mean" of all states.
        straight: with "rl", the task's loss teaches the policy, too, from the first step, as in the official code.
    """

    name: ClassVar[str] = "uaf"
    paper: ClassVar[str] = "Chen et al., TKDE 2021"
    summary: ClassVar[str] = "a policy chooses, user by user and block by block, between the backbone and a tuned copy"
    keeps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        choice: Choice = "hard",
        squash: bool = False,
        temperature: Annotated[float, Gt(0)] = 1.0,
        final_temperature: Annotated[float, Gt(0)] = 0.5,
        gamma: Annotated[float, Ge(0)] = 1.0,
        top: Annotated[int, Ge(1)] = 5,
        negatives: Annotated[int, Ge(1)] = 99,
        warmup: Annotated[float, Ge(0), Le(1)] = 0.1,
        readout: Literal["last", "mean"] = "last",
        straight: bool = True,
    ) -> None:
        super().__init__()
        self.straight = straight
        self.choice: Choice = choice
        self.squash, self.temperature, self.final_temperature = squash, temperature, final_temperature
        self.gamma, self.top, self.negatives, self.warmup = gamma, top, negatives, warmup
        self.readout: Literal["last", "mean"] = readout
        self.begins_as_backbone = readout == "last"

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Copies and a policy for every task but the first. SettingsError for a next_item task."""
        if model.is_first(card.name):
            return None
        if card.kind == "next_item":
            raise SettingsError(
                f"{self.name} cannot learn {card.name}, a next_item task after the first",
                expected="tasks of kind item or one_of",
                where=f"tasks.{card.name}.kind, tuning.method",
                fix="a choice made from a whole history would tell its earlier states what comes next",
            )
        sites = {site: layer for site, layer in model.backbone.sites().items() if site != "input"}
        return Routes(sites, model.backbone.width, self.choice, self.squash, self.readout, generator)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Copies, policy and head."""
        return own_unless_first(model, task)

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """The task's own, under choices that were drawn; with reward, the policy's besides."""
        routes = model.overlays.get(task)
        if not isinstance(routes, Routes) or self.choice == "soft":
            return model.loss(batch, task, rng)
        head = cast(LabelsHead, model.heads[task])
        u, door = routes.read(model.backbone, batch, lambda logits: self.drawn(routes, logits, rng, progress))
        loss = head.loss(u, batch)
        if self.choice == "hard" or progress < self.warmup:
            return loss
        with torch.no_grad():
            greedy, sure = routes.read(model.backbone, batch, routes.decide)  # (B, d)
            shape, device = (len(cast(Tensor, batch.answers)), self.negatives), u.device
            others = torch.randint(len(head.table), shape, generator=rng, device=device)  # (A, K)
            gain = self.reward(self.hits(head, u, batch, others), door.a)  # (B,)
            gain = gain - self.reward(self.hits(head, greedy, batch, others), sure.a)  # (B,)
        z = routes.preference(door.logits)  # (B, L)
        log_p = F.logsigmoid(torch.where(door.a > 0, z, -z)).sum(1)  # (B,)
        return loss - (gain * log_p).mean()

    def drawn(self, routes: Routes, logits: Tensor, rng: torch.Generator, progress: float) -> Tensor:
        """a (B, L) in {0, 1} with chance; with the gradient of its soft counterpart where asked for."""
        z = routes.preference(logits)  # (B, L)
        noise = torch.rand(z.shape, generator=rng, device=z.device).logit(eps=1e-6)  # (B, L)
        a = straight_through_step(torch.sigmoid((z + noise) / self.tau(progress)), 0.5)  # (B, L)
        return a if self.choice == "hard" or self.straight else a.detach()

    def tau(self, progress: float) -> float:
        """Temperature at a share of the training: from `temperature` to `final_temperature`, by equal factors."""
        return self.temperature * (self.final_temperature / self.temperature) ** progress

    def hits(self, head: LabelsHead, u: Tensor, batch: Batch, others: Tensor) -> Tensor:
        """(B,) share of each user's answers that score among the best `top` of themselves and `others` (A, K)."""
        answers, counts = cast(Tensor, batch.answers), cast(Tensor, batch.answer_starts).diff()  # (A,), (B,)
        rows = batch.owners()  # (A,)
        mine = pair_scores(u[rows].float(), head.table, answers, head.bias)  # (A,)
        theirs = pair_scores(u[rows].float(), head.table, others, head.bias)  # (A, K)
        better = ((theirs >= mine[:, None]) & (others != answers[:, None])).sum(1)  # (A,)
        share = torch.zeros(len(u), device=u.device).index_add(0, rows, (better < self.top).float())  # (B,)
        return share / counts.clamp(min=1)

    def reward(self, hits: Tensor, a: Tensor) -> Tensor:
        """r (B,) of a (B, L), for the share of hits (B,)."""
        return hits * (1 - self.gamma * (1 - a.mean(1)) ** 2) - (1 - hits) * self.gamma
