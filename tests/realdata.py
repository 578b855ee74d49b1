"""Real data sets for tests that need them; never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real(name: str) -> Path:
    """Folder or file `name` under $PERDURE_DATA or ../shared/data; skips the test where it is absent."""
    root = Path(os.environ.get("PERDURE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = root / name
    if not path.exists():
        pytest.skip(f"needs real data at {path} (set PERDURE_DATA)")
    return path
