"""Processes that train one model together: each learns from its share of every batch, all take the same step.

    L = sum_k w_k L_k,     w_k = n_k / n        hence     dL = sum_k d(w_k L_k)

L_k is the loss of share k, the mean of n_k terms, and n is what the whole batch has. All processes hold the same
weights and optimisers; gradients and loss are summed over all of them, and everything that follows (clipping, the
guard, the step, what is shut, averages) is the same arithmetic on the same numbers everywhere. What is not is done by
the first process, which tells the others: it alone writes, validates and measures.

table: L_k -> `loss`, w_k -> `weight`, k -> `number`, from 0. Tensors on the CPU go by gloo, those on GPUs by nccl.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import Parameter

from perdure.errors import PerdureError, UsageError
from perdure.events.batch import Batch
from perdure.model.files import tensor_digest
from perdure.model.user_model import UserModel
from perdure.tuning.base import method_of

__all__ = ["Processes", "Several", "joined"]

MEETING = timedelta(minutes=2)  # for all to come together
LONG = timedelta(days=30)  # the others wait while the first measures; one that dies is noticed at once


class Processes:
    """One process by itself: its share is the whole batch and nothing is exchanged.

    Attributes:
        number: of this process, from 0.
        count: how many there are.
    """

    number = 0
    count = 1

    @property
    def first(self) -> bool:
        """The process that writes."""
        return self.number == 0

    @property
    def names(self) -> tuple[str, ...]:
        """What seeds of this process's own chance are named by besides; nothing in the first."""
        return () if self.first else (str(self.number),)

    def share(self, batch: Batch, model: UserModel, task: str) -> tuple[Batch, float]:
        """What this process learns from, and its weight: its part of the method's `terms`."""
        return batch, 1.0

    def sum(self, loss: Tensor, parameters: Iterable[Parameter]) -> float:
        """Sum the gradients over all processes, in place; the sum of the weighted losses ()."""
        return float(loss.detach())

    def any(self, here: bool) -> bool:
        """Whether it is so in one of the processes."""
        return here

    def told(self, work: Callable[[], float]) -> float:
        """What the first process finds; the others wait for it. nan where `work` gives nan."""
        return work()

    def gathered(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """States of the processes' own chance by name, all of them: those of number k > 0 under "name k"."""
        return dict(states)

    def own(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's part of what `gathered` gave, by the names it had."""
        return dict(states)

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the values that the first one holds, in place."""

    def hold(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Raises PerdureError, a bug, where processes hold different values; names the first tensor."""


class Several(Processes):
    """One of several processes; all call the same methods in the same order. See `joined`.

    Args:
        number: of this process. count: 2 or more.
    """

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self._group: Any = dist.new_group(timeout=LONG)

    def share(self, batch: Batch, model: UserModel, task: str) -> tuple[Batch, float]:
        method = method_of(model)
        mine, whole = batch.share(self.number, self.count), method.terms(model, task, batch)
        if not whole:  # what the loss makes of that, it makes of it here too
            return batch, 1 / self.count
        part = method.terms(model, task, mine)
        return (mine, part / whole) if part else (batch, 0.0)  # a loss of nothing is no number

    @torch.no_grad()
    def sum(self, loss: Tensor, parameters: Iterable[Parameter]) -> float:
        dense = []
        for parameter in parameters:
            if getattr(parameter, "sparse", False):
                parameter.grad = self._sum_rows(parameter)
            else:
                dense.append(parameter)
        there = loss.new_tensor([float(p.grad is not None) for p in dense])  # (P,)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in dense]
        flat = torch.cat([loss.detach().reshape(1), there, *(g.reshape(-1) for g in grads)])  # (1 + P + weights,)
        dist.all_reduce(flat, group=self._group)
        value, counts, parts = flat[0], flat[1 : 1 + len(dense)].tolist(), flat[1 + len(dense) :]
        for parameter, grad, count in zip(dense, parts.split([p.numel() for p in dense]), counts, strict=True):
            parameter.grad = grad.view_as(parameter).to(parameter.dtype) if count else None  # none stays none
        return float(value)

    def _sum_rows(self, table: Parameter) -> Tensor | None:
        """The sum of sparse gradients, each row once; None where no process has one."""
        grad = table.grad
        here = grad.coalesce() if grad is not None else None
        sizes = [int(n) for n in self._all(torch.tensor([-1 if here is None else here.indices().shape[1]]))]
        most = max(sizes)
        if most < 0:
            return None
        rows = torch.zeros(most, dtype=torch.long, device=table.device)  # (most,)
        values = table.new_zeros(most, *table.shape[1:])  # (most, d)
        if here is not None:
            rows[: here.indices().shape[1]] = here.indices()[0]
            values[: here.indices().shape[1]] = here.values()
        kept = [max(n, 0) for n in sizes]
        rows = torch.cat([one[:n] for one, n in zip(self._all(rows), kept, strict=True)])  # (n,)
        values = torch.cat([one[:n] for one, n in zip(self._all(values), kept, strict=True)])  # (n, d)
        return torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False).coalesce()

    def any(self, here: bool) -> bool:
        flag = torch.tensor([int(here)])
        dist.all_reduce(flag, group=self._group)
        return bool(flag)

    def told(self, work: Callable[[], float]) -> float:
        value = torch.tensor([work() if self.first else 0.0], dtype=torch.float64)
        dist.broadcast(value, 0, group=self._group)
        return float(value)

    def gathered(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, state in states.items():
            for number, one in enumerate(self._all(state.cpu())):
                found[f"{name} {number}" if number else name] = one
        return found

    def own(self, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [name for name in states if name.rpartition(" ")[0] not in states]
        return {name: states[name if self.first else f"{name} {self.number}"] for name in names}

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)  # (bytes,)
            dist.broadcast(flat, 0, group=self._group)
            tensor.copy_(flat.view(tensor.dtype).view(tensor.shape))

    def hold(self, tensors: Mapping[str, Tensor], where: str) -> None:
        digests = [list(bytes.fromhex(tensor_digest(tensor))) for tensor in tensors.values()]
        every = torch.stack(self._all(torch.tensor(digests, dtype=torch.uint8)))  # (K, tensors, 32)
        moved = (every != every[0]).any(2).any(0)  # (tensors,)
        names = [name for name, other in zip(tensors, moved.tolist(), strict=True) if other]
        if names:
            raise PerdureError(
                f"the {self.count} processes hold different values of {names[0]} and {len(names) - 1} other tensors",
                expected="the same weights everywhere",
                where=where,
                fix="please report this; run.processes = 1 goes on without",
            )

    def _all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, of one shape, in their order."""
        every = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(every, tensor.contiguous(), group=self._group)
        return every


@contextmanager
def joined(folder: Path, number: int, count: int, *, cuda: bool = False) -> Iterator[Several]:
    """Inside, this process is one of `count` on this machine that meet in an empty folder.

    Raises:
        UsageError: the program has processes of its own that train together.
    """
    if dist.is_initialized():
        raise UsageError(
            "torch.distributed is in use here", where="[run] processes", fix="run.processes = 1 under torchrun"
        )
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    if before is None and Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # nobody but this machine is spoken to
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=dist.FileStore(str(folder / "meeting"), count),  # type: ignore[attr-defined]
            rank=number,
            world_size=count,
            timeout=MEETING,
        )
        try:
            yield Several(number, count)
        finally:
            dist.destroy_process_group()
    finally:
        if before is None:
            os.environ.pop("GLOO_SOCKET_IFNAME", None)
