"""Bad settings and bad calls: rows 49 to 62 and 65 of the catalogue, one test a row, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli.small import call, environment, make, start

import perdure
from perdure.cli import main
from perdure.training import runlog


def refused(capsys, code: int, *arguments: str | Path) -> str:
    """Run a command that must fail with `code` in at most six lines and without a traceback; what it said."""
    got = call(*arguments)
    told = capsys.readouterr()
    said = [line for line in told.err.splitlines() if line]
    assert got == code, told.err
    assert told.out == ""
    start_of = next(at for at, line in enumerate(said) if line.startswith("error: "))
    assert len(said) - start_of <= 6 and "Traceback" not in told.err
    return told.err


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def no_data(tmp_path: Path) -> Path:
    """A recipe whose data is not there: whatever is told of its settings was told before data was read."""
    recipe = make(tmp_path / "no-data")
    shutil.rmtree(tmp_path / "no-data" / "world")
    return recipe


def test_row_49_unknown_key(capsys, no_data, out):
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", "train.learnig_rate=0.1")
    assert "did you mean learning_rate?" in said and "where: -s train.learnig_rate=0.1" in said
    assert not out.exists()


@pytest.mark.parametrize("value", ['"10"', "true", "1e1", "10.0", "ten"])
def test_row_50_wrong_type(capsys, no_data, out, value):
    assert "a whole number" in refused(capsys, 2, "learn", no_data, "--out", out, "-s", f"train.epochs={value}")


@pytest.mark.parametrize("value", ["0", "0.0", "-0.1", "nan", "inf", "1e10"])
def test_row_51_learning_rate(capsys, no_data, out, value):
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", f"train.learning_rate={value}")
    assert "above 0, at most 10" in said


@pytest.mark.parametrize(
    "changes",
    [["evaluate.ks=[0]"], ["train.batch_size=0"], ["encoder.width=7", "encoder.heads=4"], ["encoder.dropout=1.0"]],
)
def test_row_52_impossible_numbers(capsys, no_data, out, changes):
    arguments = [word for change in changes for word in ("-s", change)]
    refused(capsys, 2, "learn", no_data, "--out", out, *arguments)
    assert not out.exists()


def test_row_52_k(capsys, first):
    for k in ("0", "-1", "10001"):
        said = refused(capsys, 2, "recommend", first / "first", "--task", "buy", "--history", "s0001", "-k", k)
        assert "1" in said


def test_row_53_batch_larger_than_the_data(capsys, recipe, out):
    assert call("check", recipe, "-s", "train.batch_size=100000", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert any("batch_size 100000 is more than its" in note for note in told["notes"])


def test_row_54_contradictions(capsys, no_data, out):
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", "split.valid=0.0")
    assert "patience" in said and "split.valid" in said
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", "train.max_steps=3", "-s", "train.warmup_steps=9")
    assert "warmup_steps 9" in said and "max_steps 3" in said


def test_row_54_more_answers_than_there_are(capsys, recipe, first):
    assert call("check", recipe, "-s", "evaluate.ks=[500]", "--json") == 0
    assert any("evaluate.ks has 500" in note for note in json.loads(capsys.readouterr().out)["notes"])
    call("recommend", first / "first", "--task", "buy", "--history", "s0001", "-k", "500", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["truncated"] and len(answer["items"]) < 500


def test_row_55_yaml(capsys, tmp_path, out):
    (tmp_path / "r.yaml").write_text("a: !!python/object/apply:os.system ['touch pwned']\n")
    assert "not YAML" in refused(capsys, 2, "learn", tmp_path / "r.yaml", "--out", out)


@pytest.mark.parametrize("name", ["../x", "con", "CON.txt", "x" * 300, "", "a/b", "a\\b", ".hidden", "a\nb", "Watch"])
def test_row_56_task_names(capsys, no_data, out, name):
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", f"tasks.2.name={json.dumps(name)}")
    assert "tasks.2" in said


def test_row_56_existing_run_needs_resume(capsys, first):
    assert "--resume auto" in refused(capsys, 2, "learn", first / "made" / "recipe.toml", "--out", first / "first")


@pytest.fixture
def again(first: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a run and the recipe it was made with."""
    shutil.copytree(first / "first", tmp_path / "run")
    return first / "made" / "recipe.toml", tmp_path / "run"


