"""What is compared, cell by cell, and the settings of each.

cell        an encoder, a method, an order of tasks, a protocol and a seed: an ordinary run in a folder of its own
backbone    the first task alone, learned once for an encoder, a protocol and a seed; every method that does not
            learn its first task in a way of its own starts from it

forward     the tasks as the recipe has them
reversed    the first task first, then the others from the last to the second
noisy       forward, with a task of random labels between the third and the fourth (of two or three: before the last)

clean       the split of the recipe
as-coded    divided by example and seen items kept, as the official code of CONURE and TERACON does; it leaks
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure import registry
from perdure.errors import UsageError, shorten
from perdure.settings import Settings, from_dict, streams, toml, tuned

__all__ = ["ORDERS", "PROTOCOLS", "Cell", "Plan", "fold_of", "shares"]

ORDERS = ("forward", "reversed", "noisy")
PROTOCOLS: dict[str, tuple[str, ...]] = {
    "clean": (),
    "as-coded": ("split.kind=example", "evaluate.seen=keep"),
    "user-each": ("split.kind=user-each", "evaluate.seen=keep"),
}
FIRST = "first"  # the order of a backbone: the first task alone
BASE = "frozen"  # the method of a backbone; on the first task it is like every other
OWN = ("compare", "search")  # sections that are no part of a run


@dataclass(frozen=True)
class Cell:
    """One run of a comparison. Encoder and method are names, or the recipe's names of variants."""

    encoder: str
    method: str
    order: str
    protocol: str
    seed: int

    @property
    def folder(self) -> str:
        """Where it stands, from the comparison's folder."""
        other = [] if self.protocol == "clean" else [self.protocol]
        if self.order == FIRST:
            return "backbones/" + "-".join([self.encoder, str(self.seed), *other])
        return "/".join(["runs", self.encoder, self.method, self.order, *other, str(self.seed)])

    @property
    def name(self) -> str:
        """In words, for a person."""
        other = [] if self.protocol == "clean" else [self.protocol]
        what = ["backbone"] if self.order == FIRST else [self.method, self.order]
        return " ".join([self.encoder, *what, *other, f"seed {self.seed}"])

    @property
    def backbone(self) -> Cell:
        """The cell that learns the first task for this one."""
        return replace(self, method=BASE, order=FIRST)


@dataclass(frozen=True)
class Plan:
    """A recipe, and where its comparison stands.

    Attributes:
        settings: of the recipe as it is.
        tables: the recipe without the sections of OWN. overrides: with tasks by name, without those of OWN.
        out: the comparison's folder, absolute.
    """

    settings: Settings
    tables: dict[str, Any]
    overrides: tuple[str, ...]
    out: Path

    @classmethod
    def read(cls, recipe: str | Path | Mapping[str, Any], overrides: Sequence[str], out: Path) -> Plan:
        """A recipe and overrides, checked.

        Raises:
            SettingsError: as `settings.load`.
        """
        if isinstance(recipe, Mapping):
            raw, folder, file = copy.deepcopy(dict(recipe)), Path.cwd(), ""
        else:
            raw, folder, file = toml.read(Path(recipe)), Path(recipe).resolve().parent, str(recipe)
        settings = from_dict(raw, overrides, parts=registry, folder=folder, file=file)
        for section in OWN:
            raw.pop(section, None)
        kept = _by_name((text for text in overrides if text.partition(".")[0].strip() not in OWN), settings)
        return cls(settings, raw, tuple(kept), out.absolute())

    def request(self, cell: Cell, *, shared: bool) -> dict[str, Any]:
        """What `settings_of` makes the settings of a cell from; JSON.

        Args:
            shared: it begins with the model of its backbone.
        """
        method, encoder = (tuned.part(self.settings.compare, name) for name in (cell.method, cell.encoder))
        tables = copy.deepcopy(tuned.for_method(self.tables, method))
        tables["tasks"] = _ordered(tables["tasks"], cell.order)
        own = [cell.encoder, *([cell.method] if cell.order != FIRST else [])]
        tuned_for = [text for name in own for text in tuned.overrides(self.settings.compare.get(name, {}))]
        changes, later = [*self.overrides], _by_name(tuned_for, self.settings)
        if cell.order == FIRST:
            gone = ["tuning.", *(f"tasks.{task.name}." for task in self.settings.tasks[1:])]
            if self.settings.evaluate.metric and not self.settings.evaluate.fits(self.settings.tasks[0].kind):
                gone.append("evaluate.metric")
                tables.get("evaluate", {}).pop("metric", None)
            changes, later = ([text for text in some if not text.startswith(tuple(gone))] for some in (changes, later))
        changes += [f"encoder.name={encoder}", f"tuning.method={method}", f"run.seed={cell.seed}"]
        if folds := self.settings.split.folds:
            changes.append(f"split.fold={fold_of(cell.seed, folds)}")
        changes += [f"run.store={json.dumps(str(self.out / 'store'))}", *PROTOCOLS[cell.protocol]]
        changes += later
        if shared:
            changes.append(f"pretrain.model={json.dumps(str(self.out / cell.backbone.folder / 'model'))}")
        folder, file = str(self.settings.folder), self.settings.file
        return {
            "tables": tables,
            "overrides": changes,
            "folder": folder,
            "file": file,
            "out": str(self.out / cell.folder),
        }

    def known(self, kind: str) -> list[str]:
        """What can be compared: all "methods" or "encoders" there are, and the recipe's variants of them."""
        return [*registry.names(kind), *tuned.variants(self.settings.compare, kind)]

    def keeps(self, cell: Cell) -> bool:
        """Whether a cell's method, with its options, promises to keep what it learned."""
        tuning = settings_of(self.request(cell, shared=False)).tuning
        return bool(registry.find("methods", tuning.name)(**tuning.options).keeps)

    def readers(self, methods: Sequence[str]) -> list[list[str]]:
        """The methods by the history they read: those that read the recipe's first, where there are any."""
        told: dict[str, list[str]] = {"{}": []}
        for method in methods:
            values = self.settings.compare.get(method, {})
            own = {key: value for key, value in values.items() if key.startswith("history.")}
            told.setdefault(json.dumps(own, sort_keys=True), []).append(method)
        return [some for some in told.values() if some]

    def own(self, method: str) -> bool:
        """Whether settings of a method's own change how it learns the first task, or what it reads there."""
        told = ("pretrain.", "history.", "tasks.0.", f"tasks.{self.settings.tasks[0].name}.")
        return any(key.startswith(told) for key in self.settings.compare.get(method, {}))


