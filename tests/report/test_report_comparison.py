"""The page of a comparison: complete, self-contained, honest about what failed, and the same tables as Markdown."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from typing import Any

import polars as pl
import pytest
from report import compare_folder
from report.test_report_page import Reader, words

from perdure import api
from perdure.errors import ModelError, UsageError
from perdure.report import drawing, knowledge, plots, standing
from perdure.report.compared import Compared, Group, doubts, read
from perdure.report.comparison import build
from perdure.report.facts import Facts
from perdure.report.parts import WIDE, Cell, Grid, Section, Table, crossed, markdown
from perdure.report.standing import title

FAILED, MISSING = "runs/sasrec/finetune/noisy/2", "runs/gru4rec/lora/reversed/1"


def pages(folder) -> tuple[str, str]:
    page = build(folder)
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return compare_folder.write(
        tmp_path_factory.mktemp("whole"),
        encoders=("gru4rec", "sasrec"),
        seeds=(1, 2),
        orders=("forward", "reversed", "noisy"),
        protocols=("clean", "as-coded", "user-each"),
        users=40,
        states={FAILED: ("failed", "the loss is not finite"), MISSING: ("missing", None)},
    )


@pytest.fixture(scope="module")
def whole(folder):
    return pages(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    made = compare_folder.write(
        tmp_path_factory.mktemp("small"), methods=("pcl", "finetune"), seeds=(1,), users=30, sampled=True
    )
    return pages(made)


def summary(folder) -> list[dict]:
    return json.loads((folder / "summary.json").read_text())["groups"]


def test_tasks_that_were_learned_at_once_are_framed_alike(tmp_path):
    rows = [{"method": "joint", "seed": 1, "after_index": 2, "task_index": k, "task": t, "value": 0.5, "final": True}
            for k, t in enumerate("abc")]  # fmt: skip
    joint = {"joint": {"average": {"mean": 0.5}}}
    group = Group("sasrec", "forward", "clean", [*"abc"], [], {}, {}, [1], joint, pl.DataFrame(rows), pl.DataFrame())
    told = Compared(tmp_path, {"orders": ["forward"], "protocols": ["clean"]}, Facts(tmp_path, {}), [group])
    section: Any = knowledge.matrices(told)
    assert [cell.kind for cell in section.parts[-1].parts[0].rows[2][1:]] == ["fresh"] * 3


# -- the page as a page ------------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_self_contained(whole):
    reader = Reader()
    reader.feed(whole[0])
    assert not reader.open
    assert not {tag for tag, _ in reader.seen} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in reader.seen:
        assert not {name for name in attributes if name.startswith("on")}
        assert not {"src", "xlink:href", "action"} & set(attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    outside = set(re.findall(r"https?://[^\"'\s<)]+", whole[0]))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in whole[0] and "url(" not in whole[0]


def test_links_lead_to_the_sections(whole):
    targets = re.findall(r'<a href="#(\w+)">', whole[0])
    assert targets == re.findall(r'<section id="(\w+)">', whole[0]) and len(targets) > 15


def test_headings_are_in_order_and_every_table_and_drawing_says_what_it_is(whole):
    levels = [int(level) for level in re.findall(r"<h(\d)[ >]", whole[0])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert whole[0].count("<table") == len(re.findall(r"<caption><span>[^<]+</span></caption>", whole[0]))
    drawings = re.findall(r'<svg[^>]*class="drawing"[^>]*>', whole[0])
    assert len(drawings) > 15 and all(re.search(r'aria-label="[^"]{20,}"', svg) for svg in drawings)


def test_drawings_use_the_theme(whole):
    known = {f"#0{n}0{n}0{n}" for n in range(1, 7)} | set(plots.LINES)
    for svg in re.findall(r"(?s)<svg[^>]*class=\"drawing\".*?</svg>", whole[0]):
        assert set(re.findall(r"#[0-9a-fA-F]{6}", svg)) <= known
    for colour in plots.LINES:  # and the style sheet knows every colour of a line
        assert f'[stroke="{colour}"]' in whole[0]


def test_text_from_outside_is_escaped(whole):
    assert "<script>" not in whole[0] and "&lt;script&gt;alert(1)" in whole[0]
    assert "<script>" not in whole[1]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_every_section_is_there(whole):
    for heading in (
        "Read this first", "Which method is best", "Every task by every method", "What quality costs",
        "What each method knew after each task", "What was forgotten", "Does a task cost more when many came before",
        "How the tasks were learned", "What tasks draw on", "Users with short and with long histories",
        "Does the order matter", "How much the published protocol flatters", "What it cost", "Leakage audit",
        "The tasks", "The data", "The runs", "Settings", "Made with",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in whole[0], heading


def test_every_number_of_the_summary_is_on_both(folder, whole):
    html, text = words(whole[0]), whole[1]
    for group in summary(folder):
        main = (group["order"], group["protocol"]) == ("forward", "clean")
        for told in group["methods"].values():
            numbers = [f"{value['mean']:.3f}" for value in told["tasks"].values()]
            ends = [f"{v['low']:.3f} – {v['high']:.3f}" for v in told["tasks"].values()]
            numbers += [f"{told['average']['mean']:.3f}"] * main
            for number in numbers + ends * main:
                assert number in html and number in text


def test_gains_are_told_with_their_intervals(folder, whole):
    gain = next(g for g in summary(folder) if g["encoder"] == "sasrec")["methods"]["pcl"]["gain"]
    row = re.search(r"(?m)^\| pcl \|.*$", whole[1][whole[1].index("**sasrec: the methods over all tasks") :])
    assert row
    for end in ("mean", "low", "high"):
        assert f"{gain[end]:+.3f}".replace("-", "−") in row.group()


def test_the_headline_names_the_best_and_who_forgets(folder, whole):
    said = words(whole[0])
    for group in summary(folder):
        if (group["order"], group["protocol"]) == ("forward", "clean"):
            assert f"With {group['encoder']}, {group['best']} is best" in said
    assert "finetune forgets most" in said and "forget nothing" in said


def test_what_failed_or_was_not_run_stands_before_any_number(whole):
    for text in (words(whole[0]), whole[1]):
        first = text.index("Which method is best", text.index("Read this first"))
        assert f"{FAILED}: failed, the loss is not finite" in text[:first]
        assert f"{MISSING}: not run" in text[:first]
    assert "seed 2 failed" in whole[1] and "seed 1 missing" in whole[1]


def test_popularity_stands_beside_the_methods_and_what_is_not_above_it_is_told(folder, whole):
    last = [task for task in summary(folder)[0]["tasks"] if summary(folder)[0]["popularity"][task] > 0.9]
    for text in (words(whole[0]), whole[1]):
        first = text.index("Which method is best", text.index("Read this first"))
        assert f"sasrec: no method is above popularity in {last[0]}" in text[:first] and len(last) == 1
    rows = [line for line in whole[1].splitlines() if line.startswith("| popularity | 0")]
    row = min(rows, key=len)  # that of the noisy order has a task more
    assert row.count("0.010") == len(summary(folder)[0]["tasks"]) - 1 and row.count("0.990") == 1


def test_each_method_that_is_not_above_popularity_is_named_with_the_task():
    reached = {"axes": (0.02, 0.3), "pcl": (0.04, 0.1), "new": (0.1, None)}
    methods = {m: {"tasks": {"next": {"mean": a}, "buy": {"mean": b}}} for m, (a, b) in reached.items()}
    told = {"encoder": "sasrec", "seeds": [1, 2, 3], "popularity": {"next": 0.04, "buy": 0.2}, "methods": methods}
    assert doubts(told) == ["sasrec: not above popularity: axes and pcl in next; pcl in buy"]
    told["popularity"] = {"next": 0.5, "buy": None}
    assert doubts(told) == ["sasrec: no method is above popularity in next"]
    assert doubts({**told, "popularity": {}}) == []


def test_curves_say_what_they_do_not_know(folder, tmp_path):
    out = shutil.copytree(folder, tmp_path / "out")
    told = "What a method counts after training, as axes its pairs, is not in the curves."
    assert told not in words(pages(out)[0])
    with (out / "runs/sasrec/pcl/forward/1/log.jsonl").open("a") as log:
        log.write('{"event": "counted", "task": "liked", "valid": 0.5}\n')
    assert told in words(pages(out)[0])


def test_fewer_than_three_seeds_are_told_before_any_number(whole):
    for text in (words(whole[0]), whole[1]):
        first = text.index("Which method is best", text.index("Read this first"))
        assert text[:first].count("two seeds only: p and the intervals know little of other seeds") == 1


def test_what_runs_warned_of_is_counted(folder, whole):
    done = sum(cell["state"] == "done" for cell in json.loads((folder / "compare.json").read_text())["cells"])
    assert f"| batch_size 128 is more than the 80 training examples | {done} |" in whole[1]


def test_the_leak_is_a_number(folder, whole):
    frame = pl.read_parquet(folder / "results.parquet").filter(
        "final", pl.col("encoder") == "sasrec", pl.col("order") == "forward"
    )
    means = frame.group_by("protocol").agg(pl.col("value").mean())
    mean = dict(means.iter_rows())
    said = whole[1][whole[1].index("## How much the published protocol flatters") :].split("\n\n")[2:4]
    for against, sentence in zip(("user-each", "clean"), said, strict=True):
        assert against in sentence and f"{mean['as-coded'] - mean[against]:+.3f} with sasrec" in sentence
    assert "**sasrec: as-coded less user-each**" in whole[1] and "user-each less" not in whole[1]
    assert "321 of 600 test histories stand in training" in words(whole[0])


def test_the_noisy_task_counts_in_no_change(whole):
    table = whole[1][whole[1].index("**sasrec: noisy less forward") :]
    heads = table[: table.index("|---")]
    assert "noise" not in heads and all(task in heads for task in compare_folder.TASKS)


def test_slices_count_their_users(folder, whole):
    users = pl.read_parquet(folder / "users.parquet").filter(
        pl.col("encoder") == "sasrec", pl.col("order") == "forward", pl.col("protocol") == "clean", pl.col("seed") == 1,
        pl.col("method") == "pcl", pl.col("task") == "age",
    )  # fmt: skip
    counted = [users.filter(pl.col("history").is_between(low, high)).height for low, high in ((0, 0), (2, 5), (6, 20))]
    table = whole[1][whole[1].index("**age, accuracy**") :]
    heads = table[: table.index("|---")]
    for name, n in zip(("0 events", "2 to 5 events", "6 to 20 events"), counted, strict=True):
        assert (f"{name} (n {n})" in heads) == (n > 0)  # nobody, no column
    value = users.filter(pl.col("history").is_between(6, 20))["value"].mean()
    assert isinstance(value, float) and 0 < value < 1


def test_relations_of_methods_that_have_them(folder, whole):
    told = [json.loads((folder / f"runs/sasrec/pcl/forward/{s}/relations.json").read_text()) for s in (1, 2)]
    mean = (told[0]["gender"]["liked"] + told[1]["gender"]["liked"]) / 2
    assert f"gender draws on liked: {mean:.2f}" in whole[0]
    maps = whole[1][whole[1].index("## What tasks draw on") : whole[1].index("## Users with short")]
    assert "**pcl, sasrec**" in maps and "**teracon, sasrec**" in maps and "lora" not in maps


def test_cost_of_a_step_along_the_stream(whole):
    table = whole[1][whole[1].index("**sasrec: time of a training step**") :]
    assert "| teracon | 44.8 ms | 64.0 ms | 1.43 |" in table and "| pcl | 10.0 ms | 10.0 ms | 1.00 |" in table


def test_settings_and_tuned_settings_with_their_origin(whole):
    assert "| train.patience | 5 | default |" in whole[1]
    assert "pcl has settings of its own." in whole[1] and "| pcl | train.learning_rate 0.003" in whole[1]


def test_settings_of_every_method_and_encoder_are_those_of_its_runs(whole):
    text = whole[1].replace("\\", "")
    for method in compare_folder.METHODS:
        part = text[text.index(f"**Settings of [tuning] of {method}**") :].split("\n### ")[0]
        assert (
            f"| tuning.{method}_option | 0.5 | default |" in part and f"| tuning.method | {method} | override |" in part
        )
    for encoder in ("gru4rec", "sasrec"):
        part = text[text.index(f"**Settings of [encoder] of {encoder}**") :].split("\n### ")[0]
        assert f"| encoder.name | {encoder} | override |" in part
        assert f"**Settings of [objective] of {encoder}**" in text


def test_sampled_ranking_is_labelled_wherever_it_is_shown(small, whole):
    assert "sampled" not in whole[1]
    html, text = small
    assert text.count("sampled") >= 12
    for part in text.split("\n## ")[1:]:
        if re.search(r"0\.\d{3}", part) and not part.startswith(("What it cost", "Settings", "Does a task")):
            assert "sampled" in part, part[:60]
    for svg in re.findall(r'<svg[^>]*class="drawing"[^>]*aria-label="mean score[^"]*"', html):
        assert "sampled" in svg


def test_markdown_has_every_table_of_the_page(whole):
    captions = re.findall(r"<caption><span>([^<]+)</span></caption>", whole[0])
    text = whole[1].replace("\\", "")
    assert not [caption for caption in captions if f"**{caption}**" not in text]
    assert len(captions) == len(re.findall(r"(?m)^\|---", whole[1]))


# -- other folders -----------------------------------------------------------------------------------------------------


def test_twenty_tasks(tmp_path):
    tasks = ["watch", *[f"genre_{n}" for n in range(1, 19)], "gender"]
    made = compare_folder.write(tmp_path, methods=("pcl", "single"), seeds=(1,), tasks=tasks, users=10)
    html, text = pages(made)
    assert all(task in text for task in tasks)
    assert html.count('<table class="heat dots">') == 3 and "genre_3 after genre_9" in html
    assert html.count("and stand in report.md") == 2  # under R, and under what tasks draw on
    heads = text[text.index("**sasrec: score of each task at the end**") :].split("\n")[2]
    assert heads == "| task | pcl | single | popularity |"


def test_one_task_and_one_method(tmp_path):
    html, text = pages(compare_folder.write(tmp_path, methods=("pcl",), seeds=(1,), tasks=["watch"], users=20))
    assert "pcl is best" in words(html) and "What was forgotten" not in text


def test_a_comparison_that_was_stopped(tmp_path):
    made = compare_folder.write(tmp_path, methods=("pcl", "single"), seeds=(1,), users=10)
    for name in ("summary.json", "users.parquet"):
        (made / name).unlink()
    html, text = pages(made)
    assert "summary.json is written when all runs were tried" in text and "Which method is best" not in html
    assert "2 of 2" in text


def test_runs_that_came_after_the_summary_are_told(tmp_path):
    made = compare_folder.write(tmp_path, methods=("pcl", "single"), seeds=(1,), users=10)
    about = json.loads((made / "compare.json").read_text())
    about["cells"].append({**about["cells"][0], "seed": 2, "folder": "runs/sasrec/pcl/forward/2"})
    (made / "compare.json").write_text(json.dumps(about))
    (made / "runs/sasrec/pcl/forward/2").mkdir()
    assert "1 run finished after the summary was written" in pages(made)[1]


def test_tasks_learned_at_once_are_measured_once(tmp_path):
    made = compare_folder.write(tmp_path, methods=("pcl", "single"), seeds=(1,), users=10)
    rows = pl.read_parquet(made / "results.parquet")
    rows.filter((pl.col("method") != "single") | pl.col("final")).write_parquet(made / "results.parquet")
    html, text = pages(made)
    assert "measured once, at the end" in text and "pcl forgets nothing" in words(html)
    lost = text[text.index("**sasrec: score lost**") : text.index("0 is exactly 0")]
    assert "pcl" in lost and "single" not in lost


@pytest.mark.parametrize("name", ["compare.json", "summary.json", "results.parquet", "users.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    made = compare_folder.write(tmp_path, methods=("pcl",), seeds=(1,), users=10)
    (made / name).write_text('{"half')
    with pytest.raises(ModelError, match=name):
        build(made)


def test_no_comparison(tmp_path):
    with pytest.raises(ModelError, match=r"compare\.json"):
        build(tmp_path)


def test_nothing_else_is_touched_and_the_page_is_the_same_again(tmp_path):
    made = compare_folder.write(tmp_path, methods=("pcl", "single"), seeds=(1,), users=10)
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    first, again = pages(made), pages(made)
    after = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert first == again
    assert {path.name for path in set(after) - set(before)} == {"report.html", "report.md"}
    assert all(after[path] == data for path, data in before.items())


def test_the_verb_knows_a_comparison(tmp_path):
    made = compare_folder.write(tmp_path / "out", methods=("pcl", "single"), seeds=(1,), users=10)
    page = api.report(made, tmp_path / "elsewhere.html")
    assert page == tmp_path / "elsewhere.html" and (tmp_path / "elsewhere.md").exists()
    assert "six-tasks, compared" in page.read_text()
    assert title(read(made)) == "six-tasks, compared"


# -- parts -------------------------------------------------------------------------------------------------------------


def test_front_is_what_no_other_beats():
    points = [("a", 1, 0.5), ("b", 2, 0.4), ("c", 2, 0.7), ("d", 3, 0.7), ("e", 1, 0.3), ("f", 9, 0.8)]
    assert plots.front([{"name": n, "x": x, "y": y} for n, x, y in points]) == ["a", "c", "f"]


def test_a_line_of_one_point_is_seen():
    lines = {"once": [(1.0, 0.5)], "twice": [(1.0, 0.2), (2.0, 0.4)]}
    drawn = plots.many(lines, {"once": 0, "twice": 1}, ("epoch", "score"))
    assert f'fill="{plots.LINES[0]}"' in drawn and f'fill="{plots.LINES[1]}"' not in drawn


def test_many_tasks_stand_below_one_another():
    tasks = [Cell(f"t{n}") for n in range(WIDE + 1)]
    heads, rows = crossed(["a", "b"], tasks[:-1], lambda m, t: Cell(m + t), lambda m: Cell(m))
    assert [head.text for head in heads] == ["method", *[t.text for t in tasks[:-1]], "mean"] and len(rows) == 2
    heads, rows = crossed(["a", "b"], tasks, lambda m, t: Cell(m + t), lambda m: Cell(m))
    assert [head.text for head in heads] == ["task", "a", "b"] and [c.text for c in rows[3]] == ["t3", "at3", "bt3"]
    assert [c.text for c in rows[-1]] == ["mean", "a", "b"]


def test_maps_have_room_for_the_widest_of_them():
    few, more = (Table("m", [Cell("")] * (n + 1), [[Cell("1 watch")]], kind="map") for n in (4, 6))
    assert Grid([few, more]).room == Grid([more]).room > Grid([few]).room > 0 == Grid([]).room


def test_markdown_escapes_what_would_break_a_table():
    table = Table(
        "c", [Cell("a|b"), Cell("x")], [[Cell("<i>"), Cell("1", "n")], [Cell("two\nlines"), Cell("2", kind="best")]]
    )
    text = markdown(Section("s", [table]))
    assert "| a\\|b | x |" in text and "&lt;i>" in text and "| two lines | **2** |" in text and "| 1 (n) |" in text


def test_names_that_find_no_room_stand_in_a_column():
    apart = [{"name": f"m{n}", "x": 10.0 ** (n + 1), "y": 0.1 * n} for n in range(4)]
    crowd = [{"name": f"a-long-name-{n}", "x": 1000.0, "y": 0.3 + 0.0001 * n} for n in range(12)]
    places = [float(y) for y in re.findall(r"translate\([\d.]+,(-?[\d.]+)\)[^>]*>a-long-name", svg_of(crowd))]
    assert len(places) == 12
    assert min(b - a for a, b in itertools.pairwise(sorted(places))) >= 13
    assert len(re.findall(r">m\d</text>", svg_of(apart))) == 4


def svg_of(points) -> str:
    return plots.frontier(points, "bytes a task", "mean score")


def test_the_page_is_not_written_where_its_tables_go(tmp_path):
    made = compare_folder.write(tmp_path, methods=("pcl",), seeds=(1,), tasks=["watch"], users=20)
    with pytest.raises(UsageError, match=r"report\.html"):
        build(made, tmp_path / "report.md")
    assert not (tmp_path / "report.md").exists()


def test_a_search_tells_where_its_comparison_is(tmp_path):
    tries = compare_folder.write(tmp_path / "tries", methods=("pcl",), seeds=(1,), tasks=["watch"], users=20)
    for verb in (api.report, api.show):
        with pytest.raises(ModelError) as caught:
            verb(tries.parent)
        assert "a search: its" in caught.value.fix and str(tries) in caught.value.fix


def test_methods_with_fewer_seeds_are_marked_wherever_they_stand(tmp_path):
    gone = {"runs/sasrec/pcl/forward/2": ("missing", None)}
    made = compare_folder.write(tmp_path, methods=("pcl", "single"), seeds=(1, 2), users=10, states=gone)
    html, text = pages(made)
    assert text.count("1 of 2 seeds") >= 2 and html.count("1 of 2 seeds") >= 2  # over all tasks, and by task


def test_a_backbone_that_methods_share_is_counted_once(tmp_path):
    made = compare_folder.write(tmp_path, methods=("pcl", "peterrec"), seeds=(1,), tasks=["watch", "age"], users=10)
    assert standing._spent(read(made)) == 2 * (40 + 70)  # seconds a task
    frame = pl.read_parquet(made / "results.parquet").with_columns(backbone_shared=pl.lit(True), seconds=pl.lit(9.0))
    frame = frame.with_columns(pl.when(pl.col("task_index") == pl.col("after_index")).then("seconds"))
    frame.write_parquet(made / "results.parquet")
    assert standing._spent(read(made)) == 9 + 2 * 9  # the backbone, and the later task of each


def test_long_names_stay_apart_on_an_axis():
    """Their middle goes; where that would make two alike, nothing does."""
    names = [f"movies_watched_and_liked_later_{genre}" for genre in ("action", "comedy")]
    cut = ["watch", "movies_watc…later_action", "movies_watc…later_comedy"]
    assert list(drawing.shown(["watch", *names]).values()) == cut
    same = ["in_the_first_domain_what_a_user_buys_later", "in_the_firsts_domain_what_a_user_buys_later"]
    assert list(drawing.shown(same).values()) == same


@pytest.mark.parametrize("ends", [(1.0, 1.7), (3.0, 6.0), (6.0, 10.2), (0.5, 5.0), (2.0, 3e5)])
def test_a_logarithmic_axis_has_three_ticks(ends):
    assert len(plots._ticks(*ends)) >= 3 and all(ends[0] <= tick <= ends[1] for tick in plots._ticks(*ends))


def test_drawings_beside_one_another_share_an_axis():
    """A mean of the second drawing lies beyond all of the first."""
    rows, far = ([{"method": m, "mean": x, "low": None, "high": None} for m in "ab"] for x in (0.01, 0.09))
    assert "+0.08" in plots.gains(rows, "sasrec", among=far) and "+0.08" not in plots.gains(rows, "sasrec")
    near, other = ([{"name": m, "x": x * k, "y": 0.1} for k, m in enumerate("ab", 1)] for x in (10.0, 1e6))
    assert ">1M<" in plots.frontier(near, "bytes", "score", among=other) and ">1M<" not in plots.frontier(near, "", "")


def test_a_table_tells_how_broad_it_is():
    """The longest of each column in letters, notes by the word and smaller, 1.5 between; names break from 16 on."""
    rows = [[Cell("n" * 30), Cell("0.123", "0.100 - 0.200"), Cell("many words that may break")]]
    table = Table("", [Cell("method"), Cell("a"), Cell("text")], rows, words=(2,))
    assert table.breadth == pytest.approx(16 + 5 + 10 + 3 * 1.5)


def test_a_method_without_all_folds_is_not_held_against_the_rest(tmp_path):
    """Each seed tests other users: a method without one met easier users than the rest, or harder ones."""
    made = compare_folder.write(
        tmp_path, methods=("pcl", "single"), tasks=("watch", "later"), users=30,
        states={"runs/sasrec/single/forward/3": ("missing", None)}, folds=True,
    )  # fmt: skip
    (group,) = summary(made)
    assert group["folds"] and group["best"] == "pcl"
    text = pages(made)[1]
    assert "With sasrec, pcl is best" in text
    assert "single has 2 of 3 seeds, each of other users, so it is not held against the rest." in text
    assert "sasrec: single lacks folds, so met other users than the rest: not held against it" in text
    assert not re.search(r"(?m)^\| single .*\*\*", text)
    slices = text[text.index("## Users with") :].split("\n## ")[0]
    assert "| single" not in slices and "Left out, since they lack folds: single." in slices
