"""RecTools' SASRecModel on the log of `peers.py`: pip install "rectools[torch]"."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from stopwatch import Enough, Stopwatch, asked, log_of


class Watch(pl.Callback):
    """Tells the stopwatch of each step."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.watch.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.watch.lap(int((batch["y"] != 0).sum()), len(batch["y"]))


def main() -> None:
    """Fit until enough."""
    args = asked()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    items, starts, _ = log_of(args.log)
    users = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    frame = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0})
    frame[Columns.Datetime] = pd.to_datetime(np.arange(len(items)) - starts[users], unit="s")
    watch = Stopwatch(args)

    def trainer() -> pl.Trainer:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        return pl.Trainer(max_epochs=1000, accelerator="cpu", devices=1, callbacks=[Watch(watch)], **quiet)

    model = SASRecModel(
        n_blocks=2,
        n_heads=args.heads,
        n_factors=args.width,
        dropout_rate=args.dropout,
        session_max_len=args.length,
        loss={"sampled": "sampled_softmax", "bce": "BCE", "gbce": "gBCE"}.get(args.loss, args.loss),
        n_negatives=args.negatives,
        batch_size=args.batch,
        get_trainer_func=trainer,
    )
    try:
        model.fit(Dataset.construct(frame))
    except Enough as done:
        done.args[0].tell()  # the trainer copies what it is given


if __name__ == "__main__":
    main()
