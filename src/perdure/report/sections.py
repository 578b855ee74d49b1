"""What the run found, section by section: from facts to words and cells. Pure: no disk, no drawing."""

from __future__ import annotations

from typing import Any

from perdure.report import words
from perdure.report.facts import Facts
from perdure.report.parts import WIDE

__all__ = ["curves", "head", "life", "matrix", "others", "scores"]

SHADE = 58  # percent of heat in a cell that reaches the oracle (or the column's best)


def head(facts: Facts) -> dict[str, Any]:
    """Title, kicker, the sentence, chips and the large numbers."""
    run, count = facts.run, len(facts.tasks)
    method, encoder = _chosen(facts, "tuning", "method"), _chosen(facts, "encoder", "name")
    title = str(run.get("name") or facts.folder.resolve().name)
    tiles = []
    final = [v for v in _final(facts) if v is not None]
    if final:
        tiles.append(
            {
                "label": "mean score now",
                "value": words.score(words.mean(final)),
                "note": f"over {words.count(count, 'task', digits=True)}",
            }
        )
        if facts.oracle:
            best = [facts.oracle[t] for t in facts.tasks if t in facts.oracle]
            share = words.mean([v / facts.oracle[t] for v, t in zip(_final(facts), facts.tasks, strict=True)
                           if v is not None and facts.oracle.get(t)])  # fmt: skip
            tiles.append(
                {
                    "label": "of what is reachable",
                    "value": f"{share:.0%}",
                    "note": f"best possible {words.score(words.mean(best))}",
                }
            )
    lost = facts.matrix.forgotten()
    if lost:
        worst = max(lost, key=lambda task: lost[task])
        note = "nothing lost" if lost[worst] == 0 else f"most: {worst} {words.signed(-lost[worst])}"
        tiles.append({"label": "forgetting", "value": words.score(facts.matrix.forgetting()), "note": note})
    seconds = [float(row["seconds"]) for row in facts.cost.values() if row.get("seconds") is not None]
    if seconds:
        tiles.append({"label": "time to train", "value": words.duration(sum(seconds)), "note": f"{_device(run)}"})
    kicker = " · ".join(
        p
        for p in [
            "perdure report",
            words.moment(str(run.get("finished") or run.get("started") or "")),
            f"method {method}" if method else "",
            f"encoder {encoder}" if encoder else "",
        ]
        if p
    )
    sentences = [_sentence(facts)]
    return {"title": title, "kicker": kicker, "sentences": sentences, "chips": _chips(facts), "tiles": tiles}


def _sentence(facts: Facts) -> str:
    method, encoder = _chosen(facts, "tuning", "method"), _chosen(facts, "encoder", "name")
    count = len([row for row in facts.R if any(v is not None for v in row)])
    who = f"One {encoder} encoder" if encoder else "One encoder"
    if not count:
        return f"{who} is being taught; no task has been finished yet."
    how = f" with {method}" if method else ""
    in_turn = " at once" if len(facts.R) > count else " one after the other" if count > 1 else ""
    first = f"{who} was taught {words.count(len(facts.R), 'task')}{in_turn}{how}."
    if str(facts.run.get("state", "finished")) != "finished":
        planned = words.count(max(len(facts.R), len(facts.planned)), "task")
        first = f"{who} has been taught {words.number(len(facts.R))} of {planned}{how}; the run has not finished."
    lost = facts.matrix.forgotten()
    if not lost:
        return first
    if max(lost.values()) == 0:
        gain = facts.matrix.backward_transfer()
        if gain == 0:
            return (
                f"{first} It has forgotten nothing: every older task scores exactly what it scored when it was learned."
            )
        return f"{first} It has forgotten nothing: on average its older tasks score {words.score(gain)} higher by now."
    worst = max(lost, key=lambda task: lost[task])
    best = lost[worst] + (facts.R[-1][facts.tasks.index(worst)] or 0.0)
    share = f" ({lost[worst] / best:.0%} of it)" if best else ""
    return (
        f"{first} Its older tasks have lost {words.score(facts.matrix.forgetting())} of their best score on average;"
        f" {worst} has lost most, {words.score(lost[worst])}{share}."
    )


def _chips(facts: Facts) -> list[tuple[str, bool]]:
    protocols = sorted({str(s["protocol"]) for s in facts.scores.values() if s.get("protocol")})
    chips = [(text, text.startswith("sampled")) for text in protocols]
    run = facts.run
    for key, text in (("seed", "seed {}"), ("device", "{}")):
        if run.get(key) is not None:
            chips.append((text.format(run[key]), False))
    if run.get("threads"):
        chips.append((words.count(int(run["threads"]), "thread", digits=True), False))
    state = run.get("state")
    if state and state != "finished":
        chips.append((str(state), True))
    return chips


