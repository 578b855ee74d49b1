"""Writes the pages that are made from the code: methods.md, settings.md, cli.md, errors.md.

    python docs/generate.py            write them
    python docs/generate.py --check    say which are not current (exit 1)

A test calls `pages()` and compares, so a page that is not current is a failing test.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
MADE = "<!-- made by docs/generate.py from the code; do not edit by hand -->\n\n"


def pages() -> dict[str, str]:
    """File name below docs/ -> what it must hold."""
    return {"methods.md": methods(), "settings.md": settings(), "cli.md": cli(), "errors.md": errors()}


# -- reading docstrings ---


def told(cls: type) -> dict[str, str]:
    """Argument or attribute -> its text, from the `Args:` and `Attributes:` blocks of a class and its constructor.

    `a, b: text` and `a / b: text` speak of both names.
    """
    passed = getattr(cls, "passes_on", None)
    found: dict[str, str] = {} if passed is None else told(passed)
    documented = [*reversed(cls.__mro__), getattr(cls, "__init__", None)]
    for thing in documented:
        text = inspect.cleandoc(getattr(thing, "__doc__", "") or "")
        block = re.search(r"(?ms)^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", text)
        if not block:
            continue
        for entry in re.finditer(r"(?ms)^    (\w[\w, /]*?):\s+(.*?)(?=^    \w[\w, /]*?:\s|\Z)", block.group(1)):
            for name in re.split(r"\s*[,/]\s*", entry.group(1)):
                found[name] = re.sub(r"\s+", " ", entry.group(2)).strip()
    return found


def first_line(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def value(default: Any) -> str:
    """A default as a recipe writes it."""
    if default is dataclasses.MISSING or default is ...:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, tuple | list):
        return f"`{list(default)}`"
    if isinstance(default, dict) or hasattr(default, "model_dump") or dataclasses.is_dataclass(default):
        return ""
    return f"`{default}`"


# What a key means where its class does not say so itself.
MEANING = {
    "epochs": "most passes over the training examples; early stopping may end sooner.",
    "batch_size": "users (or windows) in a step.",
    "learning_rate": "step size after the warm-up, before the schedule.",
    "optimizer": "Adam, or Adam with decoupled weight decay.",
    "weight_decay": "of the optimiser.",
    "betas": "decay of the optimiser's two moments.",
    "schedule": "learning rate after the warm-up: as it is, along half a cosine to 0, along a line to 0, or as it is"
    " and then down (`wsa`: warm-up, stable, annealing).",
    "stable_share": "of the steps after the warm-up, how many keep the full rate (`wsa`).",
    "annealing": "how the rate falls after them (`wsa`).",
    "floor": "part of the rate that is left at the end (`wsa`).",
    "warmup_steps": "steps over which the learning rate rises from 0.",
    "clip": "largest global norm of a gradient; 0 leaves gradients as they are.",
    "average": "decay of a moving average of the trained weights, which is validated and kept; 0 keeps none.",
    "patience": "evaluations without a better validation score before a task ends; 0 never stops early.",
    "evaluate_every": "epochs between two evaluations on the validation users.",
    "windows": "a history longer than the encoder reads: its last events only, or cut into windows so that every event"
    " is a target once (next_item).",
    "max_steps": "most optimiser steps; none for no limit.",
    "checkpoint_minutes": "minutes between two checkpoints of a running task.",
    "sparse": "sparse gradients for the item table, for very large catalogues with sampled losses.",
    "heads": "attention heads.",
    "attention_dropout": "on attention weights.",
}


# -- settings ---


def options(cls: type) -> list[list[str]]:
    """Rows name, what may be given, default, meaning: of a pydantic model, a dataclass, or a class with options."""
    from perdure.settings.schema import model_of, schema_of, words

    if dataclasses.is_dataclass(cls):
        schema = model_of(cls)
    elif hasattr(cls, "model_fields"):
        schema = cls
    else:
        schema = schema_of(cls)
    root = schema.model_json_schema()
    meaning = told(cls)
    rows = []
    for name, field in schema.model_fields.items():
        default = field.get_default(call_default_factory=True) if not field.is_required() else ...
        rows.append(
            [
                f"`{name}`",
                words(root["properties"][name], root),
                value(default),
                meaning.get(name) or MEANING.get(name, ""),
            ]
        )
    return rows


def section(title: str, cls: type, intro: str = "", skip: tuple[str, ...] = ()) -> str:
    rows = [row for row in options(cls) if row[0].strip("`") not in skip]
    return f"## {title}\n\n{intro or first_line(cls)}\n\n" + table(["key", "value", "default", "meaning"], rows) + "\n"


def settings() -> str:
    from perdure import registry
    from perdure.events.data_settings import ColumnNames, DataSettings, TableSettings
    from perdure.events.examples import History, Task
    from perdure.events.splits import Split
    from perdure.settings import (
        EvaluateSettings,
        FriendsSettings,
        InputSettings,
        PretrainSettings,
        ProfileSettings,
        RunSettings,
        TrainSettings,
    )

    text = (
        MADE
        + """# Settings

