"""How one task is trained: the sections [pretrain], [train] and `train` of a task. On the settings floor."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainSettings(BaseModel):
    """Settings of `training.loop.fit`. Strict: no text for a number, no true for 1, no unknown key, no NaN.

    `patience` counts evaluations without a better value on the task's own validation users; 0 never stops early. The
    best state is restored at the end either way, as long as the task has validation users. `clip` is the largest
    global gradient norm; 0 leaves gradients as they are. `schedule` multiplies the learning rate after the warm-up:
    by 1, along half a cosine to 0, along a line to 0, or by 1 for `stable_share` of those steps and then down to
    `floor` along `annealing` ("wsa": warm-up, stable, annealing). A rate that falls late needs its last epochs: set
    `patience` = 0 where an early stop would cut them off.

    `average` is the decay of a moving average of the trained weights (0.999, say; 0 keeps none): it is validated and
    kept as the best state in place of the weights, which go on unaveraged. It begins with a smaller decay, s / (s + 9)
    at step s, so that it soon forgets the start.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(20, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1, le=1_000_000)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0, le=1)
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (
        0.9,
        0.999,
    )
    schedule: Literal["constant", "cosine", "linear", "wsa"] = "constant"
    stable_share: float = Field(0.8, ge=0, lt=1)
    annealing: Literal["linear", "cosine", "exponential"] = "linear"
    floor: float = Field(0.01, gt=0, le=1)
    warmup_steps: int = Field(0, ge=0, le=10_000_000)
    clip: float = Field(0.0, ge=0, le=1e6)
    average: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(5, ge=0, le=100_000)
    evaluate_every: int = Field(1, ge=1, le=100_000)
    windows: Literal["last", "split"] = "last"
    max_steps: int | None = Field(None, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0, le=1440)
