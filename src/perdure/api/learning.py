"""From a recipe to a model: check, prepare, learn.  [reads, writes]"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from perdure import registry
from perdure.api.identity import check_same, identity
from perdure.api.reporting import reported
from perdure.errors import UsageError
from perdure.settings import Settings, from_dict, load

__all__ = ["Check", "Run", "Store", "check", "learn", "prepare"]

Evaluate = Callable[[Any, Any, str], Any]
Recipe = str | Path | Mapping[str, Any]  # a TOML file, or what stands in one
MANY = 0.1  # of the answers of a task: a share that is told
LONG = 2**29  # scores to be looked at: above, it takes some seconds and is told


@dataclass(frozen=True)
class Store:
    """A prepared log: folder, digest, and its data card."""

    folder: str
    digest: str
    users: int
    items: int
    events: int
    card: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Check:
    """What a recipe would do.

    Attributes:
        tasks: per task name, kind, users and examples of each part, labels, trainable parameters, bytes, notes.
        parameters: of the backbone. memory: bytes training needs, roughly.
        settings: the whole effective settings.
    """

    recipe: str
    users: int
    items: int
    events: int
    encoder: str
    method: str
    parameters: int
    memory: int
    tasks: list[dict[str, Any]] = field(repr=False)
    notes: list[str]
    settings: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Run:
    """What a run gave.

    Attributes:
        folder, model: the run's folder and its model folder. report: the page, None where the report extra is missing.
        tasks: in the order learned. metrics: task -> name of its measure. protocols: task -> how it was measured:
            "full ranking", "all classes", or "sampled: ...", which must not be compared with the others.
        matrix: R[t][k], the measure of task k after learning task t.
        scores: task -> its measure after the last task. popularity: task -> what is reached by answering everybody with
            what is popular in training; None where nothing is ranked.
        average, forgetting, backward_transfer: of the matrix.
        costs: per task: seconds, epochs, trainable parameters, bytes; capacity left, where the method has one.
        notes: what is allowed, and perhaps not meant, such as a leak. seconds: of the whole call.
    """

    folder: str
    model: str
    report: str | None
    tasks: list[str]
    metrics: dict[str, str]
    protocols: dict[str, str]
    matrix: list[list[float]] = field(repr=False)
    scores: dict[str, float]
    popularity: dict[str, float | None]
    average: float
    forgetting: float
    backward_transfer: float
    costs: list[dict[str, Any]] = field(repr=False)
    notes: list[str]
    seconds: float


def settings_in(recipe: Recipe, overrides: Sequence[str]) -> Settings:
    """What a recipe and its overrides say, checked."""
    if isinstance(recipe, Mapping):
        return from_dict(recipe, overrides, parts=registry)
    return load(recipe, overrides, parts=registry)


def prepare(recipe: Recipe, out: str | Path, *, overrides: Sequence[str] = (), show: Any = None) -> Store:
    """Turn the log that a recipe names into a store: sorted, memory-mapped, immutable.

    Args:
        recipe, overrides: as in `learn`.
        out: the store's folder; one with the same settings and sources is used as it is.
        show: what tells the progress, as in `learn`.

    Raises:
        SettingsError, DataError, MachineError.
    """
    made = prepared(settings_in(recipe, overrides), Path(out), show)
    return Store(str(Path(out)), made.digest, made.n_users, made.n_items, made.n_events, dict(made.card))


def prepared(settings: Settings, folder: Path, show: Any = None) -> Any:
    """Events of the store in `folder`, made now if it is not there. Events later than now are set aside."""
    from perdure.events import sequences
    from perdure.training.display import phase_of

    return sequences.prepare(settings.data, folder, now=time.time(), told=phase_of(show))


def check(recipe: Recipe, *, overrides: Sequence[str] = (), show: Any = None) -> Check:
    """Try everything but the training: settings, files, columns, filters, tasks, memory, leaks between what is asked
    and what is trained on. Writes nothing that stays.

    Args:
        recipe, overrides, show: as in `learn`.

    Raises:
        SettingsError, DataError, ModelError: of what [pretrain] names. MachineError.
    """
    from perdure.api import plan, start

    settings = settings_in(recipe, overrides)
    plan.check_machine(settings)
    with tempfile.TemporaryDirectory(prefix="perdure-check-") as temporary, plan.threads(settings) as notes:
        folder = Path(settings.run.store) if settings.run.store else Path(temporary) / "store"
        if settings.run.store and not folder.exists():
            folder = Path(temporary) / "store"
        events = prepared(settings, folder, show)
        datas = plan.tasks_of(settings, events)
        plan.refuse_untested(settings, datas)
        labels = {name: len(data.labels) for name, data in datas.items()}
        memory = plan.check_memory(settings, events.n_items, labels)
        start.begin(settings, events, datas, notes)
        backbone, sizes = plan.sizes(settings, events.item_ids, datas)
        leaks, noted = _audited(events, datas)
        notes += [*settings.notes, *_warnings(settings, events, datas), *_idle(sizes), *leaks, *noted]
        told = []
        for name, data in datas.items():
            counts = {part: len(data.part(part)) for part in ("train", "valid", "test")}
            about = {"name": name, "kind": data.task.kind, **counts, "labels": len(data.labels)}
            told.append({**about, **sizes[name], "notes": data.notes})
        return Check(
            settings.file, events.n_users, events.n_items, events.n_events, settings.encoder.name, settings.tuning.name,
            backbone, memory, told, notes, settings.as_dict(),
        )  # fmt: skip


def _audited(events: Any, datas: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the audit finds of what is asked in what is trained on: leaks, which `perdure compare` refuses; notes."""
    from perdure.evaluation.leakage import audit, mend

    found = audit(events, datas)
    leaks = [one for one in found if one.severity == "leak"]
    told = [f"leak: {one.text}; to mend it: {mend([one])}" for one in leaks]
    return told, [one.text for one in found if one.severity != "leak"]


