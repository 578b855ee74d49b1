"""Whether a log trains that is larger than the memory a process may have, and a user with a million events.

    python benchmarks/large.py --events 100000000 --limit 1024 --out /tmp/large

Three processes, one after the other: the log is written and prepared without a limit; then a process that may have
`limit` MiB of private writable memory (RLIMIT_DATA: heap, stacks, anonymous maps; read-only maps of files do not count)
first tries to read the store's arrays into memory, which must fail, and another one learns from the same store. Of that
one the largest share of memory that is its own (RssAnon) and the largest that are pages of files, which the kernel may
drop and read again (RssFile), are sampled. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

LONG = 1_000_000  # events of the first user
ITEMS = 20_000
FEW = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # threads reserve memory, too


def recipe(folder: Path, steps: int) -> dict:
    """A small SASRec on the whole log, histories cut into windows so that every event is a target."""
    return {
        "data": {"path": str(folder / "log.parquet"), "columns": {"user": "user", "item": "item", "time": "time",
                 "behaviour": "behaviour"}, "time_unit": "s", "duplicates": "keep"},
        "split": {"kind": "user", "valid": 0.001, "test": 0.002},
        "input": {"events": ["behaviour"], "gaps": 32},
        "encoder": {"name": "sasrec", "width": 32, "blocks": 1, "max_length": 50},
        "objective": {"name": "next_item", "loss": "sampled"},
        "tuning": {"method": "frozen"},
        "tasks": [{"name": "next", "kind": "next_item"}],
        "train": {"epochs": 1, "max_steps": steps, "batch_size": 128, "windows": "split", "patience": 0},
        "run": {"threads": 1, "store": str(folder / "store")},
    }  # fmt: skip


def generate(path: Path, events: int) -> None:
    """One user with LONG events, the others with 500 each; the next item follows from the last, nine times of ten."""
    import numpy as np
    import polars as pl
    from polars.io.plugins import register_io_source

    schema = pl.Schema({"user": pl.String, "item": pl.String, "time": pl.Int64, "behaviour": pl.String})

    def blocks(*_: object):
        rng, user, left = np.random.default_rng(0), 0, events
        while left:
            users = 1 if user == 0 else max(1, min(left // 500, 1000))
            length = min(LONG if user == 0 else 500, left)
            steps = np.where(rng.random((users, length)) < 0.9, 7, rng.integers(0, ITEMS, (users, length)))
            items = (rng.integers(0, ITEMS, (users, 1)) + steps.cumsum(1)) % ITEMS
            times = 1_500_000_000 + rng.integers(0, 100, (users, length)).cumsum(1)
            done = np.where(rng.random(items.size) < 0.9, "view", "buy")
            names = np.repeat(np.arange(user, user + users), length)
            yield pl.DataFrame([names, items.ravel(), times.ravel(), done], list(schema)).cast(schema)
            user, left = user + users, left - users * length

    register_io_source(blocks, schema=schema).sink_parquet(path, row_group_size=1 << 20)


def watch(peaks: dict[str, int]) -> None:
    """Samples the memory of this process, in MiB, while it lives."""
    while True:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile", "VmData"):
                peaks[name] = max(peaks.get(name, 0), int(value.split()[0]) >> 10)
        time.sleep(0.02)


def prepare(folder: Path) -> dict:
    """The log and its store."""
    from perdure import registry
    from perdure.events.sequences import prepare
    from perdure.settings import from_dict

    began = time.perf_counter()
    events = prepare(from_dict(recipe(folder, 1), parts=registry).data, folder / "store")
    arrays = sum((folder / "store" / name).stat().st_size for name in ("items.npy", "times.npy", "marks.npy"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    longest = int((events.starts[1:] - events.starts[:-1]).max())
    return {"events": events.n_events, "users": events.n_users, "longest": longest, "arrays_mib": arrays >> 20,
            "seconds": round(time.perf_counter() - began, 1), "peak_mib": peak}  # fmt: skip


def into_memory(folder: Path) -> dict:
    """The control: the same arrays, read instead of mapped."""
    import numpy as np

    try:
        held = [np.load(folder / "store" / name) for name in ("items.npy", "times.npy", "marks.npy")]
    except MemoryError:
        return {"fits": False}
    return {"fits": True, "mib": sum(array.nbytes for array in held) >> 20}


def learn(folder: Path, steps: int) -> dict:
    """One run of `perdure learn`, its memory watched; without the page, whose charts a browser engine draws."""
    from perdure import registry
    from perdure.api.learning import run
    from perdure.settings import from_dict

    peaks: dict[str, int] = {}
    threading.Thread(target=watch, args=(peaks,), daemon=True).start()
    done = run(from_dict(recipe(folder, steps), parts=registry), folder / "run", page=False)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    told = next(line for line in reversed(lines) if line["event"] == "epoch")
    return {"ndcg@10": round(done.scores["next"], 4), "loss": round(told["loss"], 3), "steps": told["step"],
            "targets_per_second": told["targets_per_second"], "seconds": done.seconds, "peak_mib": peaks}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--limit", type=int, default=1024, help="MiB of private writable memory")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=["generate", "prepare", "into_memory", "learn"])
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    if told.part:
        if told.part in ("into_memory", "learn"):
            resource.setrlimit(resource.RLIMIT_DATA, (told.limit << 20, told.limit << 20))
        parts = {
            "generate": lambda: generate(told.out / "log.parquet", told.events),
            "prepare": lambda: prepare(told.out),
            "into_memory": lambda: into_memory(told.out),
            "learn": lambda: learn(told.out, told.steps),
        }
        print(json.dumps(parts[told.part]()))
        return
    found: dict[str, object] = {"limit_mib": told.limit}
    for part in ("generate", "prepare", "into_memory", "learn"):
        command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **FEW})
        if done.returncode:
            sys.exit(f"{part}: {done.stderr.strip()[-2000:]}")
        found[part] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
