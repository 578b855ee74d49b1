"""A checkpoint that cannot be read for the moment, or by this release, is not deleted; a damaged one is."""

from __future__ import annotations

import errno

import pytest
import torch

from perdure.errors import MachineError, ModelError
from perdure.model.disk import Disk
from perdure.training import checkpoint
from perdure.training.checkpoint import Checkpoints


def two(folder) -> Checkpoints:
    kept = Checkpoints(folder)
    for n in (1, 2):
        kept.save({"model.safetensors": {"w": torch.full((3,), float(n))}}, {"n": n})
    return kept


class Refusing(Disk):
    """Refuses to read what belongs to the newest, for once."""

    def __init__(self, code: int) -> None:
        self.code = code

    def read(self, path):
        if self.code and "000002" in str(path):
            code, self.code = self.code, 0
            raise OSError(code, "refused")
        return super().read(path)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_what_cannot_be_read_for_the_moment_is_kept(tmp_path, code):
    two(tmp_path)
    kept = Checkpoints(tmp_path, disk=Refusing(code))
    with pytest.raises(MachineError, match=r"cannot be read: refused(.|\n)*000002(.|\n)*try again"):
        kept.latest()
    found = kept.latest()
    assert found is not None and found.state == {"n": 2} and kept.numbers() == [1, 2] and not kept.notes


def test_what_another_release_wrote_is_kept(tmp_path, monkeypatch):
    kept = two(tmp_path)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    kept.save({"model.safetensors": {"w": torch.ones(3)}}, {"n": 3})
    monkeypatch.undo()
    with pytest.raises(ModelError, match="the release of perdure that wrote it"):
        kept.latest()
    assert kept.numbers() == [2, 3]


def test_what_is_missing_a_file_is_dropped(tmp_path):
    kept = two(tmp_path)
    (tmp_path / "000002" / "model.safetensors").unlink()
    found = kept.latest()
    assert found is not None and found.number == 1 and kept.numbers() == [1]
    assert kept.notes == ["checkpoint 2 is damaged and was dropped; 1 is used"]
