"""clue_service: what a user does in one service is near to what the same user does in another.

K. Shin, H. Kwak, S. Kim, M. Ramstrom, J. Jeong, J. Ha, K. Kim, "Scaling Law for Recommendation Models: Towards
General-purpose User Representations", AAAI 2023, arXiv 2111.11294. (Its authors call it CLUE, as do those of another
method: clue_seq.)

    A, B   user vectors of the events of each user in two of the services, one row a user
    L = (CE(A B' / tau, own) + CE(B A' / tau, own)) / 2        rows of A and B of unit length; tau is learned

| paper | here | shape |
|---|---|---|
| services | `by`: a mark of events or an attribute of items | |
| A, B | first, second: user vectors | (B, d) |
| tau | parts.log_tau, its logarithm | () |
| mean of the last states | encoder.readout = "mean" | |
| batch over all processes | functional.gathering | |

Negatives are the other users of the batch, of all processes, so the batch decides how hard it is to find a user: the
paper's finding is that it must grow with the model. `chunk` encodes so many users at a time and computes their states
a second time for the gradients (GradCache: L. Gao, Y. Zhang, J. Han, J. Callan, RepL4NLP 2021): the same gradients,
with the memory of one chunk.

Differs: the paper's body and code were not available; the loss is the usual symmetric one, and tau begins at 0.1, held
at 0.01 or more as CLIP does. Items are ids, or vectors given for them ([input] vectors), where the paper reads their
texts by a transformer of its own, and the encoder over them is any. Of a user of more than two services, two are drawn
for every batch; A holds the first of them in the order of their names. Users of fewer are left out, or, with
alone = "windows", the older half of their events stands for one service and the newer half for the other. The measure
is the share of users whose events in one service find their own in another among those of all users of a batch; there,
users of fewer services are asked by their halves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perdure.encoders.base import Encoder
from perdure.errors import SettingsError
from perdure.events import views
from perdure.events.batch import Batch
from perdure.functional.contrastive import both_ways
from perdure.functional.gathering import gathered
from perdure.objectives.base import Learner, Objective
from perdure.objectives.parts import agreement

if TYPE_CHECKING:
    from perdure.events.marks import Marks
    from perdure.events.profiles import Fields

__all__ = ["ClueService", "ServiceParts"]

LEAST = 0.01  # of the temperature


class ServiceParts(nn.Module):
    """The temperature, and where services are an attribute of items, the row of each item's.

    Args:
        tau: at the beginning. service_of: (N + 2,) int32, 0 where not told, or None.
    """

    service_of: Tensor | None

    def __init__(self, tau: float, service_of: Tensor | None) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau)))
        self.register_buffer("service_of", service_of)

    @property
    def tau(self) -> Tensor:
        """Scalar, LEAST or more; at LEAST it has a gradient, too, by which it rises again."""
        missing = (math.log(LEAST) - self.log_tau.detach()).clamp(min=0)  # ()
        return (self.log_tau + missing).exp()


class ClueService(Objective):
    """Contrast of a user's events in two services.

    Args:
        by: what tells the service: a column that [input] events names, or an attribute that [input] items names.
        alone: users of one service: "leave" them out, or take the older and the newer half of their events ("windows").
        tau: temperature of the cosines, at the beginning where it is learned.
        learn_tau: learn it.
        chunk: users that go through the encoder at a time; 0 for all of a batch.
    """

    name: ClassVar[str] = "clue_service"
    paper: ClassVar[str] = "Shin et al., AAAI 2023"
    summary: ClassVar[str] = "contrast what a user does in two services"
    any_readout: ClassVar[bool] = True
    measure: ClassVar[str] = "agreement"

    def __init__(
        self,
        *,
        by: str = "domain",
        alone: Literal["leave", "windows"] = "leave",
        tau: Annotated[float, Gt(0)] = 0.1,
        learn_tau: bool = True,
        chunk: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__()
        self.by, self.alone, self.tau, self.learn_tau, self.chunk = by, alone, tau, learn_tau, chunk
        self._marks: Marks | None = None

    def read(self, marks: Marks) -> None:
        """What is told of events, the service among it."""
        self._marks = marks

    def parts(self, encoder: Encoder, fields: Fields | None, generator: torch.Generator) -> ServiceParts:
        """The temperature and the services of items. SettingsError where [input] does not name `by`."""
        marks, service_of = self._marks, None
        if marks is not None and self.by in marks.items and self.by not in marks.events:
            column = marks.places.index(list(marks.items).index(self.by))
            rows = marks.attributes
            held = torch.zeros(encoder.n_items + 2, dtype=torch.int32)
            service_of = held if rows is None else torch.tensor(rows[:, column])  # (N + 2,), of a list its first value
        elif marks is None or self.by not in marks.events:
            raise SettingsError(
                f"objective {self.name}: nothing tells which service an event belongs to",
                expected=f"{self.by!r} among the columns of events or the attributes of items that are read",
                where="objective.by, [input]",
                fix=f'events = ["{self.by}"] or items = ["{self.by}"] in [input], or another objective.by',
            )
        made = ServiceParts(self.tau, service_of)
        made.log_tau.requires_grad_(self.learn_tau)
        return made

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: the mean of both directions over the users of all processes; 0 where there are no two."""
        tau: Tensor | float = self.tau
        if self.learn_tau:
            parts = self._parts(learner)
            parts.log_tau.data.clamp_(min=math.log(LEAST))  # after each step, that is before the next
            tau = parts.tau
        first, second, two = self.pair(learner, batch, rng)
        two = two | (batch.lengths > 1) if self.alone == "windows" else two  # (B,)
        kept = two.nonzero().squeeze(1)  # (R,)
        asked = kept if len(kept) else kept.new_zeros(1)  # an encoder is asked for somebody, and all processes gather
        a, b = (gathered(self.encoded(learner, view.of(asked))[: len(kept)]) for view in (first, second))  # (n, d)
        if not len(a):
            return a.sum() + 0.0 * tau
        users = batch.users if batch.users is not None else torch.arange(len(batch), device=kept.device)  # (B,)
        return both_ways(a, b, tau, gathered(users[kept]))

    def encoded(self, learner: Learner, view: Batch) -> Tensor:
        """User vectors (B, d), `chunk` users at a time."""
        if not self.chunk or len(view) <= self.chunk:
            return learner.vector(view)
        rows = torch.arange(len(view), device=view.items.device).split(self.chunk)
        return torch.cat([checkpoint(learner.vector, view.of(some), use_reentrant=False) for some in rows])  # type: ignore[arg-type]

    def pair(self, learner: Learner, batch: Batch, rng: torch.Generator) -> tuple[Batch, Batch, Tensor]:
        """The events of each user in two services, drawn from the user's own, and who has two (B,) bool; of the others
        the older half of the events and the newer half, an only event in both."""
        services = self.services(learner, batch)  # (B, T), 0 where not told
        there = torch.zeros(len(batch), int(services.max()) + 2, device=services.device)  # (B, V), 2 or more
        there = there.scatter(1, services, 1.0).index_fill(1, services.new_zeros(1), 0.0)  # (B, V)
        lots = torch.rand(there.shape, generator=rng, device=rng.device).to(there)  # (B, V)
        drawn = (lots + there).topk(2, dim=1).indices.sort(1).values  # (B, 2): of those there are, if they are two
        two = there.sum(1, keepdim=True) > 1  # (B, 1)
        place, n = torch.arange(services.shape[1], device=services.device), batch.lengths[:, None]  # (T,), (B, 1)
        newer = place >= n // 2  # (B, T)
        older = ~newer | (n == 1)  # (B, T)
        first = torch.where(two, services == drawn[:, :1], older) & batch.valid  # (B, T)
        second = torch.where(two, services == drawn[:, 1:], newer) & batch.valid  # (B, T)
        return views.only(batch, first), views.only(batch, second), two[:, 0]

    def services(self, learner: Learner, batch: Batch) -> Tensor:
        """(B, T) int64: the service of each event, from 1; 0 on padding and where it is not told."""
        rows = self._parts(learner).service_of
        if rows is not None:
            return rows[batch.items].long() * batch.valid
        if batch.marks is None or self._marks is None:
            return torch.zeros_like(batch.items)
        return batch.marks[..., self._marks.names.index(self.by)] * batch.valid

    def judge(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """(B,) 1 where a user's events in one service are nearest to the same user's in another, else 0."""
        first, second, _ = self.pair(learner, batch, rng)
        return agreement(learner.vector(first), learner.vector(second), batch.users)

    @staticmethod
    def _parts(learner: Learner) -> ServiceParts:
        if not isinstance(learner.parts, ServiceParts):
            raise TypeError("the objective's own parts belong to its task")
        return learner.parts