A recipe is one TOML file. Whatever it leaves out has the default below; whatever it gives is checked before anything
runs, all faults of the settings at once, each with its key and the nearest name that exists; what reading the data
finds is told after them, one at a time. A single value is overridden on the
command line: `-s train.epochs=3`, `-s tasks.watch.train.epochs=3`; the value as in TOML, or bare, as one types it:
text, `.2`, `1,10`. `perdure check RECIPE` checks a recipe without running it. All settings that a result depends
on, where they have a value, go into the run folder and the report, each with its origin.

Paths count from the folder of the recipe, those given by `-s` too; `$PERDURE_DATA/...` counts from the folder that this
environment variable names. Nothing else is expanded, `~` neither.

"""
    )
    text += section("[data]", DataSettings)
    text += section("[data.columns]", ColumnNames)
    text += section("[data.users] and [data.items_table]", TableSettings)
    text += section("[history]", History)
    text += section("[split]", Split)
    text += section("[profile]", ProfileSettings)
    text += section("[profile.friends]", FriendsSettings)
    text += section("[input]", InputSettings)
    for title, kind, key in (
        ("[encoder]", "encoders", "name"),
        ("[objective]", "objectives", "name"),
        ("[tuning]", "methods", "method"),
    ):
        names = registry.names(kind)
        text += (
            f"## {title}\n\n`{key}` is one of "
            + ", ".join(f"`{name}`" for name in names)
            + "; the other keys are its options.\n\n"
        )
        for name in names:
            cls = registry.find(kind, name)
            rows = options(cls)
            text += f'### {title} {key} = "{name}"\n\n{first_line(cls)}\n\n'
            text += table(["key", "value", "default", "meaning"], rows) + "\n" if rows else "No options.\n\n"
    text += """## [compare.<method>] and [compare.<encoder>]

What was tuned for one method or encoder, read by `perdure compare` alone (see [comparing methods](compare.md)): keys of
`train`, `pretrain` and `tasks.<task>.train`, of a method those of `tuning` and `history`, of an encoder those of
`encoder` and `objective`, written in full, such as `"train.learning_rate" = 3e-3`. Under a name of its own it is a
variant, and the key `method` or `encoder` says of what: `method = "ppr"`.

## [search] and [search.<method>]

