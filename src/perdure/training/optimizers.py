"""Which optimiser a parameter gets, how the learning rate runs, and what is done to gradients before a step.

The schedule "wsa" (warm-up, stable, annealing) is that of CPRec (Ma et al., arXiv 2504.08949, 2025); how long its
phases are, how it falls and where it ends are settings here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from perdure.train_settings import TrainSettings
from perdure.training.rows import RowAdam

__all__ = ["gradient_norm", "make_optimizers", "scale_gradients", "share_of_rate", "values_of"]


def make_optimizers(trained: Iterable[Parameter], settings: TrainSettings) -> list[Optimizer]:
    """Adam or AdamW over dense parameters; RowAdam over those whose gradients are sparse (`parameter.sparse`).

    RowAdam moves only the rows that a batch touched and knows no weight decay.
    """
    dense: list[Parameter] = []
    sparse: list[Parameter] = []
    for parameter in trained:
        (sparse if getattr(parameter, "sparse", False) else dense).append(parameter)
    optimizers: list[Optimizer] = []
    rate, betas = settings.learning_rate, settings.betas
    if dense:
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in dense)
        optimizers.append(kind(dense, lr=rate, betas=betas, weight_decay=settings.weight_decay, fused=fused))
    if sparse:
        optimizers.append(RowAdam(sparse, lr=rate, betas=betas))
    return optimizers


def share_of_rate(step: int, steps: float, settings: TrainSettings) -> float:
    """What part of the learning rate step number `step` (from 0) of `steps` uses: warm-up, then the schedule.

    With x in [0, 1) the share of the steps after the warm-up that are done,

        constant  1      cosine  (1 + cos(pi x)) / 2      linear  1 - x
        wsa       1 while x < S = stable_share; then with y = (x - S) / (1 - S) and f = floor, by `annealing`,
                  f + (1 - f)(1 - y)  (linear),  f + (1 - f)(1 + cos(pi y)) / 2  (cosine),  f^y  (exponential)
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1)  # [0, 1)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule != "wsa":
        return _falling(done, settings.schedule)
    if done < settings.stable_share:
        return 1.0
    done = (done - settings.stable_share) / (1 - settings.stable_share)
    if settings.annealing == "exponential":
        return settings.floor**done
    return settings.floor + (1 - settings.floor) * _falling(done, settings.annealing)


def _falling(x: float, shape: str) -> float:
    """From 1 to 0 while x goes from 0 to 1, along a line or half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * x)) if shape == "cosine" else 1 - x


def values_of(gradient: Tensor) -> Tensor:
    """The numbers of a gradient: of a sparse one those of its rows, each row once."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def gradient_norm(parameters: Iterable[Parameter]) -> float:
    """Length of all gradients together as one vector; sparse gradients count by their summed rows."""
    for parameter in (parameters := list(parameters)):
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    return float(torch.nn.utils.get_total_norm([values_of(p.grad) for p in parameters if p.grad is not None]))


def scale_gradients(parameters: Iterable[Parameter], factor: float) -> None:
    """Multiply every gradient, dense or sparse, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            values_of(parameter.grad).mul_(factor)
