"""Reading hostile Parquet files first in a process of their own, where a native crash harms nobody.  [reads]

A damaged footer can make the native reader ask for more memory than there is, which ends the process; no exception
can be caught then. So a child process reads every Parquet file once, before this one does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from perdure.errors import ModelError, shorten

CHILD = """
import json, sys
try:
    import polars as pl
except ImportError:
    sys.exit(77)
for path, wanted in json.load(sys.stdin):
    print(path, flush=True)
    scan = pl.scan_parquet(path, glob=False)
    names = list(scan.collect_schema())
    names = names if wanted is None else [name for name in wanted if name in names]
    for frame in scan.select(names).collect_batches(chunk_size=1 << 20) if names else ():
        pass
"""


def probe(files: list[tuple[Path, list[str] | None]]) -> None:
    """Reads the wanted columns (None: all) of Parquet files in a child process.

    Raises:
        ModelError: names the first file that cannot be read to its end.
    """
    if not files or not sys.executable:
        return
    told = json.dumps([(str(path), wanted) for path, wanted in files])
    seconds = 60 + sum(path.stat().st_size for path, _ in files) / 1e6
    command = [sys.executable, "-P", "-c", CHILD]
    try:
        done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError("reading the Parquet files does not end", where=str(files[0][0]),
                         fix="fetch or write the files again; nothing was stored") from None  # fmt: skip
    if done.returncode in (0, 77) and "panicked" not in done.stderr:
        return
    last = (done.stdout.splitlines() or [str(files[0][0])])[-1]
    why = "its reader crashed" if done.returncode < 0 else _why(done.stderr)
    raise ModelError(f"the Parquet file is damaged: {why}", where=last,
                     fix="fetch or write the file again; nothing was stored")  # fmt: skip


def _why(told: str) -> str:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if "panicked" in told:
        return "its reader gave up"
    return shorten(lines[-1]) if lines else "no reason told"
