"""A model is a folder.                                                                      [reads, writes]

    model.json             format version; encoder, method, objective and their settings; task cards; SHA-256 of files
    backbone.safetensors   method.safetensors   objective.safetensors (where it has weights)
    tasks/<name>.safetensors   that task's overlay, head, labels and popularity: one file per task
    items.parquet          the ids the backbone reads, in row order
    README.md              a card for people, written from model.json

Learning a task adds one file. For a method that keeps a frozen backbone, the digest of backbone.safetensors stays the
same: the promise can be seen with `sha256sum`. Loading verifies every digest, believes nothing unchecked, and never
imports anything a model folder names: the classes come from `find`, which knows only perdure's own.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from perdure.errors import ModelError, shorten
from perdure.events.clean import ID_BYTES
from perdure.events.ids import Ids
from perdure.events.marks import Marks
from perdure.events.profiles import Fields
from perdure.model import files
from perdure.model.budget import Budget
from perdure.model.manifest import FORMAT, check_manifest, refusals
from perdure.model.pages import unpacked
from perdure.model.user_model import TaskCard, UserModel

__all__ = ["FORMAT", "build", "load", "save", "sizes", "twin"]

PER_ID = 16  # bytes of a page for each id besides its text: its length, its place in a dictionary
PARTS = ("backbone", "method", "objective")

Find = Callable[[str, str], type]  # ("encoders" | "methods" | "objectives", name) -> class


def build(
    spec: Mapping[str, Any],
    item_ids: Ids,
    find: Find,
    generator: torch.Generator,
    fields: Fields | None = None,
    marks: Marks | None = None,
) -> UserModel:
    """A fresh model without tasks.

    Args:
        spec: {"encoder": {"name": ..., options}, "method": {...}, "objective": {...}}.
        item_ids: the vocabulary the backbone reads.
        find: (kind, name) -> class.
        generator: draws the backbone's weights.
        fields: what profiles of users can hold.
        marks: what the backbone reads of events besides their items.

    Raises:
        SettingsError: parts that do not go together.
    """

    def options(part: str) -> dict[str, Any]:
        return {key: value for key, value in spec[part].items() if key != "name"}

    backbone = find("encoders", spec["encoder"]["name"])(len(item_ids), **options("encoder"))
    if marks is not None:
        backbone.read(marks)
    backbone.reset(generator)
    method = find("methods", spec["method"]["name"])(**options("method"))
    objective = find("objectives", spec["objective"]["name"])(**options("objective"))
    objective.suits(backbone)
    if marks is not None:
        objective.read(marks)
    model = UserModel(backbone, method, objective, item_ids, fields, marks)
    model.spec = {part: dict(spec[part]) for part in ("encoder", "method", "objective")}
    return model


def save(model: UserModel, folder: Path, extra: Mapping[str, Any] | None = None) -> str:
    """Write the folder atomically, read back and verified; returns the model's digest.

    Args:
        extra: more for model.json (matrix, versions, data digest, settings): JSON values.
    """
    tensors: dict[str, dict[str, Tensor]] = {"backbone.safetensors": dict(model.backbone.state_dict())}
    tensors |= {f"{part}.safetensors": state for part in ("method", "objective") if (state := _part(model, part))}
    for name, card in model.tasks.items():
        tensors[f"tasks/{name}.safetensors"] = _task_tensors(model, card)
    manifest = {"format": FORMAT, "spec": model.spec, "tasks": [_card(card) for card in model.tasks.values()]}
    manifest |= {"items": len(model.item_ids), "profile": _fields(model.fields), **_marks(model.marks), **(extra or {})}
    if model.told:
        manifest["told"] = list(model.told)
    buffer = io.BytesIO()
    pl.DataFrame({"item": _texts(model.item_ids)}).write_parquet(buffer)
    documents = {"items.parquet": buffer.getvalue(), "README.md": _readme(model, extra or {})}
    return files.write_folder(folder, tensors, documents, manifest)


def sizes(model: UserModel, task: str) -> tuple[int, int]:
    """Bytes of the file that a task would have, and of the method's; 0 where that keeps nothing."""
    method = _part(model, "method")
    return len(files.pack(_task_tensors(model, model.tasks[task]))), len(files.pack(method)) if method else 0