def matrix(facts: Facts) -> dict[str, Any] | None:
    """R as cells with text, shade and what changed since the task was learned."""
    if not facts.R or _lonely(facts):
        return None
    tops = []
    for k, task in enumerate(facts.tasks):
        column = [row[k] for row in facts.R if row[k] is not None]
        tops.append(max([facts.oracle.get(task, 0.0), *[v for v in column if v is not None]]) or 1.0)
    rows, fell, learned, many = [], False, facts.matrix.learned(), len(facts.tasks) > WIDE
    first = [next(t for t, row in enumerate(facts.R) if row[k] is not None) for k in range(len(facts.tasks))]
    for t, row in enumerate(facts.R):
        cells: list[dict[str, Any] | None] = []
        for k, value in enumerate(row):
            if value is None:
                cells.append(None)
                continue
            change = value - learned[facts.tasks[k]]
            fell = fell or change != 0
            kind = "fresh" if t == first[k] else ("fell" if change < -0.0005 else "")
            text = words.signed(change) if change else ""
            shade = round(SHADE * max(0.0, min(1.0, value / tops[k])), 1)
            cells.append({"text": words.score(value), "shade": shade, "kind": kind, "change": text})
        known = [v for v in row if v is not None]
        name = f"{t + 1}\N{NO-BREAK SPACE}{facts.tasks[t]}" if many else facts.tasks[t]
        rows.append({"name": name, "cells": cells, "mean": words.score(words.mean(known)) if known else ""})
    foot = [_foot(name, told, facts.tasks) for name, told in (("alone", facts.alone), ("oracle", facts.oracle)) if told]
    against = (
        "the oracle, the best score that can be reached on this task"
        if facts.oracle
        else "the best score of its column"
    )
    metrics = [{"name": task, "metric": _metric(facts, task), "title": ""} for task in facts.tasks]
    if many:  # numbers, so that all columns fit beside one another
        metrics = [{"name": str(k + 1), "metric": "", "title": f"{t['name']}, {t['metric']}"}
                   for k, t in enumerate(metrics)]  # fmt: skip
    caption = f"Colour compares a cell with {against}; tasks have different metrics, so compare down, not across."
    if any(now is not None and now > facts.oracle.get(facts.tasks[k], 1.0) for k, now in enumerate(facts.R[-1])):
        caption += " The oracle is an expectation: on few users a score may lie above it by chance."
    breadth = 18 + 6.5 * (len(metrics) + 1)
    return {"tasks": metrics, "rows": rows, "foot": foot, "fell": fell, "caption": caption, "breadth": breadth}


def _foot(name: str, told: dict[str, float], names: list[str]) -> dict[str, Any]:
    values = [told.get(task) for task in names]
    known = [v for v in values if v is not None]
    cells = ["" if v is None else words.score(v) for v in values]
    return {"name": name, "cells": cells, "mean": words.score(words.mean(known)) if len(known) == len(names) else ""}


def life(facts: Facts) -> dict[str, Any] | None:
    """Per task: when learned, now, lost, alone, transfer, best reachable; None where one score is all there is."""
    if not facts.R or _lonely(facts):
        return None
    final, lost_by, first = _final(facts), facts.matrix.forgotten(), facts.matrix.learned()
    points, rows = [], []
    for k, task in enumerate(facts.tasks):
        learned, now = first[task], final[k]
        alone, oracle = facts.alone.get(task), facts.oracle.get(task)
        points.append({"task": task, "learned": learned, "now": now, "alone": alone, "oracle": oracle})
        lost = words.lost(lost_by[task]) if task in lost_by else ""
        row = [task, _metric(facts, task), words.score(learned), words.score(now), lost]
        if facts.alone:
            row += [words.score(alone), "" if alone is None else words.signed(learned - alone)]
        if facts.oracle:
            row += [words.score(oracle)]
        rows.append(row)
    kept = all(point["now"] == point["learned"] for point in points)
    sentence = (
        "Where ring and dot coincide, a task scores as it did on the day it was learned: here every one does."
        if kept
        else "The bar between ring and dot is what a task has gained or lost while later tasks were learned."
    )
    if len(points) == 1:
        sentence = "One task only: there was nothing to forget yet."
    elif not lost_by:
        sentence = "All tasks were learned at once and measured once: nothing was learned later that could harm them."
    heads = ["task", "metric", "learned", "now", "forgetting"]
    heads += ["alone", "transfer"] * bool(facts.alone) + ["oracle"] * bool(facts.oracle)
    caption = "Forgetting = the best score a task ever had minus its score at the end."
    if facts.alone:
        caption += " Transfer = score when learned minus the score of a model that learned this task alone."
    return {"sentence": sentence, "points": points, "heads": heads, "rows": rows, "caption": caption,
            "alone": bool(facts.alone), "oracle": bool(facts.oracle)}  # fmt: skip


