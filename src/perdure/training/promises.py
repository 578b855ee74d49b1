"""Holding a method to `keeps`: digests of all that older tasks stand on, and of their answers to a fixed probe.

Under a method that keeps, learning a task may change nothing of

    backbone.*                          what the method trains and does not shut excepted (nobody else owns that)
    overlays.<older>.*  heads.<older>.* without exception

and every older task must answer the same 256 users with the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Set

import torch
from torch import Tensor
from torch.nn import Parameter

from perdure.errors import PromiseBroken
from perdure.events.examples import Examples, TaskData
from perdure.events.loader import Loader
from perdure.model.files import tensor_digest
from perdure.model.user_model import UserModel

PROBE_USERS = 256
PROBE_BATCH = 32


def ground(
    model: UserModel, older: list[str], trained: Set[Parameter], shut: Mapping[Parameter, Tensor]
) -> dict[str, str]:
    """Digest of every tensor that answers of the older tasks may depend on, by name."""
    digests: dict[str, str] = {}
    for task in older:
        for part, held in (("overlays", model.overlays), ("heads", model.heads)):
            for name, tensor in held[task].state_dict().items() if task in held else ():
                digests[f"{part}.{task}.{name}"] = tensor_digest(tensor)
    tensors = dict(model.backbone.state_dict())
    tensors |= dict(model.backbone.named_parameters())  # the parameters themselves, to be found in `shut`
    for name, tensor in tensors.items():
        if tensor not in trained:
            digests[f"backbone.{name}"] = tensor_digest(tensor)
        elif tensor in shut:
            where = shut[tensor].to(tensor.device) >= 1
            digests[f"backbone.{name} (where shut)"] = tensor_digest(torch.where(where, tensor.detach(), 0))
    return digests


def hold(before: Mapping[str, str], after: Mapping[str, str], method: str, task: str) -> None:
    """Compare two digests by name. Raises PromiseBroken naming the first five that moved."""
    moved = [name for name, digest in before.items() if after.get(name) != digest]
    if moved:
        more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
        raise PromiseBroken(
            f"learning {task} changed what older tasks stand on: {', '.join(moved[:5])}{more}",
            expected=f"{method} promises that older tasks answer as before",
            where=f"task {task}",
            fix="report it as a fault of the method; in your own let `trains` name what is new, or `shut` the rest",
        )


def probe(model: UserModel, data: TaskData) -> str:
    """Digest of a task's scores for its first 256 test users (or, without any, validation or training users)."""
    part = next((p for p in (data.test, data.valid, data.train) if len(p)), data.test)
    few = Examples(part.users[:PROBE_USERS], part.begin[:PROBE_USERS], part.end[:PROBE_USERS])
    length, times = model.backbone.max_length, model.backbone.reads_times
    loader = Loader(data.sequences, few, batch_size=PROBE_BATCH, max_length=length, times=times, profiles=data.profiles)
    device = next(model.parameters()).device
    hashed = hashlib.sha256()
    model.eval()
    with torch.inference_mode():
        for batch in loader:
            scores = model.score(batch.to(device), data.task.name)  # (B, Y)
            hashed.update(tensor_digest(scores).encode())
    return hashed.hexdigest()
