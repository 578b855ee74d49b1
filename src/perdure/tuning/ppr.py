"""PPR: personalised prompts. A generator turns a user's profile into tokens that stand in front of the history.

Y. Wu, R. Xie, Y. Zhu, F. Zhuang, X. Zhang, L. Lin, Q. He, "Personalized Prompt for Sequential Recommendation", IEEE
TKDE 2024 (arXiv 2205.09666).

    x_u = [f_1; ...; f_m]                                      profile fields, embedded
    P^u = W_2 a(W_1 x_u + b_1) + b_2                           eq. (3)
    u_s = f_seq([P^u_1 .. P^u_n, v_1 .. v_L]) at the end
    u_p = u_s + MLP_a(x_u),   score(u, i) = u_p . v_i          eq. (4)
    L   = L_p + lambda L_CL                                    eq. (7)
    L_CL = -sum_u log exp(cos(u_s, u'_s) / tau) / sum_v exp(cos(u_s, v'_s) / tau)                         eq. (6)
           two views u'_s: from x_u with a share gamma_1 of its elements at zero, and from v with a share gamma_2 of its
           events at zero; L_CL is the sum of both

| paper | here | shape |
|---|---|---|
| f_1 .. f_m | overlay.x, row 0 of a field (nothing known) stays zero; then `Batch.source` | (values + 1, field_width) |
| cumulative behaviour | with `history`, behind these: the mean vector of the items read | (B, d) |
| x_u | profile | (B, D) |
| W_1, b_1, W_2, b_2; n; a | overlay.down, overlay.up; tokens; activation | (D', D), (n d, D') |
| MLP_a | overlay.add, where `add` | (B, D) -> (B, d) |
| lambda, tau, gamma_1 = gamma_2 | weight, tau, mask | |

`variant = "light"` trains generator, MLP and head of the task alone, on a frozen backbone: older tasks answer as
before. "full" trains all weights and keeps nothing. A user of whom nothing is known gets the prompt of x_u = 0; with a
profile and no event, the last token alone answers (zero-shot; where the states of events are pooled, an empty event
behind the tokens). `tokens = 0` with "full" and no contrast is the paper's baseline "fine-tuning": the profile MLP
beside the backbone, and nothing but it where there is no event.

Differs: L_p is the task's own loss (the paper's: BPR against drawn negatives), and L_p and L_CL are means where the
paper sums, so lambda weighs a user against an answer. The paper leaves open a, tau, the width of fields and whether
tokens have positions. Here a is an option, tau too, positions belong to events only, and MLP_a starts at zero. Of an
event put at zero nothing is left, neither its position nor what it was marked with; the paper zeroes items. Whoever
has several fields masked is one with them missing: both are zeros. A field that is a task's own answer is never read by
that task. In a next_item task the last token predicts the first event read, so that zero-shot is learned with the rest.
Where the model reads no profile fields and no `history`, x_u is empty and all users share one learned prompt. With
`history` a next_item task needs windows of its own for each event (`targets = "last"` of the objective): the prompt of
one window would tell every event of it those that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import MASK, Encoder, Via
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.functional.contrastive import info_nce
from perdure.tuning.base import Method, Overlay, everything, own_unless_first
from perdure.tuning.parts import FIRST, ProfileVector, histories

if TYPE_CHECKING:
    from perdure.events.profiles import Fields
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["PPR"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}


class Personal(Overlay):
    """Prompt generator and profile MLP of one task.

    Args:
        fields: what the model knows of users. hides: the field this task may not read.
        backbone: whose width and item vectors it takes.
        method: the options.
    """

    predicts_first = True

    def __init__(
        self, fields: Fields | None, hides: str, backbone: Encoder, method: PPR, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = backbone.width
        self.tokens, self.activation = method.tokens, ACTIVATIONS[method.activation]
        self.x = ProfileVector(fields, hides, method.field_width, generator)
        self._backbone = (backbone,) if method.history else ()  # in a tuple, as it is no part of the overlay
        self.reads_profile, self.told = self.x.known, self.x.known or method.history
        size = self.x.size + (backbone.item_table.shape[1] if method.history else 0)  # D

        def linear(inputs: int, outputs: int) -> nn.Linear:
            layer = nn.Linear(inputs, outputs)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
            return layer

        self.down, self.up = None, None
        if self.tokens:
            self.down, self.up = linear(size, method.hidden), linear(method.hidden, self.tokens * width)
        self.add: nn.Sequential | None = None  # MLP_a
        if method.add and self.told:
            last = nn.Linear(method.hidden, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.add = nn.Sequential(linear(size, method.hidden), nn.ReLU(), last)

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """u_p (B, d); without tokens MLP_a(x_u) alone where there is no event."""
        asked = backbone.question(batch)
        x = self.profile(asked)  # (B, D)
        u = backbone.vector(asked, self.door(x))  # (B, d) u_s
        u = u if self.tokens else torch.where(batch.lengths[:, None] > 0, u, 0.0)
        return u if self.add is None else u + self.add(x).to(u.dtype)  # eq. (4)

    def states(self, backbone: Encoder, batch: Batch) -> Tensor:
        """u_p before and after every event (B, n + T, d), n at least 1."""
        x = self.profile(batch)  # (B, D)
        h = backbone(batch, self.door(x))  # (B, n + T, d)
        h = h if self.tokens else F.pad(h, (0, 0, 1, 0))  # before the first event zeros
        return h if self.add is None else h + self.add(x)[:, None].to(h.dtype)

    def profile(self, batch: Batch) -> Tensor:
        """x_u (B, D): zeros where nothing is known."""
        parts = [self.x(batch.profile, batch.source, batch.items)]
        for backbone in self._backbone:
            there = batch.valid & (batch.items >= FIRST)  # (B, T)
            total = (backbone.item_table.detach()[batch.items] * there[..., None]).sum(1)  # (B, d)
            parts.append(total / there.sum(1, keepdim=True).clamp(min=1))  # (B, d)
        return torch.cat(parts, 1)  # (B, D)

    def via(self, batch: Batch) -> Via:
        """Tokens of the users of a batch in front of their events."""
        return self.door(self.profile(batch))

    def door(self, x: Tensor, kept: Callable[[torch.Size], Tensor] | None = None) -> Via:
        """Tokens of profiles x (B, D) in front of the events; where kept(B, T) is False an event's vector is zero."""
        p = None
        if self.down is not None and self.up is not None:
            p = self.up(self.activation(self.down(x))).view(len(x), self.tokens, -1)  # (B, n, d)  eq. (3)

        def via(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
            y = layer(x, *context)  # (B, T, d)
            if site != "input":
                return y
            if kept is not None:  # what asks, behind the events, is no event
                y = y * (kept(y.shape[:2]) | (x == MASK))[..., None]  # (B, T, d)
            return y if p is None else torch.cat([p.to(y.dtype), y], 1)  # (B, n + T, d)

        return via


class PPR(Method):
    """Prompts made from profiles.

    Args:
        variant: "light" trains what is added for the task, "full" everything.
        tokens: n; 0 leaves the prompt out.
        hidden: D', inside generator and MLP.
        field_width: of each profile field.
        activation: a.
        add: MLP_a, the profile's own part in the user vector.
        history: prompts are made from what a user did, too; in next_item tasks with `objective.targets = "last"`.
        contrast: which views the contrastive loss compares with the whole: of masked "profile", of masked "items", of
            "both", or "none" for no such loss.
        weight: lambda.
        tau: temperature.
        mask: gamma_1 and gamma_2, shares of elements and events at zero.
    """

    name: ClassVar[str] = "ppr"
    paper: ClassVar[str] = "Wu et al., TKDE 2024"
    summary: ClassVar[str] = "tokens made from a user's profile, in front of the history"
    keeps: bool = True

    def __init__(
        self,
        *,
        variant: Literal["light", "full"] = "light",
        tokens: Annotated[int, Ge(0)] = 1,
        hidden: Annotated[int, Ge(1)] = 16,
        field_width: Annotated[int, Ge(1)] = 8,
        activation: Literal["sigmoid", "relu", "tanh"] = "sigmoid",
        add: bool = True,
        contrast: Literal["profile", "items", "both", "none"] = "both",
        weight: Annotated[float, Ge(0)] = 0.1,
        tau: Annotated[float, Gt(0)] = 0.1,
        mask: Annotated[float, Ge(0), Lt(1)] = 0.2,
        history: bool = False,
    ) -> None:
        super().__init__()
        self.variant, self.tokens, self.hidden, self.field_width = variant, tokens, hidden, field_width
        self.activation, self.add, self.contrast = activation, add, contrast
        self.weight, self.tau, self.mask, self.history = weight, tau, mask, history
        self.begins_as_backbone = not tokens
        self.keeps, self.whole_batch = variant == "light", contrast != "none" and weight > 0

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """A generator for every task but the first."""
        if model.is_first(card.name):
            return None
        if self.history and card.kind == "next_item" and not model.objective.each:
            raise SettingsError(
                f"a prompt made from the history would tell task {card.name!r} what comes next",
                expected='tasks of kind item or one_of, or objective.targets = "last"',
                where="tuning.history",
                fix='set tuning.history = false, or objective.targets = "last"',
            )
        return Personal(model.fields, card.hides, model.backbone, self, generator)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Generator, MLP and head; with "full" the backbone too."""
        return (own_unless_first if self.variant == "light" else everything)(model, task)

    def loss(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator, progress: float) -> Tensor:
        """L_p + lambda L_CL, scalar."""
        loss = model.loss(batch, task, rng)
        if model.is_first(task) or self.contrast == "none" or not self.weight:
            return loss
        return loss + self.weight * self.contrasted(model, task, histories(model, task, batch), rng)

    def contrasted(self, model: UserModel, task: str, batch: Batch, rng: torch.Generator) -> Tensor:
        """L_CL: the sum over the views asked for, scalar."""
        overlay = cast(Personal, model.overlays[task])
        batch = model.backbone.question(batch)
        x = overlay.profile(batch)  # (B, D)
        same = batch.users[:, None] == batch.users if batch.users is not None else None  # (B, B)

        def read(x: Tensor, kept: Callable[[torch.Size], Tensor] | None = None) -> Tensor:
            return model.backbone.vector(batch, overlay.door(x, kept))  # (B, d)

        def drawn(shape: torch.Size) -> Tensor:
            return torch.rand(shape, generator=rng, device=rng.device) >= self.mask

        whole, views = read(x), []
        if self.contrast in ("profile", "both") and overlay.told and self.tokens:  # or else u_s is without it
            views.append(read(x * drawn(x.shape)))  # gamma_1
        if self.contrast in ("items", "both"):
            views.append(read(x, drawn))  # gamma_2
        losses = [info_nce(whole, view, self.tau, same) for view in views]
        return torch.stack(losses).sum() if losses else whole.new_zeros(())
