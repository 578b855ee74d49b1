"""The store of a prepared log: a folder of arrays and Parquet files, written whole or not at all.  [reads, writes]

store.json (format version, settings, sources, counts, data card, SHA-256 of every file, and a seal over itself) ·
items.npy starts.npy times.npy · events.parquet · item_ids.parquet user_ids.parquet · users.parquet items.parquet
(when given) · marks.npy marks.parquet (event columns as rows of their values) · quarantine.parquet (file, line, column,
reason, at most 100 characters of the field).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from perdure.errors import DataError, MachineError, ModelError, UsageError, shorten
from perdure.events.detect import sha256

FORMAT_VERSION = 1
CARD_FILE = "store.json"
MOST_VALUES = 32_767  # of an event column that is kept as categories, too: they fit into int16


def placed(folder: Path | str) -> Path:
    """A path to read or write, made absolute: it stays the same wherever the caller goes.

    Raises:
        UsageError: a path that begins with `~`, which Polars would expand and nobody else, or that is no text.
    """
    folder = Path(folder)
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{shorten(folder)} is not UTF-8", expected="a path that is") from None
    if folder.parts[:1] == ("~",):
        raise UsageError(f"{folder} begins with ~, which is not expanded", expected="the whole path, or a relative one",
                         fix="write $HOME for ~, or in Python os.path.expanduser(path)")  # fmt: skip
    return folder.absolute()


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well, and vanishes when not.

    Raises:
        UsageError: `folder` exists and is not empty, by now, or cannot be made.
        MachineError: the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", expected="a new or empty folder",
                         fix="choose another folder, or remove this one")  # fmt: skip
    part = folder.parent / f".{folder.name}.part-{os.urandom(6).hex()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        part.mkdir()
        held = _hold(part)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", expected="a writable folder") from None
    try:
        yield part
        for file in part.iterdir():
            _sync(file)
        _sync(part)
        os.replace(part, folder)
        _sync(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise UsageError(f"{folder} was filled by somebody else meanwhile", expected="a new or empty folder",
                             fix="choose another folder, or try again") from None  # fmt: skip
        raise MachineError(f"the store could not be written: {error.strerror or error}", where=str(folder),
                           fix="free disk space and try again; nothing was stored") from None  # fmt: skip
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if held is not None:
            os.close(held)


def _sweep(folder: Path) -> None:
    """Removes what killed preparations of the same folder left behind."""
    for left in folder.parent.glob(f".{folder.name}.part-*"):
        if (mine := _hold(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(mine)


def _hold(part: Path) -> int | None:
    """An open handle of the folder, locked until it is closed or its process ends, wherever that runs; None where
    somebody else has it, it is gone, or the disk holds no locks."""
    import fcntl

    handle = -1
    try:
        handle = os.open(part, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle >= 0:
            os.close(handle)
        return None
    return handle


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_card(folder: Path, card: dict) -> None:
    """Writes store.json: `card` with the SHA-256 of every other file, sealed."""
    files = sorted(path for path in folder.iterdir() if path.name != CARD_FILE)
    card = {**card, "files": {f.name: {"sha256": sha256(f), "bytes": f.stat().st_size} for f in files}}
    card["seal"] = _seal(card)
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _seal(card: dict) -> str:
    plain = json.dumps({k: v for k, v in card.items() if k != "seal"}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def read_card(folder: Path) -> dict:
    """store.json, its seal checked.

    Raises:
        UsageError: no store is there.
        ModelError: damaged, or written by a newer perdure.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no event store", expected=f"a folder with {CARD_FILE}",
                         fix="make one with `perdure prepare`")  # fmt: skip
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version = card["format_version"]
        sound = card["seal"] == _seal(card)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{CARD_FILE} is damaged: {shorten(error)}", where=str(path), fix=AGAIN) from None
    if version != FORMAT_VERSION:
        raise ModelError(f"the store has format version {shorten(version)}", expected=f"version {FORMAT_VERSION}",
                         where=str(path), fix="prepare it again with this perdure")  # fmt: skip
    if not sound:
        raise ModelError(f"{CARD_FILE} was changed after it was written", where=str(path), fix=AGAIN)
    return card


AGAIN = "remove the folder and run `perdure prepare` again"


def verify(folder: Path, card: dict) -> None:
    """Raises ModelError naming the first file that is missing, changed or not ours."""
    for name, told in card["files"].items():
        path = folder / name
        if "/" in name or "\\" in name or name.startswith(".") or path.is_symlink():
            raise ModelError(f"{shorten(name)} is no plain file of a store", where=str(folder), fix=AGAIN)
        if not path.is_file():
            raise ModelError(f"{name} is missing", where=str(path), fix=AGAIN)
        if path.stat().st_size != told["bytes"] or sha256(path) != told["sha256"]:
            raise ModelError(f"{name} is damaged: its SHA-256 is not the one told in {CARD_FILE}", where=str(path),
                             fix=AGAIN)  # fmt: skip


def write_array(path: Path, dtype: type, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
    """One .npy file, part after part. It is not mapped: on a full disk that would kill the process, without a word."""
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)


def read_array(path: Path, dtype: type, *shape: int) -> np.ndarray:
    """A memory-mapped .npy file.

    Raises:
        ModelError: another type or shape than the store tells.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        array = np.load(path, allow_pickle=False)  # an empty file cannot be mapped
    if array.dtype != dtype or array.shape != shape:
        raise ModelError(f"{path.name} holds {array.shape} {array.dtype}", where=str(path), fix=AGAIN,
                         expected=f"{shape} {np.dtype(dtype)}")  # fmt: skip
    array.flags.writeable = False
    return array


def write_frames(
    path: Path,
    frames: Iterator[pl.DataFrame],
    schema: pl.Schema,
    rows: int = 1 << 18,
    metadata: dict[str, str] | None = None,
) -> None:
    """Frames, one after the other, as one Parquet file; only a few are in memory at a time. What making them raises is
    raised as it is; OSError where the disk refuses.

    Args:
        rows: of a row group.
    """
    from polars.io.plugins import register_io_source

    faults: list[BaseException] = []

    def source(columns: list[str] | None, predicate: object, n_rows: int | None, batch: int | None):
        try:
            yield from frames
        except BaseException as fault:  # Polars would wrap it
            faults.append(fault)
            raise

    lazy = register_io_source(source, schema=schema)  # type: ignore[arg-type]
    try:
        with _refused():
            lazy.sink_parquet(path, compression="zstd", row_group_size=rows, metadata=metadata)
    except BaseException as fault:
        raise (faults[0] if faults else fault) from None


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """A small table as Parquet. OSError where the disk refuses."""
    with _refused():
        frame.write_parquet(path, compression="zstd")


@contextmanager
def _refused() -> Iterator[None]:
    """What the system refuses is an OSError with its number; Polars tells some of it as a fault of the format."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as fault:
        found = re.search(r"\(os error (\d+)\)", str(fault))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from fault


def read_table(path: Path) -> pl.DataFrame:
    """A small table; DataError if it is no Parquet."""
    try:
        return pl.read_parquet(path, glob=False)
    except Exception as error:
        raise DataError(f"{path.name} cannot be read: {shorten(error)}", where=str(path), fix=AGAIN) from None