def _warnings(settings: Settings, events: Any, datas: Mapping[str, Any]) -> list[str]:
    """What is allowed, and perhaps not meant."""
    aside = events.card["quarantined"]
    received, reasons = events.card["books"]["received"], ", ".join(f"{why} {n:,}" for why, n in aside.items())
    notes = [f"{sum(aside.values()):,} of {received:,} rows are set aside: {reasons}"] if aside else []
    notes += _strangers(settings, events, next(iter(datas.values())).profiles)
    for place, (name, data) in enumerate(datas.items()):
        if len(data.labels) == 1:
            notes.append(
                f"task {name}: there is one answer only in training, {data.labels.series[0]!r}, so every model tells it"
            )
        if data.notes.get("several"):
            found = f"{data.notes['several']:,} users have several classes, of which the first counts"
            notes.append(f'task {name}: {found}; of kind "item" all do')
        batch = settings.train_for(place).batch_size
        if batch > len(data.train):
            notes.append(f"task {name}: batch_size {batch} is more than its {len(data.train)} training examples")
        most = max(settings.evaluate.ks)
        if data.task.kind != "one_of" and most > len(data.labels):
            notes.append(f"task {name}: evaluate.ks has {most}, and there are {len(data.labels)} answers")
        if not len(data.valid):
            notes.append(f"task {name}: no valid users")
        strange, asked = data.notes["answers_outside_labels"]["test"], data.notes["answers"]["test"]
        if strange > MANY * asked:
            notes.append(f"task {name}: {strange} of {asked} test answers were never met in training: misses, always")
    return notes


