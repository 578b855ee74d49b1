"""The sections that are the settings' own, and what no single section can know: contradictions between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from perdure.events.examples import NAME_RULE, TASK_NAME
from perdure.settings.faults import Fault
from perdure.train_settings import TrainSettings

Settings: TypeAlias = Any  # recipe.Settings, which stands on these sections: imports go one way, type-only ones too

__all__ = ["EvaluateSettings", "Part", "Parts", "PretrainSettings", "RunSettings", "bad_names", "contradictions"]

METRIC = re.compile(r"(hr|ndcg|mrr|recall)@([1-9][0-9]{0,3})|auc|accuracy|macro_f1|log_loss")


class Parts(Protocol):
    """Where the classes of encoders, objectives and methods come from; `perdure.registry` is one."""

    def find(self, kind: str, name: str) -> type: ...
    def names(self, kind: str) -> list[str]: ...
    def trial(self, kind: str, name: str, options: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Part:
    """An encoder, objective or method by name, with all its options (defaults filled in)."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> dict[str, Any]:
        """{"name": ..., **options}, as a model folder writes it."""
        return {"name": self.name, **self.options}


class PretrainSettings(TrainSettings):
    """How the first task is trained, where it differs from [train].

    Attributes:
        model: a model folder; its backbone and its first task are taken over, and nothing is pre-trained.
    """

    model: str | None = None


class EvaluateSettings(BaseModel):
    """How answers are measured.

    Attributes:
        ks: cut-offs of the ranking metrics.
        seen: whether items of the input are left out of a next_item ranking ("drop") or stay in ("keep").
        sampled: rank among this many sampled items instead of all; always labelled as such.
        sampled_by: how they are drawn.
        metric: the metric that decides; by default ndcg@10, and accuracy for one_of.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    ks: list[Annotated[int, Field(ge=1, le=1000)]] = Field([1, 5, 10, 20], min_length=1)
    seen: Literal["drop", "keep"] = "drop"
    sampled: int | None = Field(None, ge=1, le=1_000_000)
    sampled_by: Literal["uniform", "popularity"] = "uniform"
    metric: str | None = None


class RunSettings(BaseModel):
    """The run itself.

    Attributes:
        seed: of everything that is drawn.
        threads: CPU threads; by default as many as there are cores. Results are equal bit for bit at an equal number.
        device: "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        compile: run the loss through torch.compile.
        name: a title for the report.
        tensorboard: also write the epochs for TensorBoard, into OUT/tensorboard; needs the extra `track`.
        store: a folder to keep the prepared data in and find it again; by default OUT/store.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(0, ge=0, le=2**63 - 1)
    threads: int | None = Field(None, ge=1, le=1024)
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    name: str | None = Field(None, max_length=200)
    tensorboard: bool = False
    store: str | None = None


def contradictions(settings: Settings) -> Iterator[Fault]:
    """What is wrong between sections that are each right by themselves. Reads no data."""
    longest = settings.encoder.options.get("max_length")
    if longest is not None and settings.history.min_length > longest:
        yield Fault(
            "history.min_length",
            f"{settings.history.min_length} is more than encoder.max_length, {longest}",
            "a history that the encoder can read whole",
            "raise encoder.max_length or lower history.min_length",
        )
    for place in range(len(settings.tasks)):
        yield from _training(settings, place)
    yield from _columns(settings)
    metric = settings.evaluate.metric
    if metric is not None:
        told = METRIC.fullmatch(metric)
        wanted = "hr@k, ndcg@k, mrr@k, recall@k, auc, accuracy, macro_f1 or log_loss"
        if told is None:
            yield Fault("evaluate.metric", f"found {metric!r}", wanted)
        elif told[2] and int(told[2]) not in settings.evaluate.ks:
            yield Fault("evaluate.metric", f"{metric} is not measured: ks = {settings.evaluate.ks}", fix="add it to ks")


def bad_names(names: list[Any]) -> Iterator[Fault]:
    """Names of tasks become file names: they must be fit for every file system, and different on each."""
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        key = f"tasks.{place}.name"
        if not isinstance(name, str):
            continue  # said elsewhere
        if not TASK_NAME.fullmatch(name):
            yield Fault(key, f"{name[:80]!r} cannot be a file name everywhere", NAME_RULE)
        elif name.lower() in seen:
            yield Fault(key, f"{name!r} is taken by task {seen[name.lower()] + 1}", fix="give every task its own name")
        seen.setdefault(name.lower(), place)


def _training(settings: Settings, place: int) -> Iterator[Fault]:
    train = settings.train_for(place)
    key = f"tasks.{place} ({settings.tasks[place].name})"
    if train.max_steps is not None and train.warmup_steps >= train.max_steps:
        yield Fault(key, f"warmup_steps {train.warmup_steps} is not below max_steps {train.max_steps}")
    if settings.split.kind == "user" and settings.split.valid == 0 and train.patience > 0:
        yield Fault(
            key,
            f"patience {train.patience} needs validation users, and split.valid is 0",
            fix="set split.valid above 0, or train.patience = 0",
        )


def _columns(settings: Settings) -> Iterator[Fault]:
    """What tasks and splits need of a plain table; other formats know their columns only when they are read."""
    data = settings.data
    if data.format != "table":
        return
    if settings.split.kind == "time" and data.columns.time is None:
        yield Fault("split.kind", '"time" needs times', "data.columns.time and data.time_unit")
    for place, task in enumerate(settings.tasks):
        if data.users is None and (task.answer.startswith("user.") or task.users is not None):
            key = "answer" if task.answer.startswith("user.") else "users"
            yield Fault(f"tasks.{place}.{key}", "needs user attributes, and there are none", fix="add [data.users]")
        if data.items_table is None and task.answer.startswith("item."):
            yield Fault(
                f"tasks.{place}.answer", "needs item attributes, and there are none", fix="add [data.items_table]"
            )
