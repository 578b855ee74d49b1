"""What one task adds to the backbone, as a model asks it. Methods make them: perdure.tuning."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from perdure.encoders.base import Encoder, Via, plain
from perdure.events.batch import Batch

__all__ = ["Overlay"]


class Overlay(nn.Module):
    """What one task adds to the backbone. The base class adds nothing.

    Attributes:
        reads_profile: answers from a user's profile too (`Batch.profile`, `Batch.source`), even without any event.
        predicts_first: puts a position in front of the events that a next_item task trains to predict the first one.
        passive: the backbone serves as it is, so that the first task's may be one learned elsewhere.
        width: of what `vector` gives, where it is not the backbone's: then the method brings the head that reads it.
    """

    reads_profile: bool = False
    predicts_first: bool = False
    passive: ClassVar[bool] = False
    width: int | None = None

    def via(self, batch: Batch) -> Via:
        """The door for this batch; personal methods bind its users here."""
        return plain

    def vector(self, backbone: Encoder, batch: Batch) -> Tensor:
        """User vectors (B, d): as the backbone reads them, through `via`. An overlay that reads the states in another
        way, or more than the user's events, overrides this."""
        asked = backbone.question(batch)
        return backbone.vector(asked, self.via(asked))  # (B, d)

    def states(self, backbone: Encoder, batch: Batch) -> Tensor:
        """States (B, P + T, d) that next_item tasks learn from, to be read as `vector` reads the last."""
        return backbone(batch, self.via(batch))  # (B, P + T, d)

    def item_table(self, backbone_table: Tensor) -> Tensor:
        """(N + 2, d) vectors a tied head of this task scores with: the backbone's unless the overlay has its own."""
        return backbone_table

    def settle(self) -> None:
        """Called once when the task is learned: drop what only training needed. Shapes may change."""
