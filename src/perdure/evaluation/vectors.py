"""User vectors that stand still, judged by what a head on them tells of the users: the frozen-representation judge.

    z_u = (x_u - mean) / std                                            over the users the head learns from
    s_u = W z_u + b                     (linear)        s_u = W relu(V z_u + c) + b       (mlp)
    minimise  (1 / A) sum_u sum_{y in answers of u} -ln softmax(s_u)_y  +  l/2 (|W|^2 + |V|^2)

by L-BFGS with a strong Wolfe line search over all users at once: no learning rate, no epochs, and for the linear head
one answer, up to where the search stops. The strength l goes down from 1 by tens while the loss of the validation users
falls, and the best stays; each linear head starts from the one before, also where the strength is known already.
Vectors of width 0 leave b alone, whose optimum are the shares of the labels: what is popular, or the majority.

table: x -> `x` (n, d), W, V, b, c -> `Head.weights`, mean, std -> `mean`, `scale` (d,), A answers, l -> `strength`.

A user of whom nothing is known (a row of NaN) is read as the mean user, so what is popular answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from perdure.errors import DataError
from perdure.evaluation.evaluate import Score, apart, cuts, outside
from perdure.evaluation.measured import classes, ranked
from perdure.functional.losses import softmax_loss
from perdure.inference.represent import label_of_item

if TYPE_CHECKING:
    from perdure.events.examples import Examples, TaskData
    from perdure.model.user_model import TaskCard

__all__ = ["STRENGTHS", "Head", "Judged", "judge", "solve"]

STRENGTHS = tuple(10.0**-power for power in range(9))  # of the penalty, strongest first
PATIENCE = 2  # strengths without a better validation loss before the search ends
SAME = 1e-4  # nats between two validation losses that are as good as equal
STEPS = 100  # of L-BFGS at most, at each strength
HIDDEN = 64  # units of the mlp


@dataclass(frozen=True)
class Head:
    """A solved head.

    Attributes:
        weights: W (Y, d) and b (Y,); for the mlp V (h, d), c (h,), W (Y, h), b (Y,).
        mean, scale: (d,), of the users it learned from.
        strength: l. loss: of the validation users, in nats.
    """

    weights: tuple[Tensor, ...]
    mean: Tensor
    scale: Tensor
    strength: float
    loss: float

    def scores(self, x: Tensor) -> Tensor:
        """(n, d) user vectors -> (n, Y) scores."""
        *inner, table, bias = self.weights
        return linear(_inner(inner, _standard(x, self.mean, self.scale)), table, bias)


@dataclass(frozen=True)
class Judged:
    """Vectors of users and their answers.

    Attributes:
        x: (n, d) float32, a row of NaN where nothing is known of a user.
        answers: (A,) label rows, -1 outside the label space.
        starts: (n + 1,) int64; user i owns answers[starts[i]:starts[i + 1]].
    """

    x: Tensor
    answers: np.ndarray
    starts: np.ndarray

    @staticmethod
    def of(x: Tensor, examples: Examples) -> Judged:
        """The vectors (n, d) of n examples that have answers."""
        return Judged(x, np.asarray(examples.answers, np.int64), np.asarray(examples.answer_starts, np.int64))


def solve(
    train: Judged,
    valid: Judged,
    n_labels: int,
    generator: torch.Generator,
    *,
    kind: Literal["linear", "mlp"] = "linear",
    strengths: Sequence[float] = STRENGTHS,
    strength: float | None = None,
) -> Head:
    """The head whose strength is best on the validation users, or that of one strength.

    Args:
        train, valid: at least one known answer in each.
        n_labels: Y.
        generator: draws the first weights of an mlp.
        strengths: of the penalty, in the order tried, strongest first.
        strength: the one to end at, whatever the validation users say.

    Raises:
        DataError: nobody to learn from, or nobody to choose the strength by.
    """
    for part, name in ((train, "training"), (valid, "validation")):
        if not (part.answers >= 0).any():
            fix = "give [split] valid a larger share" if part is valid else "let the head see more users"
            raise DataError(f"no {name} user has a known answer", expected="one or more", where="probe", fix=fix)
    known = train.x[~train.x.isnan().any(1)]  # (n', d)
    mean = known.sum(0) / max(len(known), 1)  # (d,)
    scale = ((known - mean).square().sum(0) / max(len(known), 1)).sqrt()  # (d,)
    scale = torch.where(scale > 1e-6, scale, 1.0)
    learned, chosen = (_Answers.of(part, mean, scale) for part in (train, valid))
    first = _first(kind, train.x.shape[1], n_labels, learned, generator)
    best, weights, waiting = Head(first, mean, scale, strengths[0], float("inf")), first, 0
    for one in _path(kind, strengths, strength):
        weights = _minimised(weights if kind == "linear" else first, learned, one)
        with torch.no_grad():
            loss = float(chosen.loss(weights))
        waiting += loss > best.loss + SAME  # a penalty that lets nothing be learned is not worse than a stronger one
        if loss < best.loss or strength is not None:
            best, waiting = Head(weights, mean, scale, one, loss), 0
        if waiting == PATIENCE or not train.x.shape[1]:  # without vectors there is nothing to penalise
            break
    return best


def _path(kind: str, strengths: Sequence[float], end: float | None) -> Sequence[float]:
    """The strengths that are tried. Down to `end` where it is given; an mlp, which starts anew each time, tries it
    alone."""
    if end is None:
        return strengths
    return [end] if kind == "mlp" else [*(one for one in strengths if one > end), end]


def judge(
    head: Head,
    x: Tensor,
    data: TaskData,
    card: TaskCard,
    n_items: int,
    *,
    ks: Sequence[int] = (1, 5, 10, 20),
    seen: Literal["drop", "keep"] = "drop",
    metric: str | None = None,
) -> Score:
    """What a head tells of the test users, measured as `evaluate` measures a model.

    Args:
        x: (n, d) vectors of the test examples, in their order; NaN where nothing is known.
        n_items: N of the log.
        ks, seen, metric: as in `evaluate`.
    """
    alone = apart(head.weights[-1]).expand(len(x), -1) if not x.shape[1] else None  # (n, Y) where all answers are alike

    def scores(low: int, high: int) -> Tensor:
        if alone is None:
            return head.scores(x[low:high])
        if card.kind == "one_of":  # shares count, and equals are told apart by next to nothing
            return head.scores(x[low:high]).double() + 1e-12 * alone[low:high]
        return alone[low:high].clone()

    answers = [(0, len(x), scores)]
    if card.kind == "one_of":
        found = classes(card, data.test, answers)
    else:
        labels = label_of_item(card, n_items) if seen == "drop" else None
        found = ranked(card, data.test, answers, cuts(ks, metric), data.sequences.items, labels)
    return Score.of(found, card, data.test, "test", [*outside(data.test), *found.notes]).by(metric)


# -- solving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answers:
    """Standardised vectors of the users with a known answer, z (n, d), and those answers (A,) with their users (A,)."""

    z: Tensor
    users: Tensor
    labels: Tensor

    @staticmethod
    def of(part: Judged, mean: Tensor, scale: Tensor) -> _Answers:
        users = np.repeat(np.arange(len(part.x)), np.diff(part.starts))  # (A,)
        users, labels = users[part.answers >= 0], part.answers[part.answers >= 0]
        there, users = np.unique(users, return_inverse=True)
        z = _standard(part.x[torch.from_numpy(there)], mean, scale)  # (n, d)
        return _Answers(z, torch.from_numpy(users), torch.from_numpy(labels))

    def loss(self, weights: Sequence[Tensor]) -> Tensor:
        """Mean cross-entropy () over all answers; all scores at once are never held."""
        *inner, table, bias = weights
        return softmax_loss(_inner(inner, self.z), table, self.labels, rows=self.users, bias=bias)


def _standard(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(n, d) -> (n, d); zeros where a row is NaN."""
    return ((x - mean) / scale).nan_to_num(nan=0.0)


