from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import UsageError
from perdure.events.batch import Batch
from perdure.events.examples import Examples, Sequences
from perdure.events.loader import Loader


def make(lengths: list[int], answers: bool = False, outside: bool = False) -> tuple[Sequences, Examples]:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.arange(2, 2 + starts[-1], dtype=np.int32)
    n = len(lengths)
    counts = np.arange(n) % 3 + 1
    marks = np.arange(counts.sum(), dtype=np.int32)
    if outside:
        marks[::2] = -1
    answer_starts = np.concatenate([[0], np.cumsum(counts)]) if answers else None
    given = marks if answers else np.zeros(0, np.int32)
    examples = Examples(np.arange(n, dtype=np.int32), starts[:-1], starts[1:], given, answer_starts)
    return Sequences(items, starts, items.astype(np.int64) * 10), examples


def as_lists(batch: Batch) -> tuple:
    return tuple(
        None if x is None else x.tolist()
        for x in (batch.items, batch.lengths, batch.users, batch.answers, batch.answer_starts)
    )


def test_a_batch_holds_the_newest_events_padded_on_the_right():
    sequences, examples = make([3, 0, 5], answers=True)
    batch = next(iter(Loader(sequences, examples, batch_size=8, max_length=4, times=True)))
    assert batch.items.tolist() == [[2, 3, 4, 0], [0, 0, 0, 0], [6, 7, 8, 9]]
    assert batch.lengths.tolist() == [3, 0, 4] and batch.users is not None and batch.users.tolist() == [0, 1, 2]
    assert batch.times is not None and batch.times.tolist()[0] == [20, 30, 40, 0]
    assert batch.answers is not None and batch.answers.tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.answer_starts is not None and batch.answer_starts.tolist() == [0, 1, 3, 6]
    for tensor in (batch.items, batch.lengths, batch.users, batch.times, batch.answers, batch.answer_starts):
        assert tensor.dtype == torch.int64


def test_a_read_only_memory_map_is_enough(tmp_path: Path):
    sequences, examples = make([4, 2, 7])
    np.save(tmp_path / "items.npy", sequences.items)
    mapped = Sequences(np.load(tmp_path / "items.npy", mmap_mode="r"), sequences.starts)
    ours = [as_lists(b) for b in Loader(mapped, examples, batch_size=2, max_length=3)]
    assert ours == [as_lists(b) for b in Loader(sequences, examples, batch_size=2, max_length=3)]


def test_t_is_the_longest_of_the_batch():
    sequences, examples = make([2, 3, 9, 9])
    shapes = [tuple(b.items.shape) for b in Loader(sequences, examples, batch_size=2, max_length=5)]
    assert shapes == [(2, 3), (2, 5)]


def test_nothing_and_little():
    sequences, examples = make([])
    empty = Loader(sequences, examples, batch_size=4, max_length=3, generator=torch.Generator())
    assert len(empty) == 0 and list(empty) == [] and empty.epoch == 1
    empty.restore(empty.state())
    sequences, examples = make([0, 0])
    (batch,) = Loader(sequences, examples, batch_size=100, max_length=3)
    assert batch.items.tolist() == [[0], [0]] and batch.lengths.tolist() == [0, 0]
    sequences, examples = make([1, 2, 3])
    assert len(Loader(sequences, examples, batch_size=100, max_length=3, drop_last=True)) == 0
    assert len(Loader(sequences, examples, batch_size=2, max_length=3)) == 2
    assert len(list(Loader(sequences, examples, batch_size=2, max_length=3, drop_last=True))) == 1


def test_wrong_arguments():
    sequences, examples = make([2])
    short = [{"max_length": 1, "windows": windows} for windows in ("split", "each")]
    for wrong in ({"batch_size": 0}, {"max_length": 0}, *short, {"windows": "all"}):
        with pytest.raises(UsageError):
            Loader(sequences, examples, **{"batch_size": 1, "max_length": 2, **wrong})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has none"):
        Loader(Sequences(sequences.items, sequences.starts), examples, batch_size=1, max_length=2, times=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(2, 8))
def test_split_windows_make_every_event_but_the_first_a_target_once(lengths, max_length):
    sequences, examples = make(lengths)
    loader = Loader(
        sequences, examples, batch_size=3, max_length=max_length, windows="split", generator=torch.Generator()
    )
    targets, firsts = [], []
    for batch in loader:
        assert batch.items.shape[1] <= max_length
        for row, length in zip(batch.items.tolist(), batch.lengths.tolist(), strict=True):
            targets += row[1:length]
            firsts += row[:1] if length == 1 else []
    wanted = np.concatenate(
        [sequences.items[b + 1 : e] for b, e in zip(examples.begin, examples.end, strict=True)] or [[]]
    )
    assert sorted(targets) == sorted(wanted.tolist())
    assert len(firsts) == sum(n == 1 for n in lengths)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(2, 8), st.booleans())
def test_each_event_but_the_first_ends_a_window_of_its_own_and_if_asked_the_first_too(lengths, max_length, first):
    sequences, examples = make(lengths)
    options = {"windows": "each", "first": first, "generator": torch.Generator()}
    rows = [
        row[:length]
        for batch in Loader(sequences, examples, batch_size=3, max_length=max_length, **options)
        for row, length in zip(batch.items.tolist(), batch.lengths.tolist(), strict=True)
    ]
    wanted = []
    for begin, n in zip(examples.begin, lengths, strict=True):
        history = sequences.items[begin : begin + n].tolist()
        ends = range(1 if first else 2, n + 1) if n > 1 else [n]  # nothing to ask: the row stands as it is
        wanted += [history[max(0, end - max_length) : end] for end in ends]
    assert sorted(rows) == sorted(wanted)


