"""What is asked of the disk before a run is what the run will hold: tasks, moments, best states and averages too."""

from __future__ import annotations

import pytest
from cli.small import make

import perdure
from perdure.training.checkpoint import Checkpoints
from perdure.training.runlog import RunLog


@pytest.mark.parametrize("method", ["single", "pcl"])
def test_no_run_holds_more_than_was_asked_for(tmp_path, monkeypatch, method):
    def held() -> int:
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files if path.suffix == ".safetensors" and "store" not in path.parts)

    asked: list[tuple[int, int]] = []
    most = 0
    real = Checkpoints.save

    def save(self, tensors, state):
        nonlocal most
        number = real(self, tensors, state)
        most = max(most, held() + sum(file.stat().st_size for file in self.path(number).iterdir()))  # one more to come
        return number

    monkeypatch.setattr(Checkpoints, "save", save)
    monkeypatch.setattr(RunLog, "need", lambda self, size: asked.append((size, held())))
    few = [f"tuning.method={method}", "train.max_steps=2", "pretrain.max_steps=2", "train.average=0.9"]
    perdure.learn(make(tmp_path), tmp_path / "run", overrides=few if method != "pcl" else [*few, "tuning.length=3"])
    assert asked[0][1] == 0 and 0 < most <= asked[0][0] <= 10 * most
    for size, there in asked:
        assert size + there >= most * 0.9, "less is asked for only where it is there already"