def _idle(sizes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A note for each task of which no weight is trained."""
    idle = [name for name, size in sizes.items() if not size["trainable"]]
    told = "nothing is trained, as its head is the item table, which is frozen; objective.tied = false gives it its own"
    return [f"task {name}: {told}" for name in idle]


def _strangers(settings: Settings, events: Any, profiles: Any) -> list[str]:
    """Tables named in the settings that tell of few in the log, and profiles of which little is known."""
    notes = []
    for role, table, n in (("user", "users", events.n_users), ("item", "items_table", events.n_items)):
        gone = events.card.get(f"{role}_unknown", 0)
        if gone > MANY * n and getattr(settings.data, table) is not None:
            notes.append(f"{gone:,} of {n:,} {role}s are not in data.{table}")
    if profiles is not None:
        gone = int((~profiles.known()).sum())
        if gone > MANY * len(profiles):
            notes.append(f"[profile]: nothing is known of {gone:,} of {len(profiles):,} users")
        empty = [name for place, name in enumerate(profiles.fields.values) if not profiles.rows[:, place].any()]
        notes += [f"[profile]: no user has a value of {', '.join(empty)}"] if empty and gone < len(profiles) else []
    return notes


def learn(
    recipe: Recipe,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    resume: Literal["never", "auto", "must"] = "never",
    show: Any = None,
) -> Run:
    """Prepare the log, learn all tasks one after the other, measure all of them after each, save, write the report.

    Args:
        recipe: a TOML file, or the same as nested dicts, whose paths count from the working folder.
        out: the run's folder: new or empty, or with `resume` one where a run stands.
        overrides: each "section.key=value", as with -s on the command line.
        resume: "auto" goes on where a run was stopped and begins one where there is none; "must" refuses to begin.
        show: what tells the progress: a `Display()` of `perdure.training.display`, or anything with its step, epoch and
            row; its phase is told of long work besides the steps, and its say of leaks before the first step, where
            it has them. Without one nothing is printed.

    Raises:
        SettingsError, DataError, MachineError, UsageError: the folder is not empty, or there is nothing to resume.
        RunLocked: another process writes there. Interrupted: a signal came; all is saved.
    """
    return run(settings_in(recipe, overrides), out, resume=resume, show=show)


def run(
    settings: Settings,
    out: str | Path,
    *,
    resume: Literal["never", "auto", "must"] = "never",
    show: Any = None,
    expected: tuple[str, ...] = (),
    measure: Callable[[Evaluate], Evaluate] | None = None,
    started: Callable[[Any, Mapping[str, Any]], None] | None = None,
    page: bool = True,
) -> Run:
    """`learn` with settings in hand.

    Args:
        expected: names the folder may hold before the run begins.
        measure: wraps the function that measures a model on a task.
        started: told events and task data before the first step.
        page: write the report.
    """
    from perdure.api import followers, plan, start, vectors
    from perdure.training.display import check_show, say_of
    from perdure.training.runlog import RunLog

    began, out = time.monotonic(), Path(out)
    check_show(show)
    if resume not in ("never", "auto", "must"):
        raise UsageError(f"resume = {resume!r}", expected='"never", "auto" or "must"', where="resume")
    plan.check_machine(settings)
    with plan.threads(settings) as notes:
        held = ("store", vectors.COPY, *expected)
        notes += [*settings.notes, *_begins(out, settings, resume, held)]
        settings = vectors.keep(settings, out)
        events = prepared(settings, Path(settings.run.store or out / "store"), show)
        datas = plan.tasks_of(settings, events)
        plan.refuse_untested(settings, datas)
        leaks = _audited(events, datas)[0] if page else []
        for leak in leaks:  # before hours of training, not only after them
            say_of(show)(leak)
        notes += [*_warnings(settings, events, datas), *leaks]
        plan.check_memory(settings, events.n_items, {name: len(data.labels) for name, data in datas.items()})
        _, sizes = plan.sizes(settings, events.item_ids, datas)  # a task that cannot be added is refused here
        notes += _idle(sizes)
        model = start.begin(settings, events, datas, notes)
        if started is not None:
            started(events, datas)
        told, board = identity(settings, events), settings.run.tensorboard
        with RunLog(out, told, resume=resume, expected=held, tensorboard=board) as log:
            if not log.resuming:
                for note in notes:
                    log.log("warning", text=note)
            with followers.together(settings, events.folder, log) as processes:
                learned = live(settings, datas, model, log, processes, measure, show, sizes)
            notes += log.notes
    written = reported(out, notes) if page else None
    return _told(out, learned, written, notes, time.monotonic() - began)


def live(
    settings: Settings,
    datas: Mapping[str, Any],
    model: Any,
    log: Any,
    processes: Any,
    measure: Callable[[Evaluate], Evaluate] | None = None,
    show: Any = None,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> Any:
    """The life of a model as the settings have it, in one of the processes that train it; see `lifelong.learn`."""
    from perdure.training import lifelong
    from perdure.training.loop import make_fabric

    evaluate = evaluator(settings, show)
    return lifelong.learn(
        model,
        datas,
        list(datas),
        {name: settings.train_for(place) for place, name in enumerate(datas)},
        log,
        sizes=sizes,
        seed=settings.run.seed,
        fabric=make_fabric(settings.run.device, settings.run.precision, processes.number),
        evaluate=measure(evaluate) if measure else evaluate,
        compiled=settings.run.compile,
        show=show,
        processes=processes,
    )


def _begins(out: Path, settings: Settings, resume: str, expected: tuple[str, ...]) -> list[str]:
    """Refuse a folder that cannot be used before any data is read; RunLog asks again when it has its lock. Notes."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", expected="a new or empty folder", where="out")
    names = sorted(path.name for path in out.iterdir()) if out.exists() else []
    held = [n for n in names if n not in (*expected, "lock") and not n.startswith(".")]  # leftovers are swept
    if "run.json" in held:
        if resume == "never":
            raise UsageError(
                "there is a run here already",
                where=str(out),
                fix='resume="auto" continues it; a new run needs another folder',
            )
        check_same(out, settings)
        return []
    if resume == "must":
        raise UsageError("there is no run to resume here", where=str(out), fix='resume="auto" begins one')
    if held:
        found = f"the folder is not empty: {', '.join(held[:5])}"
        raise UsageError(found, expected="a new or empty folder", where=str(out))
    return ["there was no run to resume: this one begins"] if resume == "auto" else []


