from __future__ import annotations

import json
import struct
import threading
from pathlib import Path

import pytest
import torch
from model.faulty import Faulty, Killed

from perdure.errors import MachineError, ModelError, NonFiniteError
from perdure.model import files
from perdure.model.disk import Disk


def content(n: int) -> dict:
    generator = torch.Generator().manual_seed(n)
    return {
        "backbone.safetensors": {"w": torch.randn(5, 3, generator=generator), "n": torch.tensor(n)},
        "tasks/a.safetensors": {"head": torch.randn(2, 2, generator=generator)},
    }


def save(folder: Path, n: int, disk: Disk | None = None) -> str:
    return files.write_folder(
        folder, content(n), {"README.md": "hello\n", "x.json": {"n": n}}, {"n": n}, disk=disk or Disk()
    )


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[f].keys() == b[f].keys() and all(torch.equal(a[f][k], b[f][k]) for k in a[f]) for f in a
    )


def test_round_trip(tmp_path):
    digest = save(tmp_path / "m", 1)
    folder = files.read_folder(tmp_path / "m")
    assert folder.manifest["digest"] == digest
    assert folder.manifest["n"] == 1
    assert same(folder.tensors, content(1))
    assert folder.documents == {"README.md": b"hello\n", "x.json": b'{\n  "n": 1\n}\n'}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_same_content_same_bytes(tmp_path):
    assert save(tmp_path / "a", 1) == save(tmp_path / "b", 1) != save(tmp_path / "c", 2)


def test_saving_over_an_opened_folder(tmp_path):
    save(tmp_path / "m", 1)
    held = files.read_folder(tmp_path / "m").tensors
    for n in range(2, 12):
        save(tmp_path / "m", n)
        assert same(files.read_folder(tmp_path / "m").tensors, content(n))
    assert same(held, content(1))


@pytest.mark.parametrize("first", [True, False], ids=["first-save", "replacing"])
@pytest.mark.parametrize("fault", ["kill", "torn", "ENOSPC", "EIO", "short"])
def test_every_operation_of_a_save_may_fail(tmp_path, fault, first):
    counting = Faulty()
    if not first:
        save(tmp_path / "count", 0)
    save(tmp_path / "count", 1, counting)
    assert counting.count >= 15
    for at in range(counting.count):
        folder = tmp_path / str(at) / "m"
        folder.parent.mkdir()
        if not first:
            save(folder, 1)
        disk = Faulty(at, fault)
        done = False
        try:
            save(folder, 2, disk)
            done = True
        except (Killed, MachineError):
            pass
        assert disk.count > at, "the fault was reached"
        expected = [content(2)] if done else [content(2)] + ([] if first else [content(1)])
        try:
            found = files.read_folder(folder).tensors
            assert any(same(found, e) for e in expected), (at, counting.log[at])
        except ModelError:
            assert first and not done, (at, counting.log[at])
        save(folder, 3)  # a leftover never blocks the next save
        assert same(files.read_folder(folder).tensors, content(3))
        assert [p.name for p in folder.parent.iterdir()] == ["m"]


@pytest.mark.parametrize("fault", ["kill", "torn", "ENOSPC", "EIO", "short"])
def test_every_operation_of_one_file(tmp_path, fault):
    path = tmp_path / "matrix.json"
    for at in range(4):
        files.write_file(path, b"old content")
        try:
            files.write_file(path, b"new content", Faulty(at, fault))
        except (Killed, MachineError):
            assert path.read_bytes() in (b"old content", b"new content")
        else:
            assert path.read_bytes() == b"new content"


def test_a_short_write_is_seen(tmp_path):
    disk = Faulty(2, "short")
    with pytest.raises(MachineError, match="reads back differently"):
        save(tmp_path / "m", 1, disk)


def test_every_flipped_byte_is_found(tmp_path):
    save(tmp_path / "m", 1)
    for path in sorted(p for p in (tmp_path / "m").rglob("*") if p.is_file()):
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(ModelError) as fault:
                files.read_folder(tmp_path / "m")
            assert path.name in fault.value.where
        for at in range(0, len(data), 7):
            path.write_bytes(data[:at])
            with pytest.raises(ModelError):
                files.read_folder(tmp_path / "m")
        path.write_bytes(data + b"x")
        with pytest.raises(ModelError):
            files.read_folder(tmp_path / "m")
        path.write_bytes(data)
    files.read_folder(tmp_path / "m")


def test_missing_file_and_folder(tmp_path):
    save(tmp_path / "m", 1)
    (tmp_path / "m" / "tasks" / "a.safetensors").unlink()
    with pytest.raises(ModelError, match=r"a\.safetensors is missing") as caught:
        files.read_folder(tmp_path / "m")
    assert "from a copy" in caught.value.fix
    with pytest.raises(ModelError, match="no such folder"):
        files.read_folder(tmp_path / "nothing")


def test_not_finite_is_never_written_or_read(tmp_path):
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(NonFiniteError, match="head"):
            files.write_folder(tmp_path / "m", {"a.safetensors": {"head": torch.tensor([1.0, value])}}, {}, {})
    assert not (tmp_path / "m").exists()
    forge(tmp_path / "m", "a.safetensors", raw({"head": ("F32", [1], struct.pack("<f", float("nan")))}))
    with pytest.raises(ModelError, match="head is not finite"):
        files.read_folder(tmp_path / "m")


def raw(tensors: dict, header: dict | None = None) -> bytes:
    entries, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(entries if header is None else header).encode()
    return struct.pack("<Q", len(text)) + text + body


