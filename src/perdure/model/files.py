"""Folders of tensors and documents, written atomically and read back verified. The one place that calls safetensors.

A folder is published whole or not at all:

    .NAME.new/   every file written, fsynced, read back and compared
    NAME -> .NAME.old      the folder that stood there steps aside
    .NAME.new -> NAME      the new one takes its place
    .NAME.old    deleted

At every instant NAME or .NAME.old is complete; readers look at NAME first and at .NAME.old when NAME is missing. The
manifest lists the SHA-256 and the size of every file and carries a digest of itself, and its bytes must be exactly
those that `render` gives, so that any change of any byte is found.                                  [reads, writes]
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from perdure.errors import MachineError, ModelError, NonFiniteError, shorten
from perdure.model.disk import DISK, Disk, machine_faults

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
HEADER_LIMIT = 100_000_000  # bytes, as in safetensors itself
MANIFEST_LIMIT = 64 * 2**20  # bytes
TRIES = 100  # of a reader who meets a writer
RESTORE = "restore this folder from a copy, or train it again"
T = TypeVar("T")


class Folder(NamedTuple):
    """What `read_folder` found: the manifest, tensors[file][name], documents[file] (bytes)."""

    manifest: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, bytes]


# -- small things -----------------------------------------------------------------------------------------------------


def sha256(data: bytes | memoryview) -> str:
    """Hex SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Hex SHA-256 of a tensor's type, shape and bytes; equal exactly when the tensors are equal bit for bit."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
    hashed = hashlib.sha256(head)
    hashed.update(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]  # an array is a buffer
    return hashed.hexdigest()


def render(document: Any) -> bytes:
    """JSON as this library writes it: UTF-8, sorted keys, two blanks, no NaN, newline at the end."""
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse(data: bytes, where: str) -> Any:
    """JSON without NaN and without endless nesting. Raises ModelError."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as fault:
        raise ModelError(f"not readable as JSON: {shorten(fault)}", where=where) from None


def check_name(name: str) -> str:
    """`name` when it is a plain relative path of at most three parts; ModelError otherwise."""
    parts = name.split("/")
    if len(parts) > 3 or not all(NAME.fullmatch(part) for part in parts):
        raise ModelError(
            f"file name {shorten(name)!r} is not allowed",
            expected="letters, digits, '.', '_', '-' and at most two '/'",
            where="manifest",
        )
    return name


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Same names, shapes and types, or a ModelError that lists the first five differences."""
    faults = [f"missing {name}" for name in expected if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in expected]
    for name in expected:
        want, have = expected[name], found.get(name)
        if have is not None and (want.shape != have.shape or want.dtype != have.dtype):
            faults.append(
                f"{name} is {tuple(have.shape)} {have.dtype}, expected {tuple(want.shape)} {want.dtype}".replace(
                    "torch.", ""
                )
            )
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelError(
            "; ".join(faults[:5]) + more,
            expected="the tensors the settings describe",
            where=where,
            fix="a folder of another release of perdure is read by that release; or learn it again",
        )