def fold_of(seed: int, folds: int) -> int:
    """The fold that a seed tests: seed 1 the first."""
    return (seed - 1) % folds + 1


def settings_of(request: Mapping[str, Any]) -> Settings:
    """The settings that a request tells."""
    tables, overrides = request["tables"], request["overrides"]
    return from_dict(tables, overrides, parts=registry, folder=Path(request["folder"]), file=request["file"])


def _by_name(overrides: Iterable[str], settings: Settings) -> list[str]:
    """`tasks.0.train.epochs=3` with the task's name in place of its number: orders change places, not names."""
    names, told = [task.name for task in settings.tasks], []
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if parts[0] == "tasks" and parts[1] not in names and parts[1].isdecimal() and int(parts[1]) < len(names):
            parts[1] = names[int(parts[1])]
        told.append(".".join(parts) + equals + value)
    return told


def _ordered(tasks: Sequence[Mapping[str, Any]], order: str) -> list[dict[str, Any]]:
    """The [[tasks]] tables in an order of ORDERS, or the first alone."""
    told = [dict(task) for task in tasks]
    if order == FIRST:
        return told[:1]
    if order == "reversed":
        return [*told[:1], *told[:0:-1]]
    return streams.with_noise(told) if order == "noisy" else told


def shares(settings: Settings, item_ids: Any, datas: Mapping[str, Any]) -> bool:
    """Whether a method can begin with a backbone that another model learned: it learns the first task alone, and in the
    way of all.

    Args:
        item_ids: of the log. datas: the tasks made ready.
    """
    import torch

    from perdure.api import plan
    from perdure.training.cards import card_of
    from perdure.tuning.base import method_of

    model, first = plan.fresh(settings, item_ids, datas), next(iter(datas))
    with torch.random.fork_rng(devices=[]):  # overlays draw from the global generator, too
        model.add(card_of(datas[first]), torch.Generator())
    overlay, alone = model.overlays.get(first), method_of(model).order(list(datas))[0] == [first]
    return alone and (overlay is None or overlay.passive)


def _listed(asked: Any, known: Sequence[Any] | None, what: str, where: str) -> list[Any]:
    """Each thing asked for, once. Where nobody knows which there are, they are whole numbers."""
    given = list(asked) if isinstance(asked, Iterable) and not isinstance(asked, str) else None
    if known is None:
        wrong = given is None or any(not hasattr(one, "__index__") or int(one) < 0 for one in given)
    else:
        wrong = given is None or not all(isinstance(one, str) for one in given)
    if given is None or wrong:
        expected = "a list of whole numbers, 0 or more" if known is None else "a list of names"
        raise UsageError(f"{what}s = {shorten(repr(asked))}", expected=expected, where=where)
    return list(dict.fromkeys(int(one) if known is None else one for one in given))


def chosen(
    asked: Sequence[Any] | None, standing: Sequence[Any], known: Sequence[Any] | None, what: str, where: str = ""
) -> list[Any]:
    """What to compare: what was asked for, or what stands there already.

    Raises:
        UsageError: one that does not exist, or no list.
    """
    given = _listed(asked, known, what, where or f"{what}s") if asked is not None else list(standing)
    strange = [one for one in given if known is not None and one not in known]
    if strange or not given:
        import difflib

        near = difflib.get_close_matches(str(strange[0]), list(known or ()), n=1) if strange else []
        raise UsageError(
            f"no {what} {shorten(repr(strange[0]))}" if strange else f"no {what}",
            expected=f"one of {', '.join(known)}" if known else "one or more",
            where=where or f"{what}s",
            fix=f"did you mean {near[0]}?" if near else "",
        )
    return given
