"""How fast a log becomes a store, in how much memory, beside a pandas read + sort + group-by of the same file.

    python benchmarks/prepare.py --events 20000000 --kind csv parquet --out /tmp/bench

Each measurement runs in a process of its own, so that its peak memory is its own. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

COLUMNS = ("user", "item", "time", "value")


def generate(path: Path, events: int, users: int, items: int, seed: int = 0) -> None:
    """A log of `events` rows in no order, popular items more often; block by block."""
    import numpy as np
    import polars as pl

    rng, parts = np.random.default_rng(seed), []
    for begin in range(0, events, 1 << 20):
        n = min(1 << 20, events - begin)
        parts.append(pl.DataFrame({
            "user": rng.integers(0, users, n), "item": (items * rng.random(n) ** 3).astype(np.int64),
            "time": rng.integers(1_500_000_000, 1_700_000_000, n), "value": rng.integers(1, 6, n),
        }))  # fmt: skip
    frame = pl.concat(parts)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)


def run_perdure(path: Path, out: Path) -> dict:
    """Prepares the file; counts come from the store."""
    from perdure.events.data_settings import ColumnNames, DataSettings
    from perdure.events.sequences import prepare

    columns = ColumnNames(user="user", item="item", time="time", value="value")
    began = time.perf_counter()
    events = prepare(DataSettings(path=str(path), columns=columns, time_unit="s"), out)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "events": events.n_events, "users": events.n_users, "items": events.n_items}


def run_pandas(path: Path, out: Path) -> dict:
    """Reads, sorts by user and time, groups: what a script would do before it writes anything."""
    import pandas as pd

    began = time.perf_counter()
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
    else:
        frame = pd.read_csv(path, dtype={"user": str, "item": str}, keep_default_na=False)
    frame = frame.sort_values(["user", "time"], kind="stable")
    histories = frame.groupby("user", sort=False)["item"].agg(list)
    return {"seconds": time.perf_counter() - began, "events": len(frame), "users": len(histories)}


def measured(what: str, path: Path, out: Path) -> dict:
    """Runs one of the above in a child process; adds its peak memory and rate."""
    command = [sys.executable, __file__, "--child", what, "--file", str(path), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode, "error": done.stderr[-300:]}
    told = json.loads(done.stdout)
    return {**told, "events_per_second": round(told["events"] / told["seconds"])}


def child(what: str, path: Path, out: Path) -> None:
    """The measured work."""
    told = {"perdure": run_perdure, "pandas": run_pandas}[what](path, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({**told, "seconds": round(told["seconds"], 2), "peak_gib": round(peak / 2**30, 2)}))


def main() -> None:
    """Generates, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--users", type=int, default=0, help="default: an event in 100")
    parser.add_argument("--items", type=int, default=0, help="default: an event in 200")
    parser.add_argument("--kind", nargs="+", default=["csv", "parquet"], choices=["csv", "parquet"])
    parser.add_argument("--skip-pandas", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("/tmp/perdure-bench"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.file, given.out)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    result: dict = {"events": given.events}
    for kind in given.kind:
        path = given.out / f"log-{given.events}.{kind}"
        if not path.exists():
            generate(path, given.events, given.users or given.events // 100, given.items or given.events // 200)
        store = given.out / f"store-{time.time_ns()}"
        ours = measured("perdure", path, store)
        result[kind] = {"megabytes": round(path.stat().st_size / 1e6), "perdure": ours}
        if not given.skip_pandas:
            theirs = measured("pandas", path, store)
            result[kind]["pandas"] = theirs
            if "seconds" in ours and "seconds" in theirs:
                result[kind]["ratio"] = round(theirs["seconds"] / ours["seconds"], 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