def bad_tensor(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a NaN or an infinity, or None."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file; shared and strided ones are written out."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        plain[name] = copy.clone() if copy.untyped_storage().data_ptr() in seen else copy
        seen.add(copy.untyped_storage().data_ptr())
    return bytes_of(plain)


def unpack(data: bytes, where: str) -> dict[str, Tensor]:
    """Bytes of a safetensors file as tensors; header, offsets and finiteness checked. Raises ModelError."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(HEADER_LIMIT, len(data) - 8) or data[8:9] != b"{":
        raise ModelError("not a safetensors file: its header is broken", where=where)
    try:
        tensors = tensors_of(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, RecursionError) as fault:
        raise ModelError(f"not a safetensors file: {shorten(fault)}", where=where) from None
    bad = bad_tensor(tensors)
    if bad is not None:
        raise ModelError(f"tensor {bad} is not finite", where=where)
    return dict(sorted(tensors.items()))


# -- writing ----------------------------------------------------------------------------------------------------------


def beside(folder: Path) -> tuple[Path, Path]:
    """The folder being written and the folder stepping aside, for `folder`."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def remove_tree(path: Path, disk: Disk = DISK) -> None:
    """Delete a folder and what is in it, links not followed."""
    if path.is_symlink() or not path.is_dir():
        disk.remove(path)
        return
    for child in sorted(path.iterdir()):
        remove_tree(child, disk)
    disk.remove_folder(path)


def tidy(folder: Path, disk: Disk = DISK) -> None:
    """Finish or undo what a killed save of `folder` left: its half-written folder, and the one that stepped aside."""
    new, old = beside(folder)
    if old.exists() and not folder.exists():
        disk.rename(old, folder)
    for leftover in (new, old):
        if leftover.exists() or leftover.is_symlink():
            remove_tree(leftover, disk)


def write_file(path: Path, data: bytes, disk: Disk = DISK) -> None:
    """One file, atomically: written beside, read back, renamed. Raises MachineError."""
    path = Path(path)
    new, _ = beside(path)
    with machine_faults(path):
        disk.write(new, data)
        if disk.read(new) != data:
            raise MachineError("what was written reads back differently", where=str(path))
        disk.rename(new, path)
        disk.sync_folder(path.parent)


def write_folder(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    documents: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    name: str = "model.json",
    disk: Disk = DISK,
) -> str:
    """Write a folder atomically, verified before anything older goes. An existing folder is replaced.

    Args:
        folder: where; its parent is made when missing.
        tensors: file -> name -> tensor; becomes `file` in safetensors format.
        documents: file -> bytes or str as they are, anything else as JSON.
        manifest: what else the manifest says; `files` and `digest` are added here.
        name: file name of the manifest.

    Returns:
        The digest of the manifest, which covers every file.

    Raises:
        NonFiniteError: a tensor is not finite; names it; nothing is changed on disk.
        MachineError: disk full, input/output error, or a file reads back differently; the older folder still stands.
    """
    folder = Path(folder)
    new, old = beside(folder)
    if len({check_name(file).casefold() for file in {*tensors, *documents, name}}) < len({*tensors, *documents, name}):
        raise ModelError("two files whose names differ only in case", where=str(folder), fix="nothing was saved")
    for file, content in tensors.items():
        bad = bad_tensor(content)
        if bad is not None:
            raise NonFiniteError(f"tensor {bad} is not finite", where=f"{folder}/{file}", fix="nothing was saved")
    with machine_faults(folder):
        disk.make_folder(folder.parent)
        tidy(folder, disk)
        try:
            digest = _fill(new, tensors, documents, manifest, name, disk)
        except OSError:
            with contextlib.suppress(OSError):
                remove_tree(new, disk)
            raise
        if folder.exists():
            disk.rename(folder, old)
        disk.rename(new, folder)
        disk.sync_folder(folder.parent)
        with contextlib.suppress(OSError):  # a failed delete must not fail a save that is done; the next one tidies
            if old.exists():
                remove_tree(old, disk)
    return digest


def _fill(new: Path, tensors, documents, manifest, name: str, disk: Disk) -> str:
    """Write every file of `new`, manifest last, each read back; returns the manifest's digest."""
    disk.make_folder(new)
    files: dict[str, dict[str, Any]] = {}

    def put(file: str, data: bytes) -> str:
        path = new / file
        if path.parent != new and not path.parent.exists():
            disk.make_folder(path.parent)
        disk.write(path, data)
        if disk.read(path) != data:
            raise OSError(errno.EIO, f"{file} reads back differently")
        return sha256(data)

    for file in sorted({*tensors, *documents}):
        if file in tensors:
            data = pack(tensors[file])
        else:
            content = documents[file]
            content = content.encode() if isinstance(content, str) else content
            data = content if isinstance(content, bytes) else render(content)
        kind = "tensors" if file in tensors else "document"
        files[file] = {"bytes": len(data), "kind": kind, "sha256": put(file, data)}
    whole = {**manifest, "files": files}
    digest = sha256(render(whole))
    put(name, render({**whole, "digest": digest}))
    for inner in sorted({(new / file).parent for file in files} | {new}):
        disk.sync_folder(inner)
    return digest


# -- reading ----------------------------------------------------------------------------------------------------------


def locate(folder: Path, name: str = "model.json") -> Path:
    """The complete folder for `folder`: itself, or the one that stepped aside in a save that was killed."""
    folder = Path(folder)
    if not (folder / name).exists():
        _, old = beside(folder)
        if not folder.exists() and (old / name).exists():
            return old
        found = "no such folder" if not folder.exists() else f"no {name} in it"
        raise ModelError(found, expected=f"a folder with {name}", where=str(folder))
    return folder


def _steadily(folder: Path, read: Callable[[], T]) -> T:
    """`read()`, again when it failed while another process put a new folder in this one's place."""

    def standing() -> tuple[int, ...] | None:
        with contextlib.suppress(OSError):
            info = folder.stat()
            return info.st_dev, info.st_ino, info.st_mtime_ns
        return None

    for left in reversed(range(TRIES)):
        before = standing()
        try:
            return read()
        except ModelError:
            after = standing()
            aside = after is None and beside(folder)[1].exists()
            if left == 0 or (before == after and not aside):
                raise
            time.sleep(0.001)
    raise ModelError("the folder is being replaced again and again", where=str(folder))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a model alone, checked against its own digest; no other file is opened. Raises ModelError."""
    return _steadily(folder, lambda: _manifest(folder, "model.json", DISK))


def _manifest(folder: Path, name: str, disk: Disk) -> dict[str, Any]:
    folder = locate(folder, name)
    where = f"{folder}/{name}"
    data = _plain_file(folder, name, MANIFEST_LIMIT, disk)
    manifest = parse(data, where)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or "digest" not in manifest:
        raise ModelError("not a manifest of perdure", expected="an object with files and digest", where=where)
    whole = {key: value for key, value in manifest.items() if key != "digest"}
    try:
        same = render(manifest) == data and sha256(render(whole)) == manifest["digest"]
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise ModelError("digest mismatch: the manifest was changed after it was written", where=where, fix=RESTORE)
    folded = [check_name(file).casefold() for file in manifest["files"]]
    for file, entry in manifest["files"].items():
        fine = isinstance(entry, dict) and type(entry.get("bytes")) is int and entry["bytes"] >= 0
        if not fine or entry.get("kind") not in ("tensors", "document") or not isinstance(entry.get("sha256"), str):
            raise ModelError(f"the entry of {file} is malformed", expected="bytes, kind, sha256", where=where)
    if len(set(folded)) != len(folded):
        raise ModelError("two files whose names differ only in case", where=where)
    return manifest


def read_folder(folder: Path, *, name: str = "model.json", disk: Disk = DISK) -> Folder:
    """Read a folder that `write_folder` wrote, every byte verified before it is used.

    Raises:
        ModelError: naming the file (and tensor) that is missing, damaged, linked, unsafe or not finite; where it is
            there and the system refuses to read it, the OSError is its cause.
    """

    def read() -> Folder:
        manifest = _manifest(Path(folder), name, disk)
        return _read(locate(folder, name), manifest, disk)

    return _steadily(Path(folder), read)


def _read(folder: Path, manifest: dict[str, Any], disk: Disk) -> Folder:
    tensors: dict[str, dict[str, Tensor]] = {}
    documents: dict[str, bytes] = {}
    for file, entry in manifest["files"].items():
        data = _plain_file(folder, file, entry["bytes"], disk)
        if len(data) != entry["bytes"] or sha256(data) != entry["sha256"]:
            raise ModelError(
                f"digest mismatch: {file} is not the file that was written",
                expected=f"{entry['bytes']} bytes, sha256 {entry['sha256'][:12]}…",
                where=f"{folder}/{file}",
                fix=RESTORE,
            )
        if entry["kind"] == "tensors":
            tensors[file] = unpack(data, f"{folder}/{file}")
        else:
            documents[file] = data
    return Folder(manifest, tensors, documents)


def mapped(folder: Path, file: str) -> dict[str, Tensor]:
    """The tensors of one file as views of the file itself: the system reads pages when they are used, and drops them
    when memory is short. For folders whose digests were verified by this process; nobody may write into the tensors."""
    with safe_open(folder / file, framework="pt") as held:
        return {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118  # not a mapping


def _plain_file(folder: Path, file: str, limit: int, disk: Disk) -> bytes:
    """Bytes of a regular file inside `folder`; links and special files refused, size checked before reading."""
    path = folder / file
    try:
        for part in (path, *path.parents[: len(Path(file).parts) - 1]):
            info = part.lstat()
            linked = stat.S_ISREG(info.st_mode) and info.st_nlink > 1
            if linked or not (stat.S_ISREG(info.st_mode) if part == path else stat.S_ISDIR(info.st_mode)):
                found = "has a second name, a hard link" if linked else "is a link or no plain file"
                fix = "copy the folder with cp -rL, and take the copy"
                raise ModelError(f"{file} {found}", expected="a regular file", where=str(part), fix=fix)
        if path.lstat().st_size > limit:
            raise ModelError(f"digest mismatch: {file} is longer than it was written", where=str(path), fix=RESTORE)
        return disk.read(path)
    except OSError as fault:
        gone = isinstance(fault, FileNotFoundError)
        told = f"{file} is missing" if gone else f"{file} cannot be read: {fault.strerror or fault}"
        raise ModelError(told, where=str(path), fix=RESTORE if gone else "") from (None if gone else fault)
