"""Training targets per CPU-second: SASRec with full softmax, one thread, the library's own loader and loop.

    python benchmarks/train_speed.py EVENTS.parquet --user user_id --item item_id --order position [--length 50 200]
    python benchmarks/train_speed.py EVENTS.parquet --parts

The reference of the same run is the plain PyTorch way: the same encoder and batches, all logits at once,
F.cross_entropy, PyTorch's dropout. A target is a position whose next item is predicted. Steps are
timed by CPU seconds; the median of the steps after a warm-up counts, mean targets a step over it.

--parts tells where a float32 step goes. Each part is timed alone, forward and backward, on what one batch gives it;
"rest" is what the whole step takes besides. GFLOP are those of its matrix products, of attention the lower triangle;
the peak is a 512 x 512 product of the library that multiplies, in the same run.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.encoders import parts
from perdure.encoders.sasrec import SASRec
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences
from perdure.events.loader import Loader
from perdure.functional import losses
from perdure.functional.products import times
from perdure.objectives.base import Learner
from perdure.objectives.next_item import NextItem
from perdure.train_settings import TrainSettings
from perdure.training.optimizers import gradient_norm, make_optimizers


def sequences_of(args: argparse.Namespace) -> tuple[Sequences, Examples, int]:
    """Histories without their last two events, as leave-one-out training sees them."""
    frame = pl.read_parquet(args.events).sort([args.user, args.order], maintain_order=True)
    users = frame[args.user].rank("dense").to_numpy().astype(np.int64) - 1
    items = frame[args.item].rank("dense").to_numpy().astype(np.int32) + 1
    starts = np.concatenate([[0], np.cumsum(np.bincount(users))])
    begin, end = starts[:-1], starts[1:] - 2
    keep = end - begin >= 2
    examples = Examples(np.flatnonzero(keep).astype(np.int32), begin[keep], end[keep])
    return Sequences(items, starts), examples, int(items.max()) - 1


class Step:
    """A model, its batches, and one step of training."""

    def __init__(
        self,
        args: argparse.Namespace,
        data: tuple[Sequences, Examples, int],
        length: int,
        low: bool,
        objective: NextItem | None = None,
    ) -> None:
        sequences, examples, n_items = data
        self.low, self.sparse, self.rng = low, args.sparse, torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        dropped = {"dropout": args.dropout, "attention_dropout": args.attention_dropout}
        self.encoder = SASRec(n_items, max_length=length, heads=args.heads, sparse=args.sparse, **dropped)
        self.encoder.reset(self.rng)
        self.encoder.train()
        self.objective = objective or NextItem()
        self.optimizers = make_optimizers(self.encoder.parameters(), TrainSettings())
        window = {"batch_size": args.batch, "max_length": length + 1}
        self.loader = Loader(sequences, examples, generator=self.rng, **window)

    def __call__(self, batch: Batch) -> None:
        """Loss, gradients, their norm, update."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            learner = Learner(self.encoder, self.encoder.vector, self.encoder.item_table, sparse=self.sparse)
            loss = self.objective.loss(learner, batch, self.rng)
        loss.backward()
        float(loss.detach())
        self.update()

    def update(self) -> None:
        """What follows the gradients."""
        gradient_norm(self.encoder.parameters())
        for optimizer in self.optimizers:
            optimizer.step()


def run(
    args: argparse.Namespace, data: tuple[Sequences, Examples, int], length: int, plain: bool
) -> tuple[float, float]:
    """Targets per CPU-second and seconds of CPU a step."""
    step = Step(args, data, length, args.bf16 and not plain)
    seconds, targets = [], []
    while len(seconds) < args.steps:
        clock = time.process_time()
        for batch in step.loader:
            step(batch)
            now = time.process_time()
            seconds.append(now - clock)
            targets.append(int((batch.lengths - 1).sum()))
            clock = now
            if len(seconds) >= args.steps:
                break
    return statistics.mean(targets[3:]) / statistics.median(seconds[3:]), statistics.median(seconds[3:])


