"""What a comparison or a run measured, small enough to keep: docs/results/<name>.json, source of docs/methods.md.

    python benchmarks/collect.py runs/compared              writes docs/results/<recipe>.json
    python benchmarks/collect.py runs/one                   the same of one run of `perdure learn`, by the run's name
    python benchmarks/collect.py runs/compared --print      only shows it
    python benchmarks/collect.py runs/folds --about "five folds"   writes <recipe>-five-folds.json and says so in it
    python benchmarks/collect.py runs/more --add            keeps the methods that stand there and were not run again

No times, nothing of the machine: recipe, date, seeds, and per encoder, order, protocol and method the means with their
intervals. Run `python docs/generate.py` afterwards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def collect(out: Path) -> dict[str, Any]:
    """The document of a comparison's folder.

    Raises:
        SystemExit: the comparison is not finished, or has no recipe file to name it.
    """
    about, summary = (json.loads((out / name).read_text(encoding="utf-8")) for name in ("compare.json", "summary.json"))
    left = [cell["folder"] for cell in about["cells"] if cell["state"] != "done"]
    if left:
        raise SystemExit(f"{len(left)} runs are not done, the first is {left[0]}: finish the comparison first")
    recipe = Path(about["recipe"]).stem
    if not recipe:
        raise SystemExit("the comparison was made without a recipe file: there is nothing to call it by")
    objective = about["settings"]["objective"]["name"]
    groups = [_group(group) for group in summary["groups"]]
    return {"recipe": recipe, "date": about["written"][:10], "objective": objective, "groups": groups}


def collect_run(out: Path) -> dict[str, Any]:
    """The document of one run's folder: its last row of R.

    Raises:
        SystemExit: the run is not finished.
    """
    about, scores = (json.loads((out / name).read_text(encoding="utf-8")) for name in ("run.json", "scores.json"))
    if about["state"] != "finished":
        raise SystemExit(f"the run is {about['state']}: finish it first")
    settings, last = about["settings"], {score["task"]: score for score in scores}  # by its last measurement
    told = {
        "seeds": [about["seed"]],
        "average": [_short(sum(score["value"] for score in last.values()) / len(last)), None, None],
        "gain": None,
        "forgetting": None,
        "trainable": None,
        "bytes": None,
        "tasks": {task: _spread({**score, "mean": score["value"]}) for task, score in last.items()},
    }
    group = {
        "encoder": settings["encoder"]["name"],
        "order": "forward",
        "protocol": "clean",
        "seeds": [about["seed"]],
        "metrics": {task: score["metric"] for task, score in last.items()},
        "measured": {task: score["protocol"] for task, score in last.items()},
        "methods": {settings["tuning"]["method"]: told},
    }
    objective, date = settings["objective"]["name"], about["finished"][:10]
    return {"recipe": about["name"], "date": date, "objective": objective, "groups": [group]}


def _group(group: dict[str, Any]) -> dict[str, Any]:
    same = {name: group[name] for name in ("encoder", "order", "protocol", "seeds", "metrics", "measured")}
    return same | {"methods": {name: _method(told) for name, told in group["methods"].items()}}


def _method(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "seeds": told["seeds"],
        "average": _spread(told["average"]),
        "gain": _spread(told["gain"]),
        "forgetting": _short(told["forgetting"]["mean"]),
        "trainable": told["trainable"] and round(told["trainable"]),
        "bytes": told["bytes"] and round(told["bytes"]),
        "tasks": {task: _spread(value) for task, value in told["tasks"].items()},
    }


def _spread(value: dict[str, float | None] | None) -> list[float | None] | None:
    """[mean, low, high]."""
    return None if value is None else [_short(value[end]) for end in ("mean", "low", "high")]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 7)


def add(document: dict[str, Any], standing: dict[str, Any]) -> dict[str, Any]:
    """The document with the methods of the one that stands, where they were measured alike and not measured again.

    Raises:
        SystemExit: the standing one is of another recipe or objective, or measured its tasks in another way.
    """
    key, alike = ("encoder", "order", "protocol"), ("metrics", "measured")
    if (document["recipe"], document["objective"]) != (standing["recipe"], standing["objective"]):
        raise SystemExit("the document that stands is of another recipe or objective: give --about, or leave --add out")
    groups = {tuple(group[one] for one in key): group for group in document["groups"]}
    for old in standing["groups"]:
        new = groups.setdefault(tuple(old[one] for one in key), old)
        if any(new[one] != old[one] for one in alike):
            raise SystemExit(f"{', '.join(old[one] for one in key)}: tasks were measured in another way before")
        new["methods"] = dict(sorted({**old["methods"], **new["methods"]}.items()))
        new["seeds"] = sorted({*old["seeds"], *new["seeds"]})
    return document | {"groups": [groups[one] for one in sorted(groups)]}


def render(document: dict[str, Any]) -> str:
    """JSON with a line for each method."""
    groups = []
    for group in document["groups"]:
        methods = ",\n".join(f"    {json.dumps(name)}: {json.dumps(told)}" for name, told in group["methods"].items())
        head = json.dumps({key: value for key, value in group.items() if key != "methods"})
        groups.append(f'  {head[:-1]}, "methods": {{\n{methods}\n  }}}}')
    head = json.dumps({key: value for key, value in document.items() if key != "groups"})
    return f'{head[:-1]}, "groups": [\n' + ",\n".join(groups) + "\n]}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="the folder of a finished comparison or run")
    parser.add_argument("--print", action="store_true", help="show the document and write nothing")
    parser.add_argument("--about", metavar="WORDS", help="what sets it apart from others of its recipe")
    parser.add_argument("--add", action="store_true", help="keep the methods that stand there and were not run again")
    asked = parser.parse_args()
    document = (collect if (asked.out / "compare.json").exists() else collect_run)(asked.out)
    name = document["recipe"]
    if asked.about:
        groups = document.pop("groups")
        document |= {"about": asked.about, "groups": groups}
        name += "-" + "-".join(asked.about.split())
    path = RESULTS / f"{name}.json"
    if asked.add and path.exists():
        document = add(document, json.loads(path.read_text(encoding="utf-8")))
    if asked.print:
        print(render(document), end="")
        return
    RESULTS.mkdir(exist_ok=True)
    path.write_text(render(document), encoding="utf-8")


if __name__ == "__main__":
    main()
