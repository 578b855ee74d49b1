"""Does a training step grow with the catalogue? One SASRec step with sampled softmax at 10,000 and at 1,000,000 items.

    python benchmarks/catalogue.py [--items 10000 1000000] [--batch 128] [--length 50]
    python benchmarks/catalogue.py --loss softmax --items 3416 100000 [--plain]

Each size runs in a process of its own, one thread; steps of the two sizes are timed by CPU seconds (median). The item
table has sparse gradients, so only rows that a step touches are updated. With `--loss softmax` all items are scored and
the gradients are dense; `--plain` is the reference, the same encoder with all logits at once. Memory is the peak
resident size of the whole process, model building included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time


def measure(items: int, batch: int, length: int, steps: int, loss: str, plain: bool) -> dict[str, float]:
    """Seconds of CPU a step and peak memory of this process."""
    import torch
    from torch.nn import functional as F

    from perdure.encoders.sasrec import SASRec
    from perdure.events.batch import Batch
    from perdure.functional import losses
    from perdure.objectives.base import Learner
    from perdure.objectives.next_item import NextItem
    from perdure.train_settings import TrainSettings
    from perdure.training.optimizers import gradient_norm, make_optimizers

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    sparse = loss != "softmax"
    if plain:

        def all_at_once(h, table, targets, bias, first):
            return F.cross_entropy(h @ table[first:].T, targets - first)

        losses.softmax_loss = all_at_once
    encoder = SASRec(items, max_length=length, sparse=sparse)
    encoder.reset(rng)
    objective = NextItem(loss=loss, negatives=256)
    objective.prepare(torch.ones(items))
    optimizers = make_optimizers(encoder.parameters(), TrainSettings())
    seconds = []
    for _ in range(steps):
        rows = torch.randint(2, items + 2, (batch, length + 1), generator=rng)
        data = Batch(rows, torch.full((batch,), length + 1))
        start = time.process_time()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        objective.loss(Learner(encoder, encoder.vector, encoder.item_table, sparse=sparse), data, rng).backward()
        gradient_norm(encoder.parameters())
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.process_time() - start)
    seconds = seconds[min(3, steps - 1) :]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"items": items, "targets": batch * length, "cpu_s_a_step": statistics.median(seconds), "peak_mib": peak}


def main() -> None:
    """Measure every size in a child process and print the ratio of the last to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--loss", choices=["sampled", "softmax"], default="sampled")
    parser.add_argument("--plain", action="store_true", help="the reference: all logits at once")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.items[0], args.batch, args.length, args.steps, args.loss, args.plain)))
        return
    rows = []
    for items in args.items:
        command = [sys.executable, __file__, "--child", "--items", str(items), "--batch", str(args.batch)]
        command += ["--length", str(args.length), "--steps", str(args.steps), "--loss", args.loss]
        command += ["--plain"] * args.plain
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(json.dumps(rows[-1]))
    print(f"ratio of CPU seconds a step, largest to smallest: {rows[-1]['cpu_s_a_step'] / rows[0]['cpu_s_a_step']:.2f}")


if __name__ == "__main__":
    main()
