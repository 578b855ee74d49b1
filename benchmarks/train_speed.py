"""Training targets per CPU-second: SASRec with full softmax, one thread, the library's own loader and loop.

    python benchmarks/train_speed.py EVENTS.parquet --user user_id --item item_id --order position [--length 50 200]

The reference of the same run is the plain PyTorch way: the same encoder and batches, all logits at once,
F.cross_entropy, PyTorch's dropout. A target is a position whose next item is predicted. Steps are timed by CPU
seconds; the median of the steps after a warm-up counts, mean targets a step over it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from unittest import mock

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F

from perdure.encoders import parts
from perdure.encoders.sasrec import SASRec
from perdure.events.examples import Examples, Sequences
from perdure.events.loader import Loader
from perdure.functional import losses
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


def run(
    args: argparse.Namespace, data: tuple[Sequences, Examples, int], length: int, plain: bool
) -> tuple[float, float]:
    """Targets per CPU-second and seconds of CPU a step."""
    sequences, examples, n_items = data
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    encoder = SASRec(
        n_items, max_length=length, heads=args.heads, dropout=args.dropout, attention_dropout=args.attention_dropout
    )
    encoder.reset(rng)
    encoder.train()
    objective, optimizers = NextItem(), make_optimizers(encoder.parameters(), TrainSettings())
    loader = Loader(sequences, examples, batch_size=args.batch, max_length=length + 1, generator=rng)
    seconds, targets = [], []
    while len(seconds) < args.steps:
        clock = time.process_time()
        for batch in loader:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16 and not plain):
                loss = objective.loss(Learner(encoder, encoder.vector, encoder.item_table), batch, rng)
            loss.backward()
            float(loss.detach()), gradient_norm(encoder.parameters())
            for optimizer in optimizers:
                optimizer.step()
            now = time.process_time()
            seconds.append(now - clock)
            targets.append(int((batch.lengths - 1).sum()))
            clock = now
            if len(seconds) >= args.steps:
                break
    return statistics.mean(targets[3:]) / statistics.median(seconds[3:]), statistics.median(seconds[3:])


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
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = sequences_of(args)
    for length in args.length:
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