def others(facts: Facts) -> dict[str, Any] | None:
    """The same tasks by other methods: what each scores at the end, and what it forgot."""
    if not facts.others:
        return None
    rows = []
    for name, matrix in [(_chosen(facts, "tuning", "method") or "this run", facts.matrix), *facts.others.items()]:
        final = [words.score(value) for value in matrix.rows[-1]]
        lost = words.lost(matrix.forgetting()) if matrix.forgotten() else ""  # nothing, where all was learned at once
        rows.append([name, *final, words.score(matrix.average()), lost])
    caption = (
        "One run each, one seed. Scores at the end, after all tasks; forgetting as above, mean over the older tasks."
    )
    return {"heads": ["method", *facts.tasks, "mean", "forgetting"], "rows": rows, "caption": caption}


def curves(facts: Facts) -> list[dict[str, Any]]:
    """Per task and stage: points, the epoch whose weights were kept, a caption."""
    told = []
    for task in [*facts.tasks, *[name for name in facts.epochs if name not in facts.tasks]]:
        lines = facts.epochs.get(task, [])
        stages = list(dict.fromkeys(line.get("stage") or "train" for line in lines))
        for stage in stages:
            mine = [line for line in lines if (line.get("stage") or "train") == stage]
            metric = str(next((line["metric"] for line in mine if line.get("metric")), _metric(facts, task)))
            points = [{"epoch": line["epoch"], "loss": line.get("loss"), "valid": line.get("valid")} for line in mine]
            scored = [p for p in points if p["valid"] is not None]
            best = max(scored, key=lambda p: p["valid"]) if scored else None
            caption = words.count(len(mine), "epoch", digits=True).capitalize()
            if best:
                caption += f"; best {metric} {words.score(best['valid'])} in epoch {best['epoch']}"
            if stage == stages[-1] and task in facts.counted:
                caption += f"; {words.score(facts.counted[task])} with what was counted after training"
            title = task if len(stages) == 1 else f"{task}, {stage}"
            told.append(
                {
                    "task": title,
                    "points": points,
                    "metric": metric,
                    "best": best and best["epoch"],
                    "caption": caption + ".",
                }
            )
    return told


def scores(facts: Facts) -> dict[str, Any] | None:
    """The last score of every task with its interval, its protocol and the other metrics."""
    rows = []
    for task in facts.tasks:
        score = facts.scores.get(task)
        if score is None:
            continue
        low, high = score.get("low"), score.get("high")
        values = dict(score.get("values") or {})
        protocol = str(score.get("protocol", ""))
        rows.append(
            {
                "task": task,
                "n": words.whole(score.get("n")),
                "metric": score.get("metric", ""),
                "value": words.score(score.get("value")),
                "interval": f"{words.score(low)} – {words.score(high)}" if None not in (low, high) else "",
                "popularity": "" if score.get("popularity") is None else words.score(score["popularity"]),
                "protocol": protocol,
                "sampled": protocol.startswith("sampled"),
                **_by_cut(values),
                "notes": list(score.get("notes") or []),
            }
        )
    if not rows:
        return None
    caption = (
        "Intervals are bootstrap intervals over test users: how far the score would move with other users, not with"
        " other seeds. Popularity is what is reached by answering everybody with what is popular in training."
    )
    if any(row["sampled"] for row in rows):
        caption += (
            " Sampled ranking compares each answer with a few drawn items only: such scores are higher and cannot be"
            " compared with full ranking."
        )
    return {"rows": rows, "caption": caption}


def _by_cut(values: dict[str, float]) -> dict[str, Any]:
    """Metrics with a cut-off as a table of measure by cut-off, the others as a line."""
    cut = {tuple(name.split("@")): value for name, value in values.items() if name.count("@") == 1}
    ks = sorted({k for _, k in cut}, key=lambda k: (len(k), k))
    rows = [
        [measure, *[words.score(cut.get((measure, k))) for k in ks]]
        for measure in sorted({measure for measure, _ in cut})
    ]
    singles = [f"{name} {words.score(value)}" for name, value in values.items() if "@" not in name]
    return {"cuts": [f"@{k}" for k in ks], "ranked": rows, "singles": ", ".join(singles)}


def _lonely(facts: Facts) -> bool:
    """One task and nothing to set its score against: `scores` tells all there is."""
    return len(facts.tasks) == 1 and not facts.alone and not facts.oracle


def _final(facts: Facts) -> list[float | None]:
    return facts.R[-1] if facts.R else []


def _chosen(facts: Facts, section: str, key: str) -> str:
    return str(((facts.run.get("settings") or {}).get(section) or {}).get(key) or "")


def _metric(facts: Facts, task: str) -> str:
    return str(facts.metrics.get(task) or (facts.scores.get(task) or {}).get("metric") or "")


def _device(run: dict[str, Any]) -> str:
    threads = run.get("threads")
    return f"{run.get('device', 'cpu')}" + (f", {words.count(int(threads), 'thread', digits=True)}" if threads else "")
