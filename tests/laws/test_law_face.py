"""Law 6: `__all__` is complete and sorted; `import perdure` takes no extra, starts nothing and costs little."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest
from laws.house import ROOT, modules

import perdure

HEAVY = [
    "torch",
    "polars",
    "pydantic",
    "numpy",
    "typer",
    "rich",
    "lightning_fabric",
    "safetensors",
    "jinja2",
    "altair",
    "vl_convert",
    "tensorboard",
]


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_import_loads_nothing_heavy():
    done = run(f"import sys, perdure; print([n for n in {HEAVY!r} if n in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_import_is_quick():
    """Processor time of the import alone: the promise is 0.5 s, and it takes a few milliseconds."""
    done = run("import time; t = time.process_time(); import perdure; print(time.process_time() - t)")
    assert float(done.stdout) < 0.5


def test_public_names_are_sorted_and_there():
    if not hasattr(perdure, "__all__"):
        pytest.skip("the face is not built yet")
    assert list(perdure.__all__) == sorted(perdure.__all__)
    for name in perdure.__all__:
        assert getattr(perdure, name) is not None, name
    assert set(perdure.__all__) <= set(dir(perdure))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError):
        _ = perdure.no_such_verb  # type: ignore[attr-defined]


def test_star_import_gives_the_public_names():
    if not hasattr(perdure, "__all__"):
        pytest.skip("the face is not built yet")
    done = run("import perdure\nfrom perdure import *\nprint(sorted(set(perdure.__all__) - set(dir())))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_errors_name_arguments_and_the_command_line_alone_makes_options_of_them():
    """Who calls from Python has no `--store`."""
    wrong = []
    for module in (one for one in modules() if one.room != "cli"):
        for line, _, node in module.calls():
            told = [k.value for k in node.keywords if k.arg in ("found", "expected", "where", "fix")]
            texts = [n.value for value in told for n in ast.walk(value) if isinstance(n, ast.Constant)]
            wrong += [f"{module.place}:{line} {text!r}" for text in texts if re.search(r"(^|\s)--\w", str(text))]
    assert not wrong, "\n".join(wrong)
