"""What stands behind a run: cost, tasks, data, settings, machine, notes, as words and cells. Pure."""

from __future__ import annotations

from typing import Any

from perdure.events.card import in_words
from perdure.report import words
from perdure.report.facts import Facts

__all__ = ["card", "cost", "machine", "missing", "notes", "settings", "tasks"]


def cost(facts: Facts) -> dict[str, Any] | None:
    """Seconds, epochs, speed, trainable parameters, bytes and memory of each task."""
    if not facts.cost:
        return None
    ordered = [facts.cost[task] for task in facts.tasks if task in facts.cost]
    ordered += [row for task, row in facts.cost.items() if task not in facts.tasks]
    columns = [
        ("time", words.duration, [row.get("seconds") for row in ordered], sum),
        ("epochs", words.whole, [row.get("epochs") for row in ordered], sum),
        ("targets/s", words.whole, [_speed(facts, row["task"]) for row in ordered], None),
        ("trainable", words.whole, [row.get("trainable") for row in ordered], None),
        ("file", words.size, [row.get("bytes") for row in ordered], sum),
        ("memory", words.size, [row.get("peak_rss") for row in ordered], max),
        ("left", _percent, [row.get("capacity") for row in ordered], None),
    ]
    columns = [column for column in columns if any(value is not None for value in column[2])]
    rows = [[row["task"], *[say(values[n]) for _, say, values, _ in columns]] for n, row in enumerate(ordered)]
    totals = [say(fold(v for v in values if v is not None)) if fold else "" for _, say, values, fold in columns]
    caption = (
        "Trainable: parameters the optimiser could move while this task was learned. File: what this task added to the"
        " model folder, besides the backbone, which all tasks share. Targets/s: training targets a second, without"
        " validation. Memory: the most the process had held by then."
    )
    if columns[-1][0] == "left":
        caption += " Left: of what tasks take of the backbone, the share that later ones may still take."
    return {"heads": ["task", *[c[0] for c in columns]], "rows": rows, "total": ["all", *totals], "caption": caption}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _speed(facts: Facts, task: str) -> float | None:
    told = [line["targets_per_second"] for line in facts.epochs.get(task, []) if line.get("targets_per_second")]
    return sorted(told)[len(told) // 2] if told else None


def card(facts: Facts) -> list[tuple[str, str]]:
    """The data card as rows of name and value; what is empty or zero is left out, notes stand in `notes`."""
    told = {k: v for k, v in (facts.run.get("data_card") or {}).items() if v not in (None, {}, [], "")}
    for elsewhere in ("notes", "renamed"):
        told.pop(elsewhere, None)
    rows = [(name, words.plain(count)) for name, count in told.pop("counts", {}).items()]
    books = told.pop("books", None)
    if books:
        names = sorted((name for name in books if name != "received"), key=lambda name: (name != "stored", name))
        parts = " + ".join(f"{words.plain(books[name])} {name}" for name in names if books[name])
        rows.append(("rows read", f"{words.plain(books.get('received'))} = {parts}"))
    times = told.pop("time_range", None)
    if times:
        rows.append(("time", " to ".join(words.moment(str(times.get(end))) for end in ("first", "last"))))
    lengths = told.pop("history_length", None)
    if lengths and "50%" in lengths:
        usual = f"nine in ten from {lengths['5%']:,} to {lengths['95%']:,}"
        text = f"median {lengths['50%']:,}, mean {lengths['mean']:.1f}, {usual}, longest {lengths['100%']:,}"
        rows.append(("events of a user", text))
    if "density" in told:
        rows.append(("density", f"{100 * told.pop('density'):.3g} events for every 100 pairs of user and item"))
    columns = told.pop("columns", {})
    counts = {k: {n: v for n, v in one.items() if v} if isinstance(one, dict) else one for k, one in told.items()}
    rows += [(key.replace("_", " "), words.plain(value)) for key, value in counts.items() if value]
    return rows + [(name, in_words(column)) for name, column in columns.items()]


def tasks(facts: Facts) -> dict[str, Any] | None:
    """What each task asks, of whom, and how many users it is measured on."""
    rows = []
    for told in (facts.run.get("settings") or {}).get("tasks") or []:
        name = str(told.get("name"))
        answers = "the next event" if told.get("kind") == "next_item" else str(told.get("answer") or "item")
        chosen = [f"where {told['where']}"] if told.get("where") else []
        chosen += [f"users {told['users']}"] if told.get("users") else []
        tested = words.whole((facts.scores.get(name) or {}).get("n"))
        question = str(told.get("description") or "")
        rows.append([name, str(told.get("kind", "")), question, ", ".join([answers, *chosen]), tested])
    return {"heads": ["task", "kind", "question", "answers", "test users"], "rows": rows} if rows else None


def settings(facts: Facts) -> dict[str, Any] | None:
    """What was chosen, with its origin, and what was left as it is, by section."""
    if not facts.settings:
        return None
    chosen, defaults = [], {}
    for section, key, value, origin in facts.settings:
        if origin == "default" or (
            section == "tasks" and ".train." not in key
        ):  # the tasks have a section of their own
            defaults.setdefault(section, []).append({"key": key, "value": words.plain(value)})
        else:
            chosen.append({"key": key, "value": words.plain(value), "origin": origin})
    given = sum(origin != "default" for *_, origin in facts.settings)
    count = f"{given} given, {len(facts.settings) - given} left at their default"
    return {
        "chosen": chosen,
        "defaults": [
            {
                "name": name,
                "rows": rows,
                "note": "as the recipe gives them" if name == "tasks" else f"{len(rows)} at their default",
            }
            for name, rows in defaults.items()
        ],
        "count": count,
    }


def machine(facts: Facts) -> list[tuple[str, str]]:
    """Versions, machine and digests."""
    run = facts.run
    told = [(str(name), str(version)) for name, version in (run.get("versions") or {}).items()]
    return told + [
        (key.replace("_", " "), words.moment(words.plain(run[key])))
        for key in ("cpu", "device", "data_digest", "started", "finished")
        if run.get(key)
    ]


def notes(facts: Facts) -> list[str]:
    """Warnings of the run, once each."""
    card = (facts.run.get("data_card") or {}).get("notes") or []
    weak = [
        task
        for task, score in facts.scores.items()
        if score.get("popularity") is not None and score["value"] <= score["popularity"]
    ]
    told = [f"not above popularity: {words.few(weak)}"] if weak else []
    return list(dict.fromkeys([*told, *map(str, card), *facts.notes]))


def missing(facts: Facts) -> list[str]:
    """What the folder does not tell, and why the page is silent about it."""
    lines = list(facts.missing)
    if len(facts.tasks) > 1 and facts.R and not facts.alone:
        lines.append(
            "forward transfer: no run that learned each task alone (method single) to compare with (no alone.json)"
        )
    if facts.R and not facts.oracle:
        lines.append("how far from the best: on real data nobody knows the best reachable score (no oracle.json)")
    if facts.R and facts.run.get("seed") is not None:
        lines.append("how much is chance: this is one run with one seed; intervals cover the choice of test users only")
    if not facts.run.get("data_card"):
        lines.append("the data: run.json carries no data card")
    return lines