def cost(work: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds."""
    work()
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds)


def both_ways(work: Callable[..., Tensor], *given: Tensor, weights: Iterable[Tensor] = ()) -> Callable[[], Any]:
    """Forward and backward of a part, from what it was given to gradients of that and of its weights."""
    given = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in given)
    leaves = [x for x in (*given, *weights) if x.requires_grad]
    seed = torch.ones_like(work(*given))
    return lambda: torch.autograd.grad(work(*given), leaves, seed)


def show_parts(args: argparse.Namespace, data: tuple[Sequences, Examples, int], length: int) -> None:
    """Print a table: part of the step, CPU seconds, GFLOP, share of the peak."""
    step, square = Step(args, data, length, low=False), torch.randn(512, 512)
    batch = next(one for one in step.loader if one.items.shape == (args.batch, length + 1))
    inputs = batch.upto(length, batch.lengths - 1)
    kinds = {parts.EventEmbedding: "embedding", parts.Attention: "attention", parts.FeedForward: "feed-forward"}
    seconds, gflop = defaultdict(float), defaultdict(float)

    def via(site: str, layer: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
        part = kinds.get(type(layer), "norms")
        seconds[part] += cost(both_ways(layer, x, *context, weights=layer.parameters()), args.steps)
        linear = sum(one.weight.numel() for one in layer.modules() if isinstance(one, nn.Linear))
        triangle = length * step.encoder.width if part == "attention" else 0  # q . k and a . v, half of each
        gflop[part] += 6e-9 * x.shape[0] * length * (linear + triangle)
        return layer(x, *context)

    h = step.encoder(inputs, via)[inputs.valid]  # (M, d)
    targets, table = batch.items[:, 1:][inputs.valid], step.encoder.item_table  # (M,), (N + 2, d)
    loss = both_ways(lambda h, table: losses.softmax_loss(h, table, targets, first=2), h, table)
    seconds["loss"], gflop["loss"] = cost(loss, args.steps), 6e-9 * h.numel() * (len(table) - 2)
    step(batch)
    seconds["optimiser"] = cost(step.update, args.steps)
    whole = cost(lambda: step(batch), args.steps)
    seconds["rest"] = whole - sum(seconds.values())
    seconds["whole step"], gflop["whole step"] = whole, sum(gflop.values())
    peak = 2e-9 * 512**3 / cost(lambda: times(square, square), 50)
    print(f"length {length}, {len(h):,} targets; peak {peak:.0f} GFLOP per CPU-second\n")
    print("| part of the step | CPU ms | share of the step | GFLOP | share of peak |\n|---|---|---|---|---|")
    for part, spent in seconds.items():
        of_peak = f"{gflop[part] / spent / peak:.0%}" if gflop[part] else ""
        work = f"{gflop[part]:.2f}" if gflop[part] else ""
        print(f"| {part} | {1000 * spent:.1f} | {spent / whole:.0%} | {work} | {of_peak} |")


def plain_softmax(h, table, targets, *, rows=None, bias=None, first=0):
    """The reference: all logits alive at once."""
    return F.cross_entropy(h @ table[first:].T, targets - first)


def main() -> None:
    """Print one line a length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events")
    parser.add_argument("--user", default="user_id")
    parser.add_argument("--item", default="item_id")
    parser.add_argument("--order", default="position")
    parser.add_argument("--length", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--attention-dropout", type=float, default=0.0)
    parser.add_argument("--bf16", action="store_true", help="mixed precision for perdure; the reference stays float32")
    parser.add_argument("--parts", action="store_true", help="where the time of a float32 step goes")
    parser.add_argument("--steps", type=int, default=24)
    parser.set_defaults(sparse=False)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = sequences_of(args)
    for length in args.length:
        if args.parts:
            show_parts(args, data, length)
            continue
        ours, step = run(args, data, length, plain=False)
        with mock.patch.object(losses, "softmax_loss", plain_softmax), mock.patch.object(parts, "dropout", F.dropout):
            theirs, _ = run(args, data, length, plain=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"length {length}: {ours:,.0f} targets per CPU-s ({step:.3f} CPU-s a step); plain PyTorch {theirs:,.0f}; "
            f"ratio {ours / theirs:.2f}; peak of both {peak:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
