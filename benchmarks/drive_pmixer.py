"""pmixer/SASRec.pytorch on the log of `peers.py`: main.py of a checkout as it is, in PMIXER_CHECKOUT.

Its batches come from three processes of their own, whose CPU seconds count too (from /proc: Linux only).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from stopwatch import Stopwatch, asked, log_of, run

TICK = os.sysconf("SC_CLK_TCK")


def samplers() -> float:
    """CPU seconds of the processes that draw batches."""
    seconds = 0.0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICK  # user and system
    return seconds


def main() -> None:
    """Run until enough; a step lasts from one batch to the next."""
    args, checkout = asked(), Path(os.environ["PMIXER_CHECKOUT"]).resolve()
    torch.set_num_threads(1)
    items, starts, _ = log_of(args.log)
    (args.log / "data").mkdir(exist_ok=True)
    with open(args.log / "data" / "log.txt", "w") as file:
        for user, (a, b) in enumerate(pairwise(starts), 1):
            history = items[a:b].tolist()
            file.writelines(f"{user} {item}\n" for item in (*history, *history[-2:]))  # it keeps the last two back
    os.chdir(args.log)
    sys.path.insert(0, str(checkout))
    import utils  # of the checkout

    watch, given = Stopwatch(args, samplers), []
    draw = utils.WarpSampler.next_batch

    def next_batch(sampler):
        if given:
            watch.lap(*given.pop())
        watch.start()
        batch = [np.array(part) for part in draw(sampler)]
        given.append((np.count_nonzero(batch[2]), len(batch[2])))
        return batch

    utils.WarpSampler.next_batch = next_batch
    sys.argv = ["main.py", "--dataset", "log", "--train_dir", "run", "--device", "cpu", "--num_epochs", "100000"]
    sys.argv += ["--batch_size", str(args.batch), "--maxlen", str(args.length), "--hidden_units", str(args.width)]
    sys.argv += ["--num_heads", str(args.heads), "--dropout_rate", str(args.dropout)]
    utils.evaluate = utils.evaluate_valid = lambda *_: (0.0, 0.0)
    run(checkout / "main.py", watch)


if __name__ == "__main__":
    main()
