"""What every way of pre-training is: views of a batch, and a loss on what an encoder makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from perdure.encoders.base import Encoder
from perdure.errors import SettingsError
from perdure.events.batch import Batch

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.events.marks import Marks
    from perdure.events.profiles import Fields

__all__ = ["Learner", "Objective"]

Encode = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Learner:
    """What an objective teaches: one task's view of a model.

    Attributes:
        encode: (B, T) histories -> states (B, P + T, d), through whatever overlay the task has.
        vector: (B, T) histories -> user vectors (B, d), as they are served: through the encoder's readout.
        table: (N + 2, d) vectors items are scored with, by item row; bias: (N + 2,) or None.
        parts: what `Objective.parts` made for the task, or None.
        sparse: give the table sparse gradients where the loss touches few of its rows.
        first: the position before the first event predicts that event; objectives that look both ways do not care.
    """

    encode: Encode
    vector: Encode
    table: Tensor
    bias: Tensor | None = None
    parts: nn.Module | None = None
    sparse: bool = False
    first: bool = False


class Objective(nn.Module, ABC):
    """How a backbone learns from histories alone. Subclasses are final.

    Attributes:
        tied: next_item tasks score with the table the encoder reads with; False gives them one of their own.
        extra: events beyond the encoder's max_length that a training window needs (1 for a shifted target).
        causal: the encoders it can train: those that look back only (True), those that look both ways (False), or any.
        any_readout: it trains user vectors as they are served; False where it trains the state at each event, which is
            a user vector only where the readout is the last state.
        reads_times: training batches must bring the times of the events.
        measure: what `judge` measures; a next_item task is then judged by it, on the validation and test users, and
            ranks no items. Empty for objectives that learn to rank, whose tasks are judged by ranking.
        whole_batch: its loss compares users of a batch with each other, so that processes cannot share one.
        reads_users: it looks up who a user of a batch is, as for friends: `Batch.users` must be rows of the log. Others
            only ask which rows of a batch are of one user.
        each: every event wants a training window of its own that ends with it.
        needs_dropout: it encodes one history twice, which is twice the same where nothing is dropped.
        passes_on: the class that options which the constructor does not name (`**options`) are for, or None.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    extra: ClassVar[int] = 0
    causal: ClassVar[bool | None] = None
    any_readout: ClassVar[bool] = False
    reads_times: ClassVar[bool] = False
    measure: ClassVar[str] = ""
    passes_on: ClassVar[type | None] = None
    tied: bool = True
    whole_batch: bool = False
    reads_users: bool = False
    each: bool = False
    needs_dropout: bool = False

    @classmethod
    def suits(cls, encoder: Encoder | type[Encoder]) -> None:
        """SettingsError where the encoder is not one that this objective can train."""
        if cls.causal not in (None, encoder.causal):
            why = "looks back only and is asked at no mask" if encoder.causal else "sees the events to be predicted"
            raise SettingsError(
                f"objective {cls.name} cannot train {encoder.name}, which {why}",
                expected=f"an encoder that looks {'back only' if cls.causal else 'both ways'}, or another objective",
                where="objective.name, encoder.name",
                fix="next_item goes with causal encoders, masked_item with bidirectional ones",
            )
        if not cls.any_readout and not isinstance(encoder, type) and encoder.readout != "last":
            raise SettingsError(
                f"objective {cls.name} trains the state at each event, and the readout is {encoder.readout!r}",
                expected='readout "last", or an objective that trains whole user vectors',
                where="encoder.readout",
                fix='set encoder.readout = "last" where there is one; some methods read pooled states for later tasks',
            )

    def read(self, marks: Marks) -> None:
        """Told once, before weights are drawn: what events bring besides their items."""
        return

    def prepare(self, counts: Tensor, data: TaskData | None = None) -> None:
        """Told once before training: counts (N,) of each item in the training histories, and the task itself."""
        return

    def parts(self, encoder: Encoder, fields: Fields | None, generator: torch.Generator) -> nn.Module | None:
        """What it trains besides the encoder for one task, drawn from `generator`: part of the task's head, hence of
        its file. Its shapes follow from the encoder and the profile fields (None where there are none), as a saved
        model is built before its weights are read."""
        return None

    def predicts(self, fields: Fields | None) -> list[str]:
        """Fields of the profile that it learns to tell: no task of the model may ask for one of them."""
        return []

    def refuse_answer(self, task: str, field: str, fields: Fields | None) -> None:
        """SettingsError where the answer of a task, a profile field or "", is what it learns to tell."""
        if field in self.predicts(fields):
            raise SettingsError(
                f"task {task!r} asks for {field}, which objective {self.name} learns to tell",
                expected="pre-training that knows no answer of a task",
                where="objective.name, tasks",
                fix=f"leave {field} out of objective.fields, or out of profile.fields",
            )

    def terms(self, batch: Batch, first: bool = False) -> float:
        """How many terms `loss` is the mean of: what a share of a batch weighs where several processes have one each.
        The users with events, unless an objective counts otherwise.

        Args:
            first: of the learner.
        """
        return int((batch.lengths > 0).sum())

    @abstractmethod
    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar loss of one batch: windows of max_length + extra events.

        Args:
            rng: the only source of chance besides dropout.
        """

    def judge(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """(B,) `measure` of each user in [0, 1], larger is better; only for objectives that have one."""
        raise NotImplementedError(f"{self.name} is judged by ranking")
