"""PCL: prompt-based continual learning. A frozen backbone; each task adds a prompt to the last t event vectors.

M. Yang et al., "PCL: Prompt-based Continual Learning for User Modeling in Recommender Systems", WWW 2025 (short paper;
arXiv 2502.19628).

    E_k      = E[:-t] || (E[-t:] + p^_k)                                  injection at the input (their Eq. 1)
    p^_k     = p_k + 1_t c_k                                              "add"
    c_k      = W_o concat_h softmax(q_k^h K^h / sqrt(d/H)) V^h            context by attention over the tasks so far
    q_k = W_q g_k,  K = [W_k g_1 .. W_k g_k],  V = [v_1 .. v_k]
    v_j      = W_v mean_pos(p^_j) for j < k, W_v' g_k for j = k           values = "memory" (earlier tasks' prompts)
             = W_v' g_j                                                   values = "text"

| paper | here | shape |
|---|---|---|
| t | length | |
| p_k | position | (t, d) |
| g_j | description, from name, kind and description of task j | (d_s,) |
| c_k | context | (d,) |
| p^_k | prompt, all that is kept once the task is learned | (t, d) |

p^_k does not depend on the user, so after training the attention collapses into one t x d tensor: a task costs one
addition at inference, and later tasks cannot move it.

Differs: the paper gives neither numbers nor code; t, H, the values and where the context enters are options here. Texts
are encoded by hashed words and a fixed random projection instead of a sentence transformer (no download). The attention
belongs to each task alone and is gone once it has collapsed, or is shared but for W_o (`attention`). A later next_item
task is learned at all events of a window, and the prompt stands on its last t: what is learned at the others tells
little of it. The first task has no prompt: with values = "memory" it is looked at and gives nothing. Prompts stand on
real events only: a user with m < t events gets the last m rows of p^_k. Where an encoder reads no events but entries of
bags (`smen`), the last t of those have them. The context starts at zero (W_o = 0), so a new task begins as the frozen
backbone exactly; so does p_k unless `init_std` > 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Via
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.functional.text import hashed_words
from perdure.tuning.base import Method, Overlay, own_unless_first
from perdure.tuning.parts import entries

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["PCL"]


class Attention(nn.Module):
    """W_q, W_k, W_v, W_v'; values of earlier tasks are their memories, or their texts where `recalls` is off."""

    def __init__(self, text: int, width: int, heads: int, recalls: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(text, width, bias=False), nn.Linear(text, width, bias=False)
        self.value = nn.Linear(text, width, bias=False)
        self.recall = nn.Linear(width, width, bias=False) if recalls else None
        for layer in (self.query, self.key, self.value, *([self.recall] if self.recall is not None else [])):
            nn.init.xavier_uniform_(layer.weight, generator=generator)

    def forward(self, g: Tensor, memory: Tensor) -> Tensor:
        """Texts (k, d_s) of the tasks so far, this one last, and memories (k - 1, d) -> what is read of them (d,)"""
        if self.recall is None:
            v = self.value(g)  # (k, d)
        else:
            v = torch.cat([self.recall(memory), self.value(g[-1:])])  # (k, d)
        return (self.weights(g)[..., None] * v.view(len(g), self.heads, -1)).sum(0).flatten()  # (d,)

    def weights(self, g: Tensor) -> Tensor:
        """(k, H): how much each head looks at each task so far; each head's sum to 1."""
        q = self.query(g[-1:]).view(1, self.heads, -1)  # (1, H, d/H)
        k = self.key(g).view(len(g), self.heads, -1)  # (k, H, d/H)
        return torch.softmax((q * k).sum(-1) / math.sqrt(k.shape[-1]), dim=0)  # (k, H)


class Context(nn.Module):
    """What attention gives a new task, through a W_o of its own; texts and earlier memories are constants."""

    g: Tensor
    memory: Tensor

    def __init__(self, g: Tensor, memory: Tensor, attention: Attention, own: bool) -> None:
        super().__init__()
        self.register_buffer("g", g)  # (k, d_s), this task last
        self.register_buffer("memory", memory)  # (k - 1, d)
        self.out = nn.Linear(memory.shape[1], memory.shape[1], bias=False)
        nn.init.zeros_(self.out.weight)
        self.own = attention if own else None
        self.shared: tuple[Attention, ...] = () if own else (attention,)  # in a tuple, as it is no part of the overlay

    @property
    def attention(self) -> Attention:
        """The task's own, or the one all tasks share."""
        return self.own if self.own is not None else self.shared[0]

    def forward(self) -> Tensor:
        """c_k (d,)"""
        return self.out(self.attention(self.g, self.memory))  # (d,)

    def weights(self) -> list[float]:
        """(k,) attention on each task so far, the mean over heads."""
        return self.attention.weights(self.g).mean(1).tolist()


class Prompt(Overlay):
    """p_k and its context while learning; one tensor `prompt` once settled."""

    prompt: Tensor

    def __init__(self, position: Tensor, context: Context | None, how: str) -> None:
        super().__init__()
        self.position: nn.Parameter | None = nn.Parameter(position)
        self.context, self.how = context, how
        rows = len(position) + (how == "prefix")
        self.register_buffer("prompt", position.new_zeros(rows, position.shape[1]))

    def settle(self) -> None:
        """Collapse position and context into `prompt` and drop them."""
        with torch.no_grad():
            self.prompt.copy_(self.combined())
        self.position = self.context = None

    def combined(self) -> Tensor:
        """p^_k: (t, d), or (1 + t, d) with the context as a prefix token in row 0."""
        if self.position is None:
            return self.prompt
        c = self.position.new_zeros(self.position.shape[1]) if self.context is None else self.context()  # (d,)
        if self.how == "prefix":
            return torch.cat([c[None], self.position])  # (1 + t, d)
        return self.position * (1 + c) if self.how == "gate" else self.position + c  # (t, d)

    def via(self, batch: Batch) -> Via:
        """Adds row t - 1 - r of p^_k to what is read r places before the user's last; other sites are untouched."""
        p = self.combined()  # (t, d) or (1 + t, d)
        token, p = (p[:1], p[1:]) if self.how == "prefix" else (None, p)

        def via(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
            y = layer(x, *context)
            if site != "input":
                return y
            row = torch.arange(y.shape[1], device=y.device) - entries(x)[:, None] + len(p)  # (B, T)
            inside = (row >= 0) & (row < len(p))  # (B, T)
            y = y + F.embedding(
                torch.where(inside, row + 1, 0), F.pad(p, (0, 0, 1, 0))
            )  # (B, T, d), row 0 adds nothing
            return y if token is None else torch.cat([token.expand(len(y), 1, -1), y], 1)  # (B, 1 + T, d)

        return via


class PCL(Method):
    """Position-wise and contextual prompts on a frozen backbone.

    Args:
        length: t, events from the last that get a prompt row.
        values: what attention brings in: earlier prompts ("memory"), task texts ("text") or nothing ("none").
        context: how c_k enters: "add" to every row, as one "prefix" token, or as a "gate" (1 + c_k) on p_k.
        attention: W_q, W_k, W_v and W_v' for each "task", gone once they have collapsed, or "shared" by all: each task
            trains on what the ones before it made of them, and its context is cached when it is learned.
        heads: H, divides the width.
        init_std: spread of p_k at the start; 0 begins as the backbone.
        text_width: d_s of hashed descriptions.
    """

    name: ClassVar[str] = "pcl"
    paper: ClassVar[str] = "Yang et al., WWW 2025"
    summary: ClassVar[str] = "prompts added to the last events, informed by earlier tasks' prompts"
    keeps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        length: Annotated[int, Ge(1)] = 10,
        values: Literal["memory", "text", "none"] = "memory",
        context: Literal["add", "prefix", "gate"] = "add",
        attention: Literal["task", "shared"] = "task",
        heads: Annotated[int, Ge(1)] = 4,
        init_std: Annotated[float, Ge(0)] = 0.0,
        text_width: Annotated[int, Ge(8)] = 64,
    ) -> None:
        super().__init__()
        if values == "none" and context != "add":
            raise SettingsError(
                f'context = "{context}" and values = "none", which brings no context in',
                expected='values = "memory" or "text"',
                where="tuning.context, tuning.values",
                fix="leave context out",
            )
        self.length, self.values, self.context = length, values, context
        self.heads, self.init_std, self.text_width = heads, init_std, text_width
        self.attention = attention
        self.shared: Attention | None = None
        self.begins_as_backbone = context != "prefix" and init_std == 0

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """A prompt for every task but the first."""
        width = model.backbone.width
        if width % self.heads:
            raise SettingsError(
                f"heads {self.heads} does not divide the encoder's width {width}",
                where="tuning.heads, encoder.width",
                fix="choose heads that divide width",
            )
        if model.is_first(card.name):
            if self.attention == "shared" and self.values != "none":
                self.shared = self._attention(width, generator).to(model.backbone.item_table.device)
            return None
        position = torch.empty(self.length, width).normal_(std=1.0, generator=generator) * self.init_std  # (t, d)
        if self.values == "none":
            return Prompt(position, None, self.context)
        names = list(model.tasks)[: list(model.tasks).index(card.name) + 1]
        g = torch.stack(
            [hashed_words(f"{n} {model.tasks[n].kind} {model.tasks[n].description}", self.text_width) for n in names]
        )
        memory = torch.stack([_memory(model, n) for n in names[:-1]])  # (k - 1, d)
        attention = self.shared if self.shared is not None else self._attention(width, generator)
        return Prompt(position, Context(g, memory, attention, own=self.shared is None), self.context)

    def _attention(self, width: int, generator: torch.Generator) -> Attention:
        return Attention(self.text_width, width, self.heads, self.values == "memory", generator)

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Prompt, attention and head."""
        shared = [] if self.shared is None or model.is_first(task) else list(self.shared.parameters())
        return [*own_unless_first(model, task), *shared]

    def relations(self, model: UserModel, task: str) -> dict[str, float]:
        """Attention on each earlier task, the mean over heads."""
        overlay = model.overlays.get(task)
        if not isinstance(overlay, Prompt) or overlay.context is None:
            return {}
        return dict(zip(list(model.tasks), overlay.context.weights()[:-1], strict=False))  # this task is the last


def _memory(model: UserModel, task: str) -> Tensor:
    """(d,) mean over positions of a learned task's prompt; zeros for a task without one."""
    overlay = model.overlays.get(task)
    return overlay.prompt.detach().mean(0).cpu() if isinstance(overlay, Prompt) else torch.zeros(model.backbone.width)
