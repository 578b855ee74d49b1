"""A loss through torch.compile, where a recipe asks for it: what the compiler says is told as one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perdure.errors import MachineError, shorten

__all__ = ["through_compiler"]


def through_compiler(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`loss`, compiled when it is first called and again where shapes ask for it.

    Raises (when called):
        MachineError: PyTorch cannot compile it here.
    """
    from torch._dynamo.exc import TorchDynamoException  # a second's import, which torch.compile makes as well

    compiled = torch.compile(loss)

    def called(*args: Any) -> Tensor:
        try:
            return compiled(*args)
        except TorchDynamoException as error:
            said = str(getattr(error, "inner_exception", error)).strip() or type(error).__name__
            raise MachineError(
                f"PyTorch could not compile the loss: {shorten(said.splitlines()[0])}",
                where="run.compile",
                fix="install a C++ compiler (on a GPU, Triton), or set run.compile = false",
            ) from error

    return called
