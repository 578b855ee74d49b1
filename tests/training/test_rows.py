"""Adam by rows: worked by hand, against torch's SparseAdam, and that no step reads a whole table."""

from __future__ import annotations

import pytest
import torch
from torch.nn import Parameter

from perdure.train_settings import TrainSettings
from perdure.training import rows as by_rows
from perdure.training.loop import put_back_shut
from perdure.training.optimizers import gradient_norm, make_optimizers, scale_gradients
from perdure.training.rows import RowAdam, touched


def sparse(rows: list[int], values: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, size, check_invariants=True)


def test_two_steps_worked_by_hand():
    """g = 2 and then, for row 1 alone, g = -1, with b1 = b2 = 1/2:

    t = 1: m = 1, v = 2; rate 0.1 * sqrt(1/2) / (1/2) = 0.1 sqrt(2); step = 0.1 sqrt(2) / sqrt(2) = 0.1
    t = 2: m = 0, v = 1.5; no step
    """
    table = Parameter(torch.zeros(3, 1))
    adam = RowAdam([table], lr=0.1, betas=(0.5, 0.5), eps=0.0)
    table.grad = sparse([1, 2], torch.tensor([[2.0], [2.0]]), (3, 1))
    adam.step()
    assert table.detach().flatten().tolist() == pytest.approx([0, -0.1, -0.1])
    table.grad = sparse([1], torch.tensor([[-1.0]]), (3, 1))
    adam.step()
    assert table.detach().flatten().tolist() == pytest.approx([0, -0.1, -0.1])
    assert adam.state[table]["exp_avg"].flatten().tolist() == pytest.approx([0, 0, 1])
    assert adam.state[table]["exp_avg_sq"].flatten().tolist() == pytest.approx([0, 1.5, 2])


@pytest.mark.parametrize("piece", [1, 11, 1 << 17])  # a row at a time, a few, all
@pytest.mark.parametrize("width", [(), (1,), (5,), (2, 3)])
def test_the_numbers_of_sparse_adam(width, piece, monkeypatch):
    """Forty steps; a row may be named twice, rates change, some steps have no gradient at all."""
    monkeypatch.setitem(by_rows.PIECE, "cpu", piece)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, *width, generator=generator)
    ours, theirs = Parameter(start.clone()), Parameter(start.clone())
    steps = RowAdam([ours], betas=(0.8, 0.99)), torch.optim.SparseAdam([theirs], betas=(0.8, 0.99))
    for t in range(40):
        rows = torch.randint(0, 28, (9,), generator=generator).tolist()  # the last two are never met
        values = torch.randn(9, *width, generator=generator)
        for table, adam in zip((ours, theirs), steps, strict=True):
            table.grad = sparse(rows, values, tuple(start.shape)) if t % 5 else None
            adam.param_groups[0]["lr"] = 0.1 / (1 + t)
            adam.step()
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(ours[28:], start[28:]) and not torch.allclose(ours[:28], start[:28])


def test_a_gradient_that_names_no_row():
    table = Parameter(torch.ones(3, 2))
    adam = RowAdam([table])
    table.grad = sparse([], torch.zeros(0, 2), (3, 2))
    adam.step()
    assert torch.equal(table, torch.ones(3, 2))


def test_which_rows():
    table = Parameter(torch.ones(5, 2))
    assert touched(table) is None
    table.grad = torch.ones(5, 2)
    assert touched(table) is None
    table.grad = sparse([3, 1, 3], torch.ones(3, 2), (5, 2))
    assert touched(table).tolist() == [1, 3]


def test_shut_rows_of_a_table_that_was_touched_here_and_there():
    """Rows 1 and 2 were touched; row 1 is shut, row 2 by half, row 3 is shut and was not touched."""
    table = Parameter(torch.arange(8.0).view(4, 2))
    rows = torch.tensor([1, 2])
    before = {table: table.detach().index_select(0, rows)}
    with torch.no_grad():
        table[rows] += 1
    put_back_shut({table: torch.tensor([[0.0], [1.0], [0.5], [1.0]])}, before, {table: rows})
    assert table.tolist() == [[0, 1], [2, 3], [4.5, 5.5], [6, 7]]


def test_no_gradient_is_made_dense():
    """A table far larger than memory allows as a dense gradient: 10^12 numbers, of which one row is held."""
    gradient = sparse([7], torch.full((1, 4), 2.0), (250_000_000_000, 4))

    class Held:
        grad = gradient

    table: Parameter = Held()  # type: ignore[assignment]
    assert touched(table).tolist() == [7]
    assert gradient_norm([table]) == 4.0
    scale_gradients([table], 0.5)
    assert gradient_norm([table]) == 2.0


def test_who_gets_it():
    table, layer = Parameter(torch.ones(3, 2)), Parameter(torch.ones(2))
    table.sparse = True  # type: ignore[attr-defined]
    dense, rows = make_optimizers([table, layer], TrainSettings(learning_rate=0.5, betas=(0.1, 0.2)))
    assert type(rows) is RowAdam and rows.param_groups[0]["params"] == [table]
    assert (rows.param_groups[0]["lr"], rows.param_groups[0]["betas"]) == (0.5, (0.1, 0.2))
    assert dense.param_groups[0]["params"] == [layer]
