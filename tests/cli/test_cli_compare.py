"""`perdure compare` with real processes: what it prints, and that stopping it anywhere changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from cli.small import call, environment, make, start
from rich.console import Console

from perdure.cli.show import rows

ASKED = ("--methods", "pcl,single", "--seeds", "1")
KEY = ["encoder", "method", "order", "protocol", "seed"]


def table(out: Path) -> pl.DataFrame:
    """The results, without what a repetition may change."""
    frame = pl.read_parquet(out / "results.parquet").sort(*KEY, "after_index", "task_index")
    return frame.drop("seconds", "peak_rss")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe whose first task takes seconds, folder of a comparison that nobody stopped)."""
    folder = tmp_path_factory.mktemp("compare")
    recipe = make(folder, ("watch", "gender"), pretrain={"epochs": 12, "patience": 0})
    assert call("compare", recipe, *ASKED, "--out", folder / "whole") == 0
    return recipe, folder / "whole"


def waited(process: subprocess.Popen[str], seen: Callable[[str], bool]) -> str:
    """Read standard error until a line is seen."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if seen(line):
            return said
    raise AssertionError("the comparison ended before: " + said)


def learner(folder: Path) -> int:
    """The process that writes a run folder."""
    return json.loads((folder / "lock").read_text())["pid"]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # nobody has asked for its exit code yet
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_table_for_each_encoder_and_order(compared, capsys):
    recipe, whole = compared
    capsys.readouterr()
    assert call("compare", recipe, "--out", whole) == 0
    told, said = capsys.readouterr()
    lines = told.splitlines()
    assert lines[0] == "sasrec, forward, clean; seeds 1; intervals of 95 %"
    assert lines[1].split() == ["watch", "gender"]
    assert lines[2].split() == ["method", "ndcg@10", "accuracy", "average", "gain", "p"]
    values = json.loads((whole / "summary.json").read_text())["groups"][0]["methods"]["single"]
    line = next(line for line in lines if line.startswith("single")).split()
    assert line[1:4] == [f"{v:.4f}" for v in (values["tasks"]["watch"]["mean"], values["tasks"]["gender"]["mean"],
                                              values["average"]["mean"])]  # fmt: skip
    assert any(line.startswith("folder") for line in lines) and "epoch" not in said


def test_a_column_of_which_nothing_is_told_is_left_out(capsys):
    rows(Console(width=80), ["method", "average", "gain"], [["pcl", 0.5, None], ["lora", 0.25, None]])
    rows(Console(width=80), ["method", "gain"], [])
    heads, pcl, lora, none = capsys.readouterr().out.splitlines()
    assert heads.split() == ["method", "average"] and none.split() == ["method", "gain"]
    assert pcl.split() == ["pcl", "0.5000"] and lora.split() == ["lora", "0.2500"]


def test_json(compared, capsys):
    recipe, whole = compared
    capsys.readouterr()
    assert call("compare", recipe, "--out", whole, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"] == json.loads((whole / "summary.json").read_text())["groups"]
    assert [cell["state"] for cell in told["cells"]] == ["done", "done"] and told["failed"] == []


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_saves_and_stops(compared, tmp_path, capsys, name):
    """And until then nobody else may write there. That it goes on to the same table: below, and in the API's tests."""
    recipe, _ = compared
    out = tmp_path / "out"
    process = start("compare", recipe, *ASKED, "--out", out)
    said = waited(process, lambda line: "epoch 2," in line)
    lines = [line for line in said.splitlines() if ": step " not in line]
    assert lines[:2] == ["looking at the log, clean", "0 of 2 done; now sasrec backbone seed 1"]
    assert lines[2].startswith("watch: epoch 1, loss ")
    assert call("compare", recipe, *ASKED, "--out", out) == 8
    assert f"process {process.pid}" in capsys.readouterr().err
    child = learner(out / "backbones" / "sasrec-1")
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 6 and f"stopped by {name}" in said and "Traceback" not in said
    assert "run the same command again" in said and gone(child)
    assert json.loads((out / "backbones" / "sasrec-1" / "run.json").read_text())["state"] == "interrupted"
    assert json.loads((out / "compare.json").read_text())["state"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_stopped_or_killed_it_ends_with_the_same_table(compared, tmp_path, name):
    recipe, whole = compared
    out = tmp_path / "out"
    process = start("compare", recipe, *ASKED, "--out", out)
    waited(process, lambda line: "epoch 5," in line)
    child = learner(out / "backbones" / "sasrec-1")
    process.send_signal(getattr(signal, name))
    process.communicate()
    assert gone(child)  # no orphan holds the folder
    assert call("compare", recipe, *ASKED, "--out", out) == 0
    assert table(out).equals(table(whole))


@pytest.mark.slow
@pytest.mark.parametrize("pause", [3.0, 4.7])
def test_killed_again_and_again(compared, tmp_path, pause):
    """kill -9 after so many seconds, a little later each time, until it is through before."""
    recipe, whole = compared
    out, code, times = tmp_path / "out", -1, 0
    while code != 0:
        process = start("compare", recipe, *ASKED, "--out", out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(times * pause)
        process.kill()
        code = process.wait()
    assert table(out).equals(table(whole))


def test_a_process_counts_its_own_memory_alone():
    """The system's own count begins with what the parent held."""
    from perdure.training.life import peak_rss

    code = "from perdure.training.life import peak_rss; print(peak_rss())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert 2**23 < int(told.stdout) < peak_rss() / 2  # this process has torch in memory


def test_a_cell_that_is_killed_fails_and_the_others_go_on(compared, tmp_path):
    recipe, _ = compared
    process = start("compare", recipe, *ASKED, "--out", tmp_path / "out")
    waited(process, lambda line: line.startswith("after watch"))
    waited(process, lambda line: "now sasrec pcl" in line)
    folder = tmp_path / "out" / "runs" / "sasrec" / "pcl" / "forward" / "1"
    deadline = time.monotonic() + 60
    while not (folder / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(learner(folder), signal.SIGKILL)
    out, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "failed: runs/sasrec/pcl/forward/1" in out
    assert "ended by signal 9" in said and "single" in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--methods", "pcll"), "did you mean pcl"),
        (("--seeds", "one"), "--seeds"),
        (("--orders", "backwards"), "forward, reversed, noisy"),
        (("--against", "pcll"), "where: --against\nfix: did you mean pcl?"),
    ],
)
def test_wrong_options(compared, tmp_path, capsys, given, said):
    assert call("compare", compared[0], *given, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
