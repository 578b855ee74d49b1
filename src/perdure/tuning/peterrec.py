"""PeterRec: model patches (bottleneck adapters) in a frozen backbone, one set per task.

F. Yuan, X. He, A. Karatzoglou, L. Zhang, "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and
Recommendation", SIGIR 2020.

    MP(y)      = y + sum_{i=1..q} W_up_i gelu(W_down_i y + b_i) + b'
    serial     y <- MP(layer(x))                      after each layer ("two" a block) or its last ("one")
    parallel   y <- layer(x) + MP(x) - x              with skip: y <- layer(x) + MP(x)

    u          = h_n                  of [x_1 .. x_n]              readout "last"
               = h_{n+1}              of [x_1 .. x_n, CLS]         "cls", as published where states look back only
               = h_0 + h_{n+1}        of [CLS, x_1 .. x_n, CLS]    "both", as published where they look both ways

| paper | here | shape |
|---|---|---|
| q | cardinality | |
| W_down_i | patch.down, q stacked | (q hidden, d), hidden = d / (reduction q) |
| W_up_i, b' | patch.up | (d, q hidden), (d,) |
| LN of a block | norms | its weight and bias (d,) |
| CLS | the mask's row of the item table, plus overlay.token where it is the task's "own" | (d,) |

A sum of q bottlenecks with an element-wise activation is one bottleneck q times as wide, so it is computed as one. As
each of the q is d / (reduction q) wide, their sum is the same whatever q: it only says how d / reduction is rounded.

Differs: W_up starts at zero, so a new patch begins as the backbone exactly. The user vector is by default the state at
the last event, as for all methods here, which needs no token. Their CLS is row 0 of their item table, a frozen vector
that pre-training used for unknown items and padding; row 0 is no vector here, so it is the mask's (row 1), which an
encoder that looks back only never trained: each task therefore adds a vector of its own to it, zero at the start,
unless `token = "mask"`. A full history gives up its oldest events for the tokens. In the parallel form the official
code's inner identity (`parallel_skip`) is off by default, because with it a new patch does not begin as the backbone.
The normalisation layers re-tuned (`tune_norms`) are all of the encoder's; the official code re-tunes the "second" of
each block. Gates that let a layer in get no patch. Their GELU is its tanh form, here it is the exact one. Their
fine-tuning loss, one uniform negative for each answer and a penalty on the target table (.02), is here the task's own
cross-entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import MASK, Encoder, Via
from perdure.encoders.parts import Gate
from perdure.errors import SettingsError
from perdure.events.batch import Batch
from perdure.tuning.base import Method, Overlay, own_unless_first, through

if TYPE_CHECKING:
    from perdure.model.user_model import TaskCard, UserModel

__all__ = ["PeterRec"]

Readout = Literal["last", "cls", "both"]


class Patch(nn.Module):
    """The bottleneck without its skip: (..., d) -> (..., d), zero at the start."""

    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.normal_(self.down.weight, std=0.02, generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, y: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)"""
        return self.up(F.gelu(self.down(y)))


