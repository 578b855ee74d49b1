"""The package read as text: every law looks at the syntax tree, so that nothing has to run to be judged."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "perdure"

# The floors, from the roof down. Rooms on one line share a floor.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["api", "registry"],
    ["report"],
    ["training"],
    ["evaluation"],
    ["inference", "tuning"],
    ["model", "objectives"],
    ["encoders"],
    ["events", "settings", "train_settings"],
    ["functional", "errors"],
]
# Which room may ask a neighbour on its own floor. Everything else on a floor does not know each other.
NEIGHBOURS = {
    ("api", "registry"),
    ("model", "objectives"),
    ("settings", "events"),
    ("settings", "train_settings"),
    ("functional", "errors"),
}


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name below `perdure`, its text and its syntax tree."""

    path: Path

    @property
    def place(self) -> str:
        """Path below the package, as in the tree of the README: `tuning/pcl.py`."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def name(self) -> str:
        """Dotted name: `perdure.tuning.pcl`."""
        parts = self.path.relative_to(PACKAGE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """The room (folder, or file right under the package): `tuning`; empty for `perdure/__init__.py`."""
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return "" if parts == ("__init__",) else parts[0]

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @cached_property
    def imports(self) -> set[str]:
        """Every `perdure` module this file names in an import, type-only and lazy ones counted."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "perdure"}
            elif isinstance(node, ast.ImportFrom):
                base = self._base(node)
                if base.split(".")[0] != "perdure":
                    continue
                for alias in node.names:
                    whole = f"{base}.{alias.name}"
                    found.add(whole if whole in NAMES else base)
        return found - {self.name}

    @property
    def outside(self) -> set[str]:
        """Top-level names of every import that is not ours."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
        return found - {"perdure"}

    def _base(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        package = package[: len(package) - (node.level - 1)]
        return ".".join([*package, *([node.module] if node.module else [])])

    def calls(self) -> list[tuple[int, str, ast.Call]]:
        """Line, dotted name as written (`torch.randn`; `.normal_` on an expression) and node of each call."""
        return [(node.lineno, dotted(node.func), node) for node in ast.walk(self.tree) if isinstance(node, ast.Call)]


def dotted(node: ast.expr) -> str:
    """`a.b.c` as written; the part before the last dot is empty where it is not a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def modules() -> list[Module]:
    """All source files of the package, in path order."""
    return [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


NAMES: set[str] = {Module(path).name for path in PACKAGE.rglob("*.py")}


def floor(room: str) -> int:
    """Height of a room's floor: 0 is the ground."""
    for height, rooms in enumerate(reversed(FLOORS)):
        if room in rooms:
            return height
    raise KeyError(room)
