"""run.compile: the same loss, and one clear error where there is no compiler."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from perdure.errors import MachineError
from perdure.training.compiling import through_compiler


def squared(x):
    return (x * x).sum()


def broken(graph, inputs):
    raise RuntimeError("No working C++ compiler found\nand much more")


def test_what_is_compiled_gives_the_same_loss_and_gradients(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    loss = through_compiler(squared)(x)
    loss.backward()
    assert loss.item() == 5.0 and x.grad is not None and x.grad.tolist() == [2.0, -4.0]


def test_a_compiler_that_fails_is_one_error_and_other_faults_are_not_its(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    with pytest.raises(MachineError, match="No working C\\+\\+ compiler") as caught:
        through_compiler(squared)(torch.ones(2))
    assert "run.compile = false" in caught.value.fix and len(caught.value.found.splitlines()) == 1
    monkeypatch.setattr(torch, "compile", lambda loss: loss)
    with pytest.raises(ZeroDivisionError):
        through_compiler(lambda: 1 / 0)()
