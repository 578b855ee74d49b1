"""What a training step of TERACON costs as tasks grow in number, against one pass a task, the way of the authors' code.

    python benchmarks/teracon_cost.py [--encoder sasrec nextitnet] [--tasks 2 6 20] [--masks half alike]

Random histories and weights as drawn; task 1 is next_item, the others are by turns 1,000 items and 8 classes, and the
last is being learned. Steps (loss, gradients, Adam) are timed in turn by CPU seconds; the median of each kind counts:

    plain       the new task's loss alone, through its masks
    here        TERACON as it comes: one pass of model and teacher for all earlier tasks, at most half a batch
    theirs      for every earlier task a pass of model and teacher over floor(rho B) rows, all scores at once
    formula     1 + 4/3 sum rho: what theirs should cost, a pass without gradients being a third of one with

rho depends on how much masks have in common: `alike` leaves them as drawn, nearly open all; `half` opens a random half
of each task's units. c is the constant in rho, 6 in the authors' code; the last two columns are rows a step.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perdure import registry
from perdure.events.batch import Batch
from perdure.events.ids import Ids
from perdure.model.store import build
from perdure.model.user_model import TaskCard, UserModel
from perdure.train_settings import TrainSettings
from perdure.training.optimizers import make_optimizers
from perdure.tuning import teracon


def world(args: argparse.Namespace, encoder: str, tasks: int, masks: str, c: float) -> tuple[UserModel, Batch]:
    """A model about to learn task number `tasks`, with its teacher, and a batch of it."""
    generator = torch.Generator().manual_seed(0)
    items = Ids([f"{i:07d}" for i in range(args.items)], first=2)
    spec = {
        "encoder": {"name": encoder, "width": args.width, "max_length": args.length},
        "method": {"name": "teracon", "steepness": c},
        "objective": {"name": "next_item"},
    }
    model = build(spec, items, registry.find, generator)
    for number in range(tasks):
        if number == tasks - 1:
            model.method.taught_by(copy.deepcopy(model).requires_grad_(False).eval())
        kind, labels = ("next_item", args.items) if not number else [("one_of", 8), ("item", 1000)][number % 2]
        ids = items if not number else Ids([f"{i:07d}" for i in range(labels)])
        none = np.full(labels, -1, np.int32)
        model.add(TaskCard(f"t{number}", kind, ids, none, np.ones(labels, np.int64)), generator)
        if masks == "half":
            with torch.no_grad():
                overlay = model.overlays[f"t{number}"]
                overlay.e.copy_(2 * torch.rand(overlay.e.shape, generator=generator).round() - 1)
                overlay.own.fill_(1.0)
    lengths = torch.randint(args.length // 2, args.length + 1, (args.batch,), generator=generator)
    lengths[0] = args.length
    rows = torch.randint(2, args.items + 2, (args.batch, args.length), generator=generator)
    answers = torch.randint(8, (args.batch,), generator=generator)
    batch = Batch(rows, lengths, None, None, answers, torch.arange(args.batch + 1))
    return model.train(), batch


def one_pass_a_task(model: UserModel, batch: Batch, rho: Tensor, s: float) -> Tensor:
    """L_KR, task after task."""
    method, losses = model.method, [torch.zeros(())]
    for number, name in enumerate(method.teacher.tasks):
        at = torch.randperm(len(batch))[: int(rho[number] * len(batch))]
        if not len(at):
            continue
        asked, scores = Batch(batch.items[at], batch.lengths[at]), []
        for of in (method.teacher, model):
            overlays = teracon._in_order(of.overlays)
            via = teracon._masked(overlays[0].sites, method.masks(overlays, s)[number, None])
            scores.append(of.score_of(of.backbone.vector(asked, via), name))
        losses.append(rho[number] / rho.sum() * F.mse_loss(scores[1], scores[0]))
    return torch.stack(losses).sum()


def seconds(model: UserModel, losses: dict[str, Callable[[], Tensor]], steps: int) -> dict[str, float]:
    """Median CPU seconds of a step of each kind."""
    optimizers, taken = make_optimizers(model.parameters(), TrainSettings()), {name: [] for name in losses}
    for step in range(steps + 2):
        for name, loss in losses.items():
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            clock = time.process_time()
            loss().backward()
            for optimizer in optimizers:
                optimizer.step()
            if step > 1:
                taken[name].append(time.process_time() - clock)
    return {name: statistics.median(times) for name, times in taken.items()}


def measured(args: argparse.Namespace, encoder: str, tasks: int, masks: str, c: float) -> str:
    """One line of the table."""
    model, batch = world(args, encoder, tasks, masks, c)
    method, task, rng = model.method, f"t{tasks - 1}", torch.Generator().manual_seed(1)
    rho = method.rates(*(teracon._in_order(m.overlays) for m in (model, method.teacher)))
    progress = 0.5 / method.rises  # s halfway up
    kinds = {
        "plain": lambda: model.loss(batch, task, rng),
        "here": lambda: method.loss(model, task, batch, rng, progress),
        "theirs": lambda: (
            model.loss(batch, task, rng) + method.alpha * one_pass_a_task(model, batch, rho, method.s_at(progress))
        ),
    }
    method.s = method.s_at(progress)
    taken = seconds(model, kinds, args.steps)
    plain, total = taken["plain"], float(rho.sum())
    ratios = f"{taken['here'] / plain:6.2f} {taken['theirs'] / plain:7.2f} {1 + 4 / 3 * total:8.2f}"
    rows = f"{float(method.rows(rho, len(batch)).sum()):5.0f} {total * len(batch):7.0f}"
    return f"{encoder:10} {masks:5} {c:2g} {tasks:3} {plain:8.4f} {ratios} {rows}"


def main() -> None:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=["sasrec", "nextitnet"])
    parser.add_argument("--masks", nargs="+", choices=["half", "alike"], default=["half", "alike"])
    parser.add_argument("--c", type=float, nargs="+", default=[6.0, 2.0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 6, 20])
    parser.add_argument("--items", type=int, default=3416)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("encoder    masks  c   k  plain s   here  theirs  formula  rows  theirs")
    for encoder, masks, c, tasks in product(args.encoder, args.masks, args.c, args.tasks):
        print(measured(args, encoder, tasks, masks, c), flush=True)


if __name__ == "__main__":
    main()
