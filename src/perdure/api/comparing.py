"""Every method on one backbone, under the same settings, seeds and orders: run what is missing, tell what came of it.

OUT/compare.json      what is compared, what the audit found, the state of every cell
OUT/store/            the prepared log, one for all
OUT/backbones/        the first task, learned once for each encoder, protocol and seed
OUT/runs/ENCODER/METHOD/ORDER/SEED/     ordinary run folders, with users.parquet
OUT/results.parquet users.parquet summary.json     see `results`
OUT/report.html report.md
                                                                                                     [reads, writes]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from perdure.api import apart, cells, results
from perdure.api.cells import Cell, Plan, fold_of
from perdure.api.identity import check_same, effective
from perdure.api.learning import Recipe
from perdure.api.reporting import reported
from perdure.errors import Interrupted, MachineError, PerdureError, SettingsError, UsageError, shorten
from perdure.settings import SettingsFaults

__all__ = ["Comparison", "compare"]

FORMAT = 1
AXES = ("methods", "encoders", "seeds", "orders", "protocols")


@dataclass(frozen=True)
class Comparison:
    """What a comparison gave.

    Attributes:
        folder: where all of it stands. report: the page, None where it could not be written.
        cells: per cell encoder, method, order, protocol, seed, folder and backbone (both counted from `folder`), state
            ("done", "cut", "missing", "failed"), fault (one line).
        failed: those among cells and backbones that failed.
        summary: a group for each encoder, order and protocol; see docs/compare.md.
        notes: what must be known before any number, one line each.
        seconds: of the whole call.
    """

    folder: str
    report: str | None
    cells: list[dict[str, Any]] = field(repr=False)
    failed: list[dict[str, Any]]
    summary: list[dict[str, Any]] = field(repr=False)
    notes: list[str]
    seconds: float


def compare(
    recipe: Recipe,
    out: str | Path,
    *,
    methods: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    orders: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    against: str | None = None,
    allow_leaks: bool = False,
    show: Any = None,
) -> Comparison:
    """Learn the tasks of a recipe with every method, encoder, seed and order, and compare.

    Run again on the same folder, it does what is missing and goes on with what was cut; more methods, encoders, seeds
    and orders may be asked for. What is not given is what the folder has, or what the recipe says (orders: forward).

    Args:
        recipe: a TOML file, or the same as nested dicts; [compare.<method>] and [compare.<encoder>] hold what was
            tuned for one of them, and name variants.
        out: the comparison's folder: new or empty, or one where the same comparison stands.
        methods, encoders, seeds: names, or variants of [compare]; whole numbers.
        orders: "forward", "reversed", "noisy". protocols: "clean", "as-coded", "user-each".
        overrides: as in `learn`.
        against: the method that differences are told from; by default, for each method the best of the others.
        allow_leaks: go on where the audit finds that what is asked stands in what is trained on.
        show: what tells the progress, as in `learn`; of a comparison also say and whole, where it has them.

    Returns:
        A Comparison. A cell that failed is told there, and the others go on.

    Raises:
        SettingsError: the recipe, or it is not what the folder was begun with. UsageError: something that does not
        exist. DataError: the audit found a leak. RunLocked: another process writes there.
        Interrupted: a signal came; all is saved, and the same call goes on.
    """
    asked = (methods, encoders, seeds, orders, protocols)
    return compared(recipe, out, asked, overrides, against=against, allow_leaks=allow_leaks, show=show)


def compared(
    recipe: Recipe,
    out: str | Path,
    asked: Sequence[Sequence[Any] | None],
    overrides: Sequence[str] = (),
    *,
    against: str | None = None,
    allow_leaks: bool = False,
    validated: bool = False,
    show: Any = None,
) -> Comparison:
    """`compare`, with what is asked by axis (see AXES); `validated` refuses tasks without validation users."""
    from perdure.model.disk import machine_faults
    from perdure.training.display import check_show
    from perdure.training.lock import Lock
    from perdure.training.runlog import now
    from perdure.training.signals import Signals

    began, out = time.monotonic(), Path(out)
    check_show(show)
    plan = Plan.read(recipe, overrides, out)
    standing = _standing(out)
    named = _axes(plan, standing, asked)["methods"]  # what does not exist is refused before the folder is made
    if against is not None:
        known = dict.fromkeys([*named, *(one["method"] for one in standing.get("cells", []))])
        cells.chosen([against], [], list(known), "compared method", "against")
    with machine_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out)
    with machine_faults(out):
        lock.take(now())
    try:
        standing = _standing(out)
        with Signals() as signals:
            work = _Work(plan, standing, _axes(plan, standing, asked), signals, show)
            work.check()
            work.survey(allow_leaks, validated)
            work.run()
        return work.end(against, began)
    except Interrupted as stop:
        raise Interrupted(stop.found, fix="run the same command again: it goes on") from None
    finally:
        lock.leave()


def _standing(out: Path) -> dict[str, Any]:
    """compare.json of the folder, or nothing where it is new or empty."""
    if not out.exists():
        return {}
    if not out.is_dir():
        raise UsageError(f"{out} is a file", expected="a folder", where="out")
    if (out / "compare.json").is_file():
        told = results.read(out / "compare.json")
        if told.get("format") != FORMAT:
            raise UsageError(f"comparison of format {told.get('format')}", expected=f"{FORMAT}", where=str(out))
        return told
    held = sorted(p.name for p in out.iterdir() if not p.name.startswith(".") and p.name not in ("lock", "store"))
    if held:
        raise UsageError(
            f"the folder is not empty: {shorten(', '.join(held))}",
            expected="a new or empty folder, or one with a comparison",
            where=str(out),
            fix="choose another folder",
        )
    return {}


def _axes(plan: Plan, standing: dict[str, Any], asked: Sequence[Sequence[Any] | None]) -> dict[str, list[Any]]:
    """What this call is to compare, by axis."""
    own = plan.settings
    defaults = ([own.tuning.name], [own.encoder.name], [own.run.seed], ["forward"], ["clean"])
    known = (plan.known("methods"), plan.known("encoders"), None, cells.ORDERS, list(cells.PROTOCOLS))
    return {
        axis: cells.chosen(asked[at], standing.get(axis, defaults[at]), known[at], axis.removesuffix("s"))
        for at, axis in enumerate(AXES)
    }


@dataclass
class _Work:
    """A comparison being made."""

    plan: Plan
    standing: dict[str, Any]
    asked: dict[str, list[Any]]
    signals: Any
    show: Any
    wanted: list[Cell] = field(default_factory=list)
    faults: dict[Cell, str] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)
    differ: dict[str, list[str]] = field(default_factory=dict)  # method -> tasks that ask something else of it

    def __post_init__(self) -> None:
        a = self.asked
        self.wanted = [
            Cell(encoder, method, order, protocol, seed)
            for protocol in a["protocols"]
            for seed in a["seeds"]
            for encoder in a["encoders"]
            for order in a["orders"]
            for method in a["methods"]
        ]
        before = {_cell(one): one["fault"] for key in ("cells", "backbones") for one in self.standing.get(key, [])}
        self.cells = list(dict.fromkeys([*(c for c in before if c.order != cells.FIRST), *self.wanted]))
        self.faults = {cell: fault for cell, fault in before.items() if fault and cell not in self.wanted}
        self.shared = {
            (one["encoder"], one["method"]): one["backbone"] is not None and not self.plan.own(one["method"])
            for one in self.standing.get("cells", [])
        }

    def _shares(self, cell: Cell) -> bool:
        """Whether a cell begins with its backbone; known once the survey was made."""
        return cell.order != cells.FIRST and self.shared.get((cell.encoder, cell.method), False)

    def _request(self, cell: Cell) -> dict[str, Any]:
        return self.plan.request(cell, shared=self._shares(cell))

    @property
    def backbones(self) -> list[Cell]:
        """Those that the cells need."""
        return list(dict.fromkeys(cell.backbone for cell in self.cells if self._shares(cell)))

    # -- before ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse settings that are wrong for any cell, or not those that a cell was begun with."""
        for cell in [*self.backbones, *self.cells]:
            try:
                settings = cells.settings_of(self._request(cell))
            except SettingsFaults as fault:
                own = cell.method if cell.encoder == self.plan.settings.encoder.name else cell.encoder
                raise fault.mended(f"settings of {own} alone stand in [compare.{own}]") from None
            if (self.plan.out / cell.folder / "run.json").is_file():
                check_same(self.plan.out / cell.folder, settings)

    def survey(self, allow_leaks: bool, validated: bool) -> None:
        """Prepare the store; ask the audit about every protocol and order; write what is compared."""
        from perdure.training.runlog import machine, now

        told = {"format": FORMAT, "recipe": self.plan.settings.file, "settings": effective(self.plan.settings)}
        told |= {axis: list(dict.fromkeys([*self.standing.get(axis, []), *self.asked[axis]])) for axis in AXES}
        names = [*told["encoders"], *told["methods"]]
        told |= {"tuned": {n: v for n, v in self.plan.settings.compare.items() if n in names}, **machine()}
        told |= {"origin": self.plan.settings.origin, "started": self.standing.get("started", now())}
        told["findings"] = self.standing.get("findings", {})
        new = {
            (cell.encoder, cell.method): cell for cell in self.cells if (cell.encoder, cell.method) not in self.shared
        }
        methods = [self.plan.request(cell, shared=False) for cell in new.values()]
        order = "noisy" if "noisy" in self.asked["orders"] else "forward"  # all tasks there are
        for protocol in self.asked["protocols"]:
            self._tell("say", f"looking at the log, {protocol}")
            cell = replace(next(one for one in self.wanted if one.protocol == protocol), order=order)
            readers = self.plan.readers(told["methods"])
            request, *others = (self.plan.request(replace(cell, method=some[0]), shared=False) for some in readers)
            asked = {
                **request,
                "methods": methods,
                "others": {some[0]: one for some, one in zip(readers[1:], others, strict=True)},
            }
            answer = apart.ask("survey", asked, self.signals)
            if validated and answer["unvalidated"]:
                raise SettingsError(
                    f"nobody validates task {answer['unvalidated'][0]}", where=self.plan.settings.file,
                    expected="validation users with an answer, by whom the best try is chosen",
                    fix="give [split] valid a larger share",
                )  # fmt: skip
            found = answer["findings"]
            for (encoder, method), able in zip(new, answer["shares"], strict=True):
                self.shared[encoder, method] = able and not self.plan.own(method)
            told |= {"data_digest": answer["digest"], "data_card": answer["card"]}
            told["findings"][protocol] = found
            self.differ |= {method: answer["differ"][some[0]] for some in readers[1:] for method in some}
            _refuse(found, protocol, allow_leaks)
        before = self.standing.get("data_digest", told["data_digest"])
        if before != told["data_digest"]:
            raise SettingsError(
                f"the log is another: its digest is {told['data_digest'][:12]}", expected=before[:12],
                where=str(self.plan.out / "compare.json"), fix="choose another folder",
            )  # fmt: skip
        self.told = told
        self._write("running")

    # -- cell by cell ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything that was asked for and is not done."""
        todo: list[Cell] = []
        for cell in self.wanted:
            needed = [cell.backbone] if self._shares(cell) else []
            todo += [one for one in (*needed, cell) if one not in todo and self._state(one) != "done"]
        done = len(self.wanted) - sum(cell.order != cells.FIRST for cell in todo)
        for cell in todo:
            self._tell("whole", done, len(self.wanted), cell.name)
            try:
                self._learn(cell)
            except Interrupted:
                self._write("interrupted")
                raise
            except PerdureError as fault:
                self.faults[cell] = shorten(" ".join(fault.found.split()), 300)
                self._tell("say", f"failed: {cell.name}: {self.faults[cell]}")
            done += cell.order != cells.FIRST
            self._write("running")

    def _tell(self, what: str, *given: Any) -> None:
        if hasattr(self.show, what):
            getattr(self.show, what)(*given)

    def _learn(self, cell: Cell) -> None:
        if self.signals.asked is not None:
            raise self.signals.interrupted()
        self.faults.pop(cell, None)
        if self._shares(cell) and cell.backbone in self.faults:
            raise MachineError(f"its backbone failed: {self.faults[cell.backbone]}")
        apart.ask("learn", self._request(cell), self.signals, self.show)

    def _state(self, cell: Cell) -> str:
        folder = self.plan.out / cell.folder
        if cell in self.faults:
            return "failed"
        if not (folder / "run.json").is_file():
            return "missing"
        finished = results.read(folder / "run.json").get("state") == "finished"
        return "done" if finished and (folder / results.USERS).is_file() else "cut"

    @property
    def done(self) -> list[Cell]:
        """Cells that are complete, whether this call made them or another."""
        return [cell for cell in self.cells if self._state(cell) == "done"]

    def _line(self, cell: Cell) -> dict[str, Any]:
        state = {"folder": cell.folder, "state": self._state(cell), "fault": self.faults.get(cell)}
        return {**asdict(cell), **state, "backbone": cell.backbone.folder if self._shares(cell) else None}

    def _write(self, state: str) -> None:
        """compare.json and results.parquet as they stand."""
        from perdure.api.work import write_frame
        from perdure.model.files import render, write_file
        from perdure.training.runlog import now

        out = self.plan.out
        told = {**self.told, "state": state, "written": now(), "cells": [self._line(cell) for cell in self.cells]}
        told["backbones"] = [self._line(cell) for cell in self.backbones]
        write_file(out / "compare.json", render(told))
        write_frame(out / "results.parquet", results.results(out, self.done, self._shares))

    # -- after -------------------------------------------------------------------------------------------------------

    def end(self, against: str | None, began: float) -> Comparison:
        """Write users, summary and report."""
        from perdure.api.summary import LEVEL, RESAMPLES, summarise
        from perdure.api.work import write_frame
        from perdure.model.files import render, write_file
        from perdure.report.compared import doubts
        from perdure.settings.streams import NOISE
        from perdure.training.life import as_json

        out, done = self.plan.out, self.done
        frame, users = results.results(out, done, self._shares), results.users(out, done)
        keeps = {cell.method: self.plan.keeps(cell) for cell in done}
        groups = as_json(summarise(frame, users, keeps=keeps, noise=NOISE, against=against))
        write_frame(out / results.USERS, users)
        summary = {"format": FORMAT, "level": LEVEL, "resamples": RESAMPLES, "against": against, "groups": groups}
        write_file(out / "summary.json", render(summary))
        self.told["notes"] = [*self._folds(), *self._asked()]
        self._write("failed" if self.faults else "finished")
        notes = [f"{c.name}: {self._state(c)}" for c in self.cells if self._state(c) in ("cut", "missing")]
        notes += self.told["notes"]
        first = (self.told["orders"][0], self.told["protocols"][0])  # what the page is about, and warns of
        notes += dict.fromkeys(d for g in groups if (g["order"], g["protocol"]) == first for d in doubts(g))
        report = reported(out, notes)
        lines = [self._line(cell) for cell in self.cells]
        mine = [*self.backbones, *self.wanted]
        failed = [line for line in map(self._line, mine) if line["state"] == "failed"]
        return Comparison(str(out), report, lines, failed, groups, notes, round(time.monotonic() - began, 1))

    def _folds(self) -> list[str]:
        """What is to be known where seeds do not test each fold once."""
        folds, seeds = self.plan.settings.split.folds, {cell.seed for cell in self.done}
        tested = sorted(fold_of(seed, folds) for seed in seeds) if folds else []
        if tested == list(range(1, folds + 1)):
            return []
        return [f"{folds} folds, of which these seeds test {', '.join(map(str, tested))}: not everyone once"]

    def _asked(self) -> list[str]:
        """What is to be known where methods that read a history of their own are asked something else."""
        return [
            f"{method} reads another history, and {' and '.join(tasks)} asks it about other events or users: no score,"
            " mean or p with that compares it with the others"
            for method, tasks in self.differ.items()
            if tasks and any(cell.method == method for cell in self.done)
        ]


def _cell(line: dict[str, Any]) -> Cell:
    return Cell(**{name: line[name] for name in results.KEY})


def _refuse(found: Sequence[dict[str, Any]], protocol: str, allowed: bool) -> None:
    from perdure.evaluation.leakage import Finding, refuse

    if not allowed and protocol != "as-coded":
        refuse([Finding(**one) for one in found])
