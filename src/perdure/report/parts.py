"""What a page is made of: sections of tables, drawings and folds; and the same in Markdown, without drawings. Pure.

`comparison.html` draws these parts and nothing else, so a table that stands on the page stands in the Markdown too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

__all__ = ["WIDE", "Cell", "Drawing", "Fold", "Grid", "Key", "Part", "Section", "Table", "crossed", "markdown"]

WIDE = 8  # tasks that fit side by side; with more, they stand below one another


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: what it says. note: said smaller, below it: an interval, say.
        kind: "best", "fresh" (just learned), "fell" (lost), "none" (nothing to say), "warn", "text" (words), or plain.
        shade: strength of its colour in [0, 1]; None for no colour.
        title: the whole of it, told to who points at it, where place or colour says the rest.
    """

    text: str
    note: str = ""
    kind: str = ""
    shade: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption.

    Attributes:
        caption: what it is, in a few words. note: how to read it, below the table.
        heads: one for each column, the first over the names of the rows.
        kind: "" , "heat" (cells are coloured by their shade), "loss" (the same in the colour of what is lost), or
            "map" (small, for many side by side), or "dots" (smaller still: a colour, its number told when pointed at).
        words: columns that hold words and stand on the left; all others are numbers.
    """

    name: ClassVar[str] = "table"
    caption: str
    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    kind: str = ""
    words: Sequence[int] = ()

    @property
    def breadth(self) -> float:
        """Letters that its columns need side by side, about: on paper its text is so small that all are seen."""
        needed = 0.0
        for n, head in enumerate(self.heads):
            most = max([0.9 * max(map(len, re.split(r"[ -]", head.text))), *(_letters(row[n]) for row in self.rows)])
            needed += 1.5 + (10.0 if n in self.words else min(most, 16.0) if n == 0 else most)
        return needed


def _letters(cell: Cell) -> float:
    """What a cell needs at least; its note may break between words."""
    return max([float(len(cell.text)), *(0.85 * len(word) for word in cell.note.split())])


@dataclass(frozen=True)
class Drawing:
    """An SVG element with a title and a caption."""

    name: ClassVar[str] = "drawing"
    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Key:
    """Which line is whose: (name, number of its colour from 1, number of its dash from 0)."""

    name: ClassVar[str] = "key"
    lines: Sequence[tuple[str, int, int]]


@dataclass(frozen=True)
class Grid:
    """Tables or drawings side by side, as many as there is room for; `wide`: fewer and larger."""

    name: ClassVar[str] = "grid"
    parts: Sequence[Table | Drawing]
    wide: bool = False

    @property
    def room(self) -> float:
        """Rem that each of its tables needs, so that the largest is seen whole; 0 where it holds drawings."""
        tables = [part for part in self.parts if isinstance(part, Table)]
        return max((_room(table) for table in tables), default=0.0)

    @property
    def dots(self) -> bool:
        """Whether its tables show colours alone."""
        return any(isinstance(part, Table) and part.kind == "dots" for part in self.parts)


def _room(table: Table) -> float:
    """Rem that a map or its dots need, about: a name, and a cell for each column."""
    columns = len(table.heads) - 1
    if table.kind == "dots":
        return 1.4 + 0.8 * columns
    return 1.6 + 0.34 * max((len(row[0].text) for row in table.rows), default=0) + 2.36 * columns


@dataclass(frozen=True)
class Fold:
    """Parts that are shown when asked for; always in print."""

    name: ClassVar[str] = "fold"
    title: str
    parts: Sequence[Table | Grid | Drawing]
    note: str = ""


Part = str | Table | Drawing | Key | Grid | Fold


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a text among the parts is a paragraph."""

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)


def crossed(
    methods: Sequence[str],
    tasks: Sequence[Cell],
    cell: Callable[[str, str], Cell],
    mean: Callable[[str], Cell] | None = None,
    note: Callable[[str], str] = lambda method: "",
) -> tuple[list[Cell], list[list[Cell]]]:
    """Heads and rows of methods by tasks, or of tasks by methods where the tasks are more than WIDE.

    Args:
        methods, tasks: in the order shown; a task's note is its measure.
        cell: of a method and a task. mean: of a method, shown last. note: small, below a method's name.
    """
    if len(tasks) <= WIDE:
        rows = [[Cell(m, note(m)), *[cell(m, t.text) for t in tasks], *([mean(m)] if mean else [])] for m in methods]
        return [Cell("method"), *tasks, *([Cell("mean")] if mean else [])], rows
    rows = [[t, *[cell(m, t.text) for m in methods]] for t in tasks]
    last = [[Cell("mean"), *map(mean, methods)]] if mean else []
    return [Cell("task"), *[Cell(m, note(m)) for m in methods]], rows + last


def markdown(section: Section) -> str:
    """The section as Markdown; empty where it holds drawings alone."""
    text = "\n".join(line for part in section.parts for line in _lines(part))
    has_table = any(line.startswith("|") for line in text.split("\n"))
    return f"## {section.title}\n\n{text}" if has_table or not any(_drawn(p) for p in section.parts) else ""


def _drawn(part: Part) -> bool:
    return isinstance(part, Drawing) or (isinstance(part, Grid) and any(isinstance(p, Drawing) for p in part.parts))


def _lines(part: Part) -> Iterator[str]:
    if isinstance(part, str):
        yield from (_escaped(part), "")
    elif isinstance(part, Grid):
        for inner in part.parts:
            yield from _lines(inner)
    elif isinstance(part, Fold):
        yield from (f"### {_escaped(part.title)}", "")
        for inner in part.parts:
            yield from _lines(inner)
    elif isinstance(part, Table):
        yield from _table(part)


def _table(table: Table) -> Iterator[str]:
    yield from (f"**{_escaped(table.caption)}**", "")
    yield "| " + " | ".join(_told(head) for head in table.heads) + " |"
    yield "|" + "|".join("---" if n == 0 or n in table.words else "--:" for n in range(len(table.heads))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(_told(cell) for cell in row) + " |"
    yield ""
    if table.note:
        yield from (_escaped(table.note), "")


def _told(cell: Cell) -> str:
    text = _escaped(cell.text)
    bold = f"**{text}**" if cell.kind == "best" and text else text
    return f"{bold} ({_escaped(cell.note)})" if cell.note else bold


def _escaped(text: str) -> str:
    """On one line; what Markdown or HTML would take for its own is put as it is meant."""
    for mark in ("\\", "|", "*", "`", "["):
        text = text.replace(mark, "\\" + mark)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.split()))
