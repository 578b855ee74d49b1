"""Opening files that nobody vouches for: what a file is, told by its content; its bytes, bounded.  [reads]"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import glob
import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from perdure.errors import DataError, ModelError, UsageError, shorten

CHUNK = 1 << 23  # bytes read at a time
PACKED = 1 << 10  # packed bytes given to zstd at a time: it may make 128 KiB of 4 of them
FREE_BYTES = 1 << 26  # a compressed file may always unpack to this much

NEVER = {".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".joblib", ".xlsx", ".xlsm", ".xls", ".h5", ".hdf5", ".db"}
MAGIC = [
    (b"\x80\x02", "a pickle"), (b"\x80\x03", "a pickle"), (b"\x80\x04", "a pickle"), (b"\x80\x05", "a pickle"),
    (b"\x93NUMPY", "a NumPy array"), (b"PK\x03\x04", "a zip archive (xlsx, npz, a PyTorch file)"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"), (b"\x89HDF", "an HDF5 file"), (b"SQLite format 3", "an SQLite file"),
    *((b"BZh%d1AY" % level, "a bzip2 file") for level in range(1, 10)), (b"\xfd7zXZ", "an xz file"),
    (b"ARROW1", "an Arrow file"), (b"%PDF-", "a PDF"), (b"\x7fELF", "a program"),
]  # fmt: skip
LETTERS = [(b"ORC", "an ORC file")]  # a header may begin so, as ORCID does: then no control characters come
BINARY = bytes({*range(32), 127} - {9, 10, 13})


Told = Callable[[str, int, int, str], None]  # what is done, how much of it, of how much, of what


def untold(what: str, done: int, of: int, unit: str) -> None:
    """Tells nobody."""


@dataclass
class Source:
    """One input file, looked at but not read.

    Attributes:
        path: the file.
        kind: "text", "jsonl" or "parquet".
        packed: "gzip", "zstd" or "" (told by the content, not by the name).
        stamp: size, time of change and inode when it was looked at.
        notes: what was odd, for the data card.
        read: bytes of it that were read so far.
    """

    path: Path
    kind: str
    packed: str = ""
    stamp: tuple[int, int, int] = (0, 0, 0)
    notes: list[str] = field(default_factory=list)
    read: int = 0

    def unchanged(self) -> None:
        """Raises DataError if the file is no longer the one that was looked at."""
        try:
            now = _stamp(os.stat(self.path))
        except OSError:
            now = None
        if now != self.stamp:
            raise DataError("the file changed during import; nothing was stored", where=str(self.path),
                            fix="import a finished copy of the file")  # fmt: skip


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def find(patterns: list[str], where: str = "data.path") -> list[Path]:
    """Files named by paths and globs, in the order given (a glob's files sorted).

    Raises:
        UsageError: nothing is there; tells the nearest folder that exists.
    """
    found: list[Path] = []
    for pattern in patterns:
        text = os.path.expanduser(pattern)
        if "\0" in text:
            raise UsageError(f"path {shorten(text)} holds a NUL character", where=where)
        if not os.path.lexists(text) and any(c in text for c in "*?["):
            folder = next(one for one in Path(text).parents if one.is_dir())  # as it is called, though with [ or *
            matches = sorted(glob.glob(str(Path(text).relative_to(folder)), root_dir=folder, recursive=True))
            files = [folder / one for one in matches if not (folder / one).is_dir()]
            if not files:
                raise _missing(text, where)
            found += files
        elif os.path.exists(text):
            found.append(Path(text))
        else:
            raise _missing(text, where)
    return found


def _missing(text: str, where: str) -> UsageError:
    folder, near = Path(text).absolute().parent, []
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(Path(text).name, sorted(os.listdir(folder)), 1, 0.7)
    while not folder.is_dir():
        folder = folder.parent
    return UsageError(f"no file {shorten(text, 300)}", expected="an existing file", where=where,
                      fix=f"did you mean {near[0]}?" if near else f"nearest folder that exists: {folder}")  # fmt: skip


def look(path: Path, kind: str | None = None, where: str = "data.path") -> Source:
    """What `path` is: an ordinary, readable file of a kind we accept.

    Args:
        path: the file.
        kind: "text" where a layout says so, whatever the name.

    Raises:
        UsageError: a folder, FIFO or device, or not readable.
        ModelError: a format that can carry code, or that we never open.
    """
    status = _status(path, where)
    names = [suffix.lower() for suffix in path.suffixes]
    inner = next((n for n in reversed(names) if n not in {".gz", ".zst", ".zstd"}), "")
    if inner in NEVER:
        raise _refused(path, f"{inner} files")
    head = _head(path, status, where)
    packed = "gzip" if head[:2] == b"\x1f\x8b" else "zstd" if head[:4] == b"\x28\xb5\x2f\xfd" else ""
    for magic, what in MAGIC if head.translate(None, BINARY) == head else [*MAGIC, *LETTERS]:
        if head.startswith(magic):
            raise _refused(path, what)
    notes = []
    named = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}.get(names[-1] if names else "", "")
    if named != packed:
        notes.append(f"{path.name}: named as {named or 'plain'}, is {packed or 'plain'}; read by its content")
    if head[:4] == b"PAR1":
        return Source(path, "parquet", "", _stamp(status), notes)
    if inner in {".parquet", ".pq"}:
        raise ModelError(f"{path.name} is no Parquet file (it does not begin with PAR1)", where=str(path),
                         fix="make the file again at its source")  # fmt: skip
    kind = kind or ("jsonl" if inner in {".jsonl", ".ndjson", ".json"} else "text")
    return Source(path, kind, packed, _stamp(status), notes)


def _status(path: Path, where: str) -> os.stat_result:
    try:
        status = os.stat(path)
    except OSError:
        raise _missing(str(path), where) from None
    if not stat.S_ISREG(status.st_mode):
        what = "folder" if stat.S_ISDIR(status.st_mode) else "FIFO, socket or device"
        raise UsageError(f"{path} is a {what}", expected="a file", where=where)
    return status


def _head(path: Path, status: os.stat_result, where: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except PermissionError:
        raise UsageError(f"{path} cannot be read", expected="read permission", where=where,
                         fix=f"its owner is uid {status.st_uid}, its mode {stat.filemode(status.st_mode)}",
                         ) from None  # fmt: skip


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(f"format not accepted: {what}; the file was not opened", where=str(path),
                      expected="CSV, TSV, JSON lines or Parquet, plain or as gzip or zstd",
                      fix="export the table as CSV or Parquet")  # fmt: skip


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chunks(source: Source, encoding: str = "utf-8", max_ratio: int = 200) -> Iterator[bytes]:
    """The text of a file as UTF-8 bytes, unpacked, without byte order mark; about 8 MiB at a time.

    Bytes that the encoding does not know come through as invalid UTF-8, for the reader to set aside with their line.

    Raises:
        DataError: a truncated or damaged archive (nothing of it may be used), or one that unpacks beyond `max_ratio`.
    """
    raw = {"gzip": _gzip, "zstd": _zstd, "": _plain}[source.packed](source)
    limit = max(FREE_BYTES, max_ratio * source.stamp[0]) if source.packed else None
    raw = _bounded(raw, source, limit)
    first = next(raw, b"")
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        source.notes.append(f"{source.path.name}: UTF-16, told by its byte order mark")
        encoding = "utf-16"
    elif first.startswith(codecs.BOM_UTF8):
        first = first[3:]
    if encoding == "utf-8":
        yield first
        yield from raw
        return
    handler = "surrogatepass" if encoding.startswith("utf-16") else "surrogateescape"
    decoder = codecs.getincrementaldecoder(encoding)(handler)
    try:
        yield decoder.decode(first).encode("utf-8", handler)
        for part in raw:
            yield decoder.decode(part).encode("utf-8", handler)
        yield decoder.decode(b"", True).encode("utf-8", handler)
    except UnicodeError as error:
        raise DataError(f"the file is no {encoding} text: {shorten(error)}", where=str(source.path)) from None


def _bounded(parts: Iterator[bytes], source: Source, limit: int | None) -> Iterator[bytes]:
    total = 0
    for part in parts:
        total += len(part)
        if limit is not None and total > limit:
            raise DataError(f"{source.path.name} unpacks to more than {total >> 20} MiB from {source.stamp[0]} bytes",
                            expected="at most data.max_ratio times its size", where=str(source.path),
                            fix="raise data.max_ratio if the file is what you mean")  # fmt: skip
        yield part


def _plain(source: Source) -> Iterator[bytes]:
    with open(source.path, "rb") as file:
        while part := file.read(CHUNK):
            source.read = file.tell()
            yield part


def _gzip(source: Source) -> Iterator[bytes]:
    with open(source.path, "rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
        while True:
            try:
                part = unpacked.read(CHUNK)
            except (EOFError, OSError, zlib.error) as error:
                raise _broken(source, file.tell(), error) from None
            if not part:
                return
            source.read = file.tell()
            yield part


def _zstd(source: Source) -> Iterator[bytes]:
    frame, held, size = None, [], 0
    with open(source.path, "rb") as file:
        try:
            while packed := (frame.unused_data if frame is not None and frame.eof else b"") or file.read(PACKED):
                if frame is None or frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                held.append(frame.decompress(packed))
                size += len(held[-1])
                if size >= CHUNK:
                    source.read = file.tell()
                    yield b"".join(held)
                    held, size = [], 0
        except zstandard.ZstdError as error:
            raise _broken(source, file.tell(), error) from None
        if frame is None or not frame.eof:
            raise _broken(source, file.tell(), "it ends within a frame")
    if size:
        yield b"".join(held)


def _broken(source: Source, at: int, why: object) -> DataError:
    return DataError(f"the {source.packed} file is cut off or damaged: {shorten(why)}",
                     where=f"{source.path}, at byte {at} of {source.stamp[0]}",
                     fix="fetch the file again; nothing was stored")  # fmt: skip
