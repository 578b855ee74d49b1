"""Parquet files are weighed before they are unpacked: honest ones exactly enough, hostile ones refused at once."""

from __future__ import annotations

import contextlib
import io
import random
import tracemalloc

import polars as pl
import pytest
from model import crafted

from perdure import registry
from perdure.errors import ModelError
from perdure.model import store
from perdure.model.pages import unpacked

IDS = [f"i{k:02d}" for k in range(crafted.N)]


def parquet(ids: list[str], **how) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"item": pl.Series(ids, dtype=pl.String)}).write_parquet(buffer, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "uncompressed"])
@pytest.mark.parametrize("count", [0, 1, 300, 60_000])
def test_all_pages_are_counted(count, compression):
    ids = [f"item-{k}" for k in range(count)]
    text = sum(map(len, ids))
    for rows in (None, 1000):
        told = unpacked(parquet(ids, compression=compression, row_group_size=rows))
        assert text <= told <= text + store.PER_ID * count + 2**16


@pytest.mark.parametrize("long", [1025, 1 << 27])
def test_ids_that_unpack_to_more_than_ids_have(tmp_path, long):
    """128 MiB in some kilobytes: refused before room is made for them."""
    store.save(crafted.model(), tmp_path / "m")
    data = parquet([*IDS[:-1], "a" * long])
    assert len(data) < 20_000
    crafted.replace(tmp_path / "m", "items.parquet", data)
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"items\.parquet(.|\n)*1024 bytes|an id of 1,025(.|\n)*items\.parquet"):
        store.load(tmp_path / "m", registry.find)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_damaged_file_is_weighed_or_refused_at_once():
    good, rng = parquet(IDS), random.Random(0)
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):
            unpacked(bytes(bad))


def test_a_page_whose_values_build_on_one_another_is_refused():
    """A thousand values that each begin with the one before can stand for a thousand times their page."""
    good = parquet(IDS, compression="uncompressed", statistics=False)
    told, before = bytes([0x15, 2 * len(IDS), 0x15]), 0  # of a page: how many values, then their encoding
    assert good.count(told) == 2, "a dictionary and its codes"
    for _ in range(2):
        before = good.index(told, before) + len(told)
        with pytest.raises(ValueError, match="not read"):
            unpacked(good[:before] + bytes([14]) + good[before + 1 :])
