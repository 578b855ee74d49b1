"""A model is a folder.                                                                      [reads, writes]

    model.json             format version; encoder, method, objective and their settings; task cards; SHA-256 of files
    backbone.safetensors   method.safetensors   objective.safetensors (where it has weights)
    tasks/<name>.safetensors   that task's overlay, head, labels and popularity: one file per task
    items.parquet          the ids the backbone reads, in row order
    README.md              a card for people, written from model.json

Learning a task adds one file. For a method that keeps a frozen backbone, the digest of backbone.safetensors stays the
same: the promise can be seen with `sha256sum`. Loading verifies every digest and never imports anything a model folder
names: the classes come from `find`, which knows only perdure's own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from perdure.errors import ModelError
from perdure.events.ids import Ids
from perdure.model import files
from perdure.model.user_model import TaskCard, UserModel

__all__ = ["FORMAT", "build", "load", "save"]

FORMAT = 1
Find = Callable[[str, str], type]  # ("encoders" | "methods" | "objectives", name) -> class


def build(spec: Mapping[str, Any], item_ids: Ids, find: Find, generator: torch.Generator) -> UserModel:
    """A fresh model without tasks.

    Args:
        spec: {"encoder": {"name": ..., options}, "method": {...}, "objective": {...}}.
        item_ids: the vocabulary the backbone reads.
        find: (kind, name) -> class.
        generator: draws the backbone's weights.
    """

    def options(part: str) -> dict[str, Any]:
        return {key: value for key, value in spec[part].items() if key != "name"}

    backbone = find("encoders", spec["encoder"]["name"])(len(item_ids), **options("encoder"))
    backbone.reset(generator)
    method = find("methods", spec["method"]["name"])(**options("method"))
    objective = find("objectives", spec["objective"]["name"])(**options("objective"))
    model = UserModel(backbone, method, objective, item_ids)
    model.spec = {part: dict(spec[part]) for part in ("encoder", "method", "objective")}
    return model


def save(model: UserModel, folder: Path, extra: Mapping[str, Any] | None = None) -> str:
    """Write the folder atomically, read back and verified; returns the model's digest.

    Args:
        extra: more for model.json (matrix, versions, data digest, settings): JSON values.
    """
    tensors: dict[str, dict[str, Tensor]] = {"backbone.safetensors": dict(model.backbone.state_dict())}
    for part in ("method", "objective"):
        state = dict(getattr(model, part).state_dict())
        if state:
            tensors[f"{part}.safetensors"] = state
    for name, card in model.tasks.items():
        tensors[f"tasks/{name}.safetensors"] = _task_tensors(model, card)
    manifest = {"format": FORMAT, "spec": model.spec, "tasks": [_card(card) for card in model.tasks.values()]}
    manifest |= {"items": len(model.item_ids), **(extra or {})}
    buffer = io.BytesIO()
    pl.DataFrame({"item": _texts(model.item_ids)}).write_parquet(buffer)
    documents = {"items.parquet": buffer.getvalue(), "README.md": _readme(model, extra or {})}
    return files.write_folder(folder, tensors, documents, manifest)


def load(folder: Path | str, find: Find, device: str | torch.device = "cpu") -> UserModel:
    """Read a model folder, every digest verified; ModelError names what is damaged."""
    folder = Path(folder)
    found = files.read_folder(folder)
    manifest, where = found.manifest, f"{folder}/model.json"
    version = manifest.get("format")
    if version != FORMAT:
        raise ModelError(
            f"model format {version}",
            expected=f"format {FORMAT}",
            where=where,
            fix="use the release of perdure that wrote it",
        )
    try:
        frame = pl.read_parquet(io.BytesIO(found.documents["items.parquet"]))
        item_ids = Ids(frame["item"], first=2)
        model = build(manifest["spec"], item_ids, find, torch.Generator())
        cards = manifest["tasks"]
    except (KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as fault:
        raise ModelError(f"model.json does not describe a model: {fault!r}", where=where) from None
    if len(item_ids) != manifest.get("items"):
        raise ModelError(
            f"{len(item_ids)} ids in items.parquet", expected=f"{manifest.get('items')}", where=str(folder)
        )
    _fill(model.backbone, found.tensors.get("backbone.safetensors", {}), f"{folder}/backbone.safetensors")
    for card in cards:
        file = f"tasks/{card['name']}.safetensors"
        _add_task(model, card, dict(found.tensors.get(file, {})), f"{folder}/{file}")
    for part in ("method", "objective"):
        _fill(getattr(model, part), found.tensors.get(f"{part}.safetensors", {}), f"{folder}/{part}.safetensors")
    model.manifest = manifest
    return model.to(device).eval()


def _fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    files.check_tensors(module.state_dict(), tensors, where)
    module.load_state_dict(dict(tensors))


def _card(card: TaskCard) -> dict[str, Any]:
    fields = ("name", "kind", "description", "metric", "options", "settled")
    return {**{key: getattr(card, key) for key in fields}, "labels": len(card.labels)}


def _task_tensors(model: UserModel, card: TaskCard) -> dict[str, Tensor]:
    tensors = {f"head.{name}": value for name, value in model.heads[card.name].state_dict().items()}
    if card.name in model.overlays:
        tensors |= {f"overlay.{name}": value for name, value in model.overlays[card.name].state_dict().items()}
    tensors["card.popularity"] = torch.from_numpy(np.ascontiguousarray(card.popularity))
    if card.kind != "next_item":  # whose labels are the items themselves
        tensors["card.label_items"] = torch.from_numpy(np.ascontiguousarray(card.label_items))
        coded = [text.encode() for text in _texts(card.labels)]
        tensors["card.labels"] = torch.frombuffer(bytearray(b"".join(coded)), dtype=torch.uint8)
        tensors["card.label_ends"] = torch.tensor([len(text) for text in coded]).cumsum(0)
    return tensors


def _add_task(model: UserModel, entry: Mapping[str, Any], tensors: dict[str, Tensor], where: str) -> None:
    try:
        popularity = tensors.pop("card.popularity").numpy()
        if entry["kind"] == "next_item":
            labels = Ids(_texts(model.item_ids))
            label_items = np.arange(2, len(labels) + 2, dtype=np.int32)
        else:
            label_items = tensors.pop("card.label_items").numpy()
            coded, ends = tensors.pop("card.labels").numpy().tobytes(), tensors.pop("card.label_ends").tolist()
            labels = Ids([coded[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)])
        known = {key: entry[key] for key in ("name", "kind", "description", "metric", "options")}
        card = TaskCard(labels=labels, label_items=label_items, popularity=popularity, **known)
        settled = bool(entry["settled"])
    except (KeyError, TypeError, ValueError) as fault:
        raise ModelError(f"the task's file or card lacks {fault}", where=where) from None
    if not len(labels) == len(label_items) == len(popularity) == entry.get("labels"):
        raise ModelError(f"{len(labels)} labels", expected=f"{entry.get('labels')}", where=where)
    model.add(card, torch.Generator())
    if settled:
        model.settle(card.name)
    whole = torch.nn.ModuleDict({"head": model.heads[card.name]})
    if card.name in model.overlays:
        whole["overlay"] = model.overlays[card.name]
    _fill(whole, tensors, where)


def _texts(ids: Ids) -> list[str]:
    return ids.text(np.arange(ids.first, ids.first + len(ids)))


def _readme(model: UserModel, extra: Mapping[str, Any]) -> str:
    """A card for people."""
    spec, lines = model.spec, ["# A user model made with perdure", ""]
    lines += [
        f"Encoder `{spec['encoder']['name']}`, tuning method `{spec['method']['name']}`, {len(model.item_ids)} items.",
        "",
    ]
    lines += ["| task | kind | labels | numbers stored |", "|---|---|---|---|"]
    for name, card in model.tasks.items():
        stored = sum(p.numel() for p in model.heads[name].state_dict().values())
        stored += sum(p.numel() for p in model.overlays[name].state_dict().values()) if name in model.overlays else 0
        lines.append(f"| {name} | {card.kind} | {len(card.labels)} | {stored:,} |")
    lines += [
        "",
        f"Data: `{extra.get('data_digest', 'not recorded')}`. Ask it with `perdure recommend` or `perdure.recommend`.",
        "",
    ]
    return "\n".join(lines)
