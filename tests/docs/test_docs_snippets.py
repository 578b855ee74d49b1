"""README, tour and examples run as they stand: same recipes, same Python, on a small synthetic world."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
import typer
from docs.pages import ROOT, blocks, module

import perdure
from perdure.cli.main import app
from perdure.events.synthetic import world

README = ROOT / "README.md"
VERBS = set(typer.main.get_command(app).commands)


def run(code: str, name: str) -> dict:
    """Run a page's Python in the current folder; the names it made."""
    made: dict = {"__name__": name}
    exec(compile(code, name, "exec"), made)
    return made


def test_readme_life_of_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    world(tmp_path, users=160, items=84, targets=24)
    recipe = blocks(README, "toml")[0] + "\n[train]\nepochs = 1\n"
    (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
    made = run(blocks(README, "python")[0], "README.md")
    assert made["run"].forgetting == 0 and list(made["run"].scores) == ["watch", "buy", "age"]
    assert (tmp_path / "runs" / "shop" / "report.html").exists() and (tmp_path / "runs" / "users.parquet").exists()


def test_readme_life_is_about_a_dozen_lines():
    lines = [line for line in blocks(README, "python")[0].splitlines() if line.strip()]
    assert len(lines) <= 14


def test_tour(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "tour.md"
    code = blocks(page, "python")
    run(code[0], "tour.md")
    (tmp_path / "recipe.toml").write_text(blocks(page, "toml")[0], encoding="utf-8")
    made = run("\n".join(code[1:]), "tour.md")
    assert made["card"]["keeps"] is True
    head = blocks(page, "text")[0].strip()
    assert (tmp_path / "world" / "events.csv").read_text(encoding="utf-8").splitlines()[0] == head
    perdure.embed("run", "users.parquet")
    served = run("\n".join(blocks(ROOT / "docs" / "serving.md", "python")), "serving.md")
    assert len(served["answer"]["items"]) == 10 and served["vectors"].columns == ["user", "vector"]


def test_examples(tmp_path, capsys):
    for name in ("learn_a_sequence", "ask_about_anyone"):
        module(ROOT / "examples" / f"{name}.py").main(tmp_path)
    told = capsys.readouterr().out
    kept, forgot = [float(line.split()[-1]) for line in told.splitlines() if "forgetting" in line]
    assert kept == 0 < forgot


def test_every_example_is_run_and_listed():
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert scripts == {"learn_a_sequence", "ask_about_anyone"}
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert all(f"{name}.py" in listed for name in scripts)


def commands(text: str) -> list[list[str]]:
    """Every `perdure VERB ...` in shell blocks and inline code."""
    found = []
    for line in text.replace("`", "\n").splitlines():
        for part in line.split("&&"):
            words = part.strip().split()
            while words and "=" in words[0]:
                words = words[1:]
            if words and words[0].rsplit("/", 1)[-1] == "perdure" and len(words) > 1 and words[1].islower():
                found.append(shlex.split(" ".join(words[1:])))
    return found


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/tour.md",
        "docs/serving.md",
        "docs/compare.md",
        "docs/index.md",
        "recipes/README.md",
        "docs/settings.md",
        "docs/methods.md",
    ],
)
def test_commands_exist_with_their_options(page):
    verbs = typer.main.get_command(app).commands
    for words in commands((ROOT / page).read_text(encoding="utf-8")):
        assert words[0] in verbs, words
        known = {option for p in verbs[words[0]].params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert not [word for word in words[1:] if word.startswith("-") and word not in known], words


def test_every_verb_has_a_page_entry_an_example_and_a_function():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in typer.main.get_command(app).commands.items():
        assert f"\n## {name}\n" in page
        assert f"perdure {name}" in (command.epilog or ""), name
        in_python = {"list": "list_", "report": "write_report", "recommend-all": "recommend_all"}
        assert hasattr(perdure, in_python.get(name, name)), name


def test_the_tree_names_every_room():
    tree = next(block for block in blocks(README, "text") if "src/perdure/" in block)
    rooms = {path.name for path in (ROOT / "src" / "perdure").iterdir() if not path.name.startswith("_")}
    rooms = {room for room in rooms if room != "py.typed"}
    assert not [room for room in rooms if f"── {room}" not in tree]
    told = [line.split("── ")[1].split()[0] for line in tree.splitlines() if line.startswith(("│   ├", "│   └"))]
    assert not [name for name in told if name.rstrip("/") not in rooms]


def test_two_commands_are_one_line_each_and_pin_torch():
    shell = blocks(README, "sh")
    for line, goal in ((shell[0], "perdure quickstart --out"), (shell[1], "-m pytest -q")):
        assert line.count("\n") == 1
        assert line.startswith("python3 -m venv ") and "-c constraints.txt" in line and goal in line
    assert (ROOT / "constraints.txt").read_text(encoding="utf-8").startswith("torch==")


def test_ci_runs_exactly_the_readme_command(tmp_path):
    """The runner reads the marked block; shown here by a copy whose command only echoes."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_text((ROOT / ".ci" / "run").read_text(encoding="utf-8"), encoding="utf-8")
    script.chmod(0o755)
    text = README.read_text(encoding="utf-8").replace(blocks(README, "sh")[1], 'echo "7 passed in 1s"\n')
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    done = subprocess.run([str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '+ echo "7 passed in 1s"' in done.stdout and "closing line: 7 passed in 1s" in done.stdout


def test_ci_fails_when_the_tests_fail(tmp_path):
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_text((ROOT / ".ci" / "run").read_text(encoding="utf-8"), encoding="utf-8")
    script.chmod(0o755)
    text = README.read_text(encoding="utf-8").replace(blocks(README, "sh")[1], 'echo "1 failed" && false\n')
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert subprocess.run([str(script)], capture_output=True, timeout=60).returncode == 1


@pytest.mark.slow
def test_readme_quickstart(tmp_path):
    """The whole quickstart, some minutes: nothing forgotten, and the report is there."""
    command = [sys.executable, "-m", "perdure.cli.main", "quickstart", "--out", str(tmp_path / "first"), "--json"]
    done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first" / "report.html").exists()
