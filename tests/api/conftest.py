from __future__ import annotations

from pathlib import Path

import pytest
from cli.small import make

import perdure


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory):
    """(recipe, Run) of a small world; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("api")
    recipe = make(folder)
    return recipe, perdure.learn(recipe, folder / "run")
