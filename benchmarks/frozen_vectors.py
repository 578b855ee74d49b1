"""What frozen user vectors tell of users, for every way of pre-training and several seeds: one table.

    PERDURE_DATA=FOLDER python benchmarks/frozen_vectors.py ml1m --seeds 1 2 3 --out runs/frozen [--ways next_item ptum]

Each way of frozen_vectors.toml learns the first task of the recipe alone, once a seed, on one thread; what is done is
not done again. Then `perdure probe` judges all models of a seed with linear heads on the recipe's other tasks. Printed,
and written to OUT/table.md: the mean over seeds of each task's measure (of classes accuracy and AUC), with the smallest
and the largest seed, and the seconds that pre-training took. An encoder "before" is one before its first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import perdure

HERE = Path(__file__).parent
Table = dict[tuple[str, str], dict[str, list[float]]]  # (vectors, task) -> measure -> a value a seed


def overrides(plan: dict[str, Any], way: str, seed: int, out: Path) -> tuple[str, list[str]]:
    """What a way reads ("" for item ids), and its settings with every *name replaced by what it stands for."""
    reads, told = "", [*plan["set"], f"run.seed={seed}", "run.threads=1"]
    for one in plan["ways"][way]:
        key, star, name = one.partition("*")
        if not star:
            told.append(one)
        elif key:  # the model of another way
            told.append(f"{key}{out / f'{name}-{seed}' / 'model'}")
        elif name in plan["reads"]:
            reads = name
            told += plan["reads"][name]
        else:
            told += plan[name]
    return reads, told


def learn(plan: dict[str, Any], way: str, seed: int, out: Path) -> str:
    """Pre-train one model, if it is not there; what it reads."""
    recipe = tomllib.loads((HERE.parent / "recipes" / plan["recipe"]).read_text("utf-8"))
    recipe |= {"tasks": recipe["tasks"][:1], "tuning": {"method": "frozen"}}
    reads, told = overrides(plan, way, seed, out)
    folder = out / f"{way}-{seed}"
    if not (folder / "matrix.json").exists():
        run = perdure.learn(recipe, folder, overrides=[*told, f"run.store={out / f'store-{reads}'}"], resume="auto")
        print(f"{way}, seed {seed}: {run.seconds:.0f} s", flush=True)
    return reads


def judge(plan: dict[str, Any], groups: dict[str, list[str]], seed: int, out: Path, repeats: int) -> list[dict]:
    """The rows of all models of one seed, models of different inputs in turn."""
    rows = []
    for reads, ways in groups.items():
        told = [*plan["set"], "run.threads=1", *plan["reads"].get(reads, [])]
        for task in plan["tasks"]:
            folder = out / f"probe-{seed}-{reads or 'items'}-{task}"
            if not (folder / "probe.json").exists():
                perdure.probe(
                    [out / f"{way}-{seed}" / "model" for way in ways],
                    HERE.parent / "recipes" / plan["recipe"],
                    task=task,
                    repeats=repeats,
                    overrides=told,
                    store=out / f"store-{reads}",
                    out=folder,
                )
            judged = json.loads((folder / "probe.json").read_text("utf-8"))["rows"]
            missing = {f"{way}-{seed}" for way in ways} - {row["representation"] for row in judged}
            if missing:
                raise SystemExit(f"{folder} was judged without {', '.join(sorted(missing))}: remove it to judge again")
            rows += judged
    return rows


def collect(rows: Sequence[dict[str, Any]], seed: int, table: Table) -> None:
    """Add one seed's rows to the table; popularity, judged beside every input, once."""
    for (name, task), row in {(row["representation"], row["task"]): row for row in rows}.items():
        way = name.replace(f"-{seed}", "").replace(", untrained", " before")
        for measure in [row["metric"], *(["auc"] if row["kind"] == "one_of" else [])]:
            table[way, task].setdefault(measure, []).append(row["values"][measure])


def written(table: Table, tasks: Sequence[str], seconds: dict[str, list[float]]) -> str:
    """The table as Markdown."""
    names = list(dict.fromkeys(name for name, _ in table))
    heads = [f"{task}: {m}" for task in tasks for m in next(v for (_, t), v in table.items() if t == task)]
    lines = [f"| vectors | {' | '.join(heads)} | seconds |", "|---" * (len(heads) + 2) + "|"]
    for name in names:
        cells = [_cell(values) for task in tasks for values in table[name, task].values()]
        took = f"{statistics.mean(seconds[name]):.0f}" if name in seconds else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {took} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    """mean (smallest to largest)"""
    mean, low, high = (f"{v:.3f}".lstrip("0") for v in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Learn what is missing, judge it, print the table."""
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("data", help="a section of frozen_vectors.toml")
    told.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    told.add_argument("--ways", nargs="+", help="some of its ways; all by default")
    told.add_argument("--tasks", nargs="+", help="some of its tasks; all by default")
    told.add_argument("--repeats", type=int, default=3, help="draws of labelled users a seed")
    told.add_argument("--out", type=Path, required=True)
    args = told.parse_args()
    plan = tomllib.loads((HERE / "frozen_vectors.toml").read_text("utf-8"))[args.data]
    plan["tasks"] = args.tasks or plan["tasks"]
    out, table, seconds = args.out.resolve(), defaultdict(dict), defaultdict(list)
    for seed in args.seeds:
        groups: dict[str, list[str]] = defaultdict(list)
        for way in args.ways or plan["ways"]:
            groups[learn(plan, way, seed, out)].append(way)
            cost = json.loads((out / f"{way}-{seed}" / "cost.json").read_text("utf-8"))
            seconds[way].append(cost[0]["seconds"])
        collect(judge(plan, groups, seed, out, args.repeats), seed, table)
    text = written(table, plan["tasks"], seconds)
    (out / "table.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