def load(folder: Path | str, find: Find, device: str | torch.device = "cpu") -> UserModel:
    """Read a model folder, every digest verified, nothing it says believed unchecked; memory stays in proportion to
    its files.

    Raises:
        ModelError: names the file that is damaged, or does not say what a model is.
    """
    folder = Path(folder)
    found = files.read_folder(folder)
    manifest, where = found.manifest, f"{folder}/model.json"
    check_manifest(manifest, find, where)
    weights = sum(tensor.nbytes for tensors in found.tensors.values() for tensor in tensors.values())
    known = {"backbone.safetensors", "method.safetensors", "objective.safetensors"}
    known |= {f"tasks/{card['name']}.safetensors" for card in manifest["tasks"]}
    if unknown := sorted(set(found.tensors) - known):
        raise ModelError(f"{unknown[0]} belongs to nothing in model.json", where=f"{folder}/{unknown[0]}")
    item_ids = _item_ids(found, folder)
    with refusals(where), Budget(weights, where):
        told = _told_fields(manifest["profile"]), _told_marks(manifest.get("input"))
        model = build(manifest["spec"], item_ids, find, torch.Generator(), *told)
    _fill(model.backbone, found.tensors.get("backbone.safetensors", {}), f"{folder}/backbone.safetensors")
    for card in manifest["tasks"]:
        file = f"tasks/{card['name']}.safetensors"
        with refusals(f"{folder}/{file}"), Budget(weights, f"{folder}/{file}"):
            _add_task(model, card, dict(found.tensors.get(file, {})), f"{folder}/{file}")
    for part in ("method", "objective"):
        _fill(getattr(model, part), found.tensors.get(f"{part}.safetensors", {}), f"{folder}/{part}.safetensors")
    model.manifest, model.told = manifest, tuple(manifest.get("told", ()))
    return model.to(device).eval()


def twin(model: UserModel, folder: Path | str) -> UserModel:
    """A frozen copy of `model` in structure, whose weights are the files of `folder`, a model of that structure: they
    stay on disk and are read as they are used.

    Raises:
        ModelError: the folder is damaged or holds another model.
    """
    folder = files.locate(Path(folder))
    manifest = files.read_folder(folder).manifest  # every digest verified
    names = [card["name"] for card in manifest["tasks"]]
    if names != list(model.tasks):
        raise ModelError(f"a model of {', '.join(names)}", expected=", ".join(model.tasks), where=str(folder))
    copied = copy.deepcopy(model)
    parts: dict[str, torch.nn.Module] = {f"{p}.safetensors": getattr(copied, p) for p in PARTS}
    for name in copied.tasks:
        parts[f"tasks/{name}.safetensors"] = _whole(copied, name)
    for file, module in parts.items():
        tensors = files.mapped(folder, file) if file in manifest["files"] else {}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("card.")}
        files.check_tensors(module.state_dict(), tensors, f"{folder}/{file}")
        module.load_state_dict(tensors, assign=True)
    return copied.to(model.backbone.item_table.device).requires_grad_(False).eval()


def _whole(model: UserModel, task: str) -> torch.nn.ModuleDict:
    """The modules that one task's file holds the weights of."""
    whole = torch.nn.ModuleDict({"head": model.heads[task]})
    if task in model.overlays:
        whole["overlay"] = model.overlays[task]
    return whole


def _item_ids(found: files.Folder, folder: Path) -> Ids:
    """The vocabulary: as many ids as model.json tells, and no more than a table of the backbone has rows."""
    where, wanted = f"{folder}/items.parquet", found.manifest["items"]
    tables = found.tensors.get("backbone.safetensors", {}).values()
    if wanted + 2 > max((len(table) for table in tables if table.dim()), default=0):
        raise ModelError(f"{wanted} items, more than the backbone has rows for", where=f"{folder}/model.json")
    if "items.parquet" not in found.documents:
        raise ModelError("items.parquet is missing", where=where)
    data, told = found.documents["items.parquet"], f"{wanted} ids of at most {ID_BYTES} bytes"
    try:
        if (size := unpacked(data)) > wanted * (ID_BYTES + PER_ID) + 2**16:
            raise ModelError(f"items.parquet would unpack to {size:,} bytes", expected=told, where=where)
        count = pl.scan_parquet(io.BytesIO(data)).select(pl.len()).collect().item()  # read from its footer
        texts = pl.read_parquet(io.BytesIO(data), columns=["item"])["item"] if count == wanted else None
    except ModelError:
        raise
    except (Exception, pl.exceptions.PanicException) as fault:
        raise ModelError(f"not readable as Parquet: {shorten(fault)}", where=where) from None
    if texts is None or len(texts) != wanted or texts.dtype != pl.String:
        raise ModelError(f"{count} rows", expected=f"{wanted} ids, as text", where=where)
    if (texts.str.len_bytes() > ID_BYTES).any():
        raise ModelError(f"an id of {texts.str.len_bytes().max():,} bytes", expected=told, where=where)
    with refusals(where):
        return Ids(texts, first=2)


