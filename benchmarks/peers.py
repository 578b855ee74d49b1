"""Training targets per CPU-second beside RecTools, RePlay, pmixer/SASRec.pytorch and gSASRec, in one run.

    python benchmarks/peers.py --events EVENTS.parquet                     MovieLens-1M, 3,416 items
    python benchmarks/peers.py --items 100000 1000000                      logs without meaning
    python benchmarks/peers.py --table measured.jsonl ...                  the table of earlier runs again

Every peer is met by perdure with the same loss, as many negatives and a batch of the same size, in turn: peer,
perdure, peer, perdure. Each has a process and an interpreter of its own and trains its own way on the same log:
SASRec, d = 64, 2 blocks, 2 heads, dropout 0.2, one thread. A peer that does not get the memory it asks for at batch 128
is asked again with 32, 8 and 2. Peers are found by environment variables; who is not named is left out:

    RECTOOLS_PYTHON, REPLAY_PYTHON       interpreters that have the packages
    PMIXER_CHECKOUT, GSASREC_CHECKOUT    folders with main.py, or train_gsasrec.py
    CHECKOUT_PYTHON                      an interpreter for those two: torch, tqdm, ir_measures, torchsummary

A target is a position whose next item is predicted. CPU seconds: of all steps after two, with those of processes that
only draw batches. Share of peak: GFLOP that the step needs (products of layers, of attention the lower triangle, of
targets with the items they are scored against; backward twice forward; nothing padded) in its time, against a 512 x 512
product of the faster of PyTorch's libraries in the same run. A log without meaning has 2,000 users or more with
`--events-a-user` events each, and every item in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

WIDTH, BLOCKS = 64, 2
OURS = "drive_perdure.py"


@dataclass(frozen=True)
class Peer:
    """Who is met, with which loss."""

    name: str
    script: str
    python: str  # the environment variable that names the interpreter
    loss: str
    negatives: int = 0
    share: str = "position"
    checkout: str = ""

    @property
    def there(self) -> bool:
        return all(os.environ.get(one) for one in (self.python, self.checkout) if one)


PEERS = (
    Peer("RecTools", "drive_rectools.py", "RECTOOLS_PYTHON", "softmax"),
    Peer("RePlay", "drive_replay.py", "REPLAY_PYTHON", "softmax"),
    Peer("RecTools", "drive_rectools.py", "RECTOOLS_PYTHON", "sampled", 256),
    Peer("RePlay", "drive_replay.py", "REPLAY_PYTHON", "sampled", 256, "batch"),
    Peer("SASRec.pytorch", "drive_pmixer.py", "CHECKOUT_PYTHON", "bce", 1, checkout="PMIXER_CHECKOUT"),
    Peer("gSASRec", "drive_gsasrec.py", "CHECKOUT_PYTHON", "gbce", 256, checkout="GSASREC_CHECKOUT"),
)


def log_of_events(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Items 1..N by user, oldest first, and where each user's begin."""
    import polars as pl

    frame = pl.read_parquet(args.events).sort([args.user, args.order], maintain_order=True)
    items = frame[args.item].rank("dense").to_numpy().astype(np.int32)
    users = frame[args.user].rank("dense").to_numpy().astype(np.int64) - 1
    return items, np.concatenate([[0], np.cumsum(np.bincount(users))])


