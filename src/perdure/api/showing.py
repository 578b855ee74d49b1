"""The card of a model or of a run: what it learned, what it forgot, and that every byte is as written.  [reads]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.api.opened import folder_of, homes, load, locate
from perdure.report.facts import document

if TYPE_CHECKING:
    from perdure.model.user_model import UserModel

__all__ = ["show"]


def show(path: UserModel | str | Path) -> dict[str, Any]:
    """Tell a model folder or a run folder, or that of a loaded model, every digest of the model verified.

    Returns:
        folder (the model's), run (its folder, None where there is none) and its state, encoder, method, keeps, capacity
        (share left to later tasks), items, tasks, R, metrics, protocols, average, forgetting, forgotten (task -> what
        it lost), backward_transfer, digest, verified, files (file, bytes, sha256), data_digest, versions, seed.

    Raises:
        ModelError: it is neither, or something in it is damaged; names the file.
    """
    from perdure.evaluation.matrix import Matrix

    folder = folder_of(path)
    home = next((one for one in (folder, *homes(folder)) if (one / "run.json").is_file()), folder)
    run = document(home, "run.json") or {}
    model = load(locate(folder))
    manifest = model.manifest
    learned = manifest.get("matrix") or {"tasks": [], "R": []}
    matrix = {**learned, **Matrix.from_dict(learned).to_dict()}
    tasks = [{**_task(model, name), "protocol": matrix["protocols"].get(name, "")} for name in model.tasks]
    files = [
        {"file": name, "bytes": entry["bytes"], "sha256": entry["sha256"]} for name, entry in manifest["files"].items()
    ]
    return {
        "folder": str(locate(folder)),
        "run": str(home) if run else None,
        "state": run.get("state"),
        "encoder": manifest["spec"]["encoder"]["name"],
        "method": manifest["spec"]["method"]["name"],
        "keeps": model.method.keeps,
        "capacity": model.method.capacity(model) if model.tasks else None,
        "items": len(model.item_ids),
        "tasks": tasks,
        **{key: value for key, value in matrix.items() if key != "tasks"},
        "digest": manifest["digest"],
        "verified": True,  # load has read every file against its digest
        "files": files,
        "data_digest": manifest.get("data_digest", ""),
        "versions": manifest.get("versions", {}),
        "seed": manifest.get("seed"),
    }


def _task(model: Any, name: str) -> dict[str, Any]:
    card = model.tasks[name]
    stored = list(model.heads[name].state_dict().values())
    stored += list(model.overlays[name].state_dict().values()) if name in model.overlays else []
    told = {"name": name, "kind": card.kind, "description": card.description, "labels": len(card.labels)}
    return {**told, "metric": card.metric, "numbers": sum(t.numel() for t in stored)}
