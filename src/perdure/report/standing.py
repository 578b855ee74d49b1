"""How the methods of a comparison stand: headline, gains, the score of each task. From facts to words; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl

from perdure.report import plots, words
from perdure.report.compared import ALONE, Compared, Group
from perdure.report.parts import Cell, Drawing, Grid, Section, Table, crossed

__all__ = ["alerts", "gains", "head", "scores", "scores_table", "title"]

MANY = 8  # runs of one kind that are named
POPULAR = "popularity"  # a row beside the methods
BACKBONE = ("encoder", "protocol", "seed")  # what tells one backbone from another
SURE = 0.05  # corrected p below which a difference is called certain


def head(c: Compared) -> dict[str, Any]:
    """Title, kicker, the sentences, chips and the large numbers."""
    counts = [(len(c.axis(axis)), axis.removesuffix("s")) for axis in ("methods", "encoders", "seeds")]
    told = [words.count(n, word, digits=True) for n, word in counts]
    kicker = " · ".join(["perdure compare", words.moment(str(c.about.get("written", ""))), *told])
    sentences = [_sentence(group) for group in c.main] or [f"The comparison is {c.about.get('state', 'not finished')}."]
    return {"title": title(c), "kicker": kicker, "sentences": sentences, "chips": _chips(c), "tiles": _tiles(c)}


def title(c: Compared) -> str:
    """The recipe's name, or the folder's."""
    recipe = str(c.about.get("recipe") or "").replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".toml")
    return f"{recipe or c.folder.resolve().name}, compared"


def _sentence(group: Group) -> str:
    """Who gains most, how certain that is, who lacks folds, and who forgets."""
    short = [f"{method} has {_fewer(group, method)}" for method in group.partial]
    lack = f"{words.few(short)}, each of other users, so it is not held against the rest." if short else ""
    lack = lack.replace("so it is", "so they are") if len(short) > 1 else lack
    if not group.ranked:
        return " ".join(text for text in (f"With {group.encoder}, none is called best.", lack, _losses(group)) if text)
    name = group.ranked[0]
    best, over = group.methods[name], " over " + words.count(len(group.counted), "task")
    over += f", in {few}" if (few := _fewer(group, name)) else ""
    first = f"With {group.encoder}, {name} is best: {words.score(best['average']['mean'])} on average{over}"
    first += f" ({group.sampled})" if group.sampled else ""
    gain = best.get("gain")
    if name == ALONE:
        first += ", so no method beats learning each task alone"
    elif gain:
        spread = words.interval(gain["low"], gain["high"], sign=True)
        first += f", {words.signed(gain['mean'])} over {ALONE}" + (f" (interval {spread})" if spread else "")
    return " ".join(text for text in (first + ".", _certain(best), lack, _losses(group)) if text)


def _certain(best: dict[str, Any]) -> str:
    """How sure its lead over the next is."""
    other, difference, p = best.get("against"), best.get("difference"), best.get("p_holm")
    if not difference or p is None:
        return ""
    lead = f"Its lead over {other}, {words.signed(difference['mean'])}"
    return f"{lead}, is {'beyond' if p < SURE else 'within'} chance ({words.chance(p)}, corrected)."


def _losses(group: Group) -> str:
    """Which methods forget, and which do not."""
    if len(group.tasks) < 2:
        return ""
    each = {method: group.forgetting(method) for method in group.methods}
    mean = {method: value for method, value in each.items() if value is not None}
    forgets = sorted((m for m in mean if mean[m] >= 0.0005), key=lambda m: -mean[m])
    keeps = [method for method in mean if group.lost_nothing(method)]
    told = ""
    if forgets:
        others = [f"{method} {words.lost(mean[method])}" for method in forgets[1:]]
        told = f"{forgets[0]} forgets{' most' if others else ''}: {words.lost(mean[forgets[0]])} on average"
        told += f"; then {words.few(others)}." if others else "."
    if len(keeps) == len(group.methods):
        return "No method forgets anything."
    return f"{told} {words.few(keeps)} forget{'s' * (len(keeps) == 1)} nothing.".strip() if keeps else told


def _fewer(group: Group, method: str) -> str:
    """`1 of 3 seeds`, of a method that has not all of its group; else empty."""
    have, all_ = group.methods[method]["seeds"], group.seeds
    return "" if have == all_ else f"{len(have)} of {words.count(len(all_), 'seed', digits=True)}"


def _chips(c: Compared) -> list[tuple[str, bool]]:
    told = sorted({text for group in c.groups for text in group.measured.values()})
    chips = [(text, text.startswith("sampled")) for text in told]
    chips += [("seeds " + ", ".join(map(str, c.axis("seeds"))), False)]
    chips += [(", ".join(c.axis(axis)), False) for axis in ("encoders", "orders", "protocols")]
    state = str(c.about.get("state", "finished"))
    return chips + ([(state, True)] if state != "finished" else [])


def _tiles(c: Compared) -> list[dict[str, str]]:
    states = [cell["state"] for cell in c.about.get("cells") or []]
    done = {"label": "runs done", "value": f"{states.count('done')} of {len(states)}", "note": ""}
    if not c.main:
        return [done]
    tiles = []
    if bests := [(g.methods[g.ranked[0]]["average"]["mean"], g.ranked[0], g) for g in c.main if g.ranked]:
        best, name, group = max(bests, key=lambda entry: entry[0])
        note = f"{name}, {group.encoder}" + (", sampled" if group.sampled else "")
        tiles.append({"label": "best mean score", "value": words.score(best), "note": note})
    gained = [(g.methods[m]["gain"], m, g.encoder) for g in c.main for m in g.ranked]
    gained = [(gain["mean"], method, encoder) for gain, method, encoder in gained if gain]
    if any(method != ALONE for _, method, _ in gained):
        value, method, encoder = max(entry for entry in gained if entry[1] != ALONE)
        tiles.append({"label": f"best gain over {ALONE}", "value": words.signed(value), "note": f"{method}, {encoder}"})
    lost = [(value, m, g.encoder) for g in c.main for m in g.methods if (value := g.forgetting(m)) is not None]
    if lost:
        value, method, encoder = max(lost)
        note = f"{method}, {encoder}" if value else "by no method"
        tiles.append({"label": "most forgotten", "value": words.lost(value), "note": note})
    return [*tiles, {**done, "note": f"{words.duration(_spent(c))} of learning"}]


def _spent(c: Compared) -> float:
    """Seconds of learning; a backbone that methods share was learned once."""
    rows = pl.concat(group.rows for group in c.groups).filter(pl.col("seconds").is_not_null())
    shared = pl.col("backbone_shared") & (pl.col("task_index") == 0)
    counted = pl.concat([rows.filter(~shared), rows.filter(shared).unique(BACKBONE)])
    return sum(counted["seconds"].to_list())


def alerts(c: Compared) -> list[str]:
    """What must be read before any number: runs that are not there, leaks, what to doubt, what is missing."""
    told: list[str] = list(c.about.get("notes") or [])
    for state, word in (("failed", "failed"), ("cut", "cut short"), ("missing", "not run")):
        some = [cell for cell in c.cells if cell["state"] == state]
        told += [f"{one['folder']}: {word}, {one['fault']}" for one in some if one.get("fault")][:MANY]
        rest = [one["folder"] for one in some if not one.get("fault")]
        faults = len(some) - len(rest)
        told += [f"and {words.count(faults - MANY, 'more run', digits=True)}: {word}"] if faults > MANY else []
        told += [f"{words.few(rest, MANY)}: {word}"] if rest else []
    for protocol, findings in (c.about.get("findings") or {}).items():
        told += [f"{protocol} leaks: {found['text']}" for found in findings if found["severity"] == "leak"]
        notes = sum(found["severity"] != "leak" for found in findings)
        told += [f"{protocol}: {words.count(notes, 'note')} of the leakage audit, below"] if notes else []
    told += dict.fromkeys(doubt for group in c.main for doubt in group.doubts)
    return told + c.missing


def gains(c: Compared) -> Section:
    """Gain over a model of its own for each task; then average, gain, certainty, forgetting, transfer."""
    several = [(group.encoder, rows) for group in c.main if len(rows := _gained(group)) > 1]
    every = [row for _, rows in several for row in rows]
    drawn = [Drawing(name, plots.gains(rows, name, width=330, among=every)) for name, rows in several]
    intro = (
        f"Gain: mean over the tasks of a score less that of {ALONE}, a model that learned this task alone, of the same"
        f" seed. Dot: mean. Bar: {c.level:.0%} interval, from users and seeds drawn again and again."
    )
    parts: list[Any] = [intro, Grid(drawn, wide=True)] if drawn else []
    *tables, last = [_summary(c, group) for group in c.main]
    last = replace(last, note=f"{last.note} {_meaning(bool(drawn))}")  # the columns mean the same in all of them
    return Section("Which method is best", [*parts, *tables, last])


def _gained(group: Group) -> list[dict[str, Any]]:
    return [
        {"method": method, **{k: one["gain"][k] for k in ("mean", "low", "high")}}
        for method, one in sorted(group.methods.items(), key=lambda entry: -((entry[1]["gain"] or {}).get("mean") or 0))
        if one.get("gain") and method != ALONE
    ]


def _summary(c: Compared, group: Group) -> Table:
    gained = any(one.get("gain") for one in group.methods.values())
    heads = {
        "mean score": True,
        "gain": gained,
        f"against {c.against or 'the best other'}": True,
        "forgetting": True,
        "backward transfer": True,
        "forward transfer": gained,
        "keeps": True,
    }
    rows = [
        [cell for cell, shown in zip(_summed(group, method), [True, *heads.values()], strict=True) if shown]
        for method in group.methods
    ]
    caption = f"{group.encoder}: the methods over all tasks{_left_out(group)}"
    caption += f" ({group.sampled})" if group.sampled else ""
    measures = list(dict.fromkeys(group.label(task) for task in group.counted))
    tests = len({frozenset((m, one["against"])) for m, one in group.methods.items() if one.get("p_holm") is not None})
    note = _over(c, group)
    note += f" The mean score is over {words.listed(measures)}: it orders methods." if len(measures) > 1 else ""
    note += f" p: paired bootstrap, corrected for {words.count(tests, 'test')} (Holm)." if tests else ""
    return Table(caption, [Cell("method"), *[Cell(head) for head, shown in heads.items() if shown]], rows, note)


def _summed(group: Group, method: str) -> list[Cell]:
    """A row of the summary, every column of it."""
    one = group.methods[method]
    top = max((group.methods[other]["average"]["mean"] for other in group.ranked), default=0.0)
    once = group.forgetting(method) is None  # never measured before the end: nothing to compare with
    return [
        Cell(method, _fewer(group, method)),
        _mean(one["average"], best=method in group.ranked and one["average"]["mean"] == top),
        _change(one["gain"]),
        _against(one),
        Cell("") if once else _seeds(one["forgetting"], words.lost),
        Cell("") if once else _seeds(one["backward_transfer"], words.signed),
        _seeds(one["forward_transfer"], words.signed),
        Cell({True: "yes", False: "no"}.get(one["keeps"], "")),
    ]


def _meaning(gained: bool) -> str:
    """What the columns of the summary mean."""
    ahead = f" Forward transfer: the score of a task when just learned less that of {ALONE}." if gained else ""
    return (
        "Forgetting: the best score a task ever had less its score at the end, mean over older tasks. Backward"
        f" transfer: its score at the end less that when just learned.{ahead} Small below: the range of the"
        " seeds. Keeps: whether the method promises that older tasks answer bit for bit as before."
    )


def _over(c: Compared, group: Group) -> str:
    """What means and intervals are taken over."""
    seeds = words.count(len(group.seeds), "seed")
    if len(group.seeds) == 1:
        return f"One seed: the {c.level:.0%} intervals tell of other test users, not of other seeds."
    if any(_fewer(group, method) for method in group.methods):
        seeds += ", fewer where it is said,"
    return f"Means over {seeds} and the test users; {c.level:.0%} intervals over both."


def _left_out(group: Group) -> str:
    return f", {words.listed(group.left_out)} left out" if group.left_out else ""


def _mean(one: dict[str, float | None], best: bool = False) -> Cell:
    return Cell(words.score(one["mean"]), words.interval(one["low"], one["high"]), "best" if best else "")


def _change(one: dict[str, Any] | None) -> Cell:
    if not one or one["mean"] is None:
        return Cell("")
    return Cell(words.signed(one["mean"]), words.interval(one["low"], one["high"], sign=True) if one["mean"] else "")


def _against(one: dict[str, Any]) -> Cell:
    difference = one.get("difference")
    if not difference:
        return Cell("")
    note = ", ".join(text for text in (str(one["against"]), words.chance(one.get("p_holm"))) if text)
    return Cell(words.signed(difference["mean"]), note)


def _seeds(one: dict[str, Any], say: Any) -> Cell:
    """A mean, and the range of its seeds where they differ."""
    if one["mean"] is None:
        return Cell("")
    known = [value for value in one["seeds"] if value is not None]
    ends = [say(min(known)), say(max(known))]
    return Cell(say(one["mean"]), f"{ends[0]} to {ends[1]}" if ends[0] != ends[1] else "")


def scores(c: Compared) -> Section:
    """The score of every task at the end, by every method."""
    intro = (
        "Scores on the test users after the last task was learned. The best of each task is bold; where intervals"
        " overlap, the order may be chance."
    )
    if any(value is not None for group in c.main for value in group.popularity.values()):
        intro += " Popularity is what is reached by answering everybody with what is popular in training."
    return Section("Every task by every method", [intro, *[scores_table(c, group) for group in c.main]])


def scores_table(c: Compared, group: Group) -> Table:
    """Methods by tasks, or tasks by methods where the tasks are many."""
    top = group.top
    cells = {
        (m, t): _mean(one["tasks"][t], best=m in group.ranked and one["tasks"][t]["mean"] == top[t])
        for m, one in group.methods.items()
        for t in group.tasks
    }
    names, known = list(group.methods), {t: v for t, v in group.popularity.items() if v is not None}
    if known:
        names.append(POPULAR)
        cells |= {(POPULAR, t): Cell(words.score(known[t]) if t in known else "") for t in group.tasks}
    caption = f"{group.encoder}: score of each task at the end"
    caption += "" if (group.order, group.protocol) == ("forward", "clean") else f" ({group.order}, {group.protocol})"
    note = _over(c, group) + (f" Ranking: {group.sampled}." if group.sampled else "")
    tasks = [Cell(task, group.label(task)) for task in group.tasks]
    heads, rows = crossed(
        names, tasks, lambda method, task: cells[method, task],
        note=lambda method: "" if method == POPULAR else _fewer(group, method),
    )  # fmt: skip
    return Table(caption, heads, rows, note)
