"""What `compare` and `search` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from perdure.cli.show import Told, around, cell, notes, pairs, rows

__all__ = ["compare", "search"]


def compare(console: Console, told: Told) -> None:
    """For each encoder, order and protocol what every method reached, and what it cost."""
    for group in told["summary"]:
        seeds = ", ".join(map(str, group["seeds"]))
        title = f"{group['encoder']}, {group['order']}, {group['protocol']}; seeds {seeds}; intervals of 95 %"
        tasks = group["tasks"] if len(group["tasks"]) <= MOST_TASKS else []
        methods = sorted(group["methods"].items(), key=lambda entry: -entry[1]["average"]["mean"])
        heads = ["method", *[f"{task}\n{group['metrics'][task]}" for task in tasks], "average", "gain", "p"]
        lines = []
        for name, one in methods:
            reached = [one["tasks"][task]["mean"] for task in tasks]
            if len(one["seeds"]) < len(group["seeds"]):
                name = f"{name} ({len(one['seeds'])} of {len(group['seeds'])} seeds)"
            lines.append([name, *reached, around(one["average"]), around(one["gain"]), one["p_holm"]])
        if any(group["popularity"][task] is not None for task in tasks):
            lines.append(["popularity", *[group["popularity"][task] for task in tasks], None, None, None])
        rows(console, heads, lines, title)
        heads = ["", "forgetting", "backward", "forward", "trainable", "KiB stored", "s a task", "peak MiB", "keeps"]
        costs = []
        for name, one in methods:
            moved = [one[key]["mean"] for key in ("forgetting", "backward_transfer", "forward_transfer")]
            cost = [None if one[key] is None else round(one[key] / unit) for key, unit in COSTS]
            costs.append([name, *moved, *cost, one["keeps"]])
        rows(console, heads, costs)
        console.print()
    failures(console, told["failed"])
    pairs(console, {key: told[key] for key in ("folder", "report", "seconds")})
    notes(console, told["notes"])


def search(console: Console, told: Told) -> None:
    """What was tried with each method, and what came of it."""
    lines = []
    for one in told["tries"]:
        changed = ", ".join(f"{key}={value}" for key, value in one["settings"].items()) or "as the recipe stands"
        lines.append([one["method"], changed, one["average"], one["best"]])
    rows(
        console, ["method", "settings", "average, valid", "best"], lines, f"seeds {', '.join(map(str, told['seeds']))}"
    )
    failures(console, [{**one, "folder": one["folders"][0]} for one in told["failed"]])
    pairs(console, {key: told[key] for key in ("tuned", "folder", "seconds")})
    notes(console, told["notes"])


def failures(console: Console, failed: Sequence[Told]) -> None:
    """A line for each that failed."""
    for line in failed:
        console.print(f"failed: {cell(line['folder'])}: {cell(line['fault'])}")


MOST_TASKS = 8  # of a table; more stand in the report
COSTS = (("trainable", 1), ("bytes", 2**10), ("seconds", 1), ("peak_rss", 2**20))
