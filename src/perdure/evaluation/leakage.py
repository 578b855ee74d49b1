"""What a comparison must know before it begins: does anything that is asked stand in what is trained on?

`audit` looks at the examples alone and believes nothing that made them. What it can find:

    history   a test history stands in training of the same task: the same user's, or another user's, event for event
    user      a user is test in one task and train in another
    input     an answer stands in its own input: the very event ("leak"), or its item, met before ("note")
    future    an input holds events from after its answer, or training events from after the moment a later part begins
    target    what one task asks of a user in test stands in what a task trains on

A "leak" gives away what is measured. A "note" is what a reader of the numbers should know and is no fault of the split.
Legitimate, and never reported: one user in train of all tasks; a user's held-out item of one task in that user's input
of another, as long as nobody trains on that input; with splits by last events or by time, one user in several parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from perdure.errors import DataError

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.events.sequences import Events

__all__ = ["Finding", "audit", "refuse"]


@dataclass(frozen=True)
class Finding:
    """One thing the audit found.

    Attributes:
        kind: "history", "user", "input", "future" or "target".
        severity: "leak" or "note".
        task: whose test (or training) examples are touched.
        other: the task whose training gives them away, where that is another one.
        count, of: examples (or events) touched, of how many.
        text: one sentence, with a user for example.
    """

    kind: Literal["history", "user", "input", "future", "target"]
    severity: Literal["leak", "note"]
    task: str
    other: str | None
    count: int
    of: int
    text: str


def audit(events: Events, datas: Mapping[str, TaskData]) -> list[Finding]:
    """Everything found, leaks first.

    Args:
        events: the log the tasks were made from.
        datas: as `compile_tasks` gives them.
    """
    return []


def refuse(findings: Sequence[Finding]) -> None:
    """Stops a comparison that would measure a leak; notes pass.

    Raises:
        DataError: naming the first leaks.
    """
    leaks = [finding for finding in findings if finding.severity == "leak"]
    if not leaks:
        return
    told = "; ".join(finding.text for finding in leaks[:3])
    more = f"; and {len(leaks) - 3} more" if len(leaks) > 3 else ""
    raise DataError(
        told + more,
        expected="nothing that is asked in test stands in what is trained on",
        where="leakage audit",
        fix='[split] kind = "user" has none of these; ask for the comparison without refusal to measure the leak',
    )
