"""UPRec: hidden events, what is known of the user, and who the user's friends are, learned at once.

C. Xiao et al., "UPRec: User-Aware Pre-training for Recommender Systems", arXiv 2102.10989, 2021.

    L     = l_1 L_MIP + l_2 L_UAP + l_3 L_SRD
    L_MIP = - mean over masked events j of  log P(i_j)                     (masked_item, as it stands)
    u     = max over the states of the events
    L_UAP = sum over numeric attributes a of  mean_u Huber_delta(w_a . u + b_a - y_a(u))
          + sum over discrete attributes a of mean_u CE(W_a u + b_a, y_a(u))
    sim(u, c) = - w_s . (u - c)^2                                          (elementwise square)
    L_SRD = - mean over u of  log [ exp sim(u, c_u) / sum over c in C_u of exp sim(u, c) ]
    C_u   = the friend c_u of u, and the drawn friends of the other users of the batch but those near to u

| paper | here | shape |
|---|---|---|
| l_1, l_2, l_3 | item, attributes, friends | |
| u; c | u; c, of one drawn friend a user | (B, d) |
| W_a, b_a; w_a, b_a | parts.attributes[a].map | (V_a, d), (V_a,); (1, d), (1,) |
| y_a | Batch.profile, row 0: not known, no target; numbers: attribute.numbers of that row | (B, F) |
| w_s | parts.distance | (d,) |
| delta | delta | |
| near to u | close: u, its friends and theirs; alike: (nearly) the same profile | (B, B) |

Differs: the paper's body was not available; this follows a summary with its equations. b_s of sim is left out: it adds
the same to every candidate, so the softmax cannot see it. u is read from the whole history, not from the masked one,
and of the states that items are scored with, behind an encoder's projection; when served a user is what the encoder
answers with (`encoder.readout`), not u. There is no token at the ends of a history. Open there, and options here: the
weights, delta, how alike two profiles must be, rate of masks. A numeric attribute is a profile field whose values are
numbers, scaled to mean 0 and deviation 1 over the values that occur. w_s begins at 1 / d. A friend is a user of the
training set. What [profile] does not tell is not learned; where it tells neither fields nor friends the objective
refuses, as that is masked_item.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders.base import Encoder
from perdure.encoders.readouts import max_of_events
from perdure.errors import DataError, SettingsError, shorten
from perdure.events.batch import Batch
from perdure.events.examples import Examples
from perdure.events.loader import Loader
from perdure.functional.contrastive import exact
from perdure.objectives.base import Learner, Objective
from perdure.objectives.masked_item import MaskedItem

if TYPE_CHECKING:
    from perdure.events.examples import TaskData
    from perdure.events.friends import Friends
    from perdure.events.profiles import Fields

__all__ = ["UPRec", "UserParts", "near_by_square"]


class Attribute(nn.Module):
    """One thing that is known of users, told from their vectors.

    Args:
        place: its column of `Batch.profile`. width: d.
        size: V_a, its values.
        numbers: (V_a + 1,) the number of each row, where the values are numbers; else None.
    """

    numbers: Tensor | None

    def __init__(self, place: int, width: int, size: int, numbers: Tensor | None, generator: torch.Generator) -> None:
        super().__init__()
        self.place, self.map = place, nn.Linear(width, size if numbers is None else 1)
        self.register_buffer("numbers", numbers, persistent=False)
        nn.init.normal_(self.map.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.map.bias)

    def loss(self, u: Tensor, profile: Tensor, delta: float) -> Tensor:
        """Scalar: mean over the users of whom it is known, or 0; user vectors (B, d), `Batch.profile` (B, F)."""
        rows = profile[:, self.place]  # (B,)
        at = (rows > 0).nonzero().squeeze(1)  # (K,)
        if not len(at):
            return u.sum() * 0.0
        told, rows = self.map(u[at]), rows[at]  # (K, V_a) or (K, 1), (K,)
        if self.numbers is None:
            return F.cross_entropy(told, rows - 1)
        return F.huber_loss(told.squeeze(1), self.numbers[rows], delta=delta)


class UserParts(nn.Module):
    """What tells attributes and friends from user vectors.

    Args:
        encoder: whose vectors they are. attributes: what is told of users.
        places: columns of `Batch.profile` that say whether two users are alike.
    """

    def __init__(self, encoder: Encoder, attributes: list[Attribute], places: list[int]) -> None:
        super().__init__()
        self.length, self.reads_times, self.places = encoder.max_length, encoder.reads_times, places
        self.attributes = nn.ModuleList(attributes)
        self.distance = nn.Parameter(torch.full((encoder.width,), 1 / encoder.width))  # (d,)


class UPRec(Objective):
    """Masked items, attributes and friends.

    Args:
        item: weight of masked items, 0 or more.
        attributes: weight of what is known of the user.
        friends: weight of who is a friend.
        fields: profile fields that it learns from; none for all. One that a task asks for is refused.
        numbers: those of them that are numbers: told by Huber's loss, not by cross-entropy.
        delta: where Huber's loss turns from square to straight, in standard deviations.
        alike: users who agree in this share of the fields known of both are no negatives; none for no such rule.
        masked_item: its options.
    """

    name: ClassVar[str] = "uprec"
    paper: ClassVar[str] = "Xiao et al., arXiv 2102.10989"
    summary: ClassVar[str] = "predict hidden events, what is known of the user, and friends"
    causal: ClassVar[bool | None] = MaskedItem.causal
    passes_on: ClassVar[type | None] = MaskedItem
    whole_batch = True  # friends are compared, and each attribute is a mean over other users

    def __init__(
        self,
        *,
        item: Annotated[float, Ge(0)] = 1.0,
        attributes: Annotated[float, Ge(0)] = 1.0,
        friends: Annotated[float, Ge(0)] = 1.0,
        fields: list[str] | None = None,
        numbers: list[str] = [],  # noqa: B006
        delta: Annotated[float, Gt(0)] = 1.0,
        alike: Annotated[float, Gt(0), Le(1)] | None = 1.0,
        **masked_item: Any,
    ) -> None:
        super().__init__()
        self.masked_item = MaskedItem(**masked_item)
        self.item, self.attributes, self.friends, self.tied = item, attributes, friends, self.masked_item.tied
        self.fields, self.numbers, self.delta, self.alike = fields, list(numbers), delta, alike
        self._circle: Circle | None = None

    def predicts(self, fields: Fields | None) -> list[str]:
        """The profile fields it tells, or tells by who is alike; SettingsError where one is not there."""
        have = [] if fields is None else list(fields.values)
        wanted = have if self.fields is None else self.fields
        for name in [*wanted, *self.numbers]:
            if name not in have:
                raise SettingsError(
                    f"objective.{'numbers' if name in self.numbers else 'fields'}: no profile field {shorten(name)!r}",
                    expected=f"one of {', '.join(have) or 'none: see [profile] fields'}",
                    where="[objective]",
                )
        return list(wanted) if self.attributes or (self.friends and self.alike) else []

    def parts(self, encoder: Encoder, fields: Fields | None, generator: torch.Generator) -> UserParts:
        """A linear map for each attribute, and the weights of sim."""
        told, made, places = self.predicts(fields), [], []
        for place, (name, ids) in enumerate(fields.values.items() if fields is not None else ()):
            if name not in told:
                continue
            places.append(place)
            if self.attributes:
                values = ids.text(np.arange(1, len(ids) + 1))
                numbers = _numbers(name, values) if name in self.numbers else None
                made.append(Attribute(place, encoder.width, len(ids), numbers, generator))
        return UserParts(encoder, made, places)

    def prepare(self, counts: Tensor, data: TaskData | None = None) -> None:
        """Told the task's data: who is whose friend, and what of them may be read.

        Raises:
            SettingsError: neither attributes nor friends are told, or weighted.
        """
        if data is None:
            return
        told = self.attributes and data.profiles is not None and self.predicts(data.profiles.fields)
        self._circle = Circle(data.friends, data) if self.friends and data.friends is not None else None
        self.reads_users = self._circle is not None
        if not told and self._circle is None:
            raise SettingsError(
                "objective uprec: nothing is told of users but their events",
                expected="[profile] fields or friends, and a weight for them",
                where="[objective], [profile]",
                fix="tell something of users, or choose masked_item",
            )

    def loss(self, learner: Learner, batch: Batch, rng: torch.Generator) -> Tensor:
        """Scalar: the weighted sum of three losses."""
        parts: UserParts = learner.parts  # type: ignore[assignment]
        total = self.item * self.masked_item.loss(learner, batch, rng) if self.item else 0.0 * learner.table.sum()
        batch = batch.having(1)
        told = parts.attributes if batch.profile is not None else ()
        if not len(told) and self._circle is None:
            return total
        u = vector(learner, batch)  # (B, d)
        for attribute in told:
            total = total + self.attributes * attribute.loss(u, batch.profile, self.delta)  # type: ignore[operator]
        if self._circle is not None:
            total = total + self.friends * self.social(learner, batch, u, self._circle, rng)
        return total

    def social(self, learner: Learner, batch: Batch, u: Tensor, circle: Circle, rng: torch.Generator) -> Tensor:
        """L_SRD: scalar, over the users of the batch who have a friend to be read; 0 where they are fewer than two."""
        parts: UserParts = learner.parts  # type: ignore[assignment]
        lots = torch.rand(len(batch), generator=rng, device=rng.device, dtype=torch.float64).cpu().numpy()  # (B,)
        users = np.zeros(0, np.int64) if batch.users is None else batch.users.cpu().numpy()
        chosen = circle.readable.one(users, lots[: len(users)])  # (B,)
        at = np.flatnonzero(chosen >= 0)
        if len(at) < 2:
            return u.sum() * 0.0
        theirs = circle.histories(chosen[at], parts.length, parts.reads_times).to(u.device)
        c = vector(learner, theirs)  # (K, d)
        near = torch.from_numpy(circle.friends.close(users[at], chosen[at])).to(u.device)  # (K, K)
        rows = torch.from_numpy(at).to(u.device)  # (K,)
        if self.alike is not None and batch.profile is not None and theirs.profile is not None:
            ours, others = batch.profile[rows][:, parts.places], theirs.profile[:, parts.places]  # (K, f)
            near = near | alike(ours, others, self.alike)  # (K, K)
        return near_by_square(u[rows], c, parts.distance, near)


class Circle:
    """The friends that may be read while a task is learned.

    Args:
        friends: of all users of the log.
        data: of the task: a friend is read as its training examples show it.
    """

    def __init__(self, friends: Friends, data: TaskData) -> None:
        train = data.train
        self.row = np.full(len(friends.starts) - 1, -1, np.int64)  # (U,) training example of each user
        full = train.end > train.begin
        self.row[train.users[full]] = np.flatnonzero(full)
        self.friends, self.readable, self.data = friends, friends.among(self.row >= 0), data
        if not len(self.readable.others):
            raise DataError("no training user has a friend whose events may be read", where="[profile] friends")

    def histories(self, users: np.ndarray, length: int, times: bool) -> Batch:
        """The newest `length` training events of user rows (B,), in their order."""
        train, rows = self.data.train, self.row[users]  # (B,)
        none = np.zeros(len(rows) + 1, np.int64)
        asked = Examples(train.users[rows], train.begin[rows], train.end[rows], none[:0], none)
        loader = Loader(
            self.data.sequences,
            asked,
            batch_size=len(rows),
            max_length=length,
            times=times,
            profiles=self.data.profiles,
        )
        return next(iter(loader))

    def __deepcopy__(self, memo: object) -> Circle:
        return self


def vector(learner: Learner, batch: Batch) -> Tensor:
    """u: the largest value over the states of the events, (B, T) histories of 1 or more -> (B, d)."""
    h = learner.encode(batch)[:, -batch.items.shape[1] :]  # (B, T, d), prompts in front cut off
    return max_of_events(h, batch.lengths)  # (B, d)


def near_by_square(u: Tensor, c: Tensor, weight: Tensor, near: Tensor) -> Tensor:
    """Scalar: mean over u of -log softmax of sim(u, c) at its own c; (K, d), (K, d), w_s (d,), and which pairs are no
    negatives (K, K) bool, the diagonal not looked at. sum_j w_j (u_j - c_j)^2 is spelled out, so no (K, K, d) exists;
    in float32 at least, as what is left of the three is small.
    """
    with torch.autocast(u.device.type, enabled=False):
        u, c = exact(u), exact(c)  # (K, d)
        square = (u.square() @ weight)[:, None] + (c.square() @ weight) - 2 * (u * weight) @ c.T  # (K, K)
    own = torch.eye(len(u), dtype=torch.bool, device=u.device)  # (K, K)
    scores = (-square).masked_fill(near & ~own, -torch.inf)  # (K, K)
    return F.cross_entropy(scores, torch.arange(len(u), device=u.device))


def alike(a: Tensor, b: Tensor, share: float) -> Tensor:
    """(A, F), (B, F) profile rows -> (A, B) bool: at least `share` of the fields known of both agree, and there is
    one."""
    both = ((a > 0).float() @ (b > 0).float().T)[..., None]  # (A, B, 1)
    agree = ((a[:, None] == b) & (a[:, None] > 0)).sum(-1, keepdim=True)  # (A, B, 1)
    return ((both > 0) & (agree >= share * both)).squeeze(-1)


def _numbers(name: str, texts: list[str]) -> Tensor:
    """(V + 1,) float32: 0 for a value that is not known, then the values as numbers of mean 0 and deviation 1."""
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = [math.nan]
    if not found or not all(map(math.isfinite, found)):
        raise SettingsError(f"objective.numbers: values of {name} are no numbers", where="[objective]")
    values = torch.tensor(found, dtype=torch.float64)  # (V,)
    spread = values.std(correction=0).clamp(min=1e-12)
    return F.pad((values - values.mean()) / spread, (1, 0)).float()