def _fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    files.check_tensors(module.state_dict(), tensors, where)
    with refusals(where):
        module.load_state_dict(dict(tensors))


def _fields(fields: Fields | None) -> dict[str, Any] | None:
    """Profile fields as model.json tells them."""
    if fields is None:
        return None
    return {"fields": [[name, _texts(ids)] for name, ids in fields.values.items()], "width": fields.width}


def _told_fields(told: Mapping[str, Any] | None) -> Fields | None:
    if told is None:
        return None
    return Fields({name: Ids(values, first=1) for name, values in told["fields"]}, told["width"])


def _marks(marks: Marks | None) -> dict[str, Any]:
    """What is read of events as model.json tells it; its arrays are buffers of the backbone."""
    if marks is None:
        return {}
    told = {key: [[name, _texts(ids)] for name, ids in getattr(marks, key).items()] for key in ("events", "items")}
    plain = {key: getattr(marks, key) for key in ("gaps", "width", "ids", "join")}
    return {"input": {**told, **plain, "dates": list(marks.dates), "places": list(marks.places)}}


def _told_marks(told: Mapping[str, Any] | None) -> Marks | None:
    if told is None:
        return None
    values = {key: {name: Ids(found, first=1) for name, found in told[key]} for key in ("events", "items")}
    return Marks(**{**told, **values, "dates": tuple(told["dates"]), "places": tuple(told["places"])})


def _card(card: TaskCard) -> dict[str, Any]:
    fields = ("name", "kind", "description", "metric", "settled", "hides")
    return {**{key: getattr(card, key) for key in fields}, "labels": len(card.labels)}


def _part(model: UserModel, part: str) -> dict[str, Tensor]:
    return dict(getattr(model, part).state_dict())


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
    labels, label_items = _labels(model, entry, tensors, where)
    popularity = _vector(tensors, "card.popularity", where)
    odd = popularity.is_complex() or popularity.dtype == torch.bool
    if len(popularity) != len(labels) or odd or bool((popularity < 0).any()):
        raise ModelError("card.popularity", expected=f"{len(labels)} counts, 0 or more", where=where)
    known = {key: entry[key] for key in ("name", "kind", "description", "metric", "hides")}
    card = TaskCard(labels=labels, label_items=label_items, popularity=popularity.numpy(), **known)
    model.add(card, torch.Generator())
    if entry["settled"]:
        model.settle(card.name)
    _fill(_whole(model, card.name), tensors, where)


def _labels(
    model: UserModel, entry: Mapping[str, Any], tensors: dict[str, Tensor], where: str
) -> tuple[Ids, np.ndarray]:
    """The texts of a task's labels, and the item row of each."""
    n = len(model.item_ids)
    if entry["kind"] == "next_item":
        labels, label_items = Ids(_texts(model.item_ids)), np.arange(2, n + 2, dtype=np.int32)
    else:
        rows = _vector(tensors, "card.label_items", where, torch.int32)
        coded = _vector(tensors, "card.labels", where, torch.uint8).numpy().tobytes()
        ends = _vector(tensors, "card.label_ends", where, torch.int64).tolist()
        if sorted([0, *ends]) != [0, *ends] or (ends[-1] if ends else 0) != len(coded):
            raise ModelError("card.label_ends", expected="where each label ends, ascending", where=where)
        labels = Ids([coded[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)])
        label_items = rows.numpy()
        if not bool(((rows == -1) | ((rows >= 2) & (rows < n + 2))).all()):
            raise ModelError("card.label_items", expected=f"item rows 2 to {n + 1}, or -1", where=where)
    if not len(labels) == len(label_items) == entry["labels"]:
        raise ModelError(f"{len(labels)} labels, {len(label_items)} rows", expected=f"{entry['labels']}", where=where)
    return labels, label_items


def _vector(tensors: dict[str, Tensor], name: str, where: str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of one dimension, taken out of a task's file."""
    if name not in tensors:
        raise ModelError(f"missing {name}", expected="the tensors of a task", where=where)
    found = tensors.pop(name)
    if found.dim() != 1 or (dtype is not None and found.dtype != dtype):
        told = f"{name} is {tuple(found.shape)} {found.dtype}".replace("torch.", "")
        raise ModelError(told, expected=f"one dimension of {dtype or 'counts'}".replace("torch.", ""), where=where)
    return found


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
    left = model.method.capacity(model) if model.tasks else None
    lines += [] if left is None else ["", f"Left to later tasks: {left:.1%} of the backbone that tasks take."]
    lines += [
        "",
        f"Data: `{extra.get('data_digest', 'not recorded')}`. Ask it with `perdure recommend` or `perdure.recommend`.",
        "",
    ]
    return "\n".join(lines)
