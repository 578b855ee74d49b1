"""What the drivers of `peers.py` share: what is asked, the log, the clock. Standard library and NumPy only.

A driver trains its library's own way on the log and calls the stopwatch after each step; the stopwatch ends the run by
raising `Enough` and prints one JSON object. Seconds are those of the processor, user and system, of this process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WARM = 2  # steps that do not count; one, where it takes more than a second


class Enough(BaseException):
    """The last step asked for is done; it brings the stopwatch. No Exception: to no trainer is it a fault."""


def asked() -> argparse.Namespace:
    """What every driver is told; memory is limited at once, so that an allocation fails and not the machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True, help="folder with log.npz, and for a driver's own files")
    parser.add_argument("--length", type=int, required=True, help="events of a window, each with its target")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--loss", choices=["softmax", "sampled", "bce", "gbce"], required=True)
    parser.add_argument("--negatives", type=int, default=256)
    parser.add_argument("--share", choices=["batch", "position"], default="position", help="who shares negatives")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--seconds", type=float, default=10, help="stop after so many CPU seconds, with a step at least"
    )
    parser.add_argument("--memory", type=float, default=16, help="GiB of private writable memory")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="perdure's; the peers have one dropout")
    parser.add_argument("--sparse", action="store_true", help="perdure's item table takes sparse gradients")
    args = parser.parse_args()
    most = int(args.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return args


def log_of(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Items 1..N of all events (E,), where each user's begin and end (U + 1,), and N."""
    log = np.load(folder / "log.npz")
    return log["items"], log["starts"], int(log["n_items"])


class Stopwatch:
    """Laps of one run.

    Args:
        args: how many steps count at most, and fewer (one at least) after how many CPU seconds.
        others: CPU seconds so far of processes that work for this one.
    """

    def __init__(self, args: argparse.Namespace, others: Callable[[], float] = lambda: 0.0) -> None:
        self.steps, self.budget, self.others = args.steps, args.seconds, others
        self.seconds: list[float] = []
        self.targets: list[int] = []
        self.rows: list[int] = []
        self.clock: float | None = None
        self.warm, self.helped = WARM, 0.0

    def start(self) -> None:
        """The first step begins; later calls change nothing."""
        if self.clock is None:
            self.clock = time.process_time()

    def lap(self, targets: int, rows: int) -> None:
        """A step is done that predicted `targets` items for `rows` windows."""
        now = time.process_time()
        self.seconds.append(now - (self.clock or 0.0))
        self.targets.append(int(targets))
        self.rows.append(int(rows))
        self.clock = now
        if len(self.seconds) == 1 and self.seconds[0] > 1:
            self.warm = 1
        if len(self.seconds) == self.warm:
            self.helped = self.others()
        counted = self.seconds[self.warm :]
        if counted and (len(counted) >= self.steps or sum(counted) > self.budget):
            self.helped = self.others() - self.helped
            raise Enough(self)

    def tell(self, **more: float) -> None:
        """Print what was measured, means over the steps."""
        steps = len(self.seconds) - self.warm
        told = {
            "cpu_s_a_step": (sum(self.seconds[self.warm :]) + self.helped) / steps,
            "helpers_cpu_s": self.helped / steps,
            "targets": sum(self.targets[self.warm :]) / steps,
            "windows": sum(self.rows[self.warm :]) / steps,
            "steps": steps,
            "peak_mib": peak_mib(),
        }
        print(json.dumps(told | more))


def peak_mib() -> float:
    """The most memory this process has held; where /proc tells it, without what its parent held before it (VmHWM)."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    own = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    return own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(script: Path, watch: Stopwatch) -> None:
    """A checkout's script as it is, silent, until enough; then what was measured."""
    told, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    try:
        runpy.run_path(str(script), run_name="__main__")
    except Enough:
        sys.stdout = told
        watch.tell()
