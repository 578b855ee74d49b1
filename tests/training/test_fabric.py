"""The device and the precision of a run are those of its settings, whatever the environment says."""

from __future__ import annotations

import os

import pytest
import torch

from perdure.training.loop import make_fabric

VARIABLES = {"PRECISION": "16-mixed", "ACCELERATOR": "cuda", "DEVICES": "2", "STRATEGY": "ddp", "NUM_NODES": "2"}


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("by_command", [False, True])
def test_no_variable_of_the_environment_wins(monkeypatch, name, by_command):
    monkeypatch.setenv(f"LT_{name}", VARIABLES[name])
    if by_command:  # as `fabric run` sets it
        monkeypatch.setenv("LT_CLI_USED", "1")
    before = dict(os.environ)
    fabric = make_fabric("cpu", "32-true")
    assert type(fabric.strategy).__name__ == "SingleDeviceStrategy" and type(fabric._precision).__name__ == "Precision"
    assert fabric.device == torch.device("cpu") and fabric.world_size == 1
    assert dict(os.environ) == before
