"""Every verb: its help, its example, its JSON."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer
from cli.small import call, environment, make
from rich.console import Console

from perdure.api import beginning
from perdure.cli import show
from perdure.cli.main import app

VERBS = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_verbs_are_the_contract():
    makes = "quickstart check prepare learn compare search"
    asks = "evaluate recommend recommend-all embed probe list show report doctor"
    assert list(VERBS) == [*makes.split(), *asks.split()]


def test_every_verb_answers_in_json():
    for name, verb in VERBS.items():
        assert any("--json" in parameter.opts for parameter in verb.params), name


def test_every_verb_is_a_function():
    import perdure
    from perdure import api

    for name in VERBS:
        assert callable(getattr(api, IN_PYTHON.get(name, name)))
        assert callable(getattr(perdure, {**IN_PYTHON, "report": "write_report"}.get(name, name)))


IN_PYTHON = {"list": "list_", "recommend-all": "recommend_all"}  # a verb of the command line -> its name in Python
ANOTHER = {"changes": "overrides"}  # a parameter of the command line -> its name in Python
ONLY = {"json", "show"}  # how a result is printed; what tells the progress


@pytest.mark.parametrize("name", VERBS)
def test_every_parameter_is_a_parameter(name):
    """Same names, needed in both or in neither, same defaults."""
    from perdure import api

    function = getattr(api, IN_PYTHON.get(name, name))
    theirs = {
        one.name: (one.default is one.empty, None if one.default in (one.empty, ()) else one.default)
        for one in inspect.signature(function).parameters.values()
    }
    ours = {ANOTHER.get(one.name, one.name): (one.required, one.default) for one in VERBS[name].params}
    assert {k: v for k, v in ours.items() if k not in ONLY} == {k: v for k, v in theirs.items() if k not in ONLY}


def test_bare_command_prints_the_whole_help(capsys):
    assert call("--help") == 0
    whole = capsys.readouterr()
    assert call() == 0
    assert capsys.readouterr() == whole and all(name in whole.out for name in VERBS)


@pytest.mark.parametrize("name", [None, *VERBS])
def test_help_loads_nothing_heavy(name):
    words = [*([name] if name else []), "--help"]
    heavy = ["torch", "polars", "numpy", "lightning_fabric", "safetensors", "jinja2", "altair", "perdure.settings"]
    heavy += [] if name else ["pydantic"]  # which typer itself loads for the help of one verb
    code = (
        "import sys\nfrom perdure.cli.main import main\n"
        f"main({words!r})\n"
        f"print('HEAVY', sorted({set(heavy)!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert "Usage: perdure" in done.stdout


def test_version(capsys):
    from perdure import __version__

    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == f"perdure {__version__}"


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "perdure", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("perdure ")


@pytest.fixture
def home(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run `first`, as the examples have it; the working directory."""
    shutil.copytree(first / "first", tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quickstart of seconds: a smaller world, fewer epochs."""
    tables, world = beginning._tables, beginning._world

    def short(*arguments):
        made = tables(*arguments)
        made["pretrain"]["epochs"] = made["train"]["epochs"] = 1
        made["encoder"] |= {"width": 16, "blocks": 1}
        return made

    monkeypatch.setattr(beginning, "_tables", short)
    monkeypatch.setattr(beginning, "_world", lambda out, seed, users: world(out, seed, min(users, 150)))


@pytest.mark.parametrize("name", VERBS)
def test_example_of_the_help_runs(name, home, capsys, monkeypatch):
    example = re.fullmatch(r"Example: perdure (.*)", VERBS[name].epilog)
    assert example, VERBS[name].epilog
    if name == "quickstart":
        shutil.rmtree(home / "first")
        quick(monkeypatch)
    assert call(*shlex.split(example[1])) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", [name for name in VERBS if name not in ("quickstart", "doctor", "learn")])
def test_json_is_one_object(name, home, capsys):
    assert call(*shlex.split(VERBS[name].epilog.removeprefix("Example: perdure ")), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told, dict) and told


def test_quickstart_json(home, capsys, monkeypatch):
    quick(monkeypatch)
    assert call("quickstart", "--out", "q", "--users", "100", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    tasks = ["watch", "buy", "like", "age", "gender", "status"]
    assert told["tasks"] == tasks
    assert list(told["metrics"]) == tasks and list(told["oracle"]) == tasks and list(told["alone"]) == tasks
    assert [len(row) for row in told["matrix"]] == [1, 2, 3, 4, 5, 6]
    assert told["forgetting"] == 0 and told["changed"]["answers"] == 0 < told["changed"]["of"]
    assert told["finetune"]["changed"]["answers"] == told["finetune"]["changed"]["of"]
    assert told["seconds"] > 0
    assert os.path.isdir(told["model"]) and os.path.isfile(told["report"]) and os.path.isfile(told["recipe"])
    assert json.loads(Path("q/oracle.json").read_text()) == told["oracle"]
    assert call("check", told["recipe"]) == 0


def test_quickstart_without_the_report_extra(tmp_path, capsys, monkeypatch):
    quick(monkeypatch)
    monkeypatch.setattr(beginning, "reported", lambda out, notes: None)
    assert call("quickstart", "--out", tmp_path / "q", "--users", "100") == 0
    told = capsys.readouterr().out
    assert "None" not in told and "next:\nperdure recommend" in told


def test_learn_json(first, tmp_path, capsys):
    assert call("learn", first / "made" / "recipe.toml", "--out", tmp_path / "run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"] == ["watch", "buy", "gender"] and told["forgetting"] == 0
    assert "learned" not in told
    shown = call("show", tmp_path / "run", "--json")
    assert shown == 0
    card = json.loads(capsys.readouterr().out)
    assert card["R"] == told["matrix"] and card["verified"] and card["state"] == "finished"
    assert {file["file"] for file in card["files"]} >= {"backbone.safetensors", "tasks/buy.safetensors"}


def test_columns_say_what_they_hold(first, capsys):
    assert call("list", "formats") == 0 and call("list", "methods") == 0
    formats, methods = capsys.readouterr().out.split("keeps", 1)
    assert formats.count("paper") == 1 and "yes" in methods and "no" in methods  # that of methods
    assert call("show", first / "first") == 0 and "numbers stored" in capsys.readouterr().out
    console = Console(file=(said := io.StringIO()), width=200)
    books = dict.fromkeys(("stored", "duplicate", "quarantined", "filtered"), 0)
    show.prepare(console, {"card": {"books": books, "quarantined": {}, "item_unknown": 3, "notes": []}})
    assert "items without attributes  3" in said.getvalue()


def test_doctor_json(capsys):
    assert call("doctor", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert re.search("asked of a user's gender: [fm]", told["selftest"]["found"])
    assert told["ok"] and told["selftest"]["ok"] and told["devices"][0] == "cpu"


def test_recommend_answers(first, capsys):
    run = first / "first"

    def ask(*arguments: str) -> dict:
        assert call("recommend", run, "--task", "buy", "-k", "5", "--json", *arguments) == 0
        return json.loads(capsys.readouterr().out)

    known = ask("--history", "s0001,s0013")
    assert known["source"] == "model" and len(known["items"]) == 5
    denied = ask("--history", "s0001,s0013", "--deny", ",".join(known["items"][:2]))
    assert denied["items"][:3] == known["items"][2:]
    allowed = ask("--history", "s0001,s0013", "--allow", known["items"][3])
    assert allowed["items"] == known["items"][3:4] and allowed["truncated"]
    assert call("recommend", run, "--task", "buy", "--history", "s0001", "--allow", "nonsense") == 0
    told = capsys.readouterr().out
    assert "not known to the model: 'nonsense'" in told and "none to give" in told and "ignored" not in told
    strange = ask("--history", "s0001,nobody,s0013")
    assert strange["items"] == known["items"] and strange["unknown"] == ["nobody"]
    cold = ask("--history", "nobody")
    stranger = ask("--user", "nobody")
    assert cold["source"] == stranger["source"] == "popularity" and cold["items"] == stranger["items"]
    assert stranger["unknown"] == ["nobody"]
    user = ask("--user", "u0001")
    assert user["source"] == "model" and user["user"] == "u0001"


def test_history_from_a_file(first, capsys, tmp_path):
    (tmp_path / "ids").write_text("s0001\ns0013\n")
    answers = []
    for history in ("s0001,s0013", f"@{tmp_path / 'ids'}"):
        assert call("recommend", first / "first", "--task", "buy", "--history", history, "--json") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_embed_writes_every_user(first, capsys, tmp_path):
    assert call("embed", first / "first", "--out", tmp_path / "u.parquet", "--task", "buy", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    frame = pl.read_parquet(tmp_path / "u.parquet")
    assert frame.columns == ["user", "vector"] and frame.height == told["users"] == 120
    assert told["width"] == 16


def test_recommend_all_answers_every_user(first, capsys, tmp_path):
    out = tmp_path / "deep" / "answers.parquet"
    asked = ("recommend-all", first / "first", "--task", "buy", "--out", out, "-k", "3")
    assert call(*asked, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    frame = pl.read_parquet(out)
    assert frame.columns == ["user", "item", "rank", "score", "source"]
    assert told["users"] == frame["user"].n_unique() == 120 and frame.height == 360 and told["k"] == 3
    assert pl.read_parquet_metadata(out)["perdure.model"] == told["model"]
    (tmp_path / "users.txt").write_text("u0003\nu0001\nnobody\n")
    assert call(*asked, "--users", f"@{tmp_path / 'users.txt'}") == 0
    assert "users not in the log" in capsys.readouterr().out
    assert pl.read_parquet(out)["user"].unique(maintain_order=True).to_list() == ["u0003", "u0001", "nobody"]
    assert call("recommend", first / "first", "--task", "buy", "--user", "u0003", "-k", "3", "--json") == 0
    one = json.loads(capsys.readouterr().out)["items"]
    assert pl.read_parquet(out)["item"].head(3).to_list() == one
    assert call(*asked[:3], "by", *asked[4:]) == 2
    assert "buy" in capsys.readouterr().err


def test_evaluate_gives_what_the_run_measured(first, capsys):
    assert call("evaluate", first / "first", "--json") == 0
    scores = {score["task"]: score["value"] for score in json.loads(capsys.readouterr().out)["scores"]}
    matrix = json.loads((first / "first" / "matrix.json").read_text())
    assert scores == pytest.approx(dict(zip(matrix["tasks"], matrix["R"][-1], strict=True)), abs=1e-6)


def test_sampled_ranking_says_so(first, capsys):
    arguments = ["evaluate", first / "first", "--task", "buy", "--sampled", "5 uniform"]
    assert call(*arguments) == 0
    assert "sampled: 5 uniform" in capsys.readouterr().out


def test_model_taken_over(first, capsys, tmp_path):
    """[pretrain] model: the first task is not learned again, and answers as before."""
    recipe = first / "made" / "recipe.toml"
    changes = ["-s", f"pretrain.model={first / 'first'}/model", "-s", "tuning.method=finetune"]
    assert call("learn", recipe, "--out", tmp_path / "run", "--json", *changes) == 0
    told = json.loads(capsys.readouterr().out)
    before = json.loads((first / "first" / "matrix.json").read_text())
    assert told["matrix"][0] == before["R"][0]
    wrong = [*changes, "-s", "encoder.width=32"]
    assert call("learn", recipe, "--out", tmp_path / "other", *wrong) == 2


def test_prepare_is_reused(first, capsys, tmp_path):
    recipe = first / "made" / "recipe.toml"
    digests = []
    for _ in range(2):
        assert call("prepare", recipe, "--out", tmp_path / "store", "--json") == 0
        digests.append(json.loads(capsys.readouterr().out)["digest"])
    assert digests[0] == digests[1]
    assert call("learn", recipe, "--out", tmp_path / "run", "-s", f"run.store={tmp_path}/store", "--json") == 0
    assert not (tmp_path / "run" / "store").exists()


def test_rows_that_are_set_aside_are_told(recipe, capsys, tmp_path):
    log = recipe.parent / "world" / "events.csv"
    bad = tmp_path / "bad.csv"
    bad.write_text(log.read_text(encoding="utf-8") + "u,s0001,soon,view,source,\n", encoding="utf-8")
    assert call("prepare", recipe, "--out", tmp_path / "store", "-s", f"data.path={bad}") == 0
    said = capsys.readouterr().out
    assert ", 1 set aside\n" in said and "note: rows are set aside in quarantine.parquet: time 1" in said
    assert call("check", recipe, "--json", "-s", f"data.path={bad}") == 0
    assert "rows are set aside: time 1" in json.loads(capsys.readouterr().out)["notes"][0]


def test_check_leaves_nothing(recipe, capsys, tmp_path, monkeypatch):
    before = sorted(str(p) for p in recipe.parent.rglob("*"))
    assert call("check", recipe, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(str(p) for p in recipe.parent.rglob("*")) == before
    buy = next(task for task in told["tasks"] if task["name"] == "buy")
    assert buy["train"] > 0 and buy["labels"] > 2 and buy["trainable"] > 0 and buy["bytes"] > 0
    assert told["settings"]["train"]["batch_size"] == 32


def test_check_says_what_leaks(recipe, capsys):
    told = []
    for kind in ("user", "example"):
        assert call("check", recipe, "--json", "-s", f"split.kind={kind}") == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert not any(note.startswith("note: ") for note in notes)  # the command line says so itself
        told.append([note for note in notes if note.startswith("leak: ")])
    assert not told[0] and told[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.columns.user=usr", "user"),
        ("tasks.buy.where=domian = 'target'", "domain"),
        ("tasks.gender.answer=user.gendr", "gender"),
        ("data.users.id=usr", "user"),
    ],
)
def test_check_finds_columns_and_filters(recipe, capsys, change, said):
    assert call("check", recipe, "-s", change) in (2, 3)
    assert said in capsys.readouterr().err


def test_two_worlds_are_two_runs(tmp_path, capsys):
    """A fresh process is not needed: two runs in one do not disturb each other."""
    told = []
    for at, users in enumerate((110, 120, 110)):
        recipe = make(tmp_path / str(at), ("watch", "gender"), users=users)
        assert call("learn", recipe, "--out", tmp_path / str(at) / "run", "--json") == 0
        told.append(json.loads(capsys.readouterr().out)["matrix"])
    assert told[0] == told[2] != told[1]
