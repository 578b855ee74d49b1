"""How much memory building a model may take: in proportion to the files it is built from, whatever they say.  [pure]"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perdure.errors import ModelError

__all__ = ["Budget"]

FREE = 32 * 2**20  # bytes that any folder may ask for
TIMES = 4  # the bytes of its tensors that a folder may ask for besides: a task's overlay can be larger while it learns
LEAST = 4096  # bytes that a tensor counts for at least: layers without end are refused, too


class Budget(TorchDispatchMode):
    """While it is entered, torch makes no more new tensors than the files justify.

    What is made from a size (zeros, empty, randn, ...) is counted before it is made, all of it together; what is made
    from other tensors is no larger than these allow, and each one alone must stay within the budget.

    Args:
        weights: bytes of the tensors in the folder.
        where: the file to name.

    Raises:
        ModelError: inside the block, at the first tensor that is too much.
    """

    def __init__(self, weights: int, where: str) -> None:
        super().__init__()
        self.limit, self.spent, self.where = FREE + TIMES * weights, 0, where

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its whole compiler for that, which takes longer than most models take to load."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """One operation of torch."""
        kwargs = kwargs or {}
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        if not func.is_view:
            if "size" in given:
                self.spend(math.prod(given["size"]), given.get("dtype"))
            elif isinstance(given.get("end"), int):  # arange
                self.spend(abs(given["end"]), given.get("dtype"))
        out = func(*args, **kwargs)
        if isinstance(out, torch.Tensor) and not func.is_view and out.nbytes > self.limit:
            raise self.refusal()
        return out

    def spend(self, count: int, dtype: torch.dtype | None) -> None:
        """Count a tensor that is about to be made."""
        self.spent += max(LEAST, abs(count) * (dtype.itemsize if dtype else 4))
        if self.spent > self.limit:
            raise self.refusal()

    def refusal(self) -> ModelError:
        """What to raise."""
        return ModelError(
            "the settings describe a larger model than the files hold",
            expected=f"at most {self.limit / 2**20:,.0f} MiB of tensors",
            where=self.where,
        )
