"""What the processes of a comparison do: look at the data, and learn one cell.                        [reads, writes]

A learned cell is a run folder with `users.parquet` besides: for each task the users tested at the end, text id, length
of the history that was read, and value of the task's measure.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from perdure.api.cells import settings_of
from perdure.api.learning import Evaluate, run

__all__ = ["USERS", "Kept", "learn", "survey", "write_frame"]

USERS = "users.parquet"


def survey(request: Mapping[str, Any], show: Any = None) -> dict[str, Any]:
    """Prepare the store, compile the tasks, and ask the audit whether what is asked leaks into what is trained on.

    Returns:
        digest, card, findings, also of the requests `others`, method -> with a history of its own; differ: method of
        those -> tasks that ask something else of it; shares: for each request of `methods`, whether it can begin with a
        backbone; unvalidated: tasks without a validation user who has an answer.
    """
    from perdure.api.cells import shares
    from perdure.api.learning import prepared
    from perdure.api.plan import tasks_of, threads
    from perdure.evaluation.leakage import audit
    from perdure.training.cards import asked

    settings = settings_of(request)
    with threads(settings):
        events = prepared(settings, Path(str(settings.run.store)))
        datas = tasks_of(settings, events)
        found, differ = audit(events, datas), {}
        for method, other in request["others"].items():
            theirs = tasks_of(settings_of(other), events)
            own = [one for one in audit(events, theirs) if one not in found]
            found += [replace(one, text=f"{one.text} (in the history of {method})") for one in own]
            differ[method] = [name for name, data in datas.items() if not _asks_the_same(data.test, theirs[name].test)]
        findings = [asdict(finding) for finding in sorted(found, key=lambda one: one.severity)]
        able = [shares(settings_of(one), events.item_ids, datas) for one in request["methods"]]
    return {
        "digest": events.digest, "card": dict(events.card), "findings": findings, "shares": able, "differ": differ,
        "unvalidated": [name for name, data in datas.items() if not asked(data.valid)],
    }  # fmt: skip


def _asks_the_same(a: Any, b: Any) -> bool:
    """Whether two sets of examples ask the same users about the same events."""
    pairs = [(a.users, b.users), (a.answer_events, b.answer_events)]
    return all(x is y or (x is not None and y is not None and np.array_equal(x, y)) for x, y in pairs)


def learn(request: Mapping[str, Any], show: Any = None) -> dict[str, Any]:
    """Learn a cell, or go on with it.

    Returns:
        notes, seconds.
    """
    settings, out, kept = settings_of(request), Path(request["out"]), Kept()
    resume = "must" if (out / "run.json").is_file() else "never"
    done = run(settings, out, resume=resume, show=show, measure=kept.watched, started=kept.begin, page=False)
    write_frame(out / USERS, kept.table(out))
    return {"notes": done.notes, "seconds": done.seconds}


class Kept:
    """Keeps what every test user reached at the last measurement of each task."""

    def __init__(self) -> None:
        self.scores: dict[str, Any] = {}
        self.events: Any = None
        self.datas: Mapping[str, Any] = {}

    def begin(self, events: Any, datas: Mapping[str, Any]) -> None:
        """The log and the tasks, before the first step."""
        self.events, self.datas = events, datas

    def watched(self, evaluate: Evaluate) -> Evaluate:
        """`evaluate`, with its scores on test users kept."""
        self.evaluate = evaluate

        def measure(model: Any, data: Any, split: str) -> Any:
            score = evaluate(model, data, split)
            if split == "test":
                self.scores[data.task.name] = score
            return score

        return measure

    def table(self, out: Path) -> pl.DataFrame:
        """Columns task, user (text), history, value; a measure that has no value for a single user has no rows.

        A run that was complete when it was opened measured nothing: its model is asked again.
        """
        if list(self.datas)[-1] not in self.scores:  # the last row of R was measured by another process
            from perdure.api.opened import load

            model = load(out)
            self.scores = {name: self.evaluate(model, data, "test") for name, data in self.datas.items()}
        frames = [self._rows(name) for name in self.datas]
        return pl.concat(frames)

    def _rows(self, name: str) -> pl.DataFrame:
        score = self.scores[name]
        values = score.per_user.get(score.primary)
        told = slice(None) if values is not None else slice(0)
        return pl.DataFrame(
            {
                "task": pl.Series([name] * len(score.users[told]), dtype=pl.String),
                "user": pl.Series(self.events.user_ids.text(score.users[told]), dtype=pl.String),
                "history": score.history[told],
                "value": (np.zeros(0) if values is None else values).astype(np.float32),
            }
        )


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """A Parquet file, whole or not at all.

    Raises:
        MachineError: it cannot be written.
    """
    from perdure.model.disk import machine_faults
    from perdure.model.files import write_file

    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with machine_faults(path):
        write_file(path, buffer.getvalue())
