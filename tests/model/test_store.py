"""Rows 66 to 75 of the reliability catalogue, on whole model folders: ModelError (exit 4) that names the file."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
from model import crafted

from perdure import registry
from perdure.errors import ModelError, UsageError
from perdure.model import files, store
from perdure.model.budget import FREE, Budget
from perdure.training.checkpoint import Checkpoints

BUY, KIND, BACKBONE = "tasks/buy.safetensors", "tasks/kind.safetensors", "backbone.safetensors"


@pytest.fixture(scope="module")
def saved():
    return crafted.model()


@pytest.fixture(scope="module")
def original(saved, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "m"
    store.save(saved, folder)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "m")


def refused(folder: Path, names: str, text: str = "") -> None:
    """Loading fails with one ModelError that names the file, and nothing behind it."""
    with pytest.raises(ModelError) as error:
        store.load(folder, registry.find)
    assert error.value.exit_code == 4 and names in error.value.where, error.value
    assert text in str(error.value) and error.value.__suppress_context__ | (error.value.__context__ is None)
    assert len(error.value.lines()) <= 4 and all(len(line) < 500 for line in error.value.lines())


def test_a_sound_folder_loads_and_saves_the_same(folder, tmp_path):
    crafted.edit(folder, lambda manifest: None)
    again = store.load(folder, registry.find)
    assert store.save(again, tmp_path / "again") == again.manifest["digest"]


def header(**places: tuple[list[int], int, int]) -> bytes:
    """JSON of a safetensors header: name -> shape and offsets."""
    told = {name: {"dtype": "F32", "shape": s, "data_offsets": [a, b]} for name, (s, a, b) in places.items()}
    return json.dumps(told).encode()


HEADERS = {
    "66-length-0": struct.pack("<Q", 0) + b"{}",
    "66-seven-bytes": b"\0" * 7,
    "66-length-2-64-1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "66-beyond-the-file": struct.pack("<Q", 5000) + b"{}",
    "66-not-utf-8": struct.pack("<Q", 4) + b"{\xff\xfe}",
    "66-not-json": struct.pack("<Q", 4) + b"{abc",
    "66-leading-blanks": struct.pack("<Q", 4) + b"  {}",
    "67-overlap": header(a=([2], 0, 8), b=([2], 4, 12)),
    "67-hole": header(a=([1], 0, 4), b=([1], 8, 12)),
    "67-shape-against-offsets": header(a=([9], 0, 12)),
    "67-overflow": header(a=([2**62, 4], 0, 12)),
    "72-pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94",
    "72-zip": b"PK\x03\x04" + b"\0" * 60,
}  # fmt: skip


@pytest.mark.parametrize("file", [BACKBONE, BUY])
@pytest.mark.parametrize("row", HEADERS)
def test_tensor_files(folder, row, file):
    data = HEADERS[row]
    data = struct.pack("<Q", len(data)) + data + b"\0" * 12 if row.startswith("67") else data
    crafted.replace(folder, file, data)
    refused(folder, file, "not a safetensors file")


def test_72_a_file_that_is_also_an_archive(folder):
    crafted.replace(folder, BUY, (folder / BUY).read_bytes() + b"PK\x05\x06" + b"\0" * 18)
    refused(folder, BUY)


TENSORS = {
    "68-missing": (BACKBONE, lambda t: t.pop("layers.norm.weight"), "missing layers.norm.weight"),
    "68-extra": (BACKBONE, lambda t: t.update(ghost=torch.zeros(1)), "unexpected ghost"),
    "68-shape": (BACKBONE, lambda t: t.update({"layers.norm.weight": torch.zeros(9)}), "(9,) float32, expected (8,)"),
    "68-type": (BACKBONE, lambda t: t.update({"layers.norm.weight": torch.zeros(8).double()}), "float64"),
    "68-five-told": (BACKBONE, lambda t: t.clear() or t.update(w=torch.zeros(14, 2)), "more"),
    "68-head-missing": (BUY, lambda t: t.pop("head.table"), "missing head.table"),
    "68-popularity-missing": (BUY, lambda t: t.pop("card.popularity"), "missing card.popularity"),
    "68-popularity-longer": (BUY, lambda t: t.update({"card.popularity": torch.arange(6)}), "5 counts"),
    "68-popularity-flat": (BUY, lambda t: t.update({"card.popularity": torch.tensor(5)}), "card.popularity is ()"),
    "68-popularity-square": (BUY, lambda t: t.update({"card.popularity": torch.ones(5, 1)}), "(5, 1)"),
    "68-popularity-negative": (BUY, lambda t: t.update({"card.popularity": torch.arange(5) - 1}), "0 or more"),
    "68-popularity-bool": (BUY, lambda t: t.update({"card.popularity": torch.ones(5).bool()}), "0 or more"),
    "68-popularity-bfloat16": (BUY, lambda t: t.update({"card.popularity": torch.ones(5).bfloat16()}), "model"),
    "69-nan": (BACKBONE, lambda t: t["layers.norm.weight"].fill_(float("nan")), "layers.norm.weight is not finite"),
    "69-inf": (BUY, lambda t: t["head.bias"].fill_(float("inf")), "head.bias is not finite"),
    "69-popularity": (BUY, lambda t: t.update({"card.popularity": torch.full((5,), float("nan"))}), "not finite"),
    "74-label-items-beyond": (BUY, lambda t: t["card.label_items"].fill_(crafted.N + 2), "item rows 2 to 13"),
    "74-label-items-padding": (BUY, lambda t: t["card.label_items"].fill_(0), "item rows"),
    "74-label-items-below": (BUY, lambda t: t["card.label_items"].fill_(-2), "item rows"),
    "74-label-items-type": (BUY, lambda t: t.update({"card.label_items": torch.arange(2, 7)}), "int32"),
    "74-label-ends-back": (BUY, lambda t: t["card.label_ends"].copy_(torch.tensor([3, 2, 9, 12, 15])), "ascending"),
    "74-label-ends-beyond": (BUY, lambda t: t["card.label_ends"].add_(2**40), "ascending"),
    "74-labels-shorter": (BUY, lambda t: t.update({"card.labels": torch.zeros(2, dtype=torch.uint8)}), "ascending"),
    "74-labels-twice": (BUY, lambda t: t["card.labels"].fill_(97), "stands twice"),
    "74-labels-not-utf-8": (BUY, lambda t: t["card.labels"].fill_(255), "not the description"),
    "74-labels-fewer": (KIND, lambda t: t.update({"card.label_ends": torch.tensor([15])}), "1 labels"),
    "74-index-of-another-width": (KIND, lambda t: t.update({"head.table": torch.zeros(5, 4)}), "(5, 4)"),
}  # fmt: skip


@pytest.mark.parametrize("row", TENSORS)
def test_tensors(folder, row):
    file, change, text = TENSORS[row]
    crafted.rewrite(folder, file, change)
    refused(folder, file, text)


def test_68_a_file_of_no_task(folder):
    (folder / "tasks" / "ghost.safetensors").write_bytes((folder / BUY).read_bytes())
    entry = {"kind": "tensors"}
    crafted.edit(folder, lambda manifest: manifest["files"].update({"tasks/ghost.safetensors": entry}))
    refused(folder, "tasks/ghost.safetensors", "belongs to nothing")


def test_68_a_task_without_its_file(folder):
    crafted.edit(folder, lambda manifest: manifest["files"].pop(BUY))
    refused(folder, BUY, "missing")


@pytest.mark.parametrize("name", ["model.json", BACKBONE, BUY, "items.parquet", "README.md"])
def test_70_a_flipped_bit_and_a_file_of_another_release(folder, tmp_path, name):
    whole = (folder / name).read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        refused(folder, name)
    (folder / name).write_bytes(whole)
    other = crafted.model("finetune", {"max_length": 7})
    store.save(other, tmp_path / "other", {"release": 2})
    swapped = (tmp_path / "other" / name).read_bytes()
    if swapped != whole:
        (folder / name).write_bytes(swapped)
        refused(folder, "m/")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "tasks\\buy", "a/../../b", "x" * 200])
def test_71_names_that_leave_the_folder(folder, name):
    manifest = files.parse((folder / "model.json").read_bytes(), "")
    manifest["files"][name] = {"bytes": 1, "kind": "document", "sha256": "0" * 64}
    whole = {key: value for key, value in manifest.items() if key != "digest"}
    (folder / "model.json").write_bytes(files.render({**whole, "digest": files.sha256(files.render(whole))}))
    refused(folder, "manifest", "not allowed")


def test_71_links(folder, tmp_path):
    (folder / BUY).rename(tmp_path / "outside")
    (folder / BUY).symlink_to(tmp_path / "outside")
    refused(folder, BUY, "link")
    (folder / BUY).unlink()
    (folder / BUY).hardlink_to(tmp_path / "outside")
    refused(folder, BUY, "link")


def test_71_a_manifest_too_long_to_read(folder):
    with open(folder / "model.json", "ab") as file:
        file.truncate(2 * 2**30)  # sparse: nothing is on the disk
    refused(folder, "model.json", "longer")


@pytest.mark.parametrize("version", [2, 0, True, 1.0, "1", None, [1], 10**30])
def test_73_other_formats(folder, version):
    crafted.edit(folder, lambda manifest: manifest.update(format=version))
    refused(folder, "model.json", "format 1")


def part(which: str, /, **change):
    return lambda manifest: manifest["spec"][which].update(change)


def task(**change):
    return lambda manifest: manifest["tasks"][1].update(change)


MANIFESTS = {
    "no-spec": lambda m: m.pop("spec"),
    "spec-list": lambda m: m.update(spec=[]),
    "spec-part-missing": lambda m: m["spec"].pop("method"),
    "spec-part-more": lambda m: m["spec"].update(ghost={"name": "x"}),
    "part-text": lambda m: m["spec"].update(encoder="sasrec"),
    "part-no-name": lambda m: m["spec"]["encoder"].pop("name"),
    "encoder-unknown": part("encoder", name="sasrek"),
    "encoder-name-list": part("encoder", name=["sasrec"]),
    "encoder-name-path": part("encoder", name="../sasrec"),
    "encoder-name-dunder": part("encoder", name="__init__"),
    "encoder-is-a-method": part("encoder", name="pcl"),
    "option-unknown": part("encoder", ghost=1),
    "width-negative": part("encoder", width=-4),
    "width-zero": part("encoder", width=0),
    "width-absurd": part("encoder", width=10**30),
    "width-large": part("encoder", width=30_000),
    "width-text": part("encoder", width="8"),
    "width-true": part("encoder", width=True),
    "width-float": part("encoder", width=8.0),
    "heads-do-not-divide": part("encoder", heads=3),
    "heads-none": part("encoder", heads=None),
    "blocks-endless": part("encoder", blocks=2**20),
    "dropout-above-one": part("encoder", dropout=1.5),
    "max-length-zero": part("encoder", max_length=0),
    "max-length-large": part("encoder", max_length=2**18),
    "method-length-negative": part("method", length=-1),
    "method-length-large": part("method", length=2**18),
    "method-text-large": part("method", text_width=2**24),
    "method-unknown": part("method", name="os"),
    "objective-unknown": part("objective", loss="none"),
    "items-text": lambda m: m.update(items="12"),
    "items-negative": lambda m: m.update(items=-1),
    "items-absurd": lambda m: m.update(items=2**62),
    "items-none": lambda m: m.pop("items"),
    "tasks-none": lambda m: m.update(tasks=None),
    "tasks-missing": lambda m: m.pop("tasks"),
    "tasks-table": lambda m: m.update(tasks={}),
    "task-text": lambda m: m["tasks"].insert(0, "watch"),
    "task-no-name": lambda m: m["tasks"][1].pop("name"),
    "task-more": task(ghost=1),
    "task-name-number": task(name=7),
    "task-name-path": task(name="../buy"),
    "task-name-dots": task(name="buy.safetensors"),
    "task-twice": lambda m: m["tasks"].append(m["tasks"][1]),
    "task-twice-by-case": lambda m: m["tasks"].append({**m["tasks"][1], "name": "BUY"}),
    "kind-unknown": task(kind="ranking"),
    "kind-list": task(kind=["item"]),
    "description-number": task(description=3),
    "description-none": task(description=None),
    "metric-list": task(metric=[]),
    "settled-text": task(settled="yes"),
    "settings-list": lambda m: m.update(settings=[1]),
    "settings-text": lambda m: m.update(settings="x"),
    "settings-evaluate": lambda m: m.update(settings={"evaluate": 5}),
    "settings-evaluate-none": lambda m: m.update(settings={"evaluate": None}),
    "data-digest-number": lambda m: m.update(data_digest=5),
    "labels-text": task(labels="5"),
    "labels-negative": task(labels=-5),
    "deep": lambda m: m.update(deep=json.loads("[" * 90 + "]" * 90)),
}  # fmt: skip
ELSEWHERE = {"max-length-large": BACKBONE}  # found in the file that does not fit
ELSEWHERE |= dict.fromkeys(("method-length-large", "method-text-large"), "tasks/")
HARMLESS = {"deep"}


@pytest.mark.parametrize("row", MANIFESTS)
def test_74_manifests(folder, row):
    crafted.edit(folder, MANIFESTS[row])
    if row in HARMLESS:
        store.load(folder, registry.find)
    else:
        refused(folder, ELSEWHERE.get(row, "model.json"))


def test_74_a_manifest_too_deep(folder):
    for depth in (500, 900, 20_000):
        text = b'{\n  "files": ' + b"[" * depth + b"]" * depth + b',\n  "digest": ""\n}\n'
        (folder / "model.json").write_bytes(text)
        refused(folder, "model.json")
        text = b'{\n  "a": ' + b"[" * depth + b"]" * depth + b',\n  "digest": "",\n  "files": {}\n}\n'
        (folder / "model.json").write_bytes(text)
        refused(folder, "model.json")


def parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


IDS = [f"i{k:02d}" for k in range(crafted.N)]
MAPS = {
    "shorter": parquet(item=IDS[:-1]),
    "longer": parquet(item=[*IDS, "more"]),
    "twice": parquet(item=[*IDS[:-1], IDS[0]]),
    "missing-id": parquet(item=[*IDS[:-1], None]),
    "numbers": parquet(item=list(range(crafted.N))),
    "other-column": parquet(id=IDS),
    "nothing": b"",
    "text": b"item\ni00\n",
    "cut": parquet(item=IDS)[:-20],
    "scrambled": parquet(item=IDS)[:40] + b"\xff" * 60 + parquet(item=IDS)[100:],
    "endless": parquet(item=pl.Series(["x"]).new_from_index(0, 10_000_000)),
}


@pytest.mark.parametrize("row", MAPS)
def test_74_id_maps(folder, row, capfd):
    crafted.replace(folder, "items.parquet", MAPS[row])
    refused(folder, "items.parquet")


@pytest.mark.parametrize(("count", "file"), [(11, BACKBONE), (13, BACKBONE), (23, "model.json")])
def test_74_an_id_map_of_another_length_with_its_count(folder, count, file):
    crafted.replace(folder, "items.parquet", parquet(item=[f"i{k:02d}" for k in range(count)]))
    crafted.edit(folder, lambda manifest: manifest.update(items=count))
    refused(folder, file)


def test_74_no_id_map(folder):
    crafted.edit(folder, lambda manifest: manifest["files"].pop("items.parquet"))
    refused(folder, "items.parquet", "missing")


GREED = """
import resource, sys
sys.path.insert(0, "tests")
import torch
torch.set_num_threads(1)
from model import crafted
from pathlib import Path
from perdure import registry
from perdure.errors import ModelError
from perdure.model import store
store.load(sys.argv[1], registry.find)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for part, change in [("encoder", {"width": 30_000}), ("encoder", {"width": 2**20}), ("encoder", {"blocks": 2**20}),
                     ("encoder", {"max_length": 2**20}), ("encoder", {"inner": 2**20}), ("method", {"length": 2**20}),
                     ("encoder", {"width": 2**40})]:
    held = (Path(sys.argv[1]) / "model.json").read_bytes()
    crafted.edit(Path(sys.argv[1]), lambda manifest: manifest["spec"][part].update(change))
    try:
        store.load(sys.argv[1], registry.find)
        raise SystemExit(f"accepted {change}")
    except ModelError:
        pass
    (Path(sys.argv[1]) / "model.json").write_bytes(held)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_74_memory_stays_flat(folder):
    done = subprocess.run(
        [sys.executable, "-c", GREED, str(folder)],
        capture_output=True, text=True, timeout=100, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300, "MiB more than a sound model of this size"


def test_74_the_budget_counts_before_it_gives():
    for greedy in (
        lambda: torch.empty(2**40),
        lambda: torch.zeros(2**20, 2**20),
        lambda: torch.arange(2**40),
        lambda: torch.zeros(1).new_zeros(2**40),
        lambda: torch.randn(2**40, generator=torch.Generator()),
        lambda: [torch.empty(1) for _ in range(FREE // 1024)],
        lambda: [torch.empty(FREE // 16) for _ in range(5)],
    ):
        with pytest.raises(ModelError, match="larger model than the files hold"), Budget(0, "here"):
            greedy()
    with Budget(2**20, "here"):
        torch.nn.Linear(1000, 1000).weight[None].expand(10**6, -1, -1)


def test_loading_and_asking_import_no_compiler(folder):
    """torch's own takes longer to import than such a model to load."""
    code = f"""
import sys, perdure
model = perdure.load({str(folder)!r})
perdure.recommend(model, task="kind", history=["i1"], k=1)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_75_what_killed_saves_leave(folder, saved):
    new, old = files.beside(folder)
    new.mkdir()
    (new / "backbone.safetensors").write_bytes(b"half")
    digest = store.load(folder, registry.find).manifest["digest"]  # a half-written folder beside it harms nobody
    folder.rename(old)
    assert store.load(folder, registry.find).manifest["digest"] == digest  # the one that stepped aside is used
    store.save(saved, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["m"]


def test_75_checkpoints(tmp_path):
    points = Checkpoints(tmp_path)
    assert points.latest() is None
    for n in (1, 2):
        points.save({"a.safetensors": {"n": torch.tensor(n)}}, {"n": n})
    (points.path(2) / "a.safetensors").write_bytes(b"half")
    (tmp_path / ".000003.new").mkdir()
    (tmp_path / "000004").mkdir()  # a number pointing to nothing
    points = Checkpoints(tmp_path)
    latest = points.latest()
    assert latest is not None and latest.state == {"n": 1}
    assert [note[:12] for note in points.notes] == ["checkpoint 4", "checkpoint 2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000001"]


def test_names_of_tasks_differ_in_more_than_case(saved, tmp_path):
    with pytest.raises(UsageError, match="already knows"):
        saved.add(crafted.card("BUY", "item"), torch.Generator())
    with pytest.raises(ModelError, match="only in case"):
        files.write_folder(tmp_path / "n", {"tasks/a.safetensors": {}, "tasks/A.safetensors": {}}, {}, {})
    assert not (tmp_path / "n").exists()
