"""What exists in the library, and what this machine has.                                             [reads, writes]"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from perdure import __version__, registry

__all__ = ["doctor", "list_"]

NEEDED = ("torch", "lightning-fabric", "numpy", "polars", "safetensors", "pydantic", "typer", "rich")
EXTRAS = {"report": ("jinja2", "altair", "vl-convert-python"), "track": ("tensorboard",)}


def list_(kind: str) -> list[dict[str, Any]]:
    """What is registered under a kind: "methods", "encoders", "objectives" or "formats".

    Returns:
        Per entry: name, paper, summary; of methods also keeps.

    Raises:
        UsageError: no such kind; tells the nearest.
    """
    return registry.about(kind)


def doctor(*, selftest: bool = True) -> dict[str, Any]:
    """Versions, processor, threads, memory, disk, devices, extras; and a self test that learns a small world.

    Returns:
        perdure, python, system, packages, extras (name -> missing packages), cores, threads, torch, devices,
        memory_free, disk_free, selftest ({"ok", "seconds", "found"}), ok.
    """
    import torch

    from perdure.api.plan import memory_free

    packages = {name: _version(name) for name in NEEDED}
    extras = {name: [p for p in wanted if _version(p) is None] for name, wanted in EXTRAS.items()}
    devices = ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count()))]
    told: dict[str, Any] = {
        "perdure": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": packages,
        "extras": extras,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": {
            "build": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "mkl": torch.backends.mkl.is_available(),
            "cuda": torch.version.cuda,
        },
        "devices": devices,
        "memory_free": memory_free(),
        "disk_free": shutil.disk_usage(Path.cwd()).free,
    }
    test = _selftest() if selftest else None
    told["selftest"] = test
    told["ok"] = None not in packages.values() and (test is None or test["ok"])
    return told


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _selftest() -> dict[str, Any]:
    """Prepare, learn, measure, save, load and ask, on a world of a few users."""
    from perdure.api.beginning import tiny

    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="perdure-doctor-") as folder:
            found = tiny(Path(folder))
    except Exception as fault:  # whatever it is, the doctor reports it
        return {"ok": False, "seconds": round(time.monotonic() - began, 2), "found": f"{type(fault).__name__}: {fault}"}
    return {"ok": True, "seconds": round(time.monotonic() - began, 2), "found": found}
