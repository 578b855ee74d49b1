"""perdure on the log of `peers.py`: the loader, loss and optimisers that `perdure learn` uses."""

from __future__ import annotations

from statistics import median

import numpy as np
import torch
from stopwatch import Enough, Stopwatch, asked, log_of
from train_speed import Step, cost

from perdure.events.examples import Examples, Sequences
from perdure.functional.products import times
from perdure.objectives.next_item import NextItem


def main() -> None:
    """Train until enough; the peak of a product is measured after it, in the same process."""
    args = asked()
    torch.set_num_threads(1)
    items, starts, n_items = log_of(args.log)
    users = np.arange(len(starts) - 1, dtype=np.int32)
    data = (Sequences(items + 1, starts), Examples(users, starts[:-1], starts[1:]), n_items)
    objective = NextItem(loss=args.loss, negatives=args.negatives, share=args.share)
    objective.prepare(torch.from_numpy(np.bincount(items - 1, minlength=n_items)).float())
    step = Step(args, data, args.length, low=False, objective=objective)
    watch = Stopwatch(args)
    try:
        while True:
            watch.start()
            for batch in step.loader:
                step(batch)
                watch.lap(int((batch.lengths - 1).sum()), len(batch))
    except Enough:
        square = torch.randn(512, 512)
        seconds = median(cost(lambda: times(square, square), 50) for _ in range(5))
        watch.tell(peak_gflop_s=2e-9 * 512**3 / seconds)


if __name__ == "__main__":
    main()
