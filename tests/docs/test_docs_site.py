"""The site builds without a warning. Slow, and only where zensical is installed (`pip install "perdure[docs]"`)."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import pytest
from docs.pages import ROOT


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path):
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("zensical is not installed")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "warning" not in said.lower() and "error" not in said.lower(), said
    assert (tmp_path / "site" / "index.html").exists()
    assert (tmp_path / "site" / "settings" / "index.html").exists()