def forge(folder: Path, file: str, data: bytes, name: str | None = None) -> None:
    """A folder whose digests are right although its content is hostile."""
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(data)
    entry = {"bytes": len(data), "kind": "tensors", "sha256": files.sha256(data)}
    whole = {"files": {file if name is None else name: entry}}
    (folder / "model.json").write_bytes(files.render({**whole, "digest": files.sha256(files.render(whole))}))


def entry(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "header of length 0": struct.pack("<Q", 0) + b"{}",
    "header of length 2^64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "header beyond the file": struct.pack("<Q", 100) + b"{}",
    "header not utf-8": struct.pack("<Q", 4) + b"{\xff\xfe}",
    "header not json": struct.pack("<Q", 4) + b"{abc",
    "leading blanks": struct.pack("<Q", 4) + b"  {}",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94",
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "overlap": raw({}, {"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}) + b"\0" * 12,
    "hole": raw({}, {"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}) + b"\0" * 12,
    "bytes after the end": raw({"a": ("F32", [1], b"\0" * 4)}) + b"PK\x03\x04",
    "shape against offsets": raw({}, {"a": entry("F32", [3], 0, 8)}) + b"\0" * 8,
    "shape overflows": raw({}, {"a": entry("F32", [2**62, 2**62], 0, 8)}) + b"\0" * 8,
    "negative offsets": raw({}, {"a": entry("F32", [2], -8, 0)}) + b"\0" * 8,
    "unknown type": raw({}, {"a": entry("OBJ", [1], 0, 4)}) + b"\0" * 4,
    "deep": struct.pack("<Q", 20_000) + b'{"a":' + b"[" * 19_995 + b"]" * 8,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tensor_files(tmp_path, kind):
    forge(tmp_path / "m", "a.safetensors", HOSTILE[kind])
    with pytest.raises(ModelError, match="safetensors"):
        files.read_folder(tmp_path / "m")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a\\b", "..", ".hidden", "a//b", "a/../b", "a\0b", "", "a/b/c/d", "x" * 300, "C:x", "a\n"],
)
def test_names_cannot_leave_the_folder(tmp_path, name):
    forge(tmp_path / "m", "a.safetensors", raw({}), name)
    with pytest.raises(ModelError, match="not allowed"):
        files.read_folder(tmp_path / "m")
    with pytest.raises(ModelError, match="not allowed"):
        files.write_folder(tmp_path / "n", {name: {}}, {}, {})


def test_links_are_refused(tmp_path):
    save(tmp_path / "m", 1)
    victim = tmp_path / "m" / "README.md"
    outside = tmp_path / "outside"
    outside.write_bytes(victim.read_bytes())
    victim.unlink()
    victim.symlink_to(outside)
    with pytest.raises(ModelError, match="link"):
        files.read_folder(tmp_path / "m")
    victim.unlink()
    victim.hardlink_to(outside)  # as a backup by `cp -al` or `rsync --link-dest` may leave it
    with pytest.raises(ModelError, match="a hard link") as caught:
        files.read_folder(tmp_path / "m")
    assert "copy the folder" in caught.value.fix
    victim.unlink()
    outside.rename(victim)
    tasks = tmp_path / "m" / "tasks"
    tasks.rename(tmp_path / "elsewhere")
    tasks.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="link"):
        files.read_folder(tmp_path / "m")


@pytest.mark.parametrize("text", [b"[]", b"{}", b"nonsense", b'{"files": {}, "digest": NaN}', b"[" * 100_000, b"\xff"])
def test_hostile_manifests(tmp_path, text):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_bytes(text)
    with pytest.raises(ModelError):
        files.read_folder(tmp_path / "m")


def test_differences_of_tensors_are_listed():
    expected = {c: torch.zeros(2) for c in "abcdefgh"}
    with pytest.raises(ModelError, match="and 3 more"):
        files.check_tensors(expected, {}, "here")
    with pytest.raises(ModelError, match=r"a is \(3,\) float32, expected \(2,\) float32; b is \(2,\) int64"):
        files.check_tensors(
            {c: torch.zeros(2) for c in "ab"}, {"a": torch.zeros(3), "b": torch.zeros(2).long()}, "here"
        )
    files.check_tensors(expected, dict(expected), "here")


def test_digest_tells_type_shape_and_bits():
    a = torch.tensor([0.0, 1.0])
    different = [a, a.double(), a.reshape(2, 1), torch.tensor([-0.0, 1.0]), torch.tensor([0, 1]), a.bfloat16()]
    assert len({files.tensor_digest(t) for t in different}) == len(different)
    assert files.tensor_digest(a) == files.tensor_digest(a.clone())


def test_shared_and_strided_tensors(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    given = {
        "base": base,
        "again": base,
        "t": base.t(),
        "part": base[1:],
        "scalar": torch.tensor(2),
        "none": torch.zeros(0, 3),
    }
    files.write_folder(tmp_path / "m", {"a.safetensors": given}, {}, {})
    found = files.read_folder(tmp_path / "m").tensors["a.safetensors"]
    assert all(torch.equal(found[k], given[k]) for k in given)


def test_readers_while_it_is_replaced(tmp_path):
    """Every read gives one whole version, whatever the moment."""
    folder, stop, seen, faults = tmp_path / "m", threading.Event(), set(), []
    save(folder, 1)

    def read() -> None:
        while not stop.is_set():
            try:
                found = files.read_folder(folder)
            except ModelError as fault:
                faults.append(fault)
                return
            n = found.manifest["n"]
            seen.add(n)
            if not same(found.tensors, content(n)):
                faults.append(n)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for n in range(2, 80):
        save(folder, n)
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults
    assert len(seen) > 5