@pytest.mark.parametrize("windows", ["split", "each"])
def test_rows_with_answers_are_not_split(windows):
    sequences, examples = make([9, 9], answers=True)
    (batch,) = Loader(sequences, examples, batch_size=9, max_length=3, windows=windows)
    assert batch.lengths.tolist() == [3, 3]


def test_answers_outside_the_label_space():
    sequences, examples = make([2, 2, 2, 2], answers=True, outside=True)  # answers -1 | 1 -1 | 3 -1 5 | -1
    (kept,) = Loader(sequences, examples, batch_size=9, max_length=3)
    assert kept.answers is not None and kept.answers.tolist() == [-1, 1, -1, 3, -1, 5, -1]
    (training,) = Loader(sequences, examples, batch_size=9, max_length=3, generator=torch.Generator())
    assert training.users is not None and sorted(training.users.tolist()) == [1, 2]
    assert training.answers is not None and sorted(training.answers.tolist()) == [1, 3, 5]


def test_an_epoch_has_every_row_once_and_epochs_differ():
    rng = np.random.default_rng(0)
    sequences, examples = make(rng.integers(1, 40, 1000).tolist(), answers=True)
    loader = Loader(sequences, examples, batch_size=16, max_length=20, generator=torch.Generator().manual_seed(3))
    epochs = [[b.users.tolist() for b in loader] for _ in range(2)]
    assert loader.epoch == 2 and len(epochs[0]) == len(loader) == 63
    for epoch in epochs:
        assert sorted(u for batch in epoch for u in batch) == list(range(1000))
    assert epochs[0] != epochs[1]
    twin = Loader(sequences, examples, batch_size=16, max_length=20, generator=torch.Generator().manual_seed(3))
    assert [b.users.tolist() for b in twin] == epochs[0]
    for batch in loader:
        answers, starts = batch.answers, batch.answer_starts
        assert answers is not None and starts is not None and batch.users is not None
        for b, user in enumerate(batch.users.tolist()):
            first = int(examples.answer_starts[user])  # type: ignore[index]
            assert answers[starts[b] : starts[b + 1]].tolist() == list(range(first, first + user % 3 + 1))


def test_bucketing_wastes_little_and_mixes():
    rng = np.random.default_rng(0)
    sequences, examples = make(rng.integers(1, 100, 4000).tolist())

    def padding(bucket: bool) -> float:
        loader = Loader(sequences, examples, batch_size=32, max_length=100, generator=torch.Generator(), bucket=bucket)
        sizes = [(b.items.numel(), int(b.lengths.sum())) for b in loader]
        return 1 - sum(s[1] for s in sizes) / sum(s[0] for s in sizes)

    assert padding(True) < 0.05 < 0.3 < padding(False)
    loader = Loader(sequences, examples, batch_size=32, max_length=100, generator=torch.Generator())
    shapes = [b.items.shape[1] for b in loader]
    assert shapes != sorted(shapes) and shapes != sorted(shapes, reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 12), max_size=40),
    st.integers(1, 7),
    st.integers(0, 3),
    st.integers(0, 60),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["last", "split", "each"]),
)
def test_stop_anywhere_and_continue_exactly(lengths, size, epoch, stop, shuffle, bucket, drop_last, windows):
    sequences, examples = make(lengths, answers=windows == "last")

    def loader(seed: int) -> Loader:
        generator = torch.Generator().manual_seed(seed) if shuffle else None
        kind = {"bucket": bucket, "drop_last": drop_last, "windows": windows}
        return Loader(sequences, examples, batch_size=size, max_length=5, generator=generator, **kind)

    first = loader(1)
    for _ in range(epoch):
        list(first)
    tape = iter(first)
    for _ in range(min(stop, len(first))):
        next(tape)
    saved = json.loads(json.dumps(first.state()))
    assert saved == json.loads(json.dumps(first.state()))
    second = loader(2)
    list(second)
    second.restore(saved)
    assert second.state() == saved and (second.epoch, second.position) == (first.epoch, first.position)
    rest = [[as_lists(b) for b in tape]] + [[as_lists(b) for b in first] for _ in range(2)]
    assert [[as_lists(b) for b in second] for _ in range(3)] == rest
    assert second.state() == first.state()


def test_a_broken_off_epoch_is_played_on():
    sequences, examples = make([1] * 10)
    loader = Loader(sequences, examples, batch_size=2, max_length=3, generator=torch.Generator())
    seen = [u for _, b in zip(range(2), loader, strict=False) for u in b.users.tolist()]
    seen += [u for b in loader for u in b.users.tolist()]
    assert len(seen) >= 10 and set(seen) == set(range(10))


def test_a_state_of_other_data_is_refused():
    sequences, examples = make([1] * 10)
    loader = Loader(sequences, examples, batch_size=2, max_length=3, generator=torch.Generator())
    for other in (
        Loader(sequences, examples, batch_size=3, max_length=3, generator=torch.Generator()),
        Loader(sequences, examples, batch_size=2, max_length=3),
        Loader(*make([1] * 11), batch_size=2, max_length=3, generator=torch.Generator()),
    ):
        with pytest.raises(UsageError, match="position saved with"):
            other.restore(loader.state())
