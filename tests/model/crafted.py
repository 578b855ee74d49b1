"""Model folders that somebody rewrote, digests and all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perdure import registry
from perdure.events.ids import Ids
from perdure.model import files, store
from perdure.model.user_model import TaskCard, UserModel

N = 12


def card(name: str, kind: str, n: int = 5) -> TaskCard:
    """A task over all items, or over `n` labels of which the first are items."""
    n = N if kind == "next_item" else n
    items = np.arange(2, n + 2, dtype=np.int32) if kind != "one_of" else np.full(n, -1, np.int32)
    return TaskCard(name, kind, Ids([f"i{k:02d}" for k in range(n)]), items, np.arange(n), f"about {name}")


def model(method: str = "pcl", encoder: dict | None = None) -> UserModel:
    """Three tasks, one of each kind, all settled."""
    spec = {
        "encoder": {"name": "sasrec", "width": 8, "blocks": 1, "heads": 2, "max_length": 6, **(encoder or {})},
        "method": {"name": method},
        "objective": {"name": "next_item"},
    }
    ids, generator = Ids([f"i{k:02d}" for k in range(N)], first=2), torch.Generator().manual_seed(0)
    made = store.build(spec, ids, registry.find, generator)
    for name, kind in (("watch", "next_item"), ("buy", "item"), ("kind", "one_of")):
        made.add(card(name, kind), generator)
        made.settle(name)
    return made


def sign(folder: Path, manifest: dict[str, Any]) -> None:
    """Write model.json so that every digest in it is right."""
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": files.sha256(data)}
    whole = {key: value for key, value in manifest.items() if key != "digest"}
    (folder / "model.json").write_bytes(files.render({**whole, "digest": files.sha256(files.render(whole))}))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest in place and sign it."""
    manifest = json.loads((folder / "model.json").read_bytes())
    change(manifest)
    sign(folder, manifest)


def rewrite(folder: Path, file: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of one file and sign the folder."""
    tensors = files.unpack((folder / file).read_bytes(), file)
    change(tensors)
    (folder / file).write_bytes(files.pack(tensors))
    edit(folder, lambda manifest: None)


def replace(folder: Path, file: str, data: bytes) -> None:
    """Put other bytes in the place of a file and sign the folder."""
    (folder / file).write_bytes(data)
    edit(folder, lambda manifest: None)
