"""The sections that are the settings' own, and what no single section can know: contradictions between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from perdure.errors import SettingsError
from perdure.events.examples import NAME_RULE, TASK_NAME
from perdure.settings.faults import Fault
from perdure.train_settings import TrainSettings

Settings: TypeAlias = Any  # recipe.Settings, which stands on these sections: imports go one way, type-only ones too

__all__ = [
    "EvaluateSettings",
    "FriendsSettings",
    "InputSettings",
    "Part",
    "Parts",
    "PretrainSettings",
    "ProfileSettings",
    "RunSettings",
    "bad_names",
    "contradictions",
]

OF_CLASSES = ("accuracy", "precision", "recall", "f1", "macro_precision", "macro_recall", "macro_f1", "auc")
METRIC = re.compile(r"(hr|ndcg|mrr|recall)@([1-9][0-9]{0,3})|" + "|".join(OF_CLASSES))
METRICS = "hr@k, ndcg@k, mrr@k, recall@k, " + ", ".join(OF_CLASSES[:-1]) + " or auc"


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
        start: a model folder; the backbone begins with its weights, whatever it learned and by whatever objective, and
            the first task trains them on. Items are found by their ids, so the log may have grown: new ones begin as
            drawn (not for encoders that hold more of each item than its vector). Not looked at where
            `model` is given.
    """

    model: str | None = None
    start: str | None = None


class EvaluateSettings(BaseModel):
    """How answers are measured.

    Attributes:
        ks: cut-offs of the ranking metrics.
        seen: whether items of the input are left out of a ranking of items ("drop") or stay in ("keep").
        sampled: rank among this many sampled items instead of all; always labelled as such.
        sampled_by: how they are drawn.
        metric: the metric that decides, on tasks that have it: hr@k, ndcg@k, mrr@k or recall@k of a ranking, accuracy,
            macro_precision, macro_recall or macro_f1 of classes, precision, recall or f1 of the second of two classes,
            auc of both kinds. By default ndcg@10, and accuracy for one_of.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    ks: list[Annotated[int, Field(ge=1, le=1000)]] = Field([1, 5, 10, 20], min_length=1)
    seen: Literal["drop", "keep"] = "drop"
    sampled: int | None = Field(None, ge=1, le=1_000_000)
    sampled_by: Literal["uniform", "popularity"] = "uniform"
    metric: str | None = None

    @property
    def drawn(self) -> str | None:
        """`sampled` and `sampled_by` in one, as the evaluation reads them: "50 uniform", or None."""
        return f"{self.sampled} {self.sampled_by}" if self.sampled else None

    def fits(self, kind: str) -> bool:
        """Whether tasks of this kind are measured by `metric`; where not, their own default decides."""
        if kind == "one_of":
            return self.metric in OF_CLASSES
        return self.metric == "auc" or "@" in (self.metric or "")


def _each_once(names: list[str]) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names {', '.join(twice)} twice")
    return names


class FriendsSettings(BaseModel):
    """A table of pairs of users who know each other, one pair a row; it holds both ways.

    Attributes:
        path: the file.
        user, friend: the columns of the one and of the other.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    path: str
    user: str = "user"
    friend: str = "friend"


class ProfileSettings(BaseModel):
    """What methods and objectives that read profiles are told of a user besides the history.

    Attributes:
        fields: user attributes, read as text; a missing value is no fault. A task whose answer is one of them does not
            read that one.
        vectors: a Parquet file with the columns user and vector, as `perdure embed` writes it: vectors that a model of
            another domain gave. Users that are not in it have none.
        friends: who knows whom; read for training only.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    fields: list[str] = Field([], max_length=64)
    vectors: str | None = None
    friends: FriendsSettings | None = None

    @field_validator("fields")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        return _each_once(names)


class InputSettings(BaseModel):
    """What an encoder reads of an event besides its item. Every method and objective works with it; nothing is read
    where nothing is named.

    Attributes:
        events: event columns, read as categories: behaviour, domain, value, or one of data.features, of at most 32,767
            values each.
        items: attributes of items (data.items_table), read as categories: a brand, the levels of a category tree; a
            column of lists gives several.
        dates: parts of an event's time, in UTC.
        gaps: buckets of the time since the event before, each twice as long as the one before it; 0 for none.
        vectors: a Parquet file with the columns item and vector: what is known of the items, such as embeddings of
            their texts. They stay as they are and a learned linear map reads them.
        ids: read which item it is, too. Without, items are addressed by what is told of them alone, and the item table
            only scores.
        join: "sum" of all parts, or an "mlp" on all of them one after the other, which can tell their combinations.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    events: list[str] = Field([], max_length=32)
    items: list[str] = Field([], max_length=32)
    dates: list[Literal["hour", "weekday", "day", "month", "year"]] = Field([], max_length=5)
    gaps: int = Field(0, ge=0, le=64)
    vectors: str | None = None
    ids: bool = True
    join: Literal["sum", "mlp"] = "sum"

    @field_validator("events", "items", "dates")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        return _each_once(names)