What `perdure search` tries, read by nothing else (see [equal search budgets](compare.md#equal-search-budgets)): a list
of values for a key of `train` or `tasks.<task>.train`, and under a method for any key that [compare.<method>] may have.

"""
    text += section(
        "[[tasks]]",
        Task,
        "One table for each task, in the order they are learned; `train` holds what differs from [train].",
    )
    text += section("[train]", TrainSettings, "How every task is trained, unless its own `train` says otherwise.")
    own = tuple(name for name in TrainSettings.model_fields)
    text += section(
        "[pretrain]",
        PretrainSettings,
        "How the first task is trained, where it differs: every key of [train], and:",
        skip=own,
    )
    text += section("[evaluate]", EvaluateSettings)
    text += section("[run]", RunSettings)
    return text + filters()


def filters() -> str:
    from perdure.events import filters

    head, _, rest = str(filters.__doc__).partition("\n\n")
    called = ", ".join(f"`{name}`" for name in sorted(filters.FUNCTIONS))
    return f"## Filters\n\n{head}\n\n{rest.rstrip()}\n\nThe functions: {called}.\n"


# -- methods ---


def methods() -> str:
    from perdure import registry

    found, published = results(), expected()
    text = (
        MADE
        + """# Methods, encoders, objectives

What `perdure list` tells, what was measured, and for each the opening of its file: citation, formula, notation, and how
it differs from the paper. *Keeps* is a promise: older tasks answer bit for bit as before, whatever is learned
later. The tests and every training run hold a method to it. Options are told in full in the
[settings](settings.md#tuning).

The status is made from what is stored in `docs/results/`, never from belief, and not from tests that pass:

- **reproduced**: a published number exists, and every one that was tried here was reached on the same data, within the
  tolerance stated in `docs/results/published.toml`; in brackets, what differs from the published model.
- **partly**: measured on real data here; no published number can be had for it, or one was missed, and then the status
  says which.
- **not yet**: no result of it is stored there. What was only tried, or measured as frozen vectors, stands in the
  [log](log.md), PPR's tables in [their page](ppr.md). Baselines have no paper of their own to reproduce.

"""
    )
    kinds = (("Methods", "methods"), ("Encoders", "encoders"), ("Objectives", "objectives"))
    for title, kind in kinds:
        rows = []
        for name in registry.names(kind):
            cls = registry.find(kind, name)
            row = [f"[`{name}`](#{name})", cls.paper, cls.summary]
            row += ["yes" if cls.keeps else "no"] if kind == "methods" else []
            row += [", ".join(option[0] for option in options(cls)), status(kind, name, cls.paper, found, published)]
            rows.append(row)
        heads = ["name", "paper", "in one line", *(["keeps"] if kind == "methods" else []), "options", "status"]
        text += f"## {title}\n\n" + table(heads, rows) + "\n"
    rows = [[f"`{entry['name']}`", entry["summary"]] for entry in registry.about("formats")]
    text += (
        "## Formats\n\nLayouts of logs, for `format` in [[data]](settings.md#data).\n\n"
        + table(["name", "layout"], rows)
        + "\n"
    )
    text += measured(found) + "## In full\n\n"
    for _, kind in kinds:
        for name in registry.names(kind):
            module = sys.modules[registry.find(kind, name).__module__]
            text += f"### {name}\n\n{opening(module.__doc__ or '')}\n\n"
    return text.rstrip() + "\n"


def results() -> list[dict[str, Any]]:
    """The stored results, as `benchmarks/collect.py` writes them, by recipe."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((DOCS / "results").glob("*.json"))]


def expected() -> list[dict[str, Any]]:
    """The published numbers that results are held against."""
    return tomllib.loads((DOCS / "results" / "published.toml").read_text(encoding="utf-8"))["published"]


def status(kind: str, name: str, paper: str, found: list[dict[str, Any]], published: list[dict[str, Any]]) -> str:
    """The status of a method, encoder or objective by the rule that the page states.

    A method is measured where a later task was learned with it; the first task is learned by all in the same way.
    """
    tried = [(one, value) for one in published if name in one["of"] and (value := reached(one, found)) is not None]
    missed = [(one, value) for one, value in tried if not one["low"] <= value <= one.get("high", float("inf"))]
    if missed:
        told = [
            f"{one['metric']} {value:.4f} on {one['recipe']}, published from {one['low']:.4f}" for one, value in missed
        ]
        return "partly: " + "; ".join(told)
    if tried:
        told = [
            f"{one['metric']} {value:.4f} on {one['recipe']}" + (f" ({one['but']})" if "but" in one else "")
            for one, value in tried
        ]
        return "reproduced: " + "; ".join(told)
    if kind == "methods" and paper.startswith("baseline"):
        return "baseline"
    recipes = [one["recipe"] for one in found if any(_has(kind, name, one, group) for group in one["groups"])]
    return "partly: " + ", ".join(dict.fromkeys(recipes)) if recipes else "not yet"


def _has(kind: str, name: str, result: dict[str, Any], group: dict[str, Any]) -> bool:
    """Whether a group of a result measured it."""
    if kind == "methods":
        return name in group["methods"] and len(group["metrics"]) > 1
    return name == (group["encoder"] if kind == "encoders" else result["objective"])


def reached(one: dict[str, Any], found: list[dict[str, Any]]) -> float | None:
    """The result that a published number is held against: of its method, or the best of all; None where none is."""
    values = [
        told["tasks"][one["task"]][0]
        for result in found
        if result["recipe"] == one["recipe"]
        for group in result["groups"]
        if (group["encoder"], group["order"], group["protocol"]) == (one["encoder"], "forward", "clean")
        and group["metrics"].get(one["task"]) == one["metric"]
        for method, told in group["methods"].items()
        if method == one.get("method", method)
    ]
    return max(values, default=None)


def measured(found: list[dict[str, Any]]) -> str:
    """What stands in docs/results, the best mean first."""
    rows = []
    for result in found:
        for group in result["groups"]:
            where = [
                ", ".join(filter(None, [result["recipe"], result.get("about"), result["date"]])),
                f"`{group['encoder']}`",
                f"{group['order']}, {group['protocol']}",
            ]
            for name, told in sorted(group["methods"].items(), key=lambda entry: -entry[1]["average"][0]):
                seeds = str(len(told["seeds"]))
                lost = "" if told["forgetting"] is None or len(group["metrics"]) < 2 else f"{told['forgetting']:.4f}"
                rows.append([*where, f"`{name}`", seeds, spread(told["average"]), spread(told["gain"], "+"), lost])
    heads = [
        "recipe",
        "encoder",
        "order, protocol",
        "method",
        "seeds",
        "mean over tasks",
        "gain over `single`",
        "forgetting",
    ]
    return (
        "## Measured\n\nWhat stands in `docs/results/`: means over tasks, seeds and test users at the end, with 95 %"
        " intervals where they were kept.\n`benchmarks/collect.py` writes it from finished runs; a table may hold"
        " several comparisons of one split. A row tells what the\ncode of its date reached: `axes` has had its"
        " memory since 2026-11-22, in those of Amazon, Yelp and five folds of MovieLens-1M. Intervals"
        "\nover several seeds that are no folds, of before 2026-11-23, are too narrow in the part of the seeds, with"
        " three seeds by a fifth.\n\n"
        + table(heads, rows)
        + "\n"
    )


def spread(value: list[float | None] | None, sign: str = "") -> str:
    """A mean and its interval."""
    if value is None or value[0] is None:
        return ""
    mean, low, high = value
    return f"{mean:{sign}.4f}" + ("" if low is None else f" ({low:{sign}.4f} to {high:{sign}.4f})")


def opening(docstring: str) -> str:
    """A file's opening as Markdown: indented formulas become blocks, `Differs:` a bold word."""
    text = inspect.cleandoc(docstring)
    text = re.sub(r"\s*\[(reads|writes|reads, writes)\]", "", text)
    lines, inside = [], False
    for line in text.split("\n"):
        formula = line.startswith("    ")
        if formula and not inside and (not lines or lines[-1] == ""):
            lines.append("```text")
            inside = True
        elif inside and not formula and line:
            while lines[-1] == "":
                lines.pop()
            lines += ["```", ""]
            inside = False
        lines.append(line[4:] if inside and formula else line)
    if inside:
        lines.append("```")
    return re.sub(r"(?m)^Differs\b", "**Differs**", "\n".join(lines))


# -- errors and command line ---


def errors() -> str:
    from perdure import errors as module

    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, module.PerdureError)]
    classes = sorted(classes, key=lambda cls: (cls.exit_code if cls is not module.PerdureError else 0, cls.__name__))
    rows = [[f"`{cls.__name__}`", str(cls.exit_code), first_line(cls)] for cls in classes]
    return (
        MADE
        + """# Errors

Every error that perdure raises on purpose says what was found, what was expected, where, and what to do. On the command
line it is a few lines and an exit code; `--trace` adds the traceback; with `--json` it is an object with the same
entries. Anything else that is raised is a fault of perdure.

"""
        + table(["error", "exit code", "meaning"], rows)
    )


def cli() -> str:
    import typer

    from perdure.cli import main as module

    command = typer.main.get_command(module.app)
    text = (
        MADE
        + """# Command line

Every verb has a Python function of the same name, but for `report`, which is `perdure.write_report`, and `list`, which
is `perdure.list_` (see the [tour](tour.md)). `--help` shows what stands here; `--json` prints one object instead of
tables, in UTF-8, also when the command fails. Results go to standard output, progress and errors to standard error.
The exit code is 0 when all is done, 1 when runs of a comparison or of a search failed and the others are done, else
that of the [error](errors.md).

"""
    )
    text += table(["verb", ""], [[f"[`{name}`](#{name})", summary(sub)] for name, sub in command.commands.items()])
    for name, sub in command.commands.items():
        text += f"\n## {name}\n\n{body(sub)}\n\n"
        given = [p for p in sub.params if p.param_type_name == "argument"]
        usage = "".join(f" {label(p)}" if p.required else f" [{label(p)}]" for p in given)
        text += f"```text\nperdure {name}{usage} [options]\n```\n\n"
        rows = [row for p in sub.params if (row := parameter(p))]
        if rows:
            text += table(["", "default", "meaning"], rows)
    return text.rstrip() + "\n"


def summary(command: Any) -> str:
    return inspect.cleandoc(command.help or "").split("\n")[0]


def body(command: Any) -> str:
    """Help and example; what is indented, or begins with `perdure`, becomes a block."""
    parts = [inspect.cleandoc(command.help or ""), inspect.cleandoc(command.epilog or "")]
    text = opening("\n\n".join(part for part in parts if part).replace("\b\n", ""))
    return re.sub(r"(?m)^Example: (perdure .*)$", r"Example: `\1`", text)


def label(p: Any) -> str:
    return str(p.metavar or p.name).upper()


def parameter(p: Any) -> list[str] | None:
    if getattr(p, "hidden", False):
        return None
    option = p.param_type_name == "option"
    names = ", ".join(f"`{n}`" for n in [*p.opts, *p.secondary_opts]) if option else f"`{label(p)}`"
    default = (
        ""
        if p.required or p.default in (None, (), []) or p.default is False or callable(p.default)
        else f"`{p.default}`"
    )
    text = re.sub(r"\s+", " ", getattr(p, "help", None) or "").strip()
    return [names, "required" if p.required and option else default, text]


def main() -> int:
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(("not current: " if "--check" in sys.argv else "written: ") + ", ".join(stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())