def test_row_57_order_of_tasks(capsys, again, tmp_path):
    recipe = make(tmp_path / "other", ("watch", "gender", "buy"))
    call("learn", recipe, "--out", again[1], "--resume", "auto", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 2
    assert "buy -> gender" in told["found"] and "gender -> buy" in told["found"]


def test_row_57_a_task_more(capsys, again, tmp_path):
    recipe = make(tmp_path / "other", ("watch", "buy", "gender", "age"))
    call("learn", recipe, "--out", again[1], "--resume", "auto", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 2 and "settings.tasks: watch, buy, gender -> watch, buy, gender, age" in told["found"]
    assert f"choose another folder; there, -s pretrain.model={again[1]}/model takes over" in told["fix"]


@pytest.mark.parametrize("change", ["run.seed=4", "train.epochs=9", "encoder.dropout=0.5", "tuning.method=finetune"])
def test_row_58_other_settings(capsys, again, change):
    said = refused(capsys, 2, "learn", again[0], "--out", again[1], "--resume", "auto", "-s", change)
    assert change.split("=")[0].split(".")[1] in said and change.split("=")[1] in said


def test_row_58_other_data(capsys, again, tmp_path):
    recipe = make(tmp_path / "other", users=125)
    refused(capsys, 2, "learn", recipe, "--out", again[1], "--resume", "auto")
    assert call("show", again[1]) == 0


def test_row_58_other_version(capsys, again, monkeypatch):
    monkeypatch.setattr(runlog, "__version__", "9.9.9")
    assert "9.9.9" in refused(capsys, 2, "learn", again[0], "--out", again[1], "--resume", "auto")


def test_row_58_threads_are_a_warning(capsys, again):
    assert call("learn", again[0], "--out", again[1], "--resume", "auto", "-s", "run.threads=2") == 0
    assert "numbers may differ" in (again[1] / "log.jsonl").read_text()


def test_row_59_nothing_to_resume(capsys, recipe, out):
    assert "no run to resume" in refused(capsys, 2, "learn", recipe, "--out", out, "--resume", "must")
    assert not out.exists()


def test_row_59_auto_begins(capsys, recipe, out):
    assert call("learn", recipe, "--out", out, "--resume", "auto", "-s", "pretrain.epochs=1", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert any("begins" in note for note in told["notes"])


def test_row_60_folder_is_not_empty(capsys, recipe, out):
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "not empty: mine.txt" in refused(capsys, 2, "learn", recipe, "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    refused(capsys, 2, "quickstart", "--out", out)


def test_row_60_a_file(capsys, recipe, out):
    out.write_text("mine")
    refused(capsys, 2, "learn", recipe, "--out", out)
    assert out.read_text() == "mine"


def test_row_60_read_only(capsys, recipe, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    where = Path("/proc/self/perdure") if os.geteuid() == 0 else folder / "run"
    assert str(where) in refused(capsys, 2, "learn", recipe, "--out", where)


def test_row_61_disk_is_full(capsys, recipe, out, monkeypatch):
    real = os.statvfs

    def full(path):
        found = list(real(path))
        found[3] = found[4] = 1  # f_bfree, f_bavail: one block
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", full)
    said = refused(capsys, 5, "learn", recipe, "--out", out)
    assert "MiB free" in said and "needed" in said and " 0.00 MiB needed" not in said


def test_row_61_memory(capsys, recipe, out):
    said = refused(capsys, 5, "learn", recipe, "--out", out, "-s", "encoder.width=20000000")
    assert "training needs about" in said and "are free" in said


def test_row_62_device(capsys, no_data, out):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", "run.device=cuda")
    assert "no cuda" in said and "one of cpu" in said


def test_row_62_more_threads_than_cores(capsys, recipe):
    many = (os.cpu_count() or 1) + 1
    assert call("check", recipe, "-s", f"run.threads={many}", "--json") == 0
    assert any("cores" in note for note in json.loads(capsys.readouterr().out)["notes"])


@pytest.mark.parametrize("key", ["run.api_key", "data.password", "run.auth_token", "data.Secret"])
def test_row_65_secrets(capsys, no_data, out, key):
    said = refused(capsys, 2, "learn", no_data, "--out", out, "-s", f"{key}=hunter2")
    assert "environment variable or a file" in said and "hunter2" not in said


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["lern", "x"]),
        (2, ["learn"]),
        (2, ["learn", "nowhere.toml", "--out", "x"]),
        (2, ["learn", "nowhere.toml", "--out", "x", "--resume", "perhaps"]),
        (2, ["list", "metods"]),
        (2, ["recommend", "x", "--task", "buy", "-k", "ten"]),
        (4, ["show", "."]),
        (4, ["report", "."]),
        (4, ["evaluate", "nowhere"]),
    ],
)
def test_wrong_calls(capsys, tmp_path, monkeypatch, code, arguments):
    monkeypatch.chdir(tmp_path)
    refused(capsys, code, *arguments)


def test_wrong_questions(capsys, first):
    run = first / "first"
    said = refused(capsys, 2, "recommend", run, "--task", "bu", "--history", "s0001")
    assert "watch, buy, gender" in said and "did you mean buy?" in said
    assert "did you mean methods?" in refused(capsys, 2, "list", "methds")
    assert "is a folder" in refused(capsys, 2, "embed", run, "--out", run)
    refused(capsys, 2, "recommend", run, "--task", "buy")
    refused(capsys, 2, "recommend", run, "--task", "buy", "--user", "u0001", "--history", "s0001")
    refused(capsys, 2, "recommend", run, "--task", "buy", "--history", "@/no/such/file")
    refused(capsys, 2, "evaluate", run, "--sampled", "many")
    refused(capsys, 2, "embed", run, "--out", "x.parquet", "--task", "by")


def test_model_without_its_store(capsys, first, tmp_path):
    shutil.copytree(first / "first" / "model", tmp_path / "model")
    assert "--store" in refused(capsys, 3, "evaluate", tmp_path / "model")
    store = first / "first" / "store"
    assert call("evaluate", tmp_path / "model", "--store", store, "--task", "gender") == 0
    capsys.readouterr()
    assert call("recommend", tmp_path / "model", "--task", "buy", "--history", "s0001") == 0


def test_model_with_another_store(capsys, first, tmp_path):
    recipe = make(tmp_path, users=110)
    assert call("prepare", recipe, "--out", tmp_path / "store") == 0
    capsys.readouterr()
    said = refused(capsys, 3, "evaluate", first / "first", "--store", tmp_path / "store")
    assert "another log" in said


def test_damaged_model(capsys, first, tmp_path):
    shutil.copytree(first / "first" / "model", tmp_path / "model")
    file = tmp_path / "model" / "tasks" / "buy.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "buy.safetensors" in refused(capsys, 4, "show", tmp_path / "model")


def test_error_as_json(capsys, no_data, out):
    assert call("learn", no_data, "--out", out, "-s", "train.epochs=0", "-s", "run.seed=-1", "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "SettingsError" and len(told["faults"]) == 2


def test_many_faults_in_six_lines(capsys, no_data, out):
    changes = [word for n in range(12) for word in ("-s", f"train.x{n}=1")]
    assert "more lines: --json tells all" in refused(capsys, 2, "learn", no_data, "--out", out, *changes)


def test_our_own_bug(capsys, recipe, monkeypatch):
    from perdure import api

    def broken(*arguments, **options):
        raise ZeroDivisionError("division by zero\nsecond line")

    monkeypatch.setattr(api, "check", broken)
    assert call("check", recipe) == 70
    told, where, fix = capsys.readouterr().err.splitlines()
    assert (told, fix) == ("error: ZeroDivisionError: division by zero", "fix: run again with --trace")
    assert where.startswith("where: cli/verbs.py, line ")  # the last of the package that it went through
    assert call("check", recipe, "--trace") == 70
    assert "Traceback" in capsys.readouterr().err


def test_trace_of_a_named_error(capsys, no_data):
    assert call("--trace", "check", no_data) == 2
    assert "Traceback" in capsys.readouterr().err


def test_reader_that_leaves(first):
    process = start("show", first / "first", "--json", bufsize=0)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_faults_are_told_without_the_words_of_a_library(capsys, tmp_path):
    said = refused(capsys, 2, "evaluate", tmp_path, "--split", "tset")
    assert "'tset' is not one of 'valid', 'test'" in said and "Value error" not in said
    said = refused(capsys, 2, "recommend", tmp_path, "--task", "buy", "--history", f"@{tmp_path / 'none'}")
    assert "No such file" in said and "Errno" not in said
    assert "there is no such folder" in refused(capsys, 4, "show", tmp_path / "none")


def told(*arguments: str | Path, **more: str) -> tuple[int, bytes, bytes]:
    """Exit code, standard output and error of a command in a process with other variables."""
    command = [sys.executable, "-m", "perdure", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, env=environment(**more), timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_a_locale_without_the_letters_of_an_id_is_no_fault(first, tmp_path):
    """Tables escape what they cannot say; JSON is UTF-8 whatever the locale."""
    (tmp_path / "ids.txt").write_text("ışık", encoding="utf-8")
    asked = ("recommend", first / "first", "--task", "buy", "--history", f"@{tmp_path / 'ids.txt'}")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    code, out, _ = told(*asked, **plain)
    assert code == 0 and rb"not known to the model: '\u0131\u015f\u0131k'" in out
    code, out, _ = told(*asked, "--json", **plain)
    assert code == 0 and json.loads(out.decode("utf-8"))["unknown"] == ["ışık"]


def test_output_that_goes_nowhere():
    """A job without a standard output is no fault; one whose output does not fit on its disk is the machine's."""
    python = f"{sys.executable} -m perdure list formats"
    closed = subprocess.run(["sh", "-c", f"{python} >&-"], capture_output=True, env=environment(), timeout=60)
    assert closed.returncode == 0 and not closed.stderr
    for more in ("", " --json"):
        full = subprocess.run(["sh", "-c", f"{python}{more} >/dev/full"], capture_output=True, env=environment())
        assert full.returncode == 5 and full.stderr.startswith(b"error: cannot write: No space left on device\nfix: ")


def test_what_the_api_tells_of_its_arguments_is_told_as_options(capsys, first, tmp_path):
    with pytest.raises(perdure.DataError) as from_python:
        perdure.evaluate(first / "first", store=tmp_path)
    assert from_python.value.where == "store"
    assert "where: --store" in refused(capsys, 3, "evaluate", first / "first", "--store", tmp_path)
    with pytest.raises(perdure.UsageError) as from_python:
        perdure.learn(first / "made" / "recipe.toml", first / "first")
    assert from_python.value.fix.startswith('resume="auto" continues it')
    fault = perdure.UsageError(
        "no", where="evaluate, split", fix='kind="last"; allow_leaks=True measures it; resume="auto"'
    )
    main._as_options(fault, "compare")  # which has no --kind, and no --resume
    assert (fault.where, fault.fix) == ("evaluate, split", 'kind="last"; --allow-leaks measures it; resume="auto"')
