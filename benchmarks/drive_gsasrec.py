"""asash/gSASRec-pytorch on the log of `peers.py`: train_gsasrec.py of a checkout as it is, in GSASREC_CHECKOUT."""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

import torch
from stopwatch import Stopwatch, asked, log_of, run


class Watched:
    """A data loader without end; a step lasts from one batch to the next."""

    def __init__(self, loader, watch: Stopwatch, padding: int) -> None:
        self.loader, self.watch, self.padding = loader, watch, padding

    def __len__(self) -> int:
        return 10**9

    def __iter__(self):
        self.watch.start()
        while True:
            for batch in self.loader:
                yield batch
                self.watch.lap(int((batch[0][:, :-1] != self.padding).sum()), len(batch[0]))


def main() -> None:
    """Run until enough."""
    args, checkout = asked(), Path(os.environ["GSASREC_CHECKOUT"]).resolve()
    torch.set_num_threads(1)
    items, starts, n_items = log_of(args.log)
    folder = args.log / "datasets" / "log"
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    histories = [" ".join(map(str, items[a:b].tolist())) + "\n" for a, b in pairwise(starts)]
    (folder / "train" / "input.txt").write_text("".join(histories))
    (folder / "val" / "input.txt").write_text(histories[0])
    (folder / "val" / "output.txt").write_text("1\n")
    (folder / "dataset_stats.json").write_text(json.dumps({"num_items": n_items, "num_users": len(histories)}))
    settings = {
        "dataset_name": "log",
        "sequence_length": args.length,
        "embedding_dim": args.width,
        "train_batch_size": args.batch,
        "num_heads": args.heads,
        "num_blocks": 2,
        "dropout_rate": args.dropout,
        "negs_per_pos": args.negatives,
        "gbce_t": 0.75,
        "max_batches_per_epoch": 10**9,
    }
    (args.log / "gsasrec_settings.py").write_text(
        f"from config import GSASRecExperimentConfig\n\nconfig = GSASRecExperimentConfig(**{settings!r})\n"
    )
    os.chdir(args.log)
    sys.path.insert(0, str(checkout))
    import dataset_utils  # of the checkout

    watch, loader = Stopwatch(args), dataset_utils.get_train_dataloader
    dataset_utils.get_train_dataloader = lambda *a, **k: Watched(loader(*a, **k), watch, n_items + 1)
    sys.argv = ["train_gsasrec.py", "--config", str(args.log / "gsasrec_settings.py")]
    run(checkout / "train_gsasrec.py", watch)


if __name__ == "__main__":
    main()
