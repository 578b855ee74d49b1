"""RePlay's SasRec on the log of `peers.py`, its Parquet pipeline: pip install "replay-rec[torch]"."""

from __future__ import annotations

import logging
from itertools import pairwise

import lightning
import numpy as np
import pandas as pd
import torch
from replay.data import FeatureHint, FeatureType
from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
from replay.nn.lightning import LightningModule
from replay.nn.loss import CESampled
from replay.nn.sequential import SasRec
from replay.nn.transform import UniformNegativeSamplingTransform
from replay.nn.transform.template import make_default_sasrec_transforms
from stopwatch import Enough, Stopwatch, asked, log_of


class Watch(lightning.Callback):
    """Tells the stopwatch of each step."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.watch.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        asked = batch["target_padding_mask"].squeeze(-1) & batch["padding_mask"]
        self.watch.lap(int(asked.sum()), len(asked))


def main() -> None:
    """Fit until enough."""
    args = asked()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    items, starts, n_items = log_of(args.log)
    histories = [items[a:b].astype(np.int64) - 1 for a, b in pairwise(starts)]
    baked = args.log / "replay.parquet"
    pd.DataFrame({"user_id": range(len(histories)), "item_id": histories}).to_parquet(baked)
    feature = TensorFeatureInfo(
        name="item_id",
        is_seq=True,
        padding_value=n_items,
        cardinality=n_items,
        embedding_dim=args.width,
        feature_type=FeatureType.CATEGORICAL,
        feature_hint=FeatureHint.ITEM_ID,
    )
    schema = TensorSchema([feature])
    transforms = {"train": make_default_sasrec_transforms(schema)["train"]}
    net = SasRec.from_params(
        schema=schema,
        embedding_dim=args.width,
        max_sequence_length=args.length,
        num_heads=args.heads,
        num_blocks=2,
        dropout=args.dropout,
    )
    if args.loss == "sampled":
        transforms["train"].append(UniformNegativeSamplingTransform(n_items, args.negatives))
        net.loss = CESampled(ignore_index=n_items)
        net.loss.logits_callback = net.get_logits
    window = {"train": {"item_id": {"shape": args.length + 1, "padding": n_items}}}
    data = ParquetModule(train_path=str(baked), batch_size=args.batch, metadata=window, transforms=transforms)
    watch = Stopwatch(args)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    quiet |= {"max_epochs": 1000, "limit_val_batches": 0}
    trainer = lightning.Trainer(accelerator="cpu", devices=1, callbacks=[Watch(watch)], **quiet)
    try:
        trainer.fit(LightningModule(net), datamodule=data)
    except Enough:
        watch.tell()


if __name__ == "__main__":
    main()