def log_without_meaning(n_items: int, events: int) -> tuple[np.ndarray, np.ndarray]:
    """Every item as often as every other, but for one time."""
    rng, users = np.random.default_rng(0), max(2000, -(-n_items // events))
    rounds = -(-users * events // n_items)
    items = np.concatenate([rng.permutation(n_items) + 1 for _ in range(rounds)]).astype(np.int32)
    return items[: users * events], np.arange(users + 1) * events


def measured(args: argparse.Namespace, script: str, python: str, asked: list[str], log: Path) -> dict:
    """What a driver tells, or {"failed": why}."""
    here = Path(__file__).parent
    command = [python, str(here / script), "--log", str(log), "--memory", str(args.memory), *asked]
    command += ["--steps", str(args.steps), "--seconds", str(args.seconds)]
    alone = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {args.limit:.0f} s"}
    if run.returncode == 0 and run.stdout.strip():
        return json.loads(run.stdout.strip().splitlines()[-1])
    fault = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit {run.returncode}"
    return {"failed": "memory" if "memory" in fault.lower() else fault}


def meet(args: argparse.Namespace, peer: Peer, n_items: int, length: int, log: Path) -> list[dict]:
    """A peer and perdure in turn, at the largest batch that the peer has memory for."""
    rows: list[dict] = []
    drawn = ["--loss", peer.loss, "--negatives", str(peer.negatives or 1), "--share", peer.share]
    ours = ["--sparse"] * (peer.loss != "softmax" and n_items >= args.sparse_from)
    ours += ["--attention-dropout", str(args.attention_dropout)]

    def turn(script: str, python: str, batch: int, *more: str) -> dict:
        asked = [*drawn, *more, "--length", str(length), "--batch", str(batch)]
        told = measured(args, script, python, asked, log)
        rows.append(asdict(peer) | {"items": n_items, "length": length, "batch": batch, "by": script} | told)
        with open(args.out, "a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        return told

    def theirs(batch: int) -> dict:
        return turn(peer.script, os.environ[peer.python], batch)

    batch = next((batch for batch in args.batch if theirs(batch).get("failed") != "memory"), 0)
    if batch and "failed" not in rows[-1]:
        for again in range(args.turns):
            if again:
                theirs(batch)
            turn(OURS, sys.executable, batch, *ours)
    if batch != args.batch[0]:
        turn(OURS, sys.executable, args.batch[0], *ours)
    return rows


def gflop(row: dict) -> float:
    """What a step needs."""
    scored = row["items"] if row["loss"] == "softmax" else 1 + row["negatives"]
    layers = BLOCKS * (6 * WIDTH**2 + WIDTH * row["targets"] / row["windows"])
    return 6e-9 * row["targets"] * (layers + WIDTH * scored)


def told_of(rows: list[dict], peak: float) -> tuple[float, list[str]]:
    """Median targets per CPU-second of the turns of one side, and its cells: speed, share of peak, GiB."""
    good = [row for row in rows if "failed" not in row]
    if not good:
        return 0.0, [rows[0]["failed"] if rows else "", "", ""]
    turns = [row["targets"] / row["cpu_s_a_step"] for row in good]
    speed, each = statistics.median(turns), ", ".join(f"{one:,.0f}" for one in turns)
    share = statistics.median(gflop(row) / row["cpu_s_a_step"] for row in good) / peak
    gib = max(row["peak_mib"] for row in good) / 1024
    return speed, [f"{speed:,.0f}" + f" ({each})" * (len(turns) > 1), f"{share:.1%}", f"{gib:.1f}"]


def table(rows: list[dict]) -> str:
    """Markdown: a line a catalogue, length, loss, peer and batch; medians over turns, the turns in brackets."""
    peak = statistics.median(row["peak_gflop_s"] for row in rows if "peak_gflop_s" in row)
    heads = ("items", "length", "loss", "peer", "batch", "its targets/CPU-s", "of peak", "GiB")
    heads += ("perdure's", "of peak", "GiB", "ratio")
    lines = [f"Peak: {peak:.0f} GFLOP per CPU-second\n", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    cells: dict[tuple, tuple[list[dict], list[dict]]] = {}
    for row in rows:
        loss = row["loss"] + (f", {row['negatives']} a {row['share']}" if row["negatives"] else "")
        about = (row["items"], row["length"], loss, row["name"], row["batch"])
        cells.setdefault(about, ([], []))[row["by"] == OURS].append(row)
    for (n_items, *about), (peer, ours) in sorted(cells.items(), key=lambda cell: cell[0][:2]):
        (theirs, left), (speed, right) = told_of(peer, peak), told_of(ours, peak)
        ratio = f"**{speed / theirs:.1f}**" if speed and theirs else ""
        lines.append("| " + " | ".join(map(str, (f"{n_items:,}", *about, *left, *right, ratio))) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", help="a log in Parquet")
    parser.add_argument("--user", default="user_id")
    parser.add_argument("--item", default="item_id")
    parser.add_argument("--order", default="position")
    parser.add_argument("--items", type=int, nargs="+", default=[], help="sizes of logs without meaning")
    parser.add_argument("--events-a-user", type=int, default=203)
    parser.add_argument("--length", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--loss", nargs="+", default=["softmax", "sampled", "bce", "gbce"])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 32, 8, 2], help="the next where memory fails")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10, help="CPU seconds of a turn; a step is made at least")
    parser.add_argument("--limit", type=float, default=500, help="wall seconds of a process")
    parser.add_argument("--memory", type=float, default=16, help="GiB a process may have")
    parser.add_argument("--attention-dropout", type=float, default=0.0, help="perdure's, on attention weights")
    parser.add_argument("--sparse-from", type=int, default=100_000, help="items from which perdure's table is sparse")
    parser.add_argument("--out", type=Path, default=Path("measured.jsonl"), help="a line a process is added")
    parser.add_argument("--table", type=Path, nargs="+", default=[], help="measure nothing, print the table of these")
    args = parser.parse_args()
    rows = [json.loads(line) for file in args.table for line in file.read_text().splitlines()]
    logs = [] if args.table else ([log_of_events(args)] if args.events else [])
    logs += [] if args.table else [log_without_meaning(n, args.events_a_user) for n in args.items]
    for items, starts in logs:
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "log.npz", items=items, starts=starts, n_items=items.max())
            for length in args.length:
                for peer in PEERS:
                    if peer.there and peer.loss in args.loss:
                        rows += meet(args, peer, int(items.max()), length, Path(folder))
    print(table(rows))


if __name__ == "__main__":
    main()
