"""perdure: user models that keep learning and never forget.

The verbs of the command line as functions, one to one, and the errors. Everything loads on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.api import (
        check,
        compare,
        doctor,
        embed,
        evaluate,
        learn,
        list_,
        prepare,
        probe,
        quickstart,
        recommend,
        recommend_all,
        search,
        show,
    )
    from perdure.api import report as write_report
    from perdure.api.opened import load
    from perdure.errors import (
        DataError,
        Interrupted,
        MachineError,
        ModelError,
        NonFiniteError,
        PerdureError,
        PromiseBroken,
        RunLocked,
        SettingsError,
        UsageError,
    )

__version__ = "0.1.0"

# public name -> module and the name there; `report` is a room of the house, so its verb is called write_report here
_WHERE = {
    **dict.fromkeys(
        [
            "check", "compare", "doctor", "embed", "evaluate", "learn", "list_", "prepare", "probe", "quickstart",
            "recommend", "recommend_all", "search", "show",
        ],
        ("perdure.api", ""),
    ),
    "load": ("perdure.api.opened", ""),
    "write_report": ("perdure.api", "report"),
    **dict.fromkeys(
        [
            "DataError", "Interrupted", "MachineError", "ModelError", "NonFiniteError", "PerdureError", "PromiseBroken",
            "RunLocked", "SettingsError", "UsageError",
        ],
        ("perdure.errors", ""),
    ),
}  # fmt: skip

__all__ = [
    "DataError",
    "Interrupted",
    "MachineError",
    "ModelError",
    "NonFiniteError",
    "PerdureError",
    "PromiseBroken",
    "RunLocked",
    "SettingsError",
    "UsageError",
    "check",
    "compare",
    "doctor",
    "embed",
    "evaluate",
    "learn",
    "list_",
    "load",
    "prepare",
    "probe",
    "quickstart",
    "recommend",
    "recommend_all",
    "search",
    "show",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    module, there = _WHERE[name]
    found = getattr(importlib.import_module(module), there or name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
