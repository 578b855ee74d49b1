"""The report: complete, self-contained, safe, and honest about what it does not know."""

from __future__ import annotations

import builtins
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report import run_folder

from perdure.errors import MachineError, ModelError, UsageError
from perdure.evaluation.matrix import Matrix
from perdure.report import charts, sections
from perdure.report.build import build
from perdure.report.facts import Facts


class Reader(HTMLParser):
    """Tags and attributes of a page, and whether every tag that needs it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(folder) -> str:
    return build(folder).read_text(encoding="utf-8")


def words(page: str) -> str:
    without = re.sub(r"(?s)<(style|svg).*?</\1>", " ", page)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return page_of(run_folder.write(tmp_path_factory.mktemp("kept"), "pcl"))


@pytest.fixture(scope="module")
def forgot(tmp_path_factory):
    return page_of(run_folder.write(tmp_path_factory.mktemp("forgot"), "finetune", loss=0.12, sampled=True))


def test_page_is_well_formed_and_self_contained(kept):
    reader = Reader()
    reader.feed(kept)
    assert not reader.open
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in reader.seen:
        assert not {name for name in attributes if name.startswith("on")}
        assert not {"src", "href", "xlink:href", "action"} & set(attributes)
    outside = set(re.findall(r"https?://[^\"'\s<)]+", kept))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in kept
    assert "url(" not in re.sub(r'clip-path="url\(#[^)]*\)"', "", kept)
    assert len(kept) < 400_000


def test_every_section_is_there(kept):
    for heading in (
        "What it knew after each task",
        "Forgetting and transfer", "How each task was learned", "Scores at the end",
        "What each task cost", "The data", "What this report does not know", "Settings", "Made with",
        "Notes and warnings",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in kept, heading


def test_matrix_carries_every_number_once_per_cell(kept):
    table = re.search(r'(?s)<table class="heat"[^>]*>.*?</table>', kept)
    assert table
    assert len(re.findall(r"<td class=\"(?:fresh|fell|)\" style", table.group())) == 21
    assert len(re.findall(r'class="fresh"', table.group())) == 6
    assert "0.549" in table.group() and "oracle" in table.group()


def test_kept_and_forgotten_are_said_in_words(kept, forgot):
    assert "It has forgotten nothing" in words(kept)
    assert "watch has lost most" in words(forgot) and "forgotten nothing" not in words(forgot)


def test_sampled_ranking_is_labelled_where_it_is_shown(kept, forgot):
    assert "sampled" not in words(kept).lower()
    assert words(forgot).count("sampled: 100 uniform, seed 0") >= 7  # the chip and every row
    assert "cannot be compared with full ranking" in words(forgot)


def test_text_from_outside_is_escaped(kept):
    assert "<script>" not in kept and "&lt;script&gt;alert(1)" in kept


def test_drawings_use_the_theme_and_no_background(kept):
    drawings = re.findall(r"(?s)<svg.*?</svg>", kept)
    assert len(drawings) == 8  # two widths of the life picture, six curves
    for svg in drawings:
        colours = set(re.findall(r"#[0-9a-fA-F]{6}", svg))
        assert colours <= {f"#0{n}0{n}0{n}" for n in range(1, 7)}, colours
        assert 'fill="white"' not in svg and 'aria-label="' in svg


def test_settings_carry_their_origin(kept):
    text = words(kept)
    for told in ("tuning.method pcl override", "encoder.name sasrec recipe", "data.columns.user u", "train.patience 5"):
        assert told in text, told


def test_data_card_is_read_out(kept):
    text = words(kept)
    assert "rows read 80,140 = 80,123 stored + 17 duplicate" in text
    assert "median 19" in text and "6.67 events for every 100 pairs" in text
    assert "behaviour view 70,000, buy 10,120, none 3" in text
    assert "no order column" in text


def test_cost_adds_up(kept):
    assert "74.7 s" in words(kept) and "57" in words(kept)


def test_unfinished_run(tmp_path):
    text = words(page_of(run_folder.write(tmp_path, learned=3)))
    assert "has been taught three of six tasks" in text
    assert "interrupted" in text


def test_one_task(tmp_path):
    assert "nothing to forget yet" in words(page_of(run_folder.write(tmp_path, learned=1)))


def test_what_is_not_above_popularity_is_told(tmp_path):
    text = words(page_of(run_folder.write(tmp_path)))
    assert "not above popularity: status" in text and "0.125" in text


def test_missing_files_are_said(tmp_path):
    run_folder.write(tmp_path)
    for name in ("matrix.json", "scores.json", "cost.json", "log.jsonl", "oracle.json"):
        (tmp_path / name).unlink()
    text = words(page_of(tmp_path))
    for name in ("matrix.json", "scores.json", "cost.json", "log.jsonl"):
        assert name in text, name
    assert "nan" not in text.lower().replace("finance", "") and "None" not in text


def test_each_file_may_be_missing_alone(tmp_path):
    for name in ("matrix.json", "scores.json", "cost.json", "log.jsonl", "oracle.json"):
        folder = run_folder.write(tmp_path / name.replace(".", "-"))
        (folder / name).unlink()
        assert "<h1>" in page_of(folder)


def test_what_is_left_to_later_tasks_is_told_where_a_method_has_it(tmp_path):
    run_folder.write(tmp_path)
    assert "Left:" not in words(page_of(tmp_path))
    costs = [
        cost | {"capacity": 0.8 - 0.1 * k} for k, cost in enumerate(json.loads((tmp_path / "cost.json").read_text()))
    ]
    (tmp_path / "cost.json").write_text(json.dumps(costs), encoding="utf-8")
    told = words(page_of(tmp_path))
    assert "Left: of what tasks take" in told and "80.0%" in told and "70.0%" in told


@pytest.mark.parametrize(("epochs", "ticks"), [(1, [1, 2]), (2, [1, 2]), (7, [*range(1, 8)]), (20, [1, 5, 9, 13, 17])])
def test_epochs_are_whole_numbers_on_their_axis(epochs, ticks):
    drawn = charts.curves([{"epoch": e, "loss": 1 / e, "valid": None} for e in range(1, epochs + 1)], "hr@10", None)
    told = [int(text) for text in re.findall(r"<text[^>]*>(\d+)</text>", drawn)]
    assert told[: len(ticks)] == ticks


def test_half_a_log_line_is_survived_and_told(tmp_path):
    run_folder.write(tmp_path)
    with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "epo')
    assert "1 line of log.jsonl" in words(page_of(tmp_path))


def test_no_run_folder(tmp_path):
    with pytest.raises(ModelError, match=r"run\.json"):
        build(tmp_path)
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(ModelError, match="no run"):
        build(tmp_path / "model.txt")
    with pytest.raises(ModelError, match="no run") as fault:
        build(tmp_path / "nowhere")
    assert fault.value.fix == "there is no such folder"


@pytest.mark.parametrize("name", ["run.json", "matrix.json", "scores.json", "cost.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    run_folder.write(tmp_path)
    (tmp_path / name).write_text('{"half', encoding="utf-8")
    with pytest.raises(ModelError, match=name):
        build(tmp_path)


@pytest.mark.parametrize("package", ["jinja2", "altair", "vl_convert"])
def test_without_the_extra(tmp_path, monkeypatch, package):
    run_folder.write(tmp_path)
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}", name=package)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MachineError, match=r"perdure\[report\]"):
        build(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_nothing_is_left_behind_and_nothing_else_is_touched(tmp_path):
    run_folder.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    build(tmp_path)
    build(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(after) - set(before) == {"report.html"}
    assert all(after[name] == data for name, data in before.items())


def test_same_folder_same_page(tmp_path):
    run_folder.write(tmp_path)
    assert page_of(tmp_path) == page_of(tmp_path)


def test_a_number_that_is_none_is_damage(tmp_path):
    run_folder.write(tmp_path)
    matrix = json.loads((tmp_path / "matrix.json").read_text())
    matrix["R"][5][0] = float("nan")
    (tmp_path / "matrix.json").write_text(json.dumps(matrix))
    with pytest.raises(ModelError, match=r"matrix\.json"):
        build(tmp_path)


def test_tasks_learned_at_once(tmp_path):
    run_folder.write(tmp_path, "joint")
    matrix = json.loads((tmp_path / "matrix.json").read_text())
    matrix["R"] = [[] for _ in matrix["R"][:-1]] + matrix["R"][-1:]
    (tmp_path / "matrix.json").write_text(json.dumps(matrix))
    page = page_of(tmp_path)
    text = words(page)
    assert "was taught six tasks at once with joint" in text and "learned at once and measured once" in text
    assert page.count('class="fresh"') == 6 and "nan" not in text and "forgotten nothing" not in text


def test_a_gain_is_no_forgetting(tmp_path):
    text = words(page_of(run_folder.write(tmp_path, loss=-0.02)))
    assert "It has forgotten nothing: on average its older tasks score" in text


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Ratio of two colours (r, g, b in 0 to 255) as WCAG 2.2 defines it."""

    def light(colour: tuple[float, ...]) -> float:
        parts = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05

    return max(light(a), light(b)) / min(light(a), light(b))