def evaluator(settings: Settings, show: Any = None) -> Evaluate:
    """`evaluate` with the recipe's [evaluate]; what popularity reaches on the test users is measured once a task."""
    from perdure.evaluation.evaluate import Score, evaluate
    from perdure.training.display import phase_of

    asked, first = settings.evaluate, dict[str, Score]()

    def measure(model: Any, data: Any, split: str) -> Any:
        metric, name = asked.metric if asked.fits(data.task.kind) else None, data.task.name
        long = len(data.part(split)) * len(data.labels) >= LONG
        how: Any = {"ks": asked.ks, "seen": asked.seen, "sampled": asked.drawn, "metric": metric}
        how["told"] = phase_of(show if long else None)
        score = evaluate(model, data, split, **how, popularity=split == "test" and name not in first)
        return replace(score, popularity=first.setdefault(name, score).popularity) if split == "test" else score

    return measure


def _told(out: Path, learned: Any, page: str | None, notes: list[str], seconds: float) -> Run:
    matrix = learned.matrix
    return Run(
        folder=str(out),
        model=str(out / "model"),
        report=page,
        tasks=list(matrix.tasks),
        metrics=dict(matrix.metrics),
        protocols=dict(matrix.protocols),
        matrix=[list(row) for row in matrix.rows],
        scores=dict(zip(matrix.tasks, matrix.rows[-1], strict=True)),
        popularity={score["task"]: score.get("popularity") for score in learned.scores},
        average=matrix.average(),
        forgetting=matrix.forgetting(),
        backward_transfer=matrix.backward_transfer(),
        costs=list(learned.costs),
        notes=notes,
        seconds=round(seconds, 3),
    )
