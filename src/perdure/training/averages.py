"""Averages of the weights along the way of a fit: validated and kept as the best state; training never sees them.

    a_0 = w_0        a_s = d_s a_(s-1) + (1 - d_s) w_s        d_s = min(decay, s / (s + 9)),   s = 1, 2, ... steps

The smaller d of the first steps keeps the start from weighing long: after ten steps it has a share of 1e-5. A table
with sparse gradients is averaged where a step touches it; what a row missed since is the product of the d, and is made
up for when it is needed, so that no step reads the whole table.

table: a -> `values`, w -> the parameters, d -> `share`, log of the product of all d so far -> `log`, and what that was
when a row was last averaged -> `told` (rows,).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from perdure.training.rows import touched

__all__ = ["Averages", "share"]


def share(step: int, decay: float) -> float:
    """What part of the average stays at step number `step` (from 1)."""
    return min(decay, step / (step + 9))


class Averages:
    """Exponential moving averages of what a fit trains; with decay 0 it holds nothing and does nothing.

    Args:
        trained: name -> parameter. Those with `sparse` set are averaged row by row.
        shut: parameter -> share that may not move; where that is 1 the average is the weight itself, bit for bit.
        decay: [0, 1).

    Buffers are not averaged: validation and the best state take them as training left them.
    """

    def __init__(self, trained: Mapping[str, Parameter], shut: Mapping[Parameter, Tensor], decay: float) -> None:
        self.decay, self.shut, self.log = decay, shut, 0.0
        self.trained = dict(trained) if decay else {}
        self.values = {name: p.detach().clone() for name, p in self.trained.items()}
        self.told = {
            name: torch.zeros(len(p), dtype=torch.float64, device=p.device)  # (rows,)
            for name, p in self.trained.items()
            if getattr(p, "sparse", False)
        }
        self._raw: dict[str, Tensor] = {}  # while the averages are worn: the weights they cover

    # -- along the steps --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before(self) -> None:
        """Before a step: rows it will move are brought up to date with the weights that they still have."""
        for name, told in self.told.items():
            if (rows := touched(self.trained[name])) is not None:
                self.values[name].index_copy_(0, rows, self._caught_up(name, rows))
                told[rows] = self.log

    @torch.no_grad()
    def after(self, step: int) -> None:
        """After step number `step` (from 1)."""
        if not self.trained:
            return
        kept = share(step, self.decay)
        self.log += math.log(kept)
        for name, value in self.values.items():
            parameter = self.trained[name]
            if name not in self.told:
                value.lerp_(parameter, 1 - kept)
            elif (rows := touched(parameter)) is not None:
                now = value.index_select(0, rows).lerp_(parameter.index_select(0, rows), 1 - kept)  # (n, ...)
                value.index_copy_(0, rows, now)
                self.told[name][rows] = self.log

    def _caught_up(self, name: str, rows: Tensor | None = None) -> Tensor:
        """Averages of some rows, or all, whose weights have stood still since they were last averaged."""
        value, weight, told = self.values[name], self.trained[name].detach(), self.told[name]
        if rows is not None:
            value, weight, told = (t.index_select(0, rows) for t in (value, weight, told))  # (n, ...), (n, ...), (n,)
        missed = -torch.expm1(self.log - told)  # (n,): 1 - the product of the shares
        return torch.lerp(value, weight, missed.to(value.dtype).view(-1, *[1] * (value.ndim - 1)))  # (n, ...)

    # -- in place of the weights ------------------------------------------------------------------------------------

    @torch.no_grad()
    def now(self) -> dict[str, Tensor]:
        """The averages by name; what is shut is the weight itself. Changes nothing here."""
        found = {name: self._caught_up(name) if name in self.told else a for name, a in self.values.items()}
        for name, parameter in self.trained.items():
            if parameter in self.shut:
                found[name] = torch.where(self.shut[parameter] >= 1, parameter.detach(), found[name])
        return found

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Inside, the parameters hold their averages."""
        averages = self.now()
        self._raw = {name: p.detach().clone() for name, p in self.trained.items()}
        _copy(averages, self.trained)
        try:
            yield
        finally:
            self.take_off()

    def take_off(self) -> None:
        """The parameters hold their weights again, if they did not. Twice is as good as once."""
        _copy(self._raw, self.trained)
        self._raw = {}

    # -- snapshots --------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], float]:
        """All there is to go on with: tensors `<name>/average` and `<name>/told`, and the log."""
        averages = {f"{name}/average": value for name, value in self.values.items()}
        return averages | {f"{name}/told": value for name, value in self.told.items()}, self.log

    def restore(self, tensors: Mapping[str, Tensor], log: float) -> None:
        """Put `state` back."""
        self.log = log
        for held, key in ((self.values, "average"), (self.told, "told")):
            for name, value in held.items():
                value.copy_(tensors[f"{name}/{key}"])


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)
