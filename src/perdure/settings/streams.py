"""The same recipe with another stream of tasks: what a comparison asks besides the order the recipe gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perdure.errors import SettingsError
from perdure.events.examples import NOISE

__all__ = ["NOISE", "with_noise"]


def with_noise(tasks: Sequence[Mapping[str, Any]], classes: int = 50, share: float = 1.0) -> list[dict[str, Any]]:
    """The tasks of a recipe with one of random labels among them: between the third and the fourth, or before the last.

    A method that is thrown by it was leaning on tasks that have nothing to say. The first task stays the first.

    Args:
        tasks: the [[tasks]] tables, as `Settings.as_dict()["tasks"]` gives them; left as they are.
        classes, share: of the noisy task; see `Task`.

    Raises:
        SettingsError: a task is called "noise" already.
    """
    if any(str(task.get("name", "")).lower() == NOISE for task in tasks):
        raise SettingsError(
            f"a task is called {NOISE!r} already", where="[[tasks]], key name", fix="give it another name"
        )
    noisy = {
        "name": NOISE,
        "kind": "one_of",
        "answer": NOISE,
        "classes": classes,
        "share": share,
        "description": "labels drawn at random",
    }
    at = 3 if len(tasks) > 3 else max(len(tasks) - 1, 1)
    told = [dict(task) for task in tasks]
    return [*told[:at], noisy, *told[at:]]
