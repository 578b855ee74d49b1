from __future__ import annotations

from pathlib import Path

import pytest
from cli.small import call, make


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over a small world; not to be changed."""
    return make(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a learned run `first`, which holds its recipe and world; not to be changed."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "first").mkdir()
    recipe = make(folder / "made")
    assert call("learn", recipe, "--out", folder / "first") == 0
    make(folder / "first")
    return folder
