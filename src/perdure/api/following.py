"""One of the other processes of a run that trains in several; see `followers`.                              [reads]"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perdure.api import cells, child, learning, plan, start, vectors
from perdure.events import sequences
from perdure.training.processes import joined
from perdure.training.runlog import Silent

__all__ = ["follow", "serve"]

GRACE = 1.0  # seconds


def follow(request: Mapping[str, Any], teller: child.Teller) -> dict[str, Any]:
    """One of the others, for its whole life: learn what the first one learns, and write nothing."""
    out = Path(request["out"])
    settings = vectors.found(cells.settings_of(request), [out])
    with plan.threads(settings):
        events = sequences.load(Path(request["store"]))
        datas = plan.tasks_of(settings, events)
        model = start.begin(settings, events, datas)
        log = Silent(out, request["identity"], request["resuming"], request["same_machine"])
        teller.tell({"ready": request["number"]})
        cuda = settings.run.device == "cuda"
        with joined(Path(request["meeting"]), request["number"], settings.run.processes, cuda=cuda) as processes:
            try:
                learning.live(settings, datas, model, log, processes)
            except RuntimeError:  # the connection, where the first process has died: then this one is about to end
                time.sleep(GRACE)
                raise
    return {}


def serve() -> None:
    """The process."""
    child.answer({"follow": follow})