@pytest.mark.parametrize("theme", [0, 1, 2])  # light, dark, print
def test_words_and_lines_can_be_told_from_what_is_behind_them(theme):
    style = (Path(__file__).parents[2] / "src/perdure/report/page.css").read_text()
    blocks = re.findall(r":root \{([^}]*)\}", style)
    assert len(blocks) == 3
    told = dict(re.findall(r"--([\w-]+): ([^;]+);", blocks[0] + blocks[theme]))

    def colour(name: str) -> tuple[float, ...]:
        text = told[name]
        if not text.startswith("#"):
            return tuple(map(float, text.split()))
        digits = text[1:] if len(text) == 7 else "".join(2 * one for one in text[1:])
        return tuple(int(digits[n : n + 2], 16) for n in (0, 2, 4))

    paper = colour("paper")
    assert contrast(colour("ink"), paper) > 12 and contrast(colour("soft"), paper) > 4.5
    assert contrast(colour("soft"), colour("card")) > 4.5 and contrast(colour("warn"), paper) > 4.5
    for heat in ("heat", "loss"):  # the fullest cell of a heat map
        full = tuple(0.58 * h + 0.42 * p for h, p in zip(colour(heat), paper, strict=True))
        assert contrast(colour("ink"), full) > 4.5, heat
    assert contrast(colour("ink"), colour("warnpaper")) > 7
    for line in ("first", "second", *[f"line{n}" for n in range(1, 9)]):
        assert contrast(colour(line), paper) > 3, line


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, files_of_at_most):
    folder = run_folder.write(tmp_path / "run", "pcl")
    with files_of_at_most(1000), pytest.raises(MachineError, match="cannot be written: File too large"):
        build(folder, tmp_path / "pages" / "first.html")
    assert not list((tmp_path / "pages").iterdir())
    assert build(folder, tmp_path / "pages" / "first.html").is_file()


def test_many_tasks_have_numbers_over_the_columns_and_fit_on_paper(tmp_path):
    made = run_folder.write(tmp_path / "few", "pcl")
    assert '<th scope="col">watch<br>' in page_of(made)
    names = [f"a_task_with_a_long_name_{k}" for k in range(20)]
    rows = [[0.5] * (k + 1) for k in range(20)]
    full: list[list[float | None]] = [[*row, *[None] * (20 - len(row))] for row in rows]
    facts = Facts(made, {}, tasks=names, matrix=Matrix(names, rows), R=full)
    told = sections.matrix(facts)
    assert told is not None and [task["name"] for task in told["tasks"]] == [str(k + 1) for k in range(20)]
    assert told["rows"][1]["name"] == "2\N{NO-BREAK SPACE}a_task_with_a_long_name_1" and told["breadth"] > 140
    assert "a_task_with_a_long_name_1, " in told["tasks"][1]["title"]


def test_a_name_for_markdown_is_refused(tmp_path):
    made = run_folder.write(tmp_path / "run", "pcl")
    with pytest.raises(UsageError, match=r"x\.html"):
        build(made, tmp_path / "x.md")
    assert not (tmp_path / "x.md").exists()