class RunSettings(BaseModel):
    """The run itself.

    Attributes:
        seed: of everything that is drawn.
        threads: CPU threads of each process; by default as many as there are cores, shared among the processes. Results
            are equal bit for bit at an equal number.
        processes: how many train together on this machine, each on its share of the users of every batch: on the CPU,
            or with device "cuda" on as many GPUs. A run goes on with the number it began with.
        device: "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        compile: run the loss through torch.compile. Needs a C++ compiler (on a GPU, Triton) and takes minutes at the
            start of every task; on CPU no step was seen to be faster for it.
        name: a title for the report.
        tensorboard: also write the epochs for TensorBoard, into OUT/tensorboard; needs the extra `track`.
        store: a folder to keep the prepared data in and find it again; by default OUT/store.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(0, ge=0, le=2**63 - 1)
    threads: int | None = Field(None, ge=1, le=1024)
    processes: int = Field(1, ge=1, le=64)
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$", examples=["cpu", "cuda", "cuda:1"])
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    name: str | None = Field(None, max_length=200)
    tensorboard: bool = False
    store: str | None = None


def contradictions(settings: Settings, parts: Parts) -> Iterator[Fault]:
    """What is wrong between sections that are each right by themselves. Reads no data."""
    yield from _objective(settings, parts)
    yield from _processes(settings, parts)
    for place in range(len(settings.tasks)):
        yield from _training(settings, place)
    yield from _columns(settings)
    yield from _metric(settings)


def _objective(settings: Settings, parts: Parts) -> Iterator[Fault]:
    """The objective must be one that can train the encoder."""
    objective: Any = parts.find("objectives", settings.objective.name)
    try:
        objective.suits(parts.find("encoders", settings.encoder.name))
    except SettingsError as fault:
        yield Fault("objective.name", fault.found, fault.expected, fault.fix)


def _processes(settings: Settings, parts: Parts) -> Iterator[Fault]:
    """Several processes share every batch, which not every loss allows, and want a device each."""
    run: RunSettings = settings.run
    if run.processes == 1:
        return
    if ":" in run.device:
        yield Fault("run.device", f"names one GPU for {run.processes} processes", '"cuda" or "cpu"')
    chosen = (("objectives", settings.objective, "objective.name"), ("methods", settings.tuning, "tuning.method"))
    for kind, part, key in chosen:
        made: Any = parts.find(kind, part.name)
        if made(**part.options).whole_batch:
            found = f"{part.name} compares the users of a batch with each other, and run.processes divides them"
            yield Fault(key, found, fix="run.processes = 1")


def _metric(settings: Settings) -> Iterator[Fault]:
    """The metric that decides must be one, be measured, grow with quality, and fit a task."""
    asked, key = settings.evaluate, "evaluate.metric"
    if asked.metric is None:
        return
    told = METRIC.fullmatch(asked.metric)
    if asked.metric == "log_loss":
        yield Fault(key, "of log_loss less is better, so it cannot decide", METRICS, "it is measured all the same")
    elif told is None:
        yield Fault(key, f"found {asked.metric!r}", METRICS)
    elif told[2] and int(told[2]) not in asked.ks:
        yield Fault(key, f"{asked.metric} is not measured: ks = {asked.ks}", fix="add it to ks")
    elif not any(asked.fits(task.kind) for task in settings.tasks):
        kinds = ", ".join(dict.fromkeys(task.kind for task in settings.tasks))
        yield Fault(key, f"{asked.metric} fits no task: their kinds are {kinds}", METRICS)


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
            other = f"tasks.{seen[name.lower()]}"
            yield Fault(key, f"{name!r} is the name of {other} already", fix="give every task its own name")
        seen.setdefault(name.lower(), place)


def _training(settings: Settings, place: int) -> Iterator[Fault]:
    train = settings.train_for(place)
    key = f"tasks.{place} ({settings.tasks[place].name})"
    if train.max_steps is not None and train.warmup_steps >= train.max_steps:
        yield Fault(key, f"warmup_steps {train.warmup_steps} is not below max_steps {train.max_steps}")
    if settings.split.kind in ("user", "example", "user-each") and settings.split.valid == 0 and train.patience > 0:
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
        if data.users is None and task.answer.startswith("user."):
            yield Fault(f"tasks.{place}.answer", "needs user attributes, and there are none", fix="add [data.users]")
        if data.items_table is None and task.answer.startswith("item."):
            yield Fault(
                f"tasks.{place}.answer", "needs item attributes, and there are none", fix="add [data.items_table]"
            )