class Patches(Overlay):
    """Patches at sites that mix, private normalisations, and how the user vector is read."""

    def __init__(
        self,
        patches: dict[str, Patch],
        norms: dict[str, nn.Module],
        form: Literal["serial", "parallel", "parallel with skip"],
        readout: Readout,
        token: Tensor | None,
    ) -> None:
        super().__init__()
        self.patches = nn.ModuleDict(patches)
        self.norms = nn.ModuleDict(
            {
                site: nn.ParameterDict({n: p.detach().clone() for n, p in layer.named_parameters()})
                for site, layer in norms.items()
            }
        )
        self.form, self.readout = form, readout
        self.token = None if token is None else nn.Parameter(token)

    def via(self, batch: Batch) -> Via:
        """Layer plus patch; private weights at the norms."""
        return self._via

    def _via(self, site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        if site in self.norms:
            return through(layer, dict(self.norms[site].items()), x, *context)  # type: ignore[operator]
        y = layer(x, *context)
        if site not in self.patches:
            return y
        if self.form == "serial":
            return y + self.patches[site](y)  # (B, T, d)
        y = y + self.patches[site](x)  # (B, T, d)
        return y + x if self.form == "parallel with skip" else y

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """(B, d): at the last event, at the token after it, or there and at the token before the first event."""
        if self.readout == "last":
            return super().vector(backbone, batch)  # (B, d)
        batch = with_tokens(batch, self.readout == "both", backbone.max_length)
        if self.readout == "cls":
            return backbone.vector(batch, self._via_tokens(batch))  # (B, d)
        h = backbone(batch, self._via_tokens(batch))  # (B, T, d)
        return h[:, 0] + backbone.last(h, batch)  # (B, d)

    def _via_tokens(self, batch: Batch) -> Via:
        """As `via`, with the task's own vector on the tokens of a batch that has them."""
        own = self.token
        if own is None:
            return self._via
        at = torch.arange(batch.items.shape[1], device=batch.items.device)  # (T,)
        tokens = at == batch.lengths[:, None] - 1  # (B, T)
        if self.readout == "both":
            tokens = tokens | (at == 0)  # (B, T)

        def via(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
            y = self._via(site, layer, x, *context)
            return y + tokens[..., None] * own if site == "input" else y  # (B, T, d)

        return via


def with_tokens(batch: Batch, front: bool, most: int) -> Batch:
    """Histories with CLS after the last event, and with `front` another before the first.

    Args:
        batch: (B, T) histories.
        most: positions the encoder reads, more than there are tokens; the oldest events of a user make room.

    Returns:
        (B, min(T + 1 or 2, most)); a token has the time of the event beside it.
    """
    tokens = 1 + front
    t = min(batch.items.shape[1] + tokens, most)
    kept = batch.lengths.clamp(max=t - tokens)  # (B,) events
    at = torch.arange(t, device=kept.device) - int(front)  # (T',) place among the events kept
    source = at.clamp(min=0) + (batch.lengths - kept)[:, None]  # (B, T') place among all events
    source = torch.minimum(source, batch.lengths[:, None] - 1).clamp(min=0)  # (B, T')
    events, inside = (at >= 0) & (at < kept[:, None]), at <= kept[:, None]  # (B, T')
    return batch.picked(source, kept + tokens).hidden(~events, MASK * inside)


class PeterRec(Method):
    """Adapters per task on a frozen backbone.

    Args:
        insertion: "serial" (after the layer) or "parallel" (beside it).
        patches: "two" of a block's layers are patched, or "one" (the second).
        reduction: d / (reduction * cardinality) hidden units a bottleneck, at least 1.
        cardinality: q bottlenecks a patch; the same patch wherever reduction * q divides d.
        tune_norms: a private copy of the normalisation layers per task; "second": of each second one.
        parallel_skip: as the official code, add the input once more in the parallel form.
        readout: where the user vector is read: at the "last" event, at a token after it ("cls"), or at that and at one
            before the first event ("both", for encoders that look both ways). A later next_item task is read at its
            events.
        token: the tokens are the mask's vector plus a learned one of the task's "own", or the "mask"'s alone.
    """

    name: ClassVar[str] = "peterrec"
    paper: ClassVar[str] = "Yuan et al., SIGIR 2020"
    summary: ClassVar[str] = "bottleneck adapters per task in a frozen backbone"
    keeps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        insertion: Literal["serial", "parallel"] = "serial",
        patches: Literal["one", "two"] = "two",
        reduction: Annotated[int, Ge(1)] = 4,
        cardinality: Annotated[int, Ge(1)] = 1,
        tune_norms: bool | Literal["second"] = True,
        parallel_skip: bool = False,
        readout: Readout = "last",
        token: Literal["own", "mask"] = "own",
    ) -> None:
        super().__init__()
        self.insertion, self.patches, self.reduction = insertion, patches, reduction
        self.cardinality, self.tune_norms, self.parallel_skip = cardinality, tune_norms, parallel_skip
        self.readout: Readout = readout
        self.token = token
        self.begins_as_backbone = readout == "last" and not (insertion == "parallel" and parallel_skip)

    def overlay(self, model: UserModel, card: TaskCard, generator: torch.Generator) -> Overlay | None:
        """Patches for every task but the first. SettingsError where the encoder cannot be read as asked."""
        if model.is_first(card.name):
            return None
        self._check(model.backbone)
        sites, width = model.backbone.sites(), model.backbone.width
        hidden = self.cardinality * max(1, width // (self.reduction * self.cardinality))
        mixing = [
            s for s, layer in sites.items() if getattr(layer, "role", "") == "mix" and not isinstance(layer, Gate)
        ]
        norms = [site for site, layer in sites.items() if getattr(layer, "role", "") == "norm"]
        chosen = mixing if self.patches == "two" else _last_of_blocks(mixing)
        tuned = _last_of_blocks(norms) if self.tune_norms == "second" else norms if self.tune_norms else []
        readout: Readout = "last" if card.kind == "next_item" else self.readout
        return Patches(
            {site: Patch(width, hidden, generator) for site in chosen},
            {site: sites[site] for site in tuned},
            "serial" if self.insertion == "serial" else "parallel with skip" if self.parallel_skip else "parallel",
            readout,
            torch.zeros(width) if readout != "last" and self.token == "own" else None,
        )

    def _check(self, backbone: Encoder) -> None:
        """Whether this encoder has states to read at its tokens."""
        if self.readout != "last" and backbone.readout != "last":
            raise SettingsError(
                f"readout {self.readout!r} has a token, and {backbone.name} reads user vectors by {backbone.readout!r}",
                expected='an encoder whose readout is "last"',
                where="tuning.readout, encoder.readout",
                fix='set tuning.readout = "last"',
            )
        if self.readout == "both" and backbone.causal:
            raise SettingsError(
                f'readout "both" reads a token before the first event, where {backbone.name} has seen nothing yet',
                expected="an encoder that looks both ways",
                where="tuning.readout, encoder.name",
                fix='use readout = "cls"',
            )
        if self.readout != "last" and backbone.max_length < 3:
            raise SettingsError(
                f"max_length {backbone.max_length} leaves no room for tokens",
                expected="3 or more",
                where="tuning.readout, encoder.max_length",
            )

    def trains(self, model: UserModel, task: str, stage: str) -> list[nn.Parameter]:
        """Patches, private norms, the token and the head."""
        return own_unless_first(model, task)


def _last_of_blocks(sites: list[str]) -> list[str]:
    """The last site of each block; the last of all where there are no blocks."""
    last = {block: site for site in sites if (block := site.rpartition("/")[0])}
    return list(last.values()) or sites[-1:]
