"""What a run will be before it runs: the model with all its tasks, its size, whether this machine holds it.  [reads]"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from perdure import registry
from perdure.errors import MachineError, SettingsError
from perdure.events.examples import TaskData
from perdure.events.friends import read_friends
from perdure.events.ids import Ids
from perdure.events.marks import marked, marked_as
from perdure.events.profiles import profiles_of
from perdure.events.sequences import Events
from perdure.events.tasks import compile_tasks
from perdure.model import store
from perdure.model.user_model import UserModel
from perdure.settings import Settings
from perdure.training import cards, runlog
from perdure.training.life import seed_of
from perdure.tuning.base import method_of

__all__ = ["check_machine", "estimate", "fresh", "sizes", "tasks_of", "threads"]

GROUP = Path("/sys/fs/cgroup")  # of this process, as it sees it


@contextmanager
def threads(settings: Settings) -> Iterator[list[str]]:
    """Set torch's threads for a run and put them back; gives the warnings to tell."""
    before, wanted, cores = torch.get_num_threads(), settings.run.threads, os.cpu_count() or 1
    count = settings.run.processes
    notes = []
    if wanted is None and count > 1:
        wanted = max(1, before // count)
    if wanted is not None and wanted * count > cores:
        what = f"run.threads = {wanted}" + (f" in each of {count} processes" if count > 1 else "")
        notes.append(f"{what}, and this machine has {cores} cores: expect it to be slower, not faster")
    if wanted is not None:
        torch.set_num_threads(wanted)
    try:
        yield notes
    finally:
        torch.set_num_threads(before)


def check_machine(settings: Settings) -> None:
    """Refuse a device that is not there, and TensorBoard where it is not installed.

    Raises:
        SettingsError: listing the devices there are.
    """
    if settings.run.tensorboard:
        runlog.summary_writer()
    kind, _, number = settings.run.device.partition(":")
    last = int(number or settings.run.processes - 1) if kind == "cuda" else 0  # each process has a GPU of its own
    if kind == "cuda" and last >= torch.cuda.device_count():
        have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        missing = f"cuda:{last}" if last else settings.run.device
        raise SettingsError(f"run.device: there is no {missing}", expected=f"one of {have}", where=settings.file)


def estimate(settings: Settings, n_items: int, labels: Mapping[str, int]) -> int:
    """Bytes that training will need at most, roughly (within a factor of two): weights, gradients, two moments of each,
    copies of the best state, and the states and scores of the largest batch."""
    with torch.device("meta"):
        encoder = registry.find("encoders", settings.encoder.name)(n_items, **settings.encoder.options)
    backbone = sum(p.numel() for p in encoder.parameters())
    layers, width, length = len(encoder.sites()), encoder.width, encoder.max_length
    heads = sum(count * (width + 1) for count in labels.values())
    twins = len(settings.tasks) if settings.tuning.name == "single" else 1  # a whole model per task
    weights = 4 * (backbone * (twins + 4) + heads * 5)
    batch = max(settings.train_for(place).batch_size for place in range(len(settings.tasks)))
    states = 4 * batch * length * width * (3 * layers + 4)
    return weights + states


def check_memory(settings: Settings, n_items: int, labels: Mapping[str, int]) -> int:
    """The estimate, when this machine has as much left.

    Raises:
        MachineError: with need and have.
    """
    need = estimate(settings, n_items, labels) * settings.run.processes
    have = memory_free()
    if settings.run.device == "cpu" and have is not None and need > have:
        raise MachineError(
            f"training needs about {need / 2**20:,.0f} MiB of memory, {have / 2**20:,.0f} MiB are free",
            where="[encoder], [train] batch_size",
            fix="make width, max_length or batch_size smaller",
        )
    return need


def memory_free(group: Path = GROUP) -> int | None:
    """Bytes of memory this process may still take: what the system has, and what its group's limit leaves. Pages of
    files that were not read again lately count as free: the group gives them up first."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        limit, used = (group / "memory.max").read_text().strip(), int((group / "memory.current").read_text())
        told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found += [max(int(limit) - used + int(told.get("inactive_file", 0)), 0)] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def tasks_of(
    settings: Settings, events: Events, names: Sequence[str] | None = None, model: UserModel | None = None
) -> dict[str, TaskData]:
    """The tasks made ready, all or some of them, with the profiles of users and the marks of events where the settings
    ask for them; or with those marks that a model reads."""
    chosen = [task for task in settings.tasks if names is None or task.name in names]
    datas = compile_tasks(events, chosen, settings.history, settings.split)
    profiles = profiles_of(events, settings.profile.fields, settings.profile.vectors)
    if model is None:
        told = settings.input
        marks = marked(events, told.events, told.items, told.dates, told.gaps, told.vectors, told.ids, told.join)
    else:
        marks = None if model.marks is None else marked_as(events, model.marks)
    if not datas:
        return {}
    shared = next(iter(datas.values())).sequences  # of all tasks
    shared = shared if marks is None else shared.with_marks(marks)
    given = settings.profile.friends if names is None else None  # some tasks alone are asked for, not learned
    friends = read_friends(given.path, given.user, given.friend, events.user_ids) if given else None
    return {name: replace(data, profiles=profiles, friends=friends, sequences=shared) for name, data in datas.items()}


def refuse_untested(settings: Settings, datas: Mapping[str, TaskData]) -> None:
    """DataError where a task has nobody to be tested on, with what this kind of split can do about it."""
    ways = {"last": "a smaller [split] last", "time": "another [split] test_from"}
    fix = ways.get(settings.split.kind, "give [split] test a larger share") + ", or users with longer histories"
    cards.refuse_untested(datas, datas, settings.file or "tasks", fix)


def fresh(settings: Settings, item_ids: Ids, datas: Mapping[str, TaskData] | None = None) -> UserModel:
    """The model before its first task, its backbone drawn from the run's seed; it reads the profiles and marks that go
    with the data."""
    data = next(iter(datas.values())) if datas else None
    generator = torch.Generator().manual_seed(seed_of(settings.run.seed, "backbone"))
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator before `generator` does
        fields = None if data is None or data.profiles is None else data.profiles.fields
        marks = None if data is None or data.sequences.marks is None else data.sequences.marks.marks
        return store.build(settings.spec(), item_ids, registry.find, generator, fields, marks)


@torch.random.fork_rng(devices=[])  # heads and overlays draw from the global generator, too
def sizes(settings: Settings, item_ids: Ids, datas: Mapping[str, TaskData]) -> tuple[int, dict[str, dict[str, int]]]:
    """Parameters of the backbone, and per task: trainable parameters and bytes of the files it adds, those of
    the method with it.

    Raises:
        SettingsError, DataError: objective or method cannot learn a task.
    """
    model, told, before = fresh(settings, item_ids, datas), {}, 0
    for part, what in ((model.backbone, "encoder"), (model.objective, "objective")):
        if part.reads_times and any(data.sequences.times is None for data in datas.values()):
            raise SettingsError(f"{what} {part.name} reads times, and the log has none", where=f"[{what}]",
                                expected="a log with times, or options that read none",
                                fix="name the column of times: [data] columns.time")  # fmt: skip
    backbone = sum(p.numel() for p in model.backbone.parameters())
    for name, data in datas.items():
        card, method = cards.card_of(data), method_of(model)
        if card.kind == "next_item":
            model.objective.prepare(torch.from_numpy(card.popularity), data)
        model.add(card, torch.Generator())
        trained = {p for stage in method.stages for p in method.trains(model, name, stage)}
        model.settle(name)
        own, stored = store.sizes(model, name)
        told[name] = {"trainable": sum(p.numel() for p in trained), "bytes": own + stored - before}
        before = stored
    return backbone, told
