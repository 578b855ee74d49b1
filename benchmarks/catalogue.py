"""Does a training step grow with the catalogue? One SASRec step with sampled softmax at 10,000 and at 1,000,000 items.

    python benchmarks/catalogue.py [--items 10000 1000000] [--batch 128] [--length 50]

Each size runs in a process of its own, one thread; steps of the two sizes are timed by CPU seconds (median). The item
table has sparse gradients, so only rows that a step touches are updated. Memory is the peak resident size of the whole
process, model building included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time


def measure(items: int, batch: int, length: int, steps: int) -> dict[str, float]:
    """Seconds of CPU a step and peak memory of this process."""
    import torch

    from perdure.encoders.sasrec import SASRec
    from perdure.events.batch import Batch
    from perdure.objectives.base import Learner
    from perdure.objectives.next_item import NextItem
    from perdure.train_settings import TrainSettings
    from perdure.training.optimizers import gradient_norm, make_optimizers

    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    encoder = SASRec(items, max_length=length, sparse=True)
    encoder.reset(rng)
    objective = NextItem(loss="sampled", negatives=256)
    objective.prepare(torch.ones(items))
    optimizers = make_optimizers(encoder.parameters(), TrainSettings())
    seconds = []
    for _ in range(steps):
        rows = torch.randint(2, items + 2, (batch, length + 1), generator=rng)
        data = Batch(rows, torch.full((batch,), length + 1))
        start = time.process_time()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        objective.loss(Learner(encoder, encoder.vector, encoder.item_table, sparse=True), data, rng).backward()
        gradient_norm(encoder.parameters())
        for optimizer in optimizers:
            optimizer.step()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"items": items, "cpu_s_a_step": statistics.median(seconds[3:]), "peak_mib": peak}


def main() -> None:
    """Measure every size in a child process and print the ratio of the last to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.items[0], args.batch, args.length, args.steps)))
        return
    rows = []
    for items in args.items:
        command = [sys.executable, __file__, "--child", "--items", str(items), "--batch", str(args.batch)]
        command += ["--length", str(args.length), "--steps", str(args.steps)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(json.dumps(rows[-1]))
    print(f"ratio of CPU seconds a step, largest to smallest: {rows[-1]['cpu_s_a_step'] / rows[0]['cpu_s_a_step']:.2f}")


if __name__ == "__main__":
    main()
