"""The frozen-representation judge: what user vectors that stand still tell of the users.          [reads, writes]

Not to be confused with the probes of a run, digests of its answers. Here a head on frozen vectors is solved for every
downstream task, for the vectors of

    popularity          nothing at all: the most popular labels, the majority
    profile             the fields of the recipe's [profile], without the one a task asks for
    <model>, untrained  its encoder as it was before its first step: what training gave is what lies above
    <model>             its plain backbone
    <model>, fine-tuned the whole model trained on the task, when asked: no frozen vectors, what they are held against

All heads of one repeat see the same labelled users, all are judged on the same test users of the recipe's partition.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perdure.api.frozen_vectors import Opened, Vectors, opened, profiled, represented, untrained
from perdure.errors import SettingsError, UsageError, shorten
from perdure.events.splits import PARTS
from perdure.settings import Settings

if TYPE_CHECKING:
    from perdure.api.learning import Recipe
    from perdure.model.user_model import UserModel

__all__ = ["Probe", "probe"]

ROWS = ("popularity", "profile")  # of the table, that belong to no model
OTHERS = ("accuracy", "macro_f1", "auc", "log_loss", "hr@10", "ndcg@10")  # measures that the page tells, if there


@dataclass(frozen=True)
class Probe:
    """What the vectors were worth.

    Attributes:
        recipe, head, repeats, labelled: as asked.
        models: per model: name, folder, digest, encoder, objective, width, and the tasks it has learned.
        rows: per task and representation: task, kind, representation, metric, mean with low and high (95 %: the test
            users and the repeats drawn anew), values (measure -> mean over repeats), spread (standard deviation of the
            repeats), width, labelled (users), n (test users), strengths (of the penalty) and losses (of the validation
            users), one a repeat, None where nothing was frozen.
        notes: what a reader must know. folder: where it is written, None if nowhere.
    """

    recipe: str
    head: str
    repeats: int
    labelled: float
    models: list[dict[str, Any]] = field(repr=False)
    rows: list[dict[str, Any]] = field(repr=False)
    notes: list[str]
    folder: str | None
    seconds: float


def probe(
    models: Sequence[UserModel | str | Path],
    recipe: Recipe,
    *,
    task: str | None = None,
    head: Literal["linear", "mlp"] = "linear",
    repeats: int = 5,
    labelled: float = 0.8,
    finetune: bool = False,
    overrides: Sequence[str] = (),
    store: str | Path | None = None,
    out: str | Path | None = None,
) -> Probe:
    """Judge the frozen user vectors of models by the downstream tasks of a recipe, side by side.

    Args:
        models: what `load` gave, model folders, or run folders that hold one; of the log, [history] and [split] of the
            recipe.
        recipe: a TOML file, or the same as nested dicts; its tasks are those judged, next_item tasks left out.
        task: one of them; all by default.
        head: "linear", or "mlp" with one hidden layer.
        repeats: 1 or more; each draws anew which training users have labels, and the first weights of an mlp.
        labelled: share of the training users whose answers the heads see, above 0 to 1.
        finetune: also train each whole model on each task, with the recipe's [train], once a repeat. Takes its time.
        store: the prepared log, where the recipe's is not to be prepared anew.
        out: a new or empty folder for probe.json and probe.md.

    Raises:
        UsageError: no model, no such task, numbers out of range.
        DataError: the model learned from another log; nobody to learn from.
        SettingsError: another [history] or [split] than the model's, a split that shares users between parts, or a
            task that asks for what a model was trained to tell.
        ModelError, MachineError.
    """
    from perdure.api import plan
    from perdure.api.learning import settings_in

    began = time.monotonic()
    _check(models, head, repeats, labelled)
    folder, settings = _empty(out), settings_in(recipe, overrides)
    with plan.threads(settings) as notes, tempfile.TemporaryDirectory(prefix="perdure-probe-") as temporary:
        events = _events(settings, store, Path(temporary))
        names = _downstream(settings, task)
        judged = [
            opened(model, label, settings, events, names) for label, model in zip(_labels(models), models, strict=True)
        ]
        trial = _Trial(settings, events, plan.tasks_of(settings, events, names), head, repeats, labelled)
        notes += [note for one in judged for note in one.notes]
        rows = trial.rows(judged, Path(temporary) if finetune else None)
    told = Probe(
        recipe=settings.file,
        head=head,
        repeats=repeats,
        labelled=labelled,
        models=[one.card() for one in judged],
        rows=rows,
        notes=notes,
        folder=None if folder is None else str(folder),
        seconds=round(time.monotonic() - began, 3),
    )
    if folder is not None:
        _write(folder, told)
    return told


# -- what is asked, and whether it may be ------------------------------------------------------------------------------


def _check(models: Sequence[Any], head: str, repeats: int, labelled: float) -> None:
    if isinstance(models, str) or not isinstance(models, Sequence) or not models:
        found = f"models = {shorten(repr(models))}" if models else "no model is named"
        raise UsageError(found, expected="a list of model folders, one or more, before the recipe", where="MODEL")
    if head not in ("linear", "mlp"):
        raise UsageError(f"head = {head!r}", expected="linear or mlp", where="head")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or not 1 <= repeats <= 1000:
        raise UsageError(f"repeats = {repeats!r}", expected="1 to 1000", where="repeats")
    if not 0 < labelled <= 1:
        raise UsageError(f"labelled = {labelled!r}", expected="a share above 0, at most 1", where="labelled")


def _empty(out: str | Path | None) -> Path | None:
    """The folder to write to, made or refused before anything is computed."""
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder", expected="a new or empty folder", where="out")
    from perdure.model.disk import DISK, machine_faults

    with machine_faults(folder):
        DISK.make_folder(folder)
    return folder


def _events(settings: Settings, store: str | Path | None, temporary: Path) -> Any:
    """The log of the recipe."""
    from perdure.api.learning import prepared
    from perdure.events import sequences

    if store is not None:
        return sequences.load(Path(store))
    return prepared(settings, Path(settings.run.store) if settings.run.store else temporary / "store")


def _downstream(settings: Settings, task: str | None) -> list[str]:
    """Names of the tasks to judge by."""
    if settings.split.kind in ("example", "user-each"):
        raise SettingsError(
            f'split.kind = "{settings.split.kind}" gives each task test users of its own',
            expected='"user", "last" or "time"',
            where=settings.file,
            fix="who is test in one task would have trained the backbone in another",
        )
    names = [one.name for one in settings.tasks if one.kind != "next_item"]
    if not names or (task is not None and task not in names):
        found = f"no such task {shorten(repr(task))}"
        if not names:
            found = "the recipe has no task of kind item or one_of"
        elif task in {one.name for one in settings.tasks}:
            found = f"task {shorten(repr(task))} is of kind next_item, and heads are solved for item and one_of"
        raise UsageError(found, expected="one of " + ", ".join(names) if names else "one or more", where="task")
    return names if task is None else [task]


def _labels(models: Sequence[Any]) -> list[str]:
    """A short name for each model: its run folder's; its path where two are alike, or a row has the name already."""
    paths = [Path(getattr(model, "folder", None) or (model if isinstance(model, str | Path) else f"model {at + 1}"))
             for at, model in enumerate(models)]  # fmt: skip
    names = [(path.absolute().parent if path.name == "model" else path.absolute()).name for path in paths]
    taken = [*names, *ROWS]
    return [name if taken.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


# -- repeats -----------------------------------------------------------------------------------------------------------


class _Trial:
    """Heads on all vectors for all tasks, repeat by repeat, on the same users."""

    def __init__(
        self, settings: Settings, events: Any, datas: Mapping[str, Any], head: str, repeats: int, labelled: float
    ) -> None:
        from perdure.training.cards import card_of

        self.settings, self.events, self.datas, self.head, self.repeats = settings, events, datas, head, repeats
        self.cards = {name: card_of(data) for name, data in datas.items()}
        self.labelled = [self._drawn(repeat, labelled) for repeat in range(repeats)]

    def _drawn(self, repeat: int, share: float) -> np.ndarray:
        """(U,) bool: who has labels in a repeat, in all tasks."""
        from perdure.training.life import seed_of

        rng = np.random.default_rng(seed_of(self.settings.run.seed, "labelled", str(repeat)))
        return rng.permutation(self.events.n_users) < share * self.events.n_users

    def rows(self, judged: Sequence[Opened], scratch: Path | None) -> list[dict[str, Any]]:
        """The table, task by task."""
        import torch

        nothing = {
            (name, part): torch.zeros(len(data.part(part)), 0) for name, data in self.datas.items() for part in PARTS
        }
        vectors: dict[str, Vectors] = dict(zip(ROWS, (nothing, profiled(self.datas)), strict=True))
        drawn: dict[str, str] = {}  # an encoder and its seed -> whose untrained vectors stand for all that share them
        for one in judged:
            key = json.dumps([one.model.spec["encoder"], one.settings.run.seed, repr(one.settings.input)])
            if drawn.setdefault(key, one.name) == one.name:
                vectors[f"{one.name}, untrained"] = represented(untrained(one), one.datas)
            vectors[one.name] = represented(one.model, one.datas)
        found = []
        for name in self.datas:
            scores = {label: self._solved(name, held) for label, held in vectors.items() if (name, "test") in held}
            if scratch is not None:
                tuned = {f"{one.name}, fine-tuned": self._tuned(name, one, scratch) for one in judged}
                scores |= tuned
            found += self._told(name, scores)
        return found

    def _solved(self, name: str, held: Vectors) -> list[tuple[Any, dict[str, Any]]]:
        """Score and facts of every repeat. The strength of the penalty is chosen in the first."""
        import torch

        from perdure.evaluation.vectors import Judged, judge, solve
        from perdure.training.life import seed_of

        data, card, asked = self.datas[name], self.cards[name], self.settings.evaluate
        metric = asked.metric if asked.fits(data.task.kind) else None
        strength: float | None = None
        told = []
        for repeat in range(self.repeats):
            rows = np.flatnonzero(self.labelled[repeat][data.train.users])
            train = Judged.of(held[name, "train"][torch.from_numpy(rows)], data.train.of(rows))
            valid = Judged.of(held[name, "valid"], data.valid)
            rng = torch.Generator().manual_seed(seed_of(self.settings.run.seed, name, "head", str(repeat)))
            head = solve(train, valid, len(card.labels), rng, kind=self.head, strength=strength)  # type: ignore[arg-type]
            strength = head.strength
            score = judge(
                head, held[name, "test"], data, card, self.events.n_items, ks=asked.ks, seen=asked.seen, metric=metric
            )
            facts = {"width": train.x.shape[1], "labelled": len(rows), "strength": head.strength, "loss": head.loss}
            told.append((score, facts))
        return told

    def _tuned(self, name: str, one: Opened, scratch: Path) -> list[tuple[Any, dict[str, Any]]]:
        """The whole model trained on the labelled users of each repeat."""
        from perdure.api.finetuned import finetuned

        told = []
        for repeat, drawn in enumerate(self.labelled):
            folder = scratch / "tuned" / str(len(list((scratch / "tuned").glob("*"))))
            score = finetuned(one.model, self.settings, self.events, name, drawn, repeat, folder)
            facts = {"width": one.model.backbone.width, "labelled": int(drawn[self.datas[name].train.users].sum())}
            told.append((score, {**facts, "strength": None, "loss": None}))
        return told

    def _told(self, name: str, scores: Mapping[str, Sequence[tuple[Any, dict[str, Any]]]]) -> list[dict[str, Any]]:
        """Means over repeats, and intervals: test users and repeats drawn anew, the same for all."""
        from perdure.evaluation.comparison import SCORES, Reached, resample, spread

        first = next(iter(scores.values()))[0][0]
        seeds = tuple(range(self.repeats))
        told, draws = [], {}
        if first.primary in first.per_user:
            reached = {
                label: Reached(
                    seeds, (np.stack([s.per_user[s.primary] for s, _ in all_of]),), (first.users.astype(np.int64),)
                )
                for label, all_of in scores.items()
            }
            draws = {label: one.drawn()[:, 0] for label, one in resample(reached).items()}
        for label, all_of in scores.items():
            values = [score.value for score, _ in all_of]
            facts = [fact for _, fact in all_of]
            told.append(
                {
                    "task": name,
                    "kind": self.cards[name].kind,
                    "representation": label,
                    "metric": all_of[0][0].primary,
                    **spread(float(np.mean(values)), draws.get(label), within=SCORES),
                    "values": {m: float(np.mean([s.values[m] for s, _ in all_of])) for m in all_of[0][0].values},
                    "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "width": facts[0]["width"],
                    "labelled": facts[0]["labelled"],
                    "n": all_of[0][0].n,
                    "strengths": [fact["strength"] for fact in facts],
                    "losses": [fact["loss"] for fact in facts],
                    "protocol": all_of[0][0].protocol,
                    "notes": list(all_of[0][0].notes),
                }
            )
        return told


# -- what is written ---------------------------------------------------------------------------------------------------


def _write(folder: Path, told: Probe) -> None:
    """probe.json with everything, probe.md with the table."""
    from perdure.model.disk import DISK, machine_faults
    from perdure.model.files import render, write_file
    from perdure.training.life import as_json

    with machine_faults(folder):
        write_file(folder / "probe.json", render(as_json(dataclasses.asdict(told))), DISK)
        write_file(folder / "probe.md", markdown(told).encode(), DISK)


def markdown(told: Probe) -> str:
    """The table for people, a row for each representation, the best of each task in bold."""
    lines = [
        f"# Frozen user vectors, judged by {Path(told.recipe).name or 'a recipe'}",
        "",
        f"Head: {told.head}, on vectors that stand still; {told.repeats} repeats, each with labels of"
        f" {told.labelled:.0%} of the training users. In brackets 95 % intervals over test users and repeats.",
        "",
        "| task | measure | vectors | width | mean | other measures |",
        "|---|---|---|---|---|---|",
    ]
    for row in told.rows:
        best = max(one["mean"] for one in told.rows if one["task"] == row["task"])
        value = f"{row['mean']:.4f}" if row["mean"] < best else f"**{row['mean']:.4f}**"
        if row["low"] is not None:
            value += f" [{row['low']:.4f}, {row['high']:.4f}]"
        others = ", ".join(f"{name} {row['values'][name]:.4f}" for name in OTHERS if name in row["values"])
        lines.append(
            f"| {row['task']} | {row['metric']} | {row['representation']} | {row['width']} | {value} | {others} |"
        )
    return "\n".join([*lines, "", *[f"- {note}" for note in told.notes]]).rstrip() + "\n"
