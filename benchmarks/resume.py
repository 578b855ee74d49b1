"""Does a run survive kill -9? Six tasks of a synthetic world, killed at random moments and resumed until done.

    python benchmarks/resume.py [--kills 20] [--tasks 6] [--users 400] [--method pcl] [--processes 1]
                                [--signal KILL] [--json]

One process imports everything and forks each session. Every run (store, training, evaluation, saving; no report) is
killed once, at a moment drawn uniformly over the length of an uninterrupted run, and then resumed; it counts when all
weights, the matrix and the log (times left out) are equal, byte for byte, to the uninterrupted run. Exit code 1 if any
differs. A kill that came too late to hit a live run is drawn again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

METRICS = ("epoch", "row")  # notes and warnings may tell how a session was begun
TIMES = ("seconds", "targets_per_second", "seconds_per_step", "at", "peak_rss")


def recipe(folder: Path, tasks: int, users: int, method: str, processes: int) -> dict:
    """The settings of the run: dropout and shuffling on, several epochs a task."""
    from perdure.events.synthetic import world

    tables = world(folder, seed=0, users=users, items=120, targets=36, longest=20).settings()
    tables["tasks"] = tables["tasks"][:tasks]
    return {
        **tables,
        "run": {"seed": 3, "threads": 1, "processes": processes},
        "encoder": {"name": "sasrec", "width": 16, "blocks": 1, "heads": 2, "max_length": 20, "dropout": 0.2},
        "objective": {"name": "next_item", "loss": "sampled", "negatives": 32},
        "tuning": {"method": method},
        "train": {
            "epochs": 4,
            "batch_size": 32,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "clip": 1.0,
            "schedule": "cosine",
            "checkpoint_minutes": 0.002,
        },
        "pretrain": {"epochs": 4, "batch_size": 32, "checkpoint_minutes": 0.002},
    }


def forked(work: Callable[[], None]) -> int:
    """Do `work` in a child process that ends with the exit code of its error; the child's process id.

    The parent itself never computes: the thread pools of polars and torch do not survive a fork.
    """
    from perdure.errors import PerdureError

    child = os.fork()
    if child:
        return child
    code = 70
    try:
        work()
        code = 0
    except PerdureError as fault:
        code = fault.exit_code
        if code != 6:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a child; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def live(tables: dict, folder: Path, out: Path) -> None:
    """Begin or resume the run."""
    from perdure import registry
    from perdure.api.learning import run
    from perdure.settings import from_dict

    run(from_dict(tables, parts=registry, folder=folder), out, resume="auto", page=False)


def outcome(out: Path) -> dict:
    """Everything that must be equal."""
    from perdure.model.files import sha256

    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {
        "weights": {p.name: sha256(p.read_bytes()) for p in sorted((out / "model").rglob("*.safetensors"))},
        "matrix": json.loads((out / "matrix.json").read_text()),
        "log": [{k: v for k, v in line.items() if k not in TIMES} for line in lines if line["event"] in METRICS],
    }


def measure(kills: int, tasks: int, users: int, method: str, processes: int, name: str, seed: int, say=print) -> dict:
    """Run, kill, resume, compare."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="perdure-resume-") as temporary:
        root = Path(temporary)
        world = root / "tables.json"
        if ended(forked(lambda: write(world, recipe(root / "world", tasks, users, method, processes)))):
            raise SystemExit("no world could be made")
        tables = json.loads(world.read_text())

        def session(out: Path) -> int:
            return forked(lambda: live(tables, root, out))

        began = time.monotonic()
        if ended(session(root / "whole")):
            raise SystemExit("the uninterrupted run failed")
        length = time.monotonic() - began
        expected = outcome(root / "whole")
        say(f"uninterrupted: {length:.1f} s, {len(expected['log'])} log lines")
        equal, missed, trial = 0, 0, 0
        while trial < kills and missed < 3 * kills + 3:
            out, moment = root / f"run{trial}", draw.uniform(0, length)
            child = session(out)
            time.sleep(moment)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, getattr(signal, f"SIG{name}"))
            code = ended(child)
            lines = len((out / "log.jsonl").read_bytes().splitlines()) if (out / "log.jsonl").exists() else 0
            if code not in (0, 6, -getattr(signal, f"SIG{name}")):
                raise SystemExit(f"a session ended with exit code {code} before it was stopped")
            if code == 0:
                missed += 1
                _clear(out)
                continue
            trial += 1
            code = ended(session(out))
            found = outcome(out) if code == 0 else {}
            different = [part for part in expected if found.get(part) != expected[part]]
            equal += not different
            verdict = f"DIFFERENT in {', '.join(different)}, exit {code}" if different else "equal"
            say(f"{trial}: stopped after {moment:.2f} s ({lines} log lines): {verdict}")
            _clear(out)
    return {
        "stopped": trial,
        "equal": equal,
        "signal": name,
        "tasks": tasks,
        "method": method,
        "processes": processes,
        "seconds": round(length, 2),
    }


def write(path: Path, document: dict) -> None:
    """One JSON file."""
    path.write_text(json.dumps(document))


def _clear(folder: Path) -> None:
    from perdure.model.files import remove_tree

    if folder.exists():
        remove_tree(folder)


def main() -> int:
    """Parse, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--method", default="pcl")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    import importlib
    import pkgutil

    import torch

    import perdure

    torch.set_num_threads(1)  # before the first fork: a forked child has no thread pool
    for module in pkgutil.walk_packages(perdure.__path__, "perdure."):
        importlib.import_module(module.name)

    say = (
        (lambda text: print(text, file=sys.stderr, flush=True))
        if given.json
        else (lambda text: print(text, flush=True))
    )
    chosen = (given.method, given.processes, given.signal, given.seed)
    told = measure(given.kills, given.tasks, given.users, *chosen, say)
    print(json.dumps(told) if given.json else f"{told['equal']} of {told['stopped']} equal")
    return 0 if told["equal"] == told["stopped"] == given.kills else 1


if __name__ == "__main__":
    sys.exit(main())
