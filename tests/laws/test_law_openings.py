"""Law 9: a paper's file opens with its citation, its formula, its notation and what differs from the paper."""

from __future__ import annotations

import re

import pytest
from laws.house import modules

PAPERS = [
    m
    for m in modules()
    if m.room in {"encoders", "tuning", "objectives"}
    and m.path.stem not in {"base", "features", "parts", "readouts", "__init__"}
]


@pytest.mark.parametrize("module", PAPERS, ids=lambda module: module.place)
def test_opening(module):
    text = module.docstring
    missing = []
    if not re.search(r"\b(19|20)\d\d\b|[Ss]tandard practice", text):
        missing.append("citation (with its year)")
    if not re.search(r"=|<-|∑|Σ", text):
        missing.append("formula")
    if not re.search(r"(?im)^\s*(\|?\s*(paper|symbol|letter|notation)\b.*|.*\bours\b.*)", text):
        missing.append("notation table (paper's letter | our name | shape)")
    if not re.search(r"(?im)^#*\s*\**differs\b", text):
        missing.append("'Differs' section")
    assert not missing, f"{module.place} lacks: {', '.join(missing)}"