def _inner(weights: Sequence[Tensor], z: Tensor) -> Tensor:
    """(n, d) standardised vectors -> (n, h), through the hidden layer where there is one."""
    return torch.relu(linear(z, *weights)) if weights else z


def _first(kind: str, d: int, n_labels: int, train: _Answers, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Weights to start from: the bias tells the shares of the labels, W is 0, V as He et al. draw it for a relu."""
    counts = torch.bincount(train.labels, minlength=n_labels).float() + 1e-3  # (Y,): a label nobody has is very rare
    bias = (counts / counts.sum()).log()
    if kind == "linear":
        return torch.zeros(n_labels, d), bias
    inner = torch.empty(HIDDEN, d).normal_(std=(2 / max(d, 1)) ** 0.5, generator=generator)
    outer = torch.empty(n_labels, HIDDEN).normal_(std=0.01, generator=generator)
    return inner, torch.zeros(HIDDEN), outer, bias


def _minimised(start: Sequence[Tensor], train: _Answers, strength: float) -> tuple[Tensor, ...]:
    """Where L-BFGS ends from `start`."""
    weights = tuple(weight.clone().requires_grad_() for weight in start)
    solver = torch.optim.LBFGS(
        weights, max_iter=STEPS, tolerance_grad=1e-6, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def value() -> Tensor:
        solver.zero_grad()
        total = train.loss(weights)  # ()
        for weight in weights[::2]:
            total = total + strength / 2 * weight.square().sum()  # ()
        total.backward()
        return total

    solver.step(value)
    return tuple(weight.detach() for weight in weights)
