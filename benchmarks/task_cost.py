"""What a training step costs when the model already knows many tasks: learning task 20 against learning task 2.

    python benchmarks/task_cost.py [--methods pcl peterrec axes] [--encoder sasrec] [--late 20]

Random histories and weights as drawn; task 1 is next_item, the others have 8 classes. For every method two models, one
about to learn its second task and one its last; their steps (loss, gradients, Adam) are timed in turn by CPU seconds,
and the ratio of the medians counts. The last column is what the later model holds beyond the earlier: tasks, with
their heads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from perdure import registry
from perdure.events.batch import Batch
from perdure.events.ids import Ids
from perdure.model.store import build
from perdure.model.user_model import TaskCard
from perdure.train_settings import TrainSettings
from perdure.training.loop import freeze, put_back_shut, set_modes
from perdure.training.optimizers import make_optimizers


def step_of(args: argparse.Namespace, method: str, tasks: int) -> tuple[Callable[[], None], int]:
    """One training step of task number `tasks`, and the numbers that the model holds."""
    generator = torch.Generator().manual_seed(0)
    items = Ids([f"{i:07d}" for i in range(args.items)], first=2)
    spec = {
        "encoder": {"name": args.encoder, "width": args.width, "max_length": args.length},
        "method": {"name": method},
        "objective": {"name": "next_item"},
    }
    model = build(spec, items, registry.find, generator)
    classes, none = Ids([str(i) for i in range(8)]), np.full(8, -1, np.int32)
    rows = np.arange(2, args.items + 2, dtype=np.int32)
    model.add(TaskCard("t1", "next_item", items, rows, np.ones(args.items, np.int64)), generator)
    model.settle("t1")
    for number in range(2, tasks + 1):
        about = f"what a user does, number {number}"
        model.add(TaskCard(f"t{number}", "one_of", classes, none, np.ones(8, np.int64), about), generator)
        if number < tasks:
            model.settle(f"t{number}")
    task, stage = f"t{tasks}", model.method.stages[0]
    model.method.enter(stage, model, task)
    trained = freeze(model, task, stage)
    set_modes(model, set(trained.values()))
    optimizers = make_optimizers(trained.values(), TrainSettings())
    shut = model.method.shut(model, task, stage)
    lengths = torch.randint(args.length // 2, args.length + 1, (args.batch,), generator=generator)
    lengths[0] = args.length
    histories = torch.randint(2, args.items + 2, (args.batch, args.length), generator=generator)
    answers = torch.randint(8, (args.batch,), generator=generator)
    batch = Batch(histories, lengths, None, None, answers, torch.arange(args.batch + 1))

    def step() -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        model.method.loss(model, task, batch, generator, 0.5).backward()
        before = {p: p.detach().clone() for p in shut}
        for optimizer in optimizers:
            optimizer.step()
        put_back_shut(shut, before)

    return step, sum(tensor.numel() for tensor in model.state_dict().values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=["pcl", "peterrec", "axes"])
    parser.add_argument("--encoder", default="sasrec")
    parser.add_argument("--late", type=int, default=20)
    for name, value in (("items", 3416), ("width", 64), ("length", 100), ("batch", 128), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'method':10s} {'task 2':>9s} {'task ' + str(args.late):>9s}  ratio  numbers held more")
    for method in args.methods:
        pairs = [step_of(args, method, tasks) for tasks in (2, args.late)]
        seconds: list[list[float]] = [[], []]
        for turn in range(args.steps + 3):
            for which in (0, 1) if turn % 2 else (1, 0):
                begun = time.process_time()
                pairs[which][0]()
                if turn >= 3:
                    seconds[which].append(time.process_time() - begun)
        second, late = (statistics.median(times) for times in seconds)
        more = pairs[1][1] - pairs[0][1]
        print(f"{method:10s} {second * 1e3:7.1f}ms {late * 1e3:7.1f}ms  {late / second:5.3f}  {more:,}", flush=True)


if __name__ == "__main__":
    main()
