"""What stands behind a comparison: audit, runs, tasks, data, settings with their origin, machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from perdure.report import details, words
from perdure.report.compared import Compared
from perdure.report.facts import Setting
from perdure.report.parts import Cell, Fold, Section, Table

__all__ = ["audit", "card", "files", "runs", "settings", "tasks"]


def audit(c: Compared) -> Section | None:
    """What the leakage audit found, by protocol."""
    found = c.about.get("findings") or {}
    if not found:
        return None
    rows = [
        [Cell(protocol), Cell(one["severity"], kind="warn" if one["severity"] == "leak" else ""), Cell(one["kind"]),
         Cell(one["task"]), Cell(one["text"])]
        for protocol, some in found.items()
        for one in some
    ]  # fmt: skip
    clean = [protocol for protocol, some in found.items() if not some]
    parts: list[Any] = [
        "Before anything is learned, the audit asks whether what is tested stands in what is trained on. A leak gives"
        " away what is measured; a note is what a reader of the numbers should know."
    ]
    if clean:
        parts.append(f"Nothing was found under {words.listed(clean)}.")
    if rows:
        heads = [Cell(head) for head in ("protocol", "severity", "kind", "task", "found")]
        parts.append(Table("What the audit found", heads, rows, words=(1, 2, 3, 4)))
    return Section("Leakage audit", parts)


def runs(c: Compared) -> Section:
    """How many seeds of every method are done, by order and protocol; a fault beside the run that has one."""
    columns = [(order, protocol) for protocol in c.axis("protocols") for order in c.axis("orders")]
    cells = c.about.get("cells") or []
    heads = [Cell("method"), *[Cell(order, protocol) for order, protocol in columns]]
    tables = [
        Table(
            f"{encoder}: runs done",
            heads,
            [
                [Cell(method), *[_seeds(cells, encoder, method, *column) for column in columns]]
                for method in c.axis("methods")
            ],
        )
        for encoder in c.axis("encoders")
    ]
    states = [one["state"] for one in cells]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    parts: list[Any] = [f"{words.count(len(states), 'run', digits=True)}: {told}.", *tables]
    if warned := c.warnings:
        rows = [[Cell(text), Cell(str(count))] for text, count in warned.items()]
        warnings = Table("What runs warned of", [Cell("warning"), Cell("runs")], rows)
        parts.append(Fold(words.count(len(rows), "warning", digits=True), [warnings]))
    return Section("The runs", parts)


def _seeds(cells: list[dict[str, Any]], encoder: str, method: str, order: str, protocol: str) -> Cell:
    """`3 of 3`, and which are not done."""
    wanted = {"encoder": encoder, "method": method, "order": order, "protocol": protocol}
    some = [one for one in cells if all(one[name] == value for name, value in wanted.items())]
    if not some:
        return Cell("", kind="none")
    rest = [f"seed {one['seed']} {one['state']}" for one in some if one["state"] != "done"]
    return Cell(f"{len(some) - len(rest)} of {len(some)}", ", ".join(rest), "warn" if rest else "")


def tasks(c: Compared) -> Section | None:
    """What each task asks."""
    for group in c.groups:
        tested = group.users.group_by("task").agg(n=pl.col("user").n_unique())  # of all seeds: folds test others each
        if tested.is_empty():
            tested = group.rows.filter("final").group_by("task").agg(pl.col("n").max())
        n = {row["task"]: {"n": row["n"]} for row in tested.to_dicts()}
        c.facts.scores.update({task: one for task, one in n.items() if task not in c.facts.scores})
    told = details.tasks(c.facts)
    if told is None:
        return None
    rows = [[Cell(text) for text in row] for row in told["rows"]]
    return Section("The tasks", [Table("What is asked", [Cell(head) for head in told["heads"]], rows, words=(1, 2, 3))])


def card(c: Compared) -> Section | None:
    """The data card."""
    told = details.card(c.facts)
    notes = [str(note) for note in (c.about.get("data_card") or {}).get("notes") or []]
    if not told:
        return None
    rows = [[Cell(name), Cell(value)] for name, value in told]
    return Section("The data", [Table("Data card", [Cell("entry"), Cell("value")], rows, " ".join(notes), words=(1,))])


def settings(c: Compared) -> Section:
    """What is the same for all, what was tuned for one alone, and all settings with their origin."""
    parts: list[Any] = []
    tuned = {name: some for name, some in (c.about.get("tuned") or {}).items() if some}
    told = "Data, tasks, training and evaluation are the recipe's for all"
    if tuned:
        have = "has settings of its" if len(tuned) == 1 else "have settings of their"
        rows = [[Cell(name), Cell(_given(some))] for name, some in tuned.items()]
        heads, note = [Cell("method or encoder"), Cell("settings")], "From [compare.<name>] of the recipe."
        parts += [
            f"{told}, but {words.listed(list(tuned))} {have} own.",
            Table("Set for one alone", heads, rows, note, words=(1,)),
        ]
    else:
        parts.append(f"{told}; nothing is set for one method or encoder alone.")
    heads = [Cell("setting"), Cell("value"), Cell("from")]
    for title, some in _sections(c):
        given = sum(origin != "default" for *_, origin in some)
        rows = [[Cell(key), Cell(words.plain(value)), Cell(origin)] for _, key, value, origin in some]
        note = f"{given} given, {len(some) - given} at their default"
        parts.append(Fold(title, [Table(f"Settings of {title}", heads, rows, words=(1, 2))], note))
    return Section("Settings", parts)


def _sections(c: Compared) -> Iterator[tuple[str, list[Setting]]]:
    """Sections by name: of every method and encoder as its runs had them, all else as the recipe has it."""
    methods, encoders = {}, {}
    for group in c.main:
        for method, some in group.settings.items():
            methods.setdefault(method, some)
            encoders.setdefault(group.encoder, some)
    own = {"tuning": methods, "encoder": encoders, "objective": encoders}
    for section in dict.fromkeys(section for section, *_ in c.facts.settings):
        for name, some in (own.get(section) or {"": c.facts.settings}).items():
            yield f"[{section}]" + f" of {name}" * bool(name), [one for one in some if one[0] == section]


def _given(some: dict[str, Any]) -> str:
    """`train.learning_rate 0.001, tuning.length 6`."""
    return ", ".join(f"{key} {words.plain(value)}" for key, value in some.items())


def files(c: Compared) -> Section:
    """Where the numbers stand, and what they were made with."""
    names = [
        name
        for name in ("results.parquet", "users.parquet", "summary.json", "compare.json")
        if (c.folder / name).exists()
    ]
    rows = [[Cell(name), Cell(value)] for name, value in details.machine(c.facts)]
    if c.about.get("threads"):
        rows.append([Cell("threads"), Cell(words.plain(c.about["threads"]))])
    parts: list[Any] = [
        f"Every number of this page stands beside it in {words.listed(names)}: results.parquet holds R of every run"
        " with intervals and costs, a row for each score; users.parquet the final score of every test user."
        if "results.parquet" in names
        else f"Beside this page stands {words.listed(names)}."
    ]
    if rows:
        parts.append(Table("Made with", [Cell("entry"), Cell("value")], rows, words=(1,)))
    return Section("Made with", parts)
