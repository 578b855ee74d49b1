"""Children of a comparison that do their work in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from perdure.api import work


class Near:
    """`apart.ask` in this process.

    Attributes:
        asked: folders of the cells learned. before: called with each of them first.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.before: Callable[[str], None] = lambda folder: None

    def __call__(self, verb: str, request: Any, signals: Any, show: Any = None) -> Any:
        request = json.loads(json.dumps(request))
        if verb == "learn":
            folder = request["out"].split("/out/")[1]
            self.asked.append(folder)
            self.before(folder)
        return json.loads(json.dumps(getattr(work, verb)(request, show)))
