"""kill -9 at random moments of a whole run (log, store, training, evaluation, saving), in processes of its own.

The measuring itself is benchmarks/resume.py: one process forks each session, so that importing costs nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def stopped(*arguments: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "benchmarks" / "resume.py"), "--json", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_three_kills():
    told = stopped("--kills", "3", "--tasks", "3", "--users", "150", "--seed", str(os.getpid()))
    assert told["equal"] == told["stopped"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_six_stops_of_two_processes(signal):
    told = stopped("--kills", "6", "--tasks", "3", "--users", "150", "--signal", signal, "--processes", "2")
    assert told["equal"] == told["stopped"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["KILL", "TERM"])
@pytest.mark.parametrize("method", ["pcl", "finetune"])
def test_twenty_stops(signal, method):
    told = stopped("--kills", "20", "--tasks", "3", "--users", "150", "--signal", signal, "--method", method)
    assert told["equal"] == told["stopped"] == 20
