"""User vectors, or answers, as a Parquet file: bounded memory, all or nothing.                             [writes]

embed      user     text id
           task     name, only where several tasks are asked
           vector   fixed-size list of float32, the bits the model gave
answer     user     text id
           item     text id of an answer, the class for one_of
           rank     1 for the best
           score    float32, as `recommend` gives it
           source   "model" or "popularity"

Key-value metadata: perdure.model (digest of the model folder, empty for a model that was never saved), perdure.task,
perdure.items (digest of the item vocabulary); of vectors perdure.width and perdure.rows, of answers perdure.k.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl

from perdure.errors import UsageError
from perdure.events.detect import Told, untold
from perdure.events.store import placed, write_frames
from perdure.inference.recommend import Met, histories, ranked
from perdure.inference.represent import HasItems, represent, width_of
from perdure.model.disk import DISK, machine_faults

if TYPE_CHECKING:
    from perdure.events.examples import Sequences
    from perdure.events.ids import Ids
    from perdure.events.profiles import Profiles
    from perdure.model.user_model import UserModel

__all__ = ["answer", "embed"]

Schema = dict[str, pl.DataType]
OTHERS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".npy", ".npz", ".pt", ".safetensors")  # files of other kinds
ROWS = 2**14  # vectors in memory at a time
SOURCES = pl.Series(["model", "popularity"])
ANSWERS: Schema = {
    "user": pl.String(),
    "item": pl.String(),
    "rank": pl.Int32(),
    "score": pl.Float32(),
    "source": pl.String(),
}


def embed(
    model: UserModel,
    source: Sequences | Sequence[Sequence[str]],
    user_ids: Ids | Sequence[str] | pl.Series,
    path: Path | str,
    tasks: str | Sequence[str] | None = None,
    *,
    batch_size: int = 256,
    profiles: Profiles | None = None,
    told: Told = untold,
) -> dict[str, str]:
    """Writes the vectors of all users, one row a user and task, in the order of `source`.

    Args:
        source: the shared history of a prepared log (its whole ranges are read), or raw histories of item ids.
        user_ids: (n,) text ids of the same users.
        path: the Parquet file; replaced only when the new one is complete. Its folder is made when missing.
        tasks: the task whose vectors are wanted, several, or None for the plain backbone.
        profiles: of the same users, for tasks that read them.
        told: how many users are written.

    Returns:
        The metadata written.

    Raises:
        UsageError: unknown task, a folder, a name of another kind of file or one from `~` as path, or not one id for
            each user.
        NonFiniteError: a vector is not finite. MachineError: the disk is full or refuses. In all cases an older file
            still stands.
    """
    check_place(path)
    names: list[str | None] = [tasks] if isinstance(tasks, str) or tasks is None else list(tasks)
    for name in names:
        if name is not None:
            model.card(name)
    ragged: Any = source if hasattr(source, "starts") else histories(model, cast("Sequence[Sequence[str]]", source))
    users = _texts(user_ids)
    starts = np.asarray(ragged.starts, np.int64)
    if len(users) != len(starts) - 1 or not names:
        raise UsageError(
            f"{len(users)} user ids for {len(starts) - 1} histories and {len(names)} tasks",
            expected="one id for each history, one task or more",
            where="embed",
        )
    widths, several = [width_of(model, name) for name in names], len(names) > 1
    if len(set(widths)) > 1:
        raise UsageError(
            f"vectors of {' and '.join(map(str, sorted(set(widths))))} numbers", expected="one width", where="embed"
        )
    width = widths[0]
    task_column: Schema = {"task": pl.String()} if several else {}
    schema: Schema = {"user": pl.String(), **task_column, "vector": pl.Array(pl.Float32(), width)}
    facts = _of(model, ",".join(name or "" for name in names), width=width, rows=len(users) * len(names))

    def frames() -> Iterator[pl.DataFrame]:
        for name in names:
            for low in range(0, len(users), ROWS):
                told("writing vectors", low, len(users), "users")
                part = slice(low, min(low + ROWS, len(users)))
                known = None if profiles is None else profiles.of(np.arange(part.start, part.stop))
                u = represent(model, name, ragged, starts[:-1][part], starts[1:][part], batch_size, known)  # (n, d)
                frame = pl.DataFrame({"user": users[part], "vector": u.cpu().numpy()})
                yield frame.with_columns(task=pl.lit(name or "")).select(*schema).cast(schema)  # type: ignore[arg-type]

    _write(Path(path), frames(), schema, facts)
    return facts


def answer(
    model: UserModel,
    task: str,
    source: HasItems,
    begin: np.ndarray,
    end: np.ndarray,
    user_ids: pl.Series,
    path: Path | str,
    k: int = 10,
    *,
    barred: np.ndarray | None = None,
    met: Sequence[Met] = (),
    profiles: Profiles | None = None,
    told: Told = untold,
) -> tuple[dict[str, str], int]:
    """Writes the k best answers of a task to each of n users, best first, users in the order given.

    Args:
        source, begin, end, profiles: of the n users, as in `represent`.
        user_ids: (n,) their text ids.
        path: as in `embed`.
        barred, met: what is no answer, as in `ranked`.
        told: how many users are answered.

    Returns:
        The metadata written, and how many users have fewer than k answers.

    Raises:
        UsageError: a folder or a name of another kind of file as path. NonFiniteError, MachineError: as `embed`.
    """
    check_place(path)
    labels, facts, fewer = model.card(task).labels.series, _of(model, task, k=k), 0

    def frames() -> Iterator[pl.DataFrame]:
        nonlocal fewer
        for low in range(0, len(begin), ROWS):
            told("answering", low, len(begin), "users")
            rows = np.arange(low, min(low + ROWS, len(begin)))
            of = [Met(one.labels, one.items, one.begin[rows], one.end[rows]) for one in met]
            known = None if profiles is None else profiles.of(rows)
            blocks = ranked(model, task, source, begin[rows], end[rows], k, barred, of, known)
            for part, values, columns, empty in blocks:
                kept = values > -np.inf  # (B, k'), a prefix of every row
                counts = kept.sum(1)  # (B,)
                fewer += int((counts < k).sum())
                frame = {
                    "user": user_ids.gather(np.repeat(rows[part], counts)),
                    "item": labels.gather(columns[kept]),
                    "rank": np.nonzero(kept)[1] + 1,
                    "score": values[kept],
                    "source": SOURCES.gather(np.repeat(empty.astype(np.int64), counts)),
                }
                yield pl.DataFrame(frame).cast(ANSWERS)  # type: ignore[arg-type]

    _write(Path(path), frames(), ANSWERS, facts, 16 * ROWS)
    return facts, fewer


def check_place(path: Path | str) -> None:
    """UsageError unless a Parquet file can be called so."""
    if placed(path).is_dir():
        raise UsageError(f"{path} is a folder", expected="a file to write", where="out")
    if (kind := Path(path).suffix.lower()) in OTHERS:
        raise UsageError(f"{path} would be no {kind} file", expected="a name such as users.parquet", where="out")


def _of(model: UserModel, task: str, **more: int) -> dict[str, str]:
    """What a file tells of itself."""
    facts = {"model": str(model.manifest.get("digest", "")), "task": task, "items": model.item_ids.digest, **more}
    return {f"perdure.{key}": str(value) for key, value in facts.items()}


def _texts(ids: Ids | Sequence[str] | pl.Series) -> pl.Series:
    series: Any = getattr(ids, "series", ids)
    return series if isinstance(series, pl.Series) else pl.Series("user", list(series), pl.String)


def _write(
    path: Path, frames: Iterator[pl.DataFrame], schema: Schema, metadata: dict[str, str], rows: int = ROWS
) -> None:
    """One Parquet file from frames that come one at a time: written beside, fsynced, renamed."""
    new = path.with_name(f".{path.name}.new")
    with machine_faults(path):
        DISK.make_folder(path.parent)
        try:
            write_frames(new, frames, pl.Schema(schema), rows, metadata)
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            DISK.rename(new, path)
            DISK.sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
