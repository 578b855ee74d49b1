"""What a person sees: results as tables on standard output, or as one JSON object. Progress goes to standard error."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from perdure.errors import UsageError, shorten

__all__ = ["ids", "names", "numbers", "progress", "result"]

Told = Mapping[str, Any]
WIDE = 400  # columns of a pipe: a line of a table stays one line


def result(told: Told, as_json: bool, table: Callable[[Console, Told], None]) -> None:
    """Print a result: one JSON object, or by its own table."""
    if as_json:
        sys.stdout.write(json.dumps(plain(told), ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    else:
        pipe = not sys.stdout.isatty()
        wide = WIDE if pipe else None
        table(Console(file=sys.stdout, highlight=False, emoji=False, soft_wrap=pipe, width=wide), told)
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """As JSON can hold it: paths as text, numbers that are not finite as null, arrays as lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@contextlib.contextmanager
def progress() -> Iterator[Any]:
    """What tells a run's progress on standard error."""
    from perdure.training.display import Display

    display = Display()
    display.console = Patient(file=sys.stderr, highlight=False, emoji=False)
    with display:
        yield display


class Patient(Console):
    """A console whose run goes on when nobody listens any more; rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True


def ids(text: str | None, option: str) -> list[str] | None:
    """`a, b, c` without the blanks, or the lines of a file after `@` as they are, as a list of ids.

    Raises:
        UsageError: the file cannot be read.
    """
    if text is None or not text.startswith("@"):
        return names(text)
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8-sig").split("\n")  # an id may hold other separators of lines
        return [line for line in lines if line]
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", None) or "it is no text in UTF-8"
        raise UsageError(f"cannot read {shorten(text[1:])}: {why}", where=option) from None


def fields(text: str | None, option: str) -> dict[str, str | None] | None:
    """`gender=F, age=25` as a mapping, without the blanks.

    Raises:
        UsageError: a part without `=`, or a field named twice.
    """
    if text is None:
        return None
    told: dict[str, str | None] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name.strip() or name.strip() in told:
            raise UsageError(f"found {shorten(part)!r}", expected="field=value, each field once", where=option)
        told[name.strip()] = value.strip()
    return told


def marks(text: str | None, option: str) -> list[dict[str, Any]] | None:
    """`behaviour=view,time=978300019;behaviour=buy` as a mapping for each event; nothing is told of an empty one.

    Raises:
        UsageError: as `fields`, or a time that is no whole number of seconds.
    """
    if text is None:
        return None
    told: list[dict[str, Any]] = [{**(fields(part, option) or {})} for part in text.split(";")]
    for event in told:
        if "time" in event:
            try:
                event["time"] = int(event["time"])
            except ValueError:
                wrong = f"time={shorten(str(event['time']))}"
                raise UsageError(f"found {wrong!r}", expected="whole seconds since 1970", where=option) from None
    return told


def names(text: str | None) -> list[str] | None:
    """`a, b` as a list, without the blanks."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str | None, option: str, least: int) -> list[int] | None:
    """`1,10` as whole numbers, each `least` or more.

    Raises:
        UsageError: it is something else.
    """
    try:
        found = None if text is None else [int(part) for part in text.strip().removesuffix(",").split(",")]
    except ValueError:
        found = []
    if found is not None and min(found, default=least - 1) < least:
        expected = f"whole numbers, {least} or more, with commas between"
        raise UsageError(f"found {shorten(str(text))!r}", expected=expected, where=option)
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def rows(console: Console, heads: Sequence[str], lines: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A plain table; numbers stand on the right. A column of which no line tells anything is left out."""
    table = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="bold")
    told = [place for place in range(len(heads)) if not lines or any(line[place] is not None for line in lines)]
    for place in told:
        number = any(isinstance(line[place], int | float) for line in lines)
        table.add_column(heads[place], justify="right" if number else "left", no_wrap=place == 0, overflow="fold")
    for line in lines:
        table.add_row(*[cell(line[place]) for place in told])
    console.print(table)


def cell(value: Any) -> str:
    """Four digits for scores, thousands for counts."""
    from rich.markup import escape

    if value is None:
        return ""
    if value != value:  # NaN: not defined
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def pairs(console: Console, told: Told) -> None:
    """One line a key."""
    width = max((len(key) for key in told), default=0)
    for key, value in told.items():
        if value is not None and not isinstance(value, dict | list):
            console.print(f"{key.replace('_', ' '):<{width}}  {cell(value)}")


def notes(console: Console, lines: Sequence[str]) -> None:
    """Warnings, each in a line."""
    for line in lines:
        console.print(f"note: {cell(line)}")


def matrix(console: Console, told: Told) -> None:
    """R: a row after each task, a column a task."""
    tasks = list(told["tasks"])
    names = [task["name"] if isinstance(task, Mapping) else task for task in tasks]
    lines = [
        [f"after {names[at]}", *[float(v) for v in row], *[None] * (len(names) - len(row))]
        for at, row in enumerate(told.get("matrix") or told.get("R") or [])
        if row  # tasks learned at once have one row
    ]
    if lines:
        rows(console, ["R", *names], lines)
    sampled: dict[str, list[str]] = {}
    for name in names:
        protocol = told.get("protocols", {}).get(name, "")
        if protocol.startswith("sampled"):
            sampled.setdefault(protocol, []).append(name)
    notes(console, [f"{', '.join(of)}: {protocol}; no full ranking" for protocol, of in sampled.items()])


def quickstart(console: Console, told: Told) -> None:
    """Each task beside the oracle, R, and what was forgotten."""
    matrix(console, told)
    console.print()
    lines = [
        [
            n,
            told["measured"][n],
            told["metrics"][n],
            told["oracle"][n],
            told["alone"][n],
            told["finetune"]["metrics"][n],
        ]
        for n in told["tasks"]
    ]
    rows(console, ["task", "measure", "pcl", "best possible", "a model alone", "finetune"], lines)
    console.print()
    changed, lost = told["changed"], told["finetune"]["changed"]
    heads = ["", "pcl", "finetune"]
    share = [f"{one['answers']:,} of {one['of']:,}" for one in (changed, lost)]
    forgotten = [float(told["forgetting"]), float(told["finetune"]["forgetting"])]
    rows(console, heads, [["forgetting", *forgotten], ["answers of older tasks changed", *share]])
    console.print()
    pairs(console, {key: told[key] for key in ("model", "report", "recipe")} | {"seconds": round(told["seconds"])})
    console.print(f"\nopen {told['report']} in a browser; next:" if told["report"] else "\nnext:")
    console.print(f"perdure recommend {told['model']} --task buy --history s0001,s0013 -k 5")


def check(console: Console, told: Told) -> None:
    """What a recipe would do."""
    pairs(
        console, {key: told[key] for key in ("recipe", "users", "items", "events", "encoder", "method", "parameters")}
    )
    console.print(f"memory      about {told['memory'] / 2**20:,.0f} MiB to train, besides Python and PyTorch\n")
    heads = ["name", "kind", "train", "valid", "test", "labels", "trainable", "bytes"]
    lines = [[*[task[head] for head in heads], sum(task["notes"]["left_out"].values())] for task in told["tasks"]]
    rows(console, ["task", *heads[1:], "users left out"], lines)
    notes(console, told["notes"])


def prepare(console: Console, told: Told) -> None:
    """The store and its card."""
    from perdure.events.card import in_words

    card = told["card"]
    words = {"stored": "stored", "duplicate": "equal", "quarantined": "set aside", "filtered": "left out"}
    rows = [f"{n:,} {word}" for key, word in words.items() if (n := card["books"][key])]
    why = [f"{reason} {n:,}" for reason, n in card["quarantined"].items()]
    pairs(console, {key: value for key, value in told.items() if key != "card"} | {"rows": ", ".join(rows)})
    console.print()
    columns = {name: in_words(column) for name, column in card.get("columns", {}).items()}
    pairs(console, {str(PLAIN.get(key, key)): value for key, value in card.items()} | columns)
    notes(console, [f"rows are set aside in quarantine.parquet: {', '.join(why)}"] if why else [])
    notes(console, card["notes"])


PLAIN = {"user_unknown": "users without attributes", "item_unknown": "items without attributes"}


def learn(console: Console, told: Told) -> None:
    """R and what stands where."""
    matrix(console, told)
    console.print()
    heads = ["task", "seconds", "epochs", "trainable", "bytes", "capacity"]
    lines = []
    for cost in told["costs"]:
        name = cost["task"]
        popular = told["popularity"].get(name)
        lines.append([told["metrics"].get(name, ""), *[cost.get(head) for head in heads], popular])
    rows(console, ["measure", *heads, "popularity"], lines)
    console.print()
    pairs(
        console,
        {key: told[key] for key in ("average", "forgetting", "backward_transfer", "model", "report", "seconds")},
    )
    notes(console, told["notes"])


def around(value: Told | None) -> str | None:
    """A mean and its interval."""
    if value is None or value["mean"] is None:
        return None
    return f"{value['mean']:.4f}" + ("" if value["low"] is None else f" [{value['low']:.4f}, {value['high']:.4f}]")


def evaluate(console: Console, told: Told) -> None:
    """A line a task; the protocol beside each number."""
    heads = ["task", "split", "n", "metric", "value", "low", "high", "popularity", "protocol"]
    rows(console, heads, [[score[head] for head in heads] for score in told["scores"]])
    console.print()
    for score in told["scores"]:
        values = "  ".join(f"{name} {value:.4f}" for name, value in score["values"].items())
        console.print(f"{score['task']}: {values}")
        notes(console, score["notes"])


def recommend(console: Console, told: Told) -> None:
    """Answers, best first."""
    heads = ["rank", told["task"], "score"]
    found = zip(told["items"], told["scores"], strict=True)
    rows(console, heads, [[at + 1, item, float(score)] for at, (item, score) in enumerate(found)])
    if told["source"] == "popularity":
        console.print("note: nothing that was told is known to the model; these are the most popular answers")
    if told["unknown"]:
        unknown = ", ".join(f"'{one}'" for one in told["unknown"][:20])
        console.print(f"note: not known to the model: {cell(unknown)}")
    notes(console, told["notes"])
    if told["truncated"]:
        console.print("note: there are no more answers to give")


def written(console: Console, told: Told) -> None:
    """Where the file is, and what it holds."""
    pairs(console, {key: value for key, value in told.items() if key != "notes"})
    notes(console, told["notes"])


OTHERS = ("accuracy", "macro_f1", "auc", "log_loss", "ndcg@10", "hr@10")  # measures beside the one that decides


def probe(console: Console, told: Told) -> None:
    """A table a task: every representation with its interval and the other measures of classes."""
    for task in dict.fromkeys(row["task"] for row in told["rows"]):
        of = [row for row in told["rows"] if row["task"] == task]
        others = [name for name in OTHERS if name in of[0]["values"] and name != of[0]["metric"]]
        title = f"{task}: {told['head']} head, {told['repeats']} repeats, {of[0]['n']:,} test users; intervals of 95 %"
        heads = ["vectors", "width", "labelled", of[0]["metric"], "spread", *others]
        lines = [
            [
                row["representation"],
                row["width"],
                row["labelled"],
                around(row),
                row["spread"],
                *[row["values"].get(n) for n in others],
            ]
            for row in of
        ]
        rows(console, heads, lines, title)
        console.print()
    pairs(console, {key: told[key] for key in ("folder", "seconds") if told[key] is not None})
    notes(console, told["notes"])


def listing(console: Console, told: Told) -> None:
    """Name, paper, one line."""
    for entries in told.values():
        heads = [h for h in ("name", "paper", "keeps", "summary") if any(entry.get(h, "") != "" for entry in entries)]
        rows(console, heads, [[entry[head] for head in heads] for entry in entries])


def card(console: Console, told: Told) -> None:
    """The card of a model or run."""
    keys = (
        "folder",
        "run",
        "state",
        "encoder",
        "method",
        "keeps",
        "capacity",
        "items",
        "digest",
        "verified",
        "data_digest",
        "seed",
    )
    pairs(console, {key: told[key] for key in keys})
    console.print()
    heads = ["name", "kind", "labels", "metric", "protocol", "numbers", "description"]
    shown = ["numbers stored" if head == "numbers" else head for head in heads[1:]]
    rows(console, ["task", *shown], [[task[head] for head in heads] for task in told["tasks"]])
    console.print()
    matrix(console, told)
    pairs(console, {key: told[key] for key in ("average", "forgetting", "backward_transfer")})
    console.print()
    heads = ["file", "bytes", "sha256"]
    rows(console, heads, [[file["file"], file["bytes"], file["sha256"][:16]] for file in told["files"]])


def doctor(console: Console, told: Told) -> None:
    """Everything about this machine."""
    pairs(console, {key: told[key] for key in ("perdure", "python", "system", "cores", "threads")})
    pairs(console, {name: version or "missing" for name, version in told["packages"].items()})
    build = told["torch"]
    console.print(f"torch build: {build['build']}, {build['cpu']}, CUDA {build['cuda'] or 'none'}")
    console.print("devices: " + ", ".join(told["devices"]))
    for name, missing in told["extras"].items():
        console.print(f"extra {name}: " + (f"missing {', '.join(missing)}" if missing else "present"))
    free = [("memory", told["memory_free"]), ("disk", told["disk_free"])]
    console.print(", ".join(f"{name} {size / 2**30:,.1f} GiB free" for name, size in free if size is not None))
    test = told["selftest"]
    if test is None:
        return
    console.print(f"self test: {'passed' if test['ok'] else 'FAILED'} in {test['seconds']} s: {cell(test['found'])}")
