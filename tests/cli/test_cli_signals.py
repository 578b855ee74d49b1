"""Rows 63 and 64 of the catalogue, and the lock: stopping a run from outside, and going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli.small import call, make, start

LONG = {"pretrain": {"epochs": 15, "patience": 0}}


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[float]]]:
    """A recipe that takes seconds, and the matrix of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("long")
    recipe = make(folder, ("watch", "gender"), **LONG)
    assert call("learn", recipe, "--out", folder / "whole") == 0
    return recipe, json.loads((folder / "whole" / "matrix.json").read_text())["R"]


def until_an_epoch(process: subprocess.Popen[str]) -> str:
    """Read standard error until an epoch is told."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "epoch 1," in line:
            return said
    raise AssertionError("the run ended before its first epoch: " + said)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, err


def goes_on(recipe: Path, out: Path, whole: list[list[float]]) -> None:
    assert call("learn", recipe, "--out", out, "--resume", "must") == 0
    assert json.loads((out / "matrix.json").read_text())["R"] == whole
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_row_63_one_signal_saves_and_stops(long, tmp_path, name):
    recipe, whole = long
    process = start("learn", recipe, "--out", tmp_path / "run")
    until_an_epoch(process)
    process.send_signal(getattr(signal, name))
    code, said = ended(process)
    assert code == 6 and f"stopped by {name}" in said and "--resume auto" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "interrupted"
    goes_on(recipe, tmp_path / "run", whole)


def test_row_63_two_signals_stop_at_once(long, tmp_path):
    recipe, whole = long
    process = start("learn", recipe, "--out", tmp_path / "run")
    until_an_epoch(process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    code, _ = ended(process)
    assert code == 6
    goes_on(recipe, tmp_path / "run", whole)


@pytest.mark.parametrize(("name", "said"), [("SIGTERM", "stopped by SIGTERM"), ("SIGINT", "stopped by Ctrl-C")])
@pytest.mark.parametrize(
    ("verb", "fix"),
    [
        ("check", "run it again"),
        ("learn", "continue with --resume auto"),
        ("compare", "run the same command again: it goes on"),
        ("quickstart", "begin again in a new folder"),
    ],
)
def test_row_63_outside_of_training(recipe, tmp_path, capsys, monkeypatch, name, said, verb, fix):
    from perdure import api

    monkeypatch.setattr(api, verb, lambda *a, **o: os.kill(os.getpid(), getattr(signal, name)))
    before = signal.getsignal(signal.SIGTERM)
    given = [] if verb == "quickstart" else [recipe]
    assert call(verb, *given, *([] if verb == "check" else ["--out", tmp_path])) == 6
    assert f"error: {said}\nfix: {fix}\n" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_row_63_closed_pipes(long, tmp_path):
    """`| head`: whoever listened has left; the run is not disturbed."""
    process = start("learn", long[0], "--out", tmp_path / "run")
    until_an_epoch(process)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    assert json.loads((tmp_path / "run" / "matrix.json").read_text())["R"] == long[1]


def test_row_64_clock_steps_back(long, tmp_path, monkeypatch):
    real, calls = time.time, []

    def stepping() -> float:
        calls.append(1)
        return real() - 3600 * (len(calls) > 1)

    monkeypatch.setattr(time, "time", stepping)
    assert call("learn", long[0], "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "matrix.json").read_text())["R"] == long[1]
    assert all(cost["seconds"] >= 0 for cost in json.loads((tmp_path / "run" / "cost.json").read_text()))


def test_one_writer(long, tmp_path, capsys):
    recipe, whole = long
    process = start("learn", recipe, "--out", tmp_path / "run")
    until_an_epoch(process)
    assert call("learn", recipe, "--out", tmp_path / "run", "--resume", "auto") == 8
    assert f"process {process.pid}" in capsys.readouterr().err
    process.kill()
    process.communicate()
    goes_on(recipe, tmp_path / "run", whole)  # the lock of a killed process opens by itself


def test_killed_before_anything_was_saved(long, tmp_path):
    """kill -9 while data is prepared: the folder is used again."""
    recipe, whole = long
    process = start("learn", recipe, "--out", tmp_path / "run")
    deadline = time.monotonic() + 30
    while not (tmp_path / "run").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert call("learn", recipe, "--out", tmp_path / "run", "--resume", "auto") == 0
    assert json.loads((tmp_path / "run" / "matrix.json").read_text())["R"] == whole
    shutil.rmtree(tmp_path / "run")
