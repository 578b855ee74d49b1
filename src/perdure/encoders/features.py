"""What an encoder reads of an event besides its item: one vector from all that is told.

    e_t = E[i_t] + sum_m F_m[mark_tm] + sum_c G_c[attribute_c(i_t)] + W v(i_t)          join = "sum"
    x_t = e_t + W_2 gelu(W_1 [E[i_t] ; F_1 .. F_M ; G_1 .. G_C ; W v(i_t)] + b_1) + b_2   join = "mlp"

| here | shape |
|---|---|
| F_m, G_c: table, from the row `offsets` tells on; row 0 of each, what is not told, begins at zero | (R, d) |
| mark_t: `Batch.marks`; attribute: attributes, by item row | (B, T, M); (N + 2, C) |
| v: vectors, as they were given; W: project | (N + 2, S); (d, S) |
| W_1, W_2: up, down; K parts | (d, K d), (d, d) |

Sources of the parts: behaviours and times, DUPN (KDD 2018); gaps, PTUM (EMNLP Findings 2020); category levels, text
vectors and dates without item ids, ShopperBERT (arXiv 2106.00573). One linear map of all parts one after the other
would be the sum over again, with each part's map folded into its table; hence a second layer in the other join.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perdure.events.marks import Marks
from perdure.functional.adding import added

__all__ = ["Features"]


class Features(nn.Module):
    """The parts of an event's vector that do not come from its id.

    Args:
        marks: what is told. n_items: N. width: d.
        std: of the parts when they are drawn.
    """

    attributes: Tensor
    offsets: Tensor
    groups: Tensor
    rows: Tensor
    vectors: Tensor | None

    def __init__(self, marks: Marks, n_items: int, width: int, std: float) -> None:
        super().__init__()
        self.marks, self.ids, self.std = len(marks.sizes), marks.ids, std
        own, items = marks.sizes, [len(values) + 1 for values in marks.items.values()]  # rows of each part
        begins = torch.tensor([0, *own, *items]).cumsum(0)  # (M + A + 1,)
        groups = torch.tensor([*range(len(own)), *(len(own) + place for place in marks.places)]).long()  # (M + C,)
        self.parts = len(own) + len(items)
        self.table = nn.Parameter(torch.zeros(int(begins[-1]), width)) if self.parts else None
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("offsets", begins[groups], persistent=False)  # (M + C,)
        self.register_buffer("rows", torch.tensor(marks.item_sizes), persistent=False)  # (C,) of each attribute
        shape = (n_items + 2, len(marks.places))
        held = torch.zeros(shape, dtype=torch.int32) if marks.attributes is None else torch.tensor(marks.attributes)
        self.register_buffer("attributes", held)  # (N + 2, C)
        given = None
        if marks.width:
            empty = marks.vectors is None
            given = torch.zeros(n_items + 2, marks.width) if empty else torch.tensor(marks.vectors)  # (N + 2, S)
        self.register_buffer("vectors", given)
        self.project = None if given is None else nn.Parameter(torch.zeros(width, marks.width))
        self.up = self.down = None
        if marks.join == "mlp":
            parts = 1 + self.parts + (given is not None)
            self.up, self.down = nn.Linear(parts * width, width), nn.Linear(width, width)
        self.register_load_state_dict_post_hook(_check)

    def forward(self, x: Tensor, items: Tensor, marks: Tensor | None = None) -> Tensor:
        """Vectors of the items (B, T, d), item rows (B, T) and marks (B, T, M) -> (B, T, d)."""
        parts = [x] if self.up is not None else []
        e = x
        if self.table is not None:
            rows = F.embedding(items, self.attributes)  # (B, T, C)
            rows = rows.long() if marks is None else torch.cat([marks, rows.long()], -1)  # (B, T, M + C)
            found = F.embedding(rows + self.offsets, self.table)  # (B, T, M + C, d)
            e = e + found.sum(2)  # (B, T, d)
            if self.up is not None:
                grouped = found.new_zeros(*items.shape, self.parts, x.shape[-1])  # (B, T, M + A, d)
                parts.append(added(grouped, 2, self.groups, found).flatten(2))
        if self.project is not None and self.vectors is not None:
            known = F.linear(F.embedding(items, self.vectors), self.project)  # (B, T, d)
            e = e + known
            parts.append(known)
        if self.up is None or self.down is None:
            return e
        return e + self.down(F.gelu(self.up(torch.cat(parts, -1))))  # (B, T, d)

    def reset(self, generator: torch.Generator) -> None:
        """Normal(0, std), zero for what is not told. The two linear maps are drawn as all are."""
        for weight in (self.table, self.project):
            if weight is not None:
                nn.init.normal_(weight, std=self.std, generator=generator)
        if self.table is not None:
            with torch.no_grad():
                self.table[self.offsets] = 0.0

    @torch.no_grad()
    def resettle(self, other: Features, rows: Tensor) -> None:
        """Move to the values and items of `other`, whose parts are the same: its row r of the table becomes the row
        rows[r] (R,) of this one, or stays its own where that is -1."""
        if self.table is not None and other.table is not None:
            table, known = other.table.detach().clone(), rows >= 0  # (R, d), (R,)
            table[known] = self.table[rows[known]]
            self.table.data = table
        self.attributes, self.vectors = other.attributes, other.vectors


def _check(layer: nn.Module, keys: object) -> None:
    """ValueError unless every attribute that was read has a row in the table."""
    if isinstance(layer, Features) and bool(((layer.attributes < 0) | (layer.attributes >= layer.rows)).any()):
        raise ValueError("attributes of items that no value has")
